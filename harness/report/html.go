package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

//go:embed page.gohtml
var pageText string

// pageData is what page.gohtml fills in.
type pageData struct {
	*view
	Charts    []chart
	Ledgers   []ledgerRow
	Scenarios []scenarioGroup
	Findings  []finding
	Total     *complexity.Totals
	Worst     []record.Func // the most complex functions
	News      []complexity.Change
	NewsMore  int
}

type ledgerRow struct {
	Name string
	load.Ledger
	Problem string // why it does not balance, "" when it does
}

type scenarioGroup struct {
	Status record.Status
	All    []record.Outcome
	Open   bool
}

// finding is one entry of the audit.
type finding struct {
	Kind string
	record.Finding
}

// pageRows bounds the tables that could grow without end; run.json has all.
const pageRows = 200

// page writes one self-contained HTML page: no scripts, nothing fetched.
func page(w io.Writer, in *Input) error {
	t, err := template.New("page").Funcs(pageFuncs()).Parse(pageText)
	if err != nil {
		return err
	}
	v := newView(in)
	d := pageData{view: v, Charts: charts(v), Ledgers: ledgers(v.R.Load), Scenarios: scenarioGroups(v.R.Contract), Findings: findings(v.R.Audit)}
	if c := v.R.Complexity; c != nil {
		total := complexity.Total(c.Funcs)
		d.Total = &total
		d.Worst = complexity.Over(c.Funcs, 0)
		d.Worst = d.Worst[:min(10, len(d.Worst))]
	}
	d.News = notSame(v.Changes)
	d.NewsMore = max(0, len(d.News)-pageRows)
	d.News = d.News[:min(pageRows, len(d.News))]
	return t.Execute(w, d)
}

func pageFuncs() template.FuncMap {
	return template.FuncMap{
		"mark": mark, "newPlace": newPlace, "rank": complexity.Rank, "ranks": ranks, "rankText": rankText, "storyText": storyText,
		"totalCells": totalCells, "changeWord": changeWord, "countLine": countLine, "orNone": orNone,
		"figureValue": figureValue, "steps": stepLines, "count": func(n int64) string { return thousands(float64(n), 0) },
		"whole":   func(n int) string { return thousands(float64(n), 0) },
		"instant": instant, "span": span, "ms": func(v float64) string { return amount(v, record.Milliseconds) },
		"classes": classes, "reasonFor": reasonFor,
		"noteworthy": noteworthy, "class": func(v verdict.Verdict) string { return "v-" + v.String() },
		"versions": versions, "rankClass": rankClass, "newDetails": newDetails, "sharedReason": sharedReason,
		"differences": differences, "fidelityLine": fidelityLine,
	}
}

func rankClass(f *record.Func) string {
	if f == nil {
		return "r-none"
	}
	return "r-" + complexity.Rank(f.CC)
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func span(from, to time.Time) string {
	if from.IsZero() || to.Before(from) {
		return "unknown"
	}
	return to.Sub(from).Round(100 * time.Millisecond).String()
}

func versions(p record.Provider) string {
	var out []string
	for name, v := range p.Versions {
		out = append(out, name+" "+v)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// reasonFor says why a part of the run is missing.
func reasonFor(r *record.Run, part string) string {
	switch {
	case r.Absent[part] != "":
		return r.Absent[part]
	case r.PartialReason != "":
		return r.PartialReason
	}
	return "the record gives no reason"
}

// noteworthy is what the page shows of a check without being asked.
func noteworthy(c verdict.Check) bool { return c.Verdict != verdict.Pass || c.Waived != "" }

func ledgers(l *load.Result) []ledgerRow {
	if l == nil {
		return nil
	}
	rows := []ledgerRow{{Name: "window", Ledger: l.Ledger}, {Name: "warm-up", Ledger: l.WarmUpLedger}}
	for i := range rows {
		if err := rows[i].Check(); err != nil {
			rows[i].Problem = err.Error()
		}
	}
	return rows
}

// className is a class of requests with its timing.
type className struct {
	Name string
	load.Class
}

// classes lists the request classes, the union first.
func classes(l *load.Result) []className {
	var out []className
	for name, c := range l.Classes {
		out = append(out, className{name, c})
	}
	slices.SortFunc(out, func(a, b className) int {
		switch {
		case a.Name == "all":
			return -1
		case b.Name == "all":
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// scenarioGroups puts what needs eyes first.
func scenarioGroups(all []record.Outcome) []scenarioGroup {
	gs := []scenarioGroup{{Status: record.Failed, Open: true}, {Status: record.Skipped, Open: true}, {Status: record.Passed}}
	for _, o := range all {
		i := slices.IndexFunc(gs, func(g scenarioGroup) bool { return g.Status == o.Status })
		gs[max(i, 0)].All = append(gs[max(i, 0)].All, o) // an unknown status is a failure
	}
	return slices.DeleteFunc(gs, func(g scenarioGroup) bool { return len(g.All) == 0 })
}

func findings(a *record.Audit) []finding {
	if a == nil {
		return nil
	}
	var out []finding
	for _, part := range []struct {
		kind string
		all  []record.Finding
	}{{"lost", a.Lost}, {"duplicate", a.Duplicates}, {"orphan", a.Orphans}} {
		for i, f := range part.all {
			if i == pageRows {
				out = append(out, finding{part.kind, record.Finding{ID: "…", What: fmt.Sprintf("and %d more in run.json", len(part.all)-i)}})
				break
			}
			out = append(out, finding{part.kind, f})
		}
	}
	return out
}
