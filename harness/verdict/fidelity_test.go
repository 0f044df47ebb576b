package verdict_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// onContainers is a good run on containers, compared with embedded servers over
// n scenarios of which the first few disagree.
func onContainers(n, disagree int) *record.Run {
	return with(func(r *record.Run) {
		r.Provider.Kind, r.Env = "containers", here("containers")
		r.Contract = nil
		var other []record.Outcome
		for i := range n {
			o := record.Outcome{ID: fmt.Sprintf("GW-%02d", i), Status: record.Passed, File: fmt.Sprintf("scenarios/%02d.yaml", i), Class: "strict"}
			r.Contract = append(r.Contract, o)
			if i < disagree {
				o.Status, o.Reason, o.Steps = record.Failed, "line 7, http: status", []record.StepOutcome{{Line: 7, Action: "http"}}
			}
			other = append(other, o)
		}
		r.Fidelity = record.Compare([2]string{"containers", "embedded"}, r.Contract, other)
	})
}

func waiver(t *testing.T, only, until string) verdict.Waiver {
	t.Helper()
	w := verdict.Waiver{Check: "fidelity.disagreement", Only: only, Reason: "kfake has no quotas"}
	if err := w.Until.UnmarshalText([]byte(until)); err != nil {
		t.Fatal(err)
	}
	return w
}

func named(j verdict.Judged, name string) (found []verdict.Check) {
	for _, c := range j.Checks {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found
}

func TestFidelityThatAgreesPasses(t *testing.T) {
	r := onContainers(20, 0)
	j := verdict.Judge(policy(t), baseOf(r), r)
	if j.Verdict != verdict.Pass {
		t.Errorf("Judge = %s: %s\n%s", j.Verdict, j.Summary, listed(j))
	}
	if c := named(j, "fidelity.share"); len(c) != 1 || c[0].Value != "100.0 %" || c[0].Limit != "95.0 %" {
		t.Errorf("fidelity.share = %+v", c)
	}
}

func TestEveryDisagreementNeedsADatedWaiverOfItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		waivers []verdict.Waiver
		want    verdict.Verdict
	}{
		"none":             {nil, verdict.Fail},
		"named":            {[]verdict.Waiver{waiver(t, "GW-00", "2026-12-31")}, verdict.Pass},
		"expired":          {[]verdict.Waiver{waiver(t, "GW-00", "2026-02-28")}, verdict.Fail},
		"another":          {[]verdict.Waiver{waiver(t, "GW-01", "2026-12-31")}, verdict.Fail},
		"part of the name": {[]verdict.Waiver{waiver(t, "GW", "2026-12-31")}, verdict.Fail},
	} {
		p, r := policy(t), onContainers(40, 1)
		p.Waivers = c.waivers
		j := verdict.Judge(p, baseOf(r), r)
		if j.Verdict != c.want {
			t.Errorf("waiver %s: %s, want %s: %s", name, j.Verdict, c.want, listed(j))
		}
		got := named(j, "fidelity.disagreement")
		if len(got) != 1 || !strings.Contains(got[0].Reason, "GW-00 is passed on containers, but failed (line 7, http: status) on embedded") || got[0].Line != 7 {
			t.Errorf("fidelity.disagreement = %+v", got)
		}
	}
}

// A waiver excuses a scenario, not the share.
func TestTooLowAShareFailsWhateverIsWaived(t *testing.T) {
	p, r := policy(t), onContainers(20, 2)
	p.Waivers = []verdict.Waiver{waiver(t, "GW-00", "2026-12-31"), waiver(t, "GW-01", "2026-12-31")}
	j := verdict.Judge(p, baseOf(r), r)
	if c := named(j, "fidelity.share"); j.Verdict != verdict.Fail || len(c) != 1 || c[0].Verdict != verdict.Fail || c[0].Value != "90.0 %" {
		t.Errorf("Judge = %s, fidelity.share = %+v", j.Verdict, c)
	}
	p.Fidelity.MinShare = 0.9
	if j := verdict.Judge(p, baseOf(r), r); j.Verdict != verdict.Pass {
		t.Errorf("with a lower share: %s\n%s", j.Verdict, listed(j))
	}
}

func TestWhatOneSideLeftOutIsShownAndNotCounted(t *testing.T) {
	r := with(func(r *record.Run) {
		r.Provider.Kind, r.Env, r.Contract = "containers", here("containers"), r.Contract[:2]
		other := slices.Clone(r.Contract)
		other[1].Status, other[1].Reason = record.Skipped, "needs fault-kafka-pause (provider embedded)"
		r.Fidelity = record.Compare([2]string{"containers", "embedded"}, r.Contract, other)
	})
	j := verdict.Judge(policy(t), baseOf(r), r)
	got := named(j, "fidelity.compared")
	if j.Verdict != verdict.Pass || len(got) != 1 || len(got[0].Details) != 1 || !strings.Contains(got[0].Details[0], "GW-2 ran on one kind only, skipped on embedded: needs") {
		t.Errorf("%s, fidelity.compared = %+v", j.Verdict, got)
	}
	if share := named(j, "fidelity.share"); len(share) != 1 || share[0].Value != "100.0 %" || !strings.HasPrefix(share[0].Reason, "1 of 1 ") {
		t.Errorf("fidelity.share = %+v", share)
	}
}

func TestFidelityThatWasNotMeasured(t *testing.T) {
	lost := func(r *record.Run) { r.Provider.Kind, r.Env = "containers", here("containers") }
	nothing := func(r *record.Run) {
		r.Provider.Kind, r.Env, r.Contract = "containers", here("containers"), r.Contract[:2]
		r.Fidelity = record.Compare([2]string{"containers", "embedded"}, r.Contract, nil)
	}
	for name, c := range map[string]struct {
		spoil func(*record.Run)
		want  verdict.Verdict
	}{
		"asked for on containers and missing": {lost, verdict.Invalid},
		"nothing in common":                   {nothing, verdict.Invalid},
		"not asked for on containers":         {func(r *record.Run) { lost(r); r.Plan.Stages = []string{"contract", "load", "complexity"} }, verdict.Pass},
		"a SUT that runs already": {func(r *record.Run) {
			r.Provider.Kind, r.Env, r.Plan.SUT = "external", here("external"), "http://127.0.0.1:1"
		}, verdict.Pass},
	} {
		r := with(c.spoil)
		p := policy(t)
		p.Contract.AllowedSkips = map[string][]string{"containers": {"GW-SKIP"}, "external": {"GW-SKIP"}}
		j := verdict.Judge(p, baseOf(r), r)
		if j.Verdict != c.want {
			t.Errorf("%s: %s, want %s: %s", name, j.Verdict, c.want, listed(j))
		}
		if whole := !strings.Contains(j.Summary, "not the whole gate"); whole == (name == "not asked for on containers") {
			t.Errorf("%s: summary %q", name, j.Summary)
		}
	}
}

// The gate on embedded servers has nothing to compare: no check, and waivers of
// other runs rest.
func TestEmbeddedRunsAreNotCompared(t *testing.T) {
	p := policy(t)
	p.Waivers = []verdict.Waiver{waiver(t, "GW-00", "2026-12-31")}
	j := verdict.Judge(p, baseline(), good())
	if j.Verdict != verdict.Pass || len(named(j, "fidelity.share")) > 0 || strings.Contains(j.Summary, "whole gate") {
		t.Errorf("Judge = %s: %s\n%s", j.Verdict, j.Summary, listed(j))
	}
	r := onContainers(3, 0)
	if j := verdict.Judge(p, baseOf(r), r); j.Verdict != verdict.Fail || len(named(j, "policy.waiver")) != 1 {
		t.Errorf("an idle waiver: %s\n%s", j.Verdict, listed(j))
	}
}

func TestPolicyOfFidelity(t *testing.T) {
	p := policy(t)
	p.Fidelity.MinShare = 1.5
	p.Waivers = []verdict.Waiver{waiver(t, "", "2026-12-31")}
	err := p.Check()
	if err == nil || !strings.Contains(err.Error(), "fidelity.min_share") || !strings.Contains(err.Error(), "must name the scenario") {
		t.Errorf("Check = %v", err)
	}
}

// A scenario of a class that the SUT does not promise may be skipped; any other
// skip still fails.
func TestSkipsOfClassesThatNobodyAskedFor(t *testing.T) {
	skip := func(class string) *record.Run {
		return with(func(r *record.Run) {
			r.SUT.Classes = []string{"strict", "lenient"}
			r.Contract = append(r.Contract, record.Outcome{ID: "GW-REF", Class: class, Status: record.Skipped, Reason: "class " + class})
		})
	}
	if j := verdict.Judge(policy(t), baseline(), skip("reference")); len(named(j, "contract.skipped")) > 0 {
		t.Errorf("a skip of class reference failed: %s", listed(j))
	}
	if j := verdict.Judge(policy(t), baseline(), skip("lenient")); len(named(j, "contract.skipped")) != 1 {
		t.Errorf("a skip of class lenient passed: %s", listed(j))
	}
}
