package complexity

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// Revision is one state of a tree with its functions.
type Revision struct {
	Name  string        `json:"name"` // e.g. before-fff37b8c
	Funcs []record.Func `json:"-"`
}

// Story follows the six functions that started this project through the
// revisions of the original, and tells the totals of each revision.
type Story struct {
	Revisions []string   `json:"revisions"`
	Totals    []Totals   `json:"totals"` // one a revision
	Rows      []StoryRow `json:"rows"`
}

// StoryRow is one of the six. Funcs has an entry a revision; nil means that
// the function is gone (split up or removed).
type StoryRow struct {
	Label string         `json:"label"`
	Name  string         `json:"name"` // in the first revision
	File  string         `json:"file"`
	Funcs []*record.Func `json:"functions"`
}

// six lists, in the files of the first revision, what made the original hard to change.
func six() []StoryRow {
	return []StoryRow{
		{Label: "health", File: "qmtl/services/gateway/gateway_health.py", Name: "get_health"},
		{Label: "control bus", File: "qmtl/services/gateway/controlbus_consumer.py", Name: "ControlBusConsumer._handle_message"},
		{Label: "submission", File: "qmtl/services/gateway/strategy_submission.py", Name: "StrategySubmissionHelper.process"},
		{Label: "diff", File: "qmtl/services/dagmanager/grpc_server.py", Name: "DiffServiceServicer.Diff"},
		{Label: "Kafka admin", File: "qmtl/services/dagmanager/server.py", Name: "_KafkaAdminClient.list_topics"},
		{Label: "graph repository", File: "qmtl/services/dagmanager/node_repository.py", Name: "MemoryNodeRepository.get_buffering_nodes"},
	}
}

// BeforeAfter tells the story of revs, oldest first. The six must be in the
// first one; an error names those that are not.
func BeforeAfter(revs ...Revision) (*Story, error) {
	if len(revs) == 0 {
		return nil, errors.New("complexity: a story needs at least one revision")
	}
	s := &Story{Rows: six()}
	var errs []error
	for i := range s.Rows {
		r := &s.Rows[i]
		if r.Funcs = follow(*r, revs); r.Funcs[0] == nil {
			errs = append(errs, fmt.Errorf("complexity: revision %s has no %s in %s", revs[0].Name, r.Name, r.File))
		}
	}
	for _, rev := range revs {
		s.Revisions = append(s.Revisions, rev.Name)
		s.Totals = append(s.Totals, Total(rev.Funcs))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// follow finds r in the first revision and tracks it from each to the next.
func follow(r StoryRow, revs []Revision) []*record.Func {
	out := make([]*record.Func, len(revs))
	for i := range revs[0].Funcs {
		if f := &revs[0].Funcs[i]; f.File == r.File && f.Name == r.Name {
			out[0] = f
		}
	}
	for i := 1; i < len(revs) && out[i-1] != nil; i++ {
		out[i] = successor(*out[i-1], Compare(revs[i-1].Funcs, revs[i].Funcs))
	}
	return out
}

func successor(f record.Func, cs []Change) *record.Func {
	for _, c := range cs {
		if c.Base != nil && *c.Base == f {
			return c.Candidate
		}
	}
	return nil
}

// LoadStory reads the story of the original from radon files in fsys, one each
// named before-REV.json, after-REV.json and head-REV.json (baselines/complexity).
func LoadStory(fsys fs.FS) (*Story, error) {
	var revs []Revision
	for _, phase := range []string{"before", "after", "head"} {
		names, err := fs.Glob(fsys, phase+"-*.json")
		if err != nil || len(names) != 1 {
			return nil, fmt.Errorf("complexity: want one file %s-REVISION.json, found %d; restore baselines/complexity", phase, len(names))
		}
		rev, err := loadRevision(fsys, names[0])
		if err != nil {
			return nil, err
		}
		revs = append(revs, rev)
	}
	return BeforeAfter(slices.Clip(revs)...)
}

func loadRevision(fsys fs.FS, name string) (Revision, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return Revision{}, fmt.Errorf("complexity: %w", err)
	}
	defer f.Close()
	funcs, err := Radon(f)
	if err != nil {
		return Revision{}, fmt.Errorf("%s: %w", name, err)
	}
	return Revision{Name: strings.TrimSuffix(name, ".json"), Funcs: funcs}, nil
}
