package load

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// TurnsCommand is one line that the generator of a paired comparison
// (k6 x plumbline-turns) reads: exactly one member is set. Every command is
// answered by one line, a TurnsAnswer.
type TurnsCommand struct {
	Open  *TurnsOpen  `json:"open,omitempty"`
	Offer *TurnsOffer `json:"offer,omitempty"`
}

// TurnsOpen names two SUTs that were just started. Both get the same
// submissions, from the first on.
type TurnsOpen struct {
	Targets [2]string `json:"targets"` // base URLs of the gateways
	Seed    uint64    `json:"seed"`
	Tag     string    `json:"tag"` // of the workload's keys
}

// TurnsOffer asks for load in which the SUTs take turns: slot k goes to
// target Slots[k], '0' or '1', and lasts Slot.
type TurnsOffer struct {
	Slots string        `json:"slots"`
	Slot  time.Duration `json:"slot_ns"`
}

// TurnsAnswer is one line that the generator writes. After an Error nothing may
// be concluded from this and later answers.
type TurnsAnswer struct {
	Error  string       `json:"error,omitempty"`
	Result *TurnsResult `json:"result,omitempty"` // of an offer
}

// TurnsResult is what became of one offer.
type TurnsResult struct {
	Generator Quantiles        `json:"generator_lag"`
	Reasons   map[string]int64 `json:"reasons,omitempty"` // of lost and unexpected answers, by why
	Slots     []SlotResult     `json:"slots"`
}

// SlotResult is one turn of one SUT, by due time.
type SlotResult struct {
	Target  int               `json:"target"` // 0 or 1
	Ledger  Ledger            `json:"ledger"`
	Latency map[string]string `json:"latency"` // by class: HDR histogram (V2, compressed, base64), nanoseconds from due
}

// EncodeLatencies fills h, which is emptied first, and gives its portable form.
func EncodeLatencies(h *hdrhistogram.Histogram, latencies []time.Duration) (string, error) {
	h.Reset()
	for _, d := range latencies {
		put(h, d)
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return "", fmt.Errorf("histogram: %w", err)
	}
	return string(b), nil
}

// NewLatencies is an empty histogram of the common layout.
func NewLatencies() *hdrhistogram.Histogram { return newHistogram() }

// Latencies holds a histogram of latencies by class, without All.
type Latencies map[string]*hdrhistogram.Histogram

// Add merges the slot's histograms into l, exactly.
func (l Latencies) Add(s SlotResult) error {
	for _, class := range slices.Sorted(maps.Keys(s.Latency)) {
		text := s.Latency[class]
		if _, err := base64.StdEncoding.DecodeString(text); err != nil {
			return fmt.Errorf("histogram of class %s: %w", class, err)
		}
		h, err := hdrhistogram.Decode([]byte(text))
		if err != nil {
			return fmt.Errorf("histogram of class %s: %w", class, err)
		}
		if l[class] == nil {
			l[class] = newHistogram()
		}
		if n := l[class].Merge(h); n > 0 {
			return fmt.Errorf("histogram of class %s: %d observations lie beyond the common layout", class, n)
		}
	}
	return nil
}

// Merge adds every histogram of o.
func (l Latencies) Merge(o Latencies) {
	for class, h := range o {
		if l[class] == nil {
			l[class] = newHistogram()
		}
		l[class].Merge(h) // of one layout, so nothing is dropped
	}
}

// Union is the histogram of all classes together.
func (l Latencies) Union() *hdrhistogram.Histogram {
	all := newHistogram()
	for _, h := range l {
		all.Merge(h)
	}
	return all
}

// Add adds the counts of o.
func (l *Ledger) Add(o Ledger) { l.add(o) }
