// Package hotspot reads CPU profiles and says which functions took a larger
// share of the time in one than in another.
package hotspot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// Profile is where the CPU time of one process went.
type Profile struct {
	Shares  map[string]float64 // of the time, that each function took itself, by its full name; together 1
	Samples int64              // that this was drawn from
}

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
func Read(r io.Reader) (*Profile, error) {
	p, err := profile.Parse(r)
	if err != nil {
		return nil, fmt.Errorf("cpu profile: %w", err)
	}
	last := len(p.SampleType) - 1 // CPU time; the first counts samples
	out, total := &Profile{Shares: map[string]float64{}}, 0.0
	for _, sample := range p.Sample {
		v := float64(sample.Value[last])
		total += v
		out.Shares[top(sample)] += v
		out.Samples += sample.Value[0]
	}
	if total <= 0 {
		return nil, errors.New("cpu profile: it holds no sample")
	}
	for f := range out.Shares {
		out.Shares[f] /= total
	}
	return out, nil
}

// ReadFile reads the profile in a file.
func ReadFile(name string) (*Profile, error) {
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

const (
	// least is the smallest growth of a share that is told.
	least = 0.01
	// beyond is how many standard errors it must exceed: of a hundred functions
	// none grows as much by chance.
	beyond = 3.5
	// most is how many functions Words tells.
	most = 5
)

// Grown lists the functions whose share grew by a hundredth of the time at
// least, and by more than the chance of sampling explains, the largest growth
// first. A function that only one profile knows had no share in the other.
func Grown(base, cand *Profile) []Growth {
	var out []Growth
	for f, share := range cand.Shares {
		before := base.Shares[f]
		if share-before >= max(least, beyond*chance(before, share, base.Samples, cand.Samples)) {
			out = append(out, Growth{f, before, share})
		}
	}
	slices.SortFunc(out, func(a, b Growth) int {
		return cmp.Or(cmp.Compare(b.Cand-b.Base, a.Cand-a.Base), cmp.Compare(a.Func, b.Func))
	})
	return out
}

// chance is the standard error of the difference of two shares that are one.
func chance(a, b float64, n, m int64) float64 {
	both := (a*float64(n) + b*float64(m)) / float64(n+m)
	return math.Sqrt(both * (1 - both) * (1/float64(n) + 1/float64(m)))
}

// Words tells what grew, the largest first, in one line.
func Words(base, cand *Profile) string {
	var told []string
	grown := Grown(base, cand)
	for _, g := range grown[:min(most, len(grown))] {
		told = append(told, g.String())
	}
	if len(told) == 0 {
		return fmt.Sprintf("no function's share of the CPU time grew by 1 %% and beyond chance (%d samples, %d of the base)", cand.Samples, base.Samples)
	}
	return "functions whose share of the CPU time grew: " + strings.Join(told, "; ")
}

// Largest tells the functions with the largest share, in one line.
func (p *Profile) Largest() string {
	var told []string
	top := Grown(&Profile{Samples: p.Samples}, p)
	for _, g := range top[:min(most, len(top))] {
		told = append(told, fmt.Sprintf("%s %.1f %%", g.Func, 100*g.Cand))
	}
	return "functions with the largest share of the CPU time: " + strings.Join(told, "; ")
}
