package report

import (
	"fmt"
	"maps"
	"slices"

	"gonum.org/v1/plot/plotter"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

const (
	fromDue  = "Latency counts from the time a request was due, so that a stall cannot hide."
	mebibyte = 1 << 20
)

// charts draws what the run measured over percentiles and over time. Those over
// time share one axis, so that they can be read below each other.
func charts(v *view) []chart {
	span := timeSpan(v.R)
	over := func(y string) axes { return axes{x: "seconds since the run started", y: y, xRange: span} }
	out := []chart{
		curveChart(v),
		drawChart("Latency over time", "Each second of the window by due time. "+fromDue, over("ms"), latencyLines(v.R)),
		drawChart("Throughput over time", "Requests due and answered in each second of the window.", over("requests/s"), rateLines(v.R)),
		drawChart("Live heap over time", heapNote(v.R), over("MiB"), append(seriesLines(v.R, "heap_live_bytes"), capLines(v.R, span)...)),
		drawChart("Resident set (RSS) over time", "What the kernel counts, the Go runtime and free spans included.", over("MiB"), seriesLines(v.R, "rss_bytes")),
	}
	for i := range out {
		if out[i].SVG == "" {
			out[i].Reason = absentChart(v.R, i, out[i].Reason)
		}
	}
	return out
}

// absentChart prefers what the run says about the part that is missing.
func absentChart(r *record.Run, i int, otherwise string) string {
	part := "load"
	if i >= 3 {
		part = "series"
	}
	for _, name := range []string{part, []string{record.P99, record.P99, record.Throughput, record.HeapPeak, record.RSSPeak}[i]} {
		if why := r.Absent[name]; why != "" {
			return why
		}
	}
	return otherwise
}

func curveChart(v *view) chart {
	lines := []line{curveLine("this run", v.R.Load, false)}
	if v.Base != nil {
		lines = append(lines, curveLine("base", v.Base.Load, true))
	}
	return drawChart("Latency by percentile", "Each further nine takes the same room. "+fromDue,
		axes{x: "percentile", y: "ms", xTicks: percentileTicks()}, lines)
}

// loadOffset is where the load's clock stands on that of the run.
func loadOffset(r *record.Run) float64 { return r.Load.Started.Sub(r.Started).Seconds() }

func secondsLine(r *record.Run, name string, value func(load.Second) float64, dash bool) line {
	l := line{name: name, dash: dash}
	if r.Load == nil {
		return l
	}
	for _, s := range r.Load.Seconds {
		l.points = append(l.points, plotter.XY{X: loadOffset(r) + s.At + 0.5, Y: value(s)})
	}
	return l
}

func latencyLines(r *record.Run) []line {
	return []line{
		secondsLine(r, "p50", func(s load.Second) float64 { return s.P50 }, false),
		secondsLine(r, "p95", func(s load.Second) float64 { return s.P95 }, false),
		secondsLine(r, "p99", func(s load.Second) float64 { return s.P99 }, false),
		secondsLine(r, "max", func(s load.Second) float64 { return s.Max }, true),
	}
}

func rateLines(r *record.Run) []line {
	return []line{
		secondsLine(r, "answered", func(s load.Second) float64 { return float64(s.Answered) }, false),
		secondsLine(r, "offered", func(s load.Second) float64 { return float64(s.Offered) }, true),
	}
}

// seriesLines gives each process a line of its series name, in MiB.
func seriesLines(r *record.Run, name string) []line {
	by := map[string]plotter.XYs{}
	for _, s := range r.Series {
		if s.Name != name {
			continue
		}
		for _, p := range s.Points {
			by[s.Process] = append(by[s.Process], plotter.XY{X: p[0], Y: p[1] / mebibyte})
		}
	}
	var out []line
	for _, process := range slices.Sorted(maps.Keys(by)) {
		out = append(out, line{name: process, points: by[process]})
	}
	return out
}

// capLines draws the heap cap where heap was measured at all.
func capLines(r *record.Run, span [2]float64) []line {
	if r.Plan.HeapCap <= 0 || len(seriesLines(r, "heap_live_bytes")) == 0 {
		return nil
	}
	y := float64(r.Plan.HeapCap) / mebibyte
	return []line{{name: "cap", dash: true, points: plotter.XYs{{X: span[0], Y: y}, {X: span[1], Y: y}}}}
}

func heapNote(r *record.Run) string {
	if r.Plan.HeapCap <= 0 {
		return "Heap in use after each collection."
	}
	return fmt.Sprintf("Heap in use after each collection; the cap is %s.", bytesText(float64(r.Plan.HeapCap)))
}

// timeSpan is from zero to the last thing that was measured.
func timeSpan(r *record.Run) [2]float64 {
	end := 1.0
	reach := func(t float64) {
		if finite(t) {
			end = max(end, t)
		}
	}
	for _, s := range r.Series {
		for _, p := range s.Points {
			reach(p[0])
		}
	}
	if r.Load != nil {
		for _, s := range r.Load.Seconds {
			reach(loadOffset(r) + s.At + 1)
		}
	}
	return [2]float64{0, end}
}
