package load

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"testing"
	"time"
)

// How late the generator is. Run it on an idle machine:
//
//	go test -run '^$' -bench Lag -benchtime 1x ./bench/load
//
// BenchmarkLagPacer has no work behind the pacer; BenchmarkLagHTTP sends over
// loopback to a server in a process of its own, as a SUT is.
func BenchmarkLagPacer(b *testing.B) {
	for _, rate := range []int64{1000, 5000} {
		for name, p := range map[string]func() pacer{"precise": newPacer, "go-timers": func() pacer { return &timerPacer{} }} {
			b.Run(fmt.Sprintf("%s/%d", name, rate), func(b *testing.B) {
				for b.Loop() {
					lag, cores := paceOnly(b.Context(), p(), Constant{Rate: rate, For: 4 * time.Second})
					report(b, quantiles(lag.Lag), cores)
				}
			})
		}
	}
}

func report(b *testing.B, q Quantiles, cores float64) {
	b.ReportMetric(q.P50*1000, "p50-µs")
	b.ReportMetric(q.P99*1000, "p99-µs")
	b.ReportMetric(q.P999*1000, "p99.9-µs")
	b.ReportMetric(cores, "cores")
}

func paceOnly(ctx context.Context, p pacer, s Schedule) (*Timing, float64) {
	t, zero := NewTiming(), time.Now().Add(50*time.Millisecond)
	return t, paced(p, zero, func(p pacer) {
		for i := range s.N() {
			waitUntil(ctx, p, zero, s.Due(i))
			put(t.Lag, time.Since(zero)-s.Due(i))
		}
	})
}

func BenchmarkLagHTTP(b *testing.B) {
	url, _ := startServer(b)
	// The heap of this process is small, so that Go's default collects it several
	// times a second; in our k6, whose heap is ten times that, it does not.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	for _, rate := range []int64{1000, 3000} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) {
			for b.Loop() {
				r := offerHTTP(b, url, rate)
				report(b, r.Classes[All].Lag, r.PacerCPU)
				b.ReportMetric(r.Classes[All].Latency.P99*1000, "latency-p99-µs")
			}
		})
	}
}

func offerHTTP(b *testing.B, url string, rate int64) Result {
	b.Helper()
	poster, err := NewPoster(url, Tune(&http.Transport{}, 256))
	if err != nil {
		b.Fatal(err)
	}
	c := Config{Schedule: Constant{rate, 5 * time.Second}, WarmUp: time.Second, Window: 4 * time.Second,
		MaxInFlight: 256, Backlog: 1000, Drain: 5 * time.Second}
	ev, err := Offer(b.Context(), c, posting{poster, make([]byte, 7000)})
	if err != nil || ev.Result.Ledger.Accepted != ev.Result.Ledger.Offered {
		b.Fatalf("ledger %+v, %v", ev.Result.Ledger, err)
	}
	return ev.Result
}

// posting posts one body again and again.
type posting struct {
	p    *Poster
	body []byte
}

func (s posting) Request(int64) Request {
	x := s.p.New()
	x.Body.Write(s.body)
	return &posted{x}
}

type posted struct{ *Post }

func (*posted) Class() string { return "post" }
func (*posted) Key() string   { return "" }
func (p *posted) Reply() Reply {
	fate := Unexpected
	if p.Status == http.StatusAccepted {
		fate = Accepted
	}
	r := Reply{Fate: fate, Status: p.Status, Why: fmt.Sprint(p.Status)}
	p.Free()
	return r
}
