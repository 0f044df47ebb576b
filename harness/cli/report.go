package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/report"
	"qmtl.internal/plumbline/harness/verdict"
)

// files are the formats that every run directory holds.
var files = map[string]string{
	"junit": "junit.xml", "markdown": "report.md", "html": "report.html", "sarif": "report.sarif", "json": "report.json",
}

// shown is one format that was asked for.
type shown struct {
	name   string
	format report.Format
}

func parseFormats(list string) ([]shown, error) {
	var out []shown
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		f, err := report.Get(name)
		if err != nil {
			return nil, usagef("--format: %w", err)
		}
		out = append(out, shown{name, f})
	}
	return out, nil
}

// answer writes the judgement, the summary and every report into the run's
// directory, and shows the formats that were asked for. A dir of "" is a record
// without one: it is only shown.
func (a *app) answer(q *question, dir string, r *record.Run, base verdict.Base, j verdict.Judged) error {
	if dir != "" {
		if err := a.keep(dir, r, base, j); err != nil {
			return err
		}
	}
	return a.show(q.shows, dir, r, base, j)
}

// keep writes the summary last: where it is, everything is.
func (a *app) keep(dir string, r *record.Run, base verdict.Base, j verdict.Judged) error {
	d := record.Dir{Root: filepath.Dir(dir), ID: filepath.Base(dir)}
	sum := record.Summarize(r, record.Answer{Verdict: j.Verdict.String(), ExitCode: j.ExitCode, Base: j.Base})
	for _, write := range []func() error{
		func() error { return a.render(dir, r, base, j) },
		func() error { return d.WriteJSON(record.JudgedFile, j) },
		func() error { return d.WriteJSON(record.SummaryFile, sum) },
	} {
		if err := write(); err != nil {
			return fmt.Errorf("%w; make room, or name another folder with --artifacts", err)
		}
	}
	return nil
}

// render writes every report file.
func (a *app) render(dir string, r *record.Run, base verdict.Base, j verdict.Judged) error {
	in, err := a.input(dir, r, base, j)
	if err != nil {
		return err
	}
	for name, file := range files {
		f, err := report.Get(name)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := f(&b, in); err != nil {
			return fmt.Errorf("report %s: %w", name, err)
		}
		if err := record.WriteFile(filepath.Join(dir, file), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// show prints: console and github always go to standard output, of the other
// formats the only one that was asked for; where there are several, each is a
// file of the run directory, and its name is printed.
func (a *app) show(shows []shown, dir string, r *record.Run, base verdict.Base, j verdict.Judged) error {
	in, err := a.input(dir, r, base, j)
	if err != nil {
		return err
	}
	for _, s := range shows {
		if file, has := files[s.name]; has && len(shows) > 1 && dir != "" {
			fmt.Fprintf(a.Err, "%s: %s\n", s.name, filepath.Join(dir, file))
			continue
		}
		if err := s.format(a.Out, in); err != nil {
			return fmt.Errorf("report %s: %w", s.name, err)
		}
	}
	return nil
}

func (a *app) input(dir string, r *record.Run, base verdict.Base, j verdict.Judged) (*report.Input, error) {
	in := &report.Input{Run: r, Judged: &j, Base: base.Run, BaseFuncs: base.Complexity, Dir: shownDir(dir)}
	story, err := complexity.LoadStory(os.DirFS(filepath.Dir(a.flags.complexityBaseline)))
	if err == nil {
		in.BeforeAfter = story
	} else if _, missing := os.Stat(filepath.Dir(a.flags.complexityBaseline)); !errors.Is(missing, fs.ErrNotExist) && a.flags.verbose {
		fmt.Fprintf(a.Err, "plumbline: %v\n", err)
	}
	return in, nil
}

// shownDir names a run directory in reports by its last two parts, such as
// .artifacts/<id>, so that a report reads the same wherever the tree lies.
func shownDir(dir string) string {
	if dir == "" {
		return ""
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir)
}

func (a *app) report() *cobra.Command {
	cmd := &cobra.Command{
		Use: "report [RECORD]", Short: "render a record and its judgement again (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := filepath.Join(a.flags.artifacts, record.LatestLink)
			if len(args) == 1 {
				path = args[0]
			}
			return a.reportOn(path)
		},
	}
	a.flags.answers(cmd.Flags())
	return cmd
}

// reportOn renders the judgement that lies beside the record, or judges a record
// that has none. It says nothing about the verdict by its exit code, but a
// record that cannot be read is exit code 3.
func (a *app) reportOn(path string) error {
	q, err := a.prepare()
	if err != nil {
		return err
	}
	r, dir, err := readRecord(path)
	if errors.Is(err, record.ErrBroken) {
		return a.broken(q, path, err)
	}
	if err != nil {
		return err
	}
	base := q.baseFor(dir, r)
	j, err := a.judgement(q, dir, r, &base)
	if err != nil {
		return err
	}
	if dir != "" {
		if err := a.render(dir, r, base, j); err != nil {
			return err
		}
	}
	return a.show(q.shows, dir, r, base, j)
}

// judgement reads judged.json. The base that is shown is the one it speaks of.
func (a *app) judgement(q *question, dir string, r *record.Run, base *verdict.Base) (verdict.Judged, error) {
	b, err := os.ReadFile(filepath.Join(dir, record.JudgedFile))
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return verdict.Judge(q.policy, *base, r), nil
	}
	if err != nil {
		return verdict.Judged{}, err
	}
	var j verdict.Judged
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return j, fmt.Errorf("%s: %w; judge the record again", filepath.Join(dir, record.JudgedFile), err)
	}
	if j.Schema != verdict.JudgedVersion || j.Run != r.ID {
		return j, fmt.Errorf("%s is of schema %d and run %q, the record is %q; judge the record again", filepath.Join(dir, record.JudgedFile), j.Schema, j.Run, r.ID)
	}
	if err := j.Check(); err != nil {
		return j, fmt.Errorf("%s: %w; judge the record again", filepath.Join(dir, record.JudgedFile), err)
	}
	if base.Run != nil && base.Run.ID != j.Base {
		base.Run = nil
	}
	return j, nil
}
