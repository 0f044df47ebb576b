package k6x

import (
	"slices"
	"strings"
	"testing"

	"go.k6.io/k6/lib"

	"qmtl.internal/plumbline/bench/load"
)

// dues returns what the instances of a sequence of execution segments offer.
func dues(t *testing.T, sequence string, s load.Schedule) (all []int64) {
	t.Helper()
	seq, err := lib.NewExecutionSegmentSequenceFromString(sequence)
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range seq {
		et, err := lib.NewExecutionTuple(segment, &seq)
		if err != nil {
			t.Fatal(err)
		}
		start, offsets, _ := et.GetStripedOffsets()
		for i := range (load.Stripe{Start: start, Offsets: offsets}).Indexes(s.N()) {
			all = append(all, int64(s.Due(i)))
		}
	}
	slices.Sort(all)
	return all
}

// One to eight instances, evenly and unevenly cut, offer the same due times.
func TestSegmentsOfferTheSameUnion(t *testing.T) {
	s := load.Constant{Rate: 997, For: 3_000_000_000}
	want := dues(t, "0,1", s)
	if int64(len(want)) != s.N() {
		t.Fatalf("%d due times; want %d", len(want), s.N())
	}
	sequences := []string{"0,1/2,5/6,1", "0,1/10,1/3,1", "0,1/7,2/7,1/2,1"}
	for n := 2; n <= 8; n++ {
		cuts := []string{"0"}
		for k := 1; k < n; k++ {
			cuts = append(cuts, string(rune('0'+k))+"/"+string(rune('0'+n)))
		}
		sequences = append(sequences, strings.Join(append(cuts, "1"), ","))
	}
	for _, sequence := range sequences {
		if got := dues(t, sequence, s); !slices.Equal(got, want) {
			t.Errorf("sequence %s offers %d due times, or others; want the %d of one instance", sequence, len(got), len(want))
		}
	}
}
