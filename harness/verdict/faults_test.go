package verdict_test

import (
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

func harmed(change func(*record.Run)) *record.Run {
	r := good()
	took := 1.5
	r.Outages = &record.Outages{AllowanceS: 5, LimitMS: 150, Calm: r.Load.Classes["all"], Outages: []record.Outage{
		{Fault: "kafka.stop", Start: 6, HealBegan: 11, End: 11, Relief: 11, RecoveryS: &took},
	}}
	r.Plan.Faults = []record.Fault{{Name: "kafka.stop", Rule: "4s:kafka.stop:5s"}}
	if change != nil {
		change(r)
	}
	mend(r.Load)
	record.SetDerived(r)
	return r
}

// What an outage explains is excused; what it does not is judged as ever.
func TestJudgeOutages(t *testing.T) {
	late, asked := 6.0, verdict.FaultPolicy{RecoveryS: 5, LatencyMS: 150}
	for _, c := range []struct {
		name   string
		change func(*record.Run)
		policy verdict.FaultPolicy
		check  string // of the one that must not pass; "": all pass
		want   verdict.Verdict
	}{
		{"recovered", nil, asked, "", verdict.Pass},
		{"explained", func(r *record.Run) {
			r.Load.Ledger.Lost, r.Load.Ledger.Answered, r.Load.Ledger.Accepted = 7, r.Load.Ledger.Answered-7, r.Load.Ledger.Accepted-7-4
			r.Load.Ledger.Unexpected = 4
			r.Outages.Unanswered, r.Outages.Refused = 7, 4
			all := r.Load.Classes["all"]
			all.N -= 7
			r.Load.Classes["all"] = all
		}, asked, "", verdict.Pass},
		{"one more lost than explained", func(r *record.Run) {
			r.Load.Ledger.Lost, r.Load.Ledger.Answered, r.Load.Ledger.Accepted = 7, r.Load.Ledger.Answered-7, r.Load.Ledger.Accepted-7
			r.Outages.Unanswered = 6
			all := r.Load.Classes["all"]
			all.N -= 7
			r.Load.Classes["all"] = all
		}, asked, "loss.lost", verdict.Fail},
		{"acknowledged but not stored", func(r *record.Run) {
			r.Audit.Lost = []record.Finding{{ID: "x", What: "acknowledged, but it has no commit-log record"}}
		}, asked, "loss.lost", verdict.Fail},
		{"late", func(r *record.Run) { r.Outages.Outages[0].RecoveryS = &late }, asked, "faults.recovery.1", verdict.Fail},
		{"never", func(r *record.Run) { r.Outages.Outages[0].RecoveryS = nil }, asked, "faults.recovery.1", verdict.Fail},
		{"never, but the next fault came at once", func(r *record.Run) {
			took := 1.0
			r.Outages.Outages[0].RecoveryS = nil
			r.Outages.Outages = append(r.Outages.Outages, record.Outage{Fault: "redis.cut", Start: 12, End: 13, Relief: 13, RecoveryS: &took})
		}, asked, "faults.recovery.1", verdict.Invalid},
		{"excuses too much", func(r *record.Run) { r.Outages.AllowanceS = 9 }, asked, "faults.allowance", verdict.Invalid},
		{"no policy", nil, verdict.FaultPolicy{}, "faults.allowance", verdict.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy(t)
			p.Faults = c.policy
			j := verdict.Judge(p, baseline(), harmed(c.change))
			found := c.check == ""
			for _, k := range j.Checks {
				if k.Name == c.check {
					found = k.Verdict == c.want
				}
				if c.check == "" && k.Verdict != verdict.Pass && !strings.HasPrefix(k.Name, "baseline.") {
					t.Errorf("%s is %s: %s", k.Name, k.Verdict, k.Reason)
				}
			}
			if !found {
				t.Errorf("no check %s with verdict %s in %+v", c.check, c.want, j.Checks)
			}
		})
	}
}
