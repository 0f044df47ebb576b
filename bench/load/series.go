package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// second is the number of the second that holds offset d of the window.
func second(d time.Duration) int64 { return int64(d / time.Second) }

// series keeps the seconds of the window. A second is open until all of its
// requests are settled; only open seconds own a histogram, so memory does not
// grow with the run but for the finished entries.
type series struct {
	open    map[int64]*openSecond
	newest  int64
	entries map[int64]Second
	free    []*hdrhistogram.Histogram
	keep    bool // all seconds stay open to the end, for outcomes that are not in order
}

type openSecond struct {
	Second
	unsettled int64
	latency   *hdrhistogram.Histogram
}

func (s *series) offered(k int64) {
	if k > s.newest {
		s.newest = k
		for old, o := range s.open {
			s.closeIfDone(old, o)
		}
	}
	o := s.open[k]
	if o == nil {
		o = &openSecond{latency: s.histogram()}
		s.open[k] = o
	}
	o.Offered++
	o.unsettled++
}

// settled ends one request of second k; latency is negative when it was not
// answered.
func (s *series) settled(k int64, latency time.Duration) {
	o := s.open[k]
	o.unsettled--
	if latency >= 0 {
		o.Answered++
		put(o.latency, latency)
	}
	s.closeIfDone(k, o)
}

func (s *series) closeIfDone(k int64, o *openSecond) {
	if k < s.newest && o.unsettled == 0 && !s.keep {
		s.close(k, o)
	}
}

func (s *series) close(k int64, o *openSecond) {
	q := quantiles(o.latency)
	o.P50, o.P95, o.P99, o.Max = q.P50, q.P95, q.P99, q.Max
	if s.entries == nil {
		s.entries = map[int64]Second{}
	}
	s.entries[k] = o.Second
	delete(s.open, k)
	o.latency.Reset()
	s.free = append(s.free, o.latency)
}

func (s *series) histogram() *hdrhistogram.Histogram {
	n := len(s.free)
	if n == 0 {
		return newHistogram()
	}
	h := s.free[n-1]
	s.free = s.free[:n-1]
	return h
}

// finish closes every second and returns them in order, a second without
// requests included. At counts from the start of the run.
func (s *series) finish(warmUp time.Duration) []Second {
	for k, o := range s.open {
		s.close(k, o)
	}
	out := make([]Second, 0, len(s.entries))
	for k := range s.newest + 1 {
		e := s.entries[k]
		e.At = (warmUp + time.Duration(k)*time.Second).Seconds()
		out = append(out, e)
	}
	if len(s.entries) == 0 {
		return nil
	}
	return out
}
