// Package hotspot reads CPU profiles and says which functions took a larger
// share of the time in one than in another.
package hotspot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/pprof/profile"
)

// Shares is the part of the CPU time that each function took itself, from 0 to
// 1, by its full name.
type Shares map[string]float64

// Growth is one function in two profiles.
type Growth struct {
	Func       string
	Base, Cand float64 // shares
}

func (g Growth) String() string {
	return fmt.Sprintf("%s: %.1f %% of the CPU time, %.1f %% in the base", g.Func, 100*g.Cand, 100*g.Base)
}

// Read reads a CPU profile in pprof's format. A profile without samples is an
// error: nothing was measured.
func Read(r io.Reader) (Shares, error) {
	p, err := profile.Parse(r)
	if err != nil {
		return nil, fmt.Errorf("cpu profile: %w", err)
	}
	last := len(p.SampleType) - 1 // CPU time; the first counts samples
	s, total := Shares{}, 0.0
	for _, sample := range p.Sample {
		v := float64(sample.Value[last])
		total += v
		s[top(sample)] += v
	}
	if total <= 0 {
		return nil, errors.New("cpu profile: it holds no sample")
	}
	for f := range s {
		s[f] /= total
	}
	return s, nil
}

// ReadFile reads the profile in a file.
func ReadFile(name string) (Shares, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cpu profile: %w", err)
	}
	defer f.Close()
	return Read(f)
}

// top is the function that was running.
func top(s *profile.Sample) string {
	if len(s.Location) == 0 || len(s.Location[0].Line) == 0 || s.Location[0].Line[0].Function == nil {
		return "unknown"
	}
	return s.Location[0].Line[0].Function.Name
}

// Grown lists the functions whose share grew by at least least, the largest
// growth first. A function that only one profile knows had no share in the other.
func Grown(base, cand Shares, least float64) []Growth {
	var out []Growth
	for f, share := range cand {
		if share-base[f] >= least {
			out = append(out, Growth{f, base[f], share})
		}
	}
	slices.SortFunc(out, func(a, b Growth) int {
		return cmp.Or(cmp.Compare(b.Cand-b.Base, a.Cand-a.Base), cmp.Compare(a.Func, b.Func))
	})
	return out
}
