package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// The parts of SARIF 2.1.0 (OASIS) that a finding needs.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool         `json:"tool"`
	Invocations []sarifInvocation `json:"invocations"`
	Automation  sarifAutomation   `json:"automationDetails"`
	Bases       map[string]any    `json:"originalUriBaseIds"`
	Results     []sarifResult     `json:"results"`
	ColumnKind  string            `json:"columnKind"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name  string      `json:"name"`
	Rules []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID    string    `json:"id"`
	Short sarifText `json:"shortDescription"`
	Help  sarifText `json:"help"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifInvocation struct {
	Successful bool   `json:"executionSuccessful"`
	ExitCode   int    `json:"exitCode"`
	Start      string `json:"startTimeUtc,omitempty"`
	End        string `json:"endTimeUtc,omitempty"`
}

type sarifAutomation struct {
	ID string `json:"id"`
}

type sarifResult struct {
	Rule         string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Level        string             `json:"level"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations,omitempty"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions []sarifSuppression `json:"suppressions,omitempty"`
}

type sarifLocation struct {
	Physical sarifPhysical  `json:"physicalLocation"`
	Logical  []sarifLogical `json:"logicalLocations,omitempty"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifArtifact struct {
	URI  string `json:"uri"`
	Base string `json:"uriBaseId"`
}

type sarifRegion struct {
	Start int `json:"startLine"`
	End   int `json:"endLine,omitempty"`
}

type sarifLogical struct {
	Name string `json:"fullyQualifiedName"`
	Kind string `json:"kind"`
}

type sarifSuppression struct {
	Kind   string `json:"kind"`
	Reason string `json:"justification"`
}

// srcRoot is the name by which code hosts know the root of the repository.
const srcRoot = "%SRCROOT%"

// sarif writes every check that did not pass or was waived as a result, with
// the place to blame where there is one. A function over the limit that no
// check names is a warning of its own.
func sarif(w io.Writer, in *Input) error {
	v := newView(in)
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "plumbline", Rules: []sarifRule{}}},
		Automation: sarifAutomation{ID: "plumbline/" + in.Judged.Run},
		Bases:      map[string]any{srcRoot: map[string]any{"description": sarifText{"the root of the repository"}}},
		Results:    []sarifResult{}, ColumnKind: "utf16CodeUnits",
	}
	run.Invocations = []sarifInvocation{sarifInvoked(v)}
	named := map[string]bool{}
	for _, c := range worstFirst(in.Judged.Checks) {
		if c.Verdict == verdict.Pass && c.Waived == "" {
			continue
		}
		named[place(c)] = true
		run.add(pointed(c, in.Dir), functionAt(v.R, c))
	}
	for _, f := range overLimit(v.R) {
		c := overCheck(f, v.R.Complexity.Limit)
		if !named[place(c)] {
			run.add(c, &f)
		}
	}
	return writeJSON(w, sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	})
}

// pointed gives a check without a place that of the record, since code hosts
// refuse results that point nowhere. A folder outside the tree has no URI there.
func pointed(c verdict.Check, dir string) verdict.Check {
	if c.File == "" && dir != "" && !path.IsAbs(dir) {
		c.File = strings.TrimRight(dir, "/") + "/" + record.RunFile
	}
	return c
}

func sarifInvoked(v *view) sarifInvocation {
	inv := sarifInvocation{Successful: v.Judged.ExitCode != verdict.ExitBroken, ExitCode: v.Judged.ExitCode}
	const utc = "2006-01-02T15:04:05Z"
	if !v.R.Started.IsZero() && !v.R.Ended.IsZero() {
		inv.Start, inv.End = v.R.Started.UTC().Format(utc), v.R.Ended.UTC().Format(utc)
	}
	return inv
}

func overLimit(r *record.Run) []record.Func {
	if r.Complexity == nil {
		return nil
	}
	return complexity.Over(r.Complexity.Funcs, r.Complexity.Limit)
}

// overCheck words a function over the limit that the judge did not fail.
func overCheck(f record.Func, limit int) verdict.Check {
	return verdict.Check{
		Name: "complexity.over", Verdict: verdict.Inconclusive, File: f.File, Line: f.Line, Details: []string{f.Name},
		Reason: fmt.Sprintf("%s has CC %d (%s), more than %d", f.Name, f.CC, complexity.Rank(f.CC), limit),
	}
}

// functionAt finds the function that starts where c points.
func functionAt(r *record.Run, c verdict.Check) *record.Func {
	if r.Complexity == nil || c.File == "" {
		return nil
	}
	i := slices.IndexFunc(r.Complexity.Funcs, func(f record.Func) bool { return f.File == c.File && f.Line == c.Line })
	if i < 0 {
		return nil
	}
	return &r.Complexity.Funcs[i]
}

func (r *sarifRun) add(c verdict.Check, f *record.Func) {
	res := sarifResult{
		Rule: c.Name, RuleIndex: r.rule(c), Level: sarifLevel(c), Message: sarifText{sarifMessage(c)},
		Fingerprints: map[string]string{"plumbline/v1": fingerprint(c, f)},
	}
	if c.File != "" {
		res.Locations = []sarifLocation{location(c, f)}
	}
	if c.Waived != "" {
		res.Suppressions = []sarifSuppression{{Kind: "external", Reason: c.Waived}}
	}
	r.Results = append(r.Results, res)
}

func (r *sarifRun) rule(c verdict.Check) int {
	i := slices.IndexFunc(r.Tool.Driver.Rules, func(x sarifRule) bool { return x.ID == c.Name })
	if i >= 0 {
		return i
	}
	r.Tool.Driver.Rules = append(r.Tool.Driver.Rules, sarifRule{
		ID: c.Name, Short: sarifText{"plumbline check " + c.Name},
		Help: sarifText{"The reason of each result says what was seen against what was asked; limits and waivers stand in the policy under baselines/."},
	})
	return len(r.Tool.Driver.Rules) - 1
}

func sarifLevel(c verdict.Check) string {
	switch annotationLevel(c) {
	case "error":
		return "error"
	case "warning":
		return "warning"
	}
	return "note"
}

func sarifMessage(c verdict.Check) string {
	s := c.Reason
	if len(c.Details) > 0 {
		s += "\n" + strings.Join(c.Details, "\n")
	}
	return s
}

func location(c verdict.Check, f *record.Func) sarifLocation {
	l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{URI: (&url.URL{Path: strings.TrimLeft(c.File, "/")}).String(), Base: srcRoot}}}
	if c.Line > 0 {
		l.Physical.Region = &sarifRegion{Start: c.Line}
	}
	if f != nil {
		l.Physical.Region.End = max(f.Line, f.EndLine)
		l.Logical = []sarifLogical{{Name: f.Name, Kind: "function"}}
	}
	return l
}

// fingerprint names a finding across runs: lines move, names and files less.
func fingerprint(c verdict.Check, f *record.Func) string {
	parts := []string{c.Name}
	if path.Base(c.File) != record.RunFile { // whose folder is another each run
		parts = append(parts, c.File)
	}
	if f != nil {
		parts = append(parts, f.Name)
	} else if len(c.Details) == 1 {
		parts = append(parts, c.Details[0])
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}
