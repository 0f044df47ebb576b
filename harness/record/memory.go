package record

import (
	"math"

	"qmtl.internal/plumbline/harness/stat"
)

// Names of the metrics that tell how the process under the cap lived with it.
const (
	HeapHeadroom = "heap_headroom"              // 1 − peak of the live heap / cap
	GCShare      = "gc_cpu_share"               // of the CPU time of the window
	HeapSlope    = "heap_slope_bytes_per_s"     // of the live heap over the window, by Theil and Sen
	HeapSlopeLo  = "heap_slope_low_bytes_per_s" // its interval at 95 %
	HeapSlopeHi  = "heap_slope_high_bytes_per_s"
)

// MemoryFigures lists them.
func MemoryFigures() []string {
	return []string{HeapHeadroom, GCShare, HeapSlope, HeapSlopeLo, HeapSlopeHi}
}

// slopeAlpha is the chance that the interval of a slope misses.
const slopeAlpha = 0.05

// strain puts the figures of a process that bears a cap. Of a run without a
// load, or without a cap, there are none.
func (d deriver) strain(r *Run) {
	if r.Load == nil {
		d.missing(reasonFor(r, "load", "no load was offered"), MemoryFigures()...)
		return
	}
	if peak, ok := d.have[HeapPeak]; ok && r.Plan.HeapCap > 0 {
		d.put(HeapHeadroom, 1-peak.Value/float64(r.Plan.HeapCap), Ratio, peak.N)
	} else {
		d.missing("there is no cap, or no measured heap", HeapHeadroom)
	}
	d.collections(r)
	d.slope(r)
}

// collections is the share of garbage collection in the CPU time of the window.
func (d deriver) collections(r *Run) {
	gc, _, okGC := growth(inLoadWindow(r, "gc_cpu_seconds"))
	all, n, okAll := growth(inLoadWindow(r, "cpu_seconds"))
	if !okGC || !okAll || all <= 0 {
		d.missing("the CPU time of the process was not told twice within the window", GCShare)
		return
	}
	d.put(GCShare, gc/all, Ratio, n)
}

func growth(points [][2]float64) (by float64, n int64, ok bool) {
	if len(points) < 2 {
		return 0, 0, false
	}
	return points[len(points)-1][1] - points[0][1], int64(len(points)), true
}

func (d deriver) slope(r *Run) {
	s, err := stat.TheilSen(collected(inLoadWindow(r, "heap_live_bytes")), slopeAlpha)
	if err != nil {
		d.missing("of the live heap within the window: "+err.Error(), HeapSlope, HeapSlopeLo, HeapSlopeHi)
		return
	}
	d.put(HeapSlope, s.Value, BytesPerSecond, int64(s.N))
	d.put(HeapSlopeLo, s.Lo, BytesPerSecond, int64(s.N))
	d.put(HeapSlopeHi, s.Hi, BytesPerSecond, int64(s.N))
}

// collected keeps the first sample after each collection: until the next one the
// live heap is told again and again.
func collected(points [][2]float64) (out [][2]float64) {
	last := math.NaN()
	for _, p := range points {
		if p[1] != last {
			out = append(out, p)
		}
		last = p[1]
	}
	return out
}

// inLoadWindow gives the points of a series within the window, of the first
// process under the cap, or of the first at all where none is.
func inLoadWindow(r *Run, series string) (out [][2]float64) {
	capped := cappedProcesses(r)
	from := r.Load.Started.Sub(r.Started).Seconds() + r.Load.WarmUp.Seconds()
	until := from + r.Load.Window.Seconds()
	for _, s := range r.Series {
		if s.Name != series || (len(capped) > 0 && !capped[s.Process]) {
			continue
		}
		for _, p := range s.Points {
			if p[0] >= from && p[0] <= until {
				out = append(out, p)
			}
		}
		return out
	}
	return nil
}
