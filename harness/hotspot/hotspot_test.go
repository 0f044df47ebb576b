package hotspot_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"qmtl.internal/plumbline/harness/hotspot"
)

// written is a CPU profile of the given samples a function.
func written(t *testing.T, samples map[string]int64) *bytes.Buffer {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	id := uint64(1)
	for name, v := range samples {
		f := &profile.Function{ID: id, Name: name}
		l := &profile.Location{ID: id, Line: []profile.Line{{Function: f}}}
		p.Function, p.Location = append(p.Function, f), append(p.Location, l)
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{l}, Value: []int64{v, v * 10_000_000}})
		id++
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestGrownNamesTheFunctionToBlame(t *testing.T) {
	base, err := hotspot.Read(written(t, map[string]int64{"a.Parse": 60, "b.Send": 40}))
	if err != nil {
		t.Fatal(err)
	}
	cand, err := hotspot.Read(written(t, map[string]int64{"a.Parse": 60, "b.Send": 40, "c.Sleepy": 100}))
	if err != nil {
		t.Fatal(err)
	}
	grown := hotspot.Grown(base, cand)
	if len(grown) != 1 || grown[0].String() != "c.Sleepy: 50.0 % of the CPU time, 0.0 % in the base" {
		t.Errorf("Grown = %v", grown)
	}
	if back := hotspot.Grown(cand, base); len(back) != 2 || back[0].Func != "a.Parse" {
		t.Errorf("Grown back = %v; want both of the others, the larger first", back)
	}
	if text := hotspot.Words(base, cand); !strings.Contains(text, "grew: c.Sleepy: 50.0 %") || strings.Contains(text, ";") {
		t.Errorf("Words = %q", text)
	}
	if text := cand.Largest(); !strings.HasSuffix(text, ": c.Sleepy 50.0 %; a.Parse 30.0 %; b.Send 20.0 %") {
		t.Errorf("Largest = %q", text)
	}
}

// Two profiles of one program differ by chance; what chance explains is blamed
// on nobody.
func TestGrownBlamesNobodyByChance(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	drawn := func() *hotspot.Profile {
		samples := map[string]int64{}
		for range 300 {
			samples[fmt.Sprintf("f%d", int(40*math.Pow(rng.Float64(), 2)))]++
		}
		p, err := hotspot.Read(written(t, samples))
		if err != nil || p.Samples != 300 {
			t.Fatal(p, err)
		}
		return p
	}
	blamed := 0
	for range 200 {
		blamed += len(hotspot.Grown(drawn(), drawn()))
	}
	if blamed > 10 {
		t.Errorf("%d functions were blamed in 200 comparisons of one program with itself; want 5 %% at most", blamed)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, r := range map[string]*bytes.Buffer{"garbage": bytes.NewBufferString("{}"), "no sample": written(t, nil)} {
		if s, err := hotspot.Read(r); err == nil || !strings.Contains(err.Error(), "cpu profile") {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := hotspot.ReadFile("nowhere.pb.gz"); err == nil {
		t.Error("a file that is not there was read")
	}
}
