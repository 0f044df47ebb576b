package crowd_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/bench/crowd"
	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clients = 200

// gathered are connections to a server of h.
func gathered(t *testing.T, h http.HandlerFunc) crowd.Connections {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	dial, err := crowd.To(srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := crowd.Gather(t.Context(), clients, dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Close)
	return all
}

func submissions(t *testing.T) *workload.Workload {
	t.Helper()
	w, err := workload.New(workload.Options{Profile: crowd.Profile(clients), Seed: 1, Tag: "t"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func count(all []load.Outcome) map[load.Fate]int {
	n := map[load.Fate]int{}
	for _, o := range all {
		n[o.Fate]++
	}
	return n
}

// Every client has sent before the first is answered, and each over a
// connection of its own.
func TestAllAreThereAtOnce(t *testing.T) {
	var here atomic.Int32
	everybody := make(chan struct{})
	all := gathered(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if here.Add(1) == clients {
			close(everybody)
		}
		<-everybody
		http.Error(w, "full", http.StatusServiceUnavailable)
	})
	got, err := crowd.Submit(t.Context(), all, submissions(t), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(got); n[load.Unexpected] != clients {
		t.Errorf("fates %v, want %d unexpected", n, clients)
	}
	for _, o := range got {
		if o.Status != http.StatusServiceUnavailable || o.Error != "503" || o.Done < o.Sent || o.Key == "" {
			t.Fatalf("outcome %+v", o)
		}
	}
}

func TestAnAnswerThatNeverComesIsALostRequest(t *testing.T) {
	all := gathered(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	got, err := crowd.Submit(t.Context(), all, submissions(t), 50*time.Millisecond)
	all.Close()
	if err != nil || count(got)[load.Lost] != clients || got[0].Error != "read: i/o timeout" {
		t.Errorf("fates %v (%v), first %+v", count(got), err, got[0])
	}
}

func TestCancellingEndsTheWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var once atomic.Bool
	all := gathered(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if once.CompareAndSwap(false, true) {
			cancel()
		}
		<-r.Context().Done()
	})
	got, err := crowd.Submit(ctx, all, submissions(t), time.Minute)
	if err != nil || count(got)[load.Lost] != clients {
		t.Errorf("fates %v (%v)", count(got), err)
	}
}

func TestGatherLeavesNothingOpenAfterAnError(t *testing.T) {
	var open atomic.Int32
	_, err := crowd.Gather(t.Context(), 10, func(context.Context) (net.Conn, error) {
		if open.Add(1) == 5 {
			return nil, io.ErrClosedPipe
		}
		a, b := net.Pipe()
		_ = b.Close()
		return closing{a, &open}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "10 connections: ") {
		t.Errorf("error %v", err)
	}
	if n := open.Load(); n != 1 { // the one that failed
		t.Errorf("%d are open", n-1)
	}
}

type closing struct {
	net.Conn
	open *atomic.Int32
}

func (c closing) Close() error { c.open.Add(-1); return c.Conn.Close() }

func TestTargetsThatCannotBe(t *testing.T) {
	for _, target := range []string{"", "127.0.0.1:1", "ftp://a:1", "http://", ":"} {
		if _, err := crowd.To(target, nil); err == nil {
			t.Errorf("%q was taken", target)
		}
	}
}
