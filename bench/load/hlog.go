package load

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// WriteTimings writes ts as a standard HDR histogram log (latency.hlog): one
// line a histogram, tagged class/kind, kind being lag, service or latency; the
// class "all" is their union. Values are nanoseconds.
func WriteTimings(w io.Writer, started, ended time.Time, ts Timings) error {
	all, err := ts.Union()
	if err != nil {
		return err
	}
	lw := hdrhistogram.NewHistogramLogWriter(w)
	err = errors.Join(
		lw.OutputComment("[plumbline: tag class/kind, values in nanoseconds]"),
		lw.OutputLogFormatVersion(),
		lw.OutputStartTime(started.UnixMilli()),
		lw.OutputLegend(),
		writeTiming(lw, All, all, started, ended))
	for _, class := range slices.Sorted(maps.Keys(ts)) {
		err = errors.Join(err, writeTiming(lw, class, ts[class], started, ended))
	}
	return err
}

func writeTiming(lw *hdrhistogram.HistogramLogWriter, class string, t *Timing, started, ended time.Time) error {
	kinds := t.kinds()
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		h := kinds[kind]
		h.SetTag(class + "/" + kind)
		h.SetStartTimeMs(started.UnixMilli())
		h.SetEndTimeMs(ended.UnixMilli())
		if err := lw.OutputIntervalHistogram(h); err != nil {
			return fmt.Errorf("histogram %s/%s: %w", class, kind, err)
		}
	}
	return nil
}

// ReadTimings adds every histogram of a log that WriteTimings wrote to ts,
// exactly. Reading the logs of several generators into one ts merges them. The
// union "all" is left out: Union builds it anew.
func ReadTimings(r io.Reader, ts Timings) error {
	lr := hdrhistogram.NewHistogramLogReader(r)
	for {
		h, err := lr.NextIntervalHistogram()
		if err != nil {
			return fmt.Errorf("histogram log: %w", err)
		}
		if h == nil {
			return nil
		}
		if err := addTagged(ts, h); err != nil {
			return fmt.Errorf("histogram log: tag %q: %w", h.Tag(), err)
		}
	}
}

func addTagged(ts Timings, h *hdrhistogram.Histogram) error {
	class, kind, _ := strings.Cut(h.Tag(), "/")
	if class == All {
		return nil
	}
	to := (&Timing{}).kinds()
	if _, ok := to[kind]; !ok || class == "" {
		return errors.New("want class/lag, class/service or class/latency")
	}
	if n := ts.of(class).kinds()[kind].Merge(h); n > 0 {
		return fmt.Errorf("%d observations lie beyond the common layout", n)
	}
	return nil
}
