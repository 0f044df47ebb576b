// Package report shows a judged run: on a terminal, as files that CI systems
// read, and as one page. Every format is a pure function of its Input, so the
// same input gives the same bytes; none computes a verdict.
package report

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/complexity"
	"qmtl.internal/plumbline/harness/record"
	"qmtl.internal/plumbline/harness/verdict"
)

// Input is all that a format may show.
type Input struct {
	Run    *record.Run     // nil when the record could not be read; Judged then says why
	Judged *verdict.Judged // required
	Base   *record.Run     // the record held against; nil: none

	BaseFuncs   []record.Func     // the accepted complexity snapshot; nil: that of Base, where it has one
	BeforeAfter *complexity.Story // how the original got simpler; nil: not shown

	Dir string // where the evidence lies, as to be shown (.artifacts/<run>); "": not said
}

// Format writes in to w. An error means that the output is not whole.
type Format func(w io.Writer, in *Input) error

func formats() map[string]Format {
	return map[string]Format{
		"console": console, "json": asJSON, "junit": junit, "markdown": markdown,
		"github": github, "sarif": sarif, "html": page,
	}
}

// Names lists the formats that Get knows.
func Names() []string { return slices.Sorted(maps.Keys(formats())) }

// Get returns a format by name.
func Get(name string) (Format, error) {
	f, ok := formats()[name]
	if !ok {
		return nil, fmt.Errorf("report: no format is named %q; have %s", name, strings.Join(Names(), ", "))
	}
	return func(w io.Writer, in *Input) error {
		if in == nil || in.Judged == nil {
			return errors.New("report: nothing was judged; judge the record first")
		}
		out := &sticky{w: w}
		if err := errors.Join(f(out, in), out.err); err != nil {
			return fmt.Errorf("report %s: %w", name, err)
		}
		return nil
	}, nil
}

// sticky keeps the first error of a writer, so that formats may print freely.
type sticky struct {
	w   io.Writer
	err error
}

func (s *sticky) Write(p []byte) (int, error) {
	if s.err != nil {
		return len(p), nil
	}
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.err = err
	return len(p), nil
}
