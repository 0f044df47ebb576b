package hotspot_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"qmtl.internal/plumbline/harness/hotspot"
)

// written is a CPU profile of the given nanoseconds a function.
func written(t *testing.T, ns map[string]int64) *bytes.Buffer {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	id := uint64(1)
	for name, v := range ns {
		f := &profile.Function{ID: id, Name: name}
		l := &profile.Location{ID: id, Line: []profile.Line{{Function: f}}}
		p.Function, p.Location = append(p.Function, f), append(p.Location, l)
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{l}, Value: []int64{1, v}})
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
	grown := hotspot.Grown(base, cand, 0.02)
	if len(grown) != 1 || grown[0].String() != "c.Sleepy: 50.0 % of the CPU time, 0.0 % in the base" {
		t.Errorf("Grown = %v", grown)
	}
	if back := hotspot.Grown(cand, base, 0.02); len(back) != 2 || back[0].Func != "a.Parse" {
		t.Errorf("Grown back = %v; want both of the others, the larger first", back)
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
