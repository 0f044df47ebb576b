package load

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// poster posts to a server that answers by f.
func poster(t *testing.T, f http.HandlerFunc) *Poster {
	t.Helper()
	s := httptest.NewServer(f)
	rt := Tune(&http.Transport{}, 8)
	t.Cleanup(func() { rt.CloseIdleConnections(); s.Close() })
	p, err := NewPoster(s.URL, rt)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPostsKeepTheirBodiesApart(t *testing.T) {
	p := poster(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Content-Type") != "application/json" || r.ContentLength != int64(len(b)) {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		_, _ = w.Write(b)
	})
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for n := range 200 {
				body := strings.Repeat(string(rune('a'+(k+n)%26)), 1+(k*977+n*131)%9000)
				x := p.New()
				x.Body.WriteString(body)
				if err := x.Send(t.Context()); err != nil || x.Answer.String() != body {
					t.Errorf("Send = %v, status %d, %d bytes back of %d", err, x.Status, x.Answer.Len(), len(body))
				}
				x.Free()
			}
		})
	}
	wg.Wait()
}

// The server answers without reading the body, which the transport may still
// be writing: the buffer must not be reused before.
func TestEarlyAnswerDoesNotMixBodies(t *testing.T) {
	var mu sync.Mutex
	var mixed bool
	p := poster(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		w.(http.Flusher).Flush()
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		mixed = mixed || strings.Trim(string(b), string(b[:min(1, len(b))])) != ""
	})
	for n := range 100 {
		x := p.New()
		x.Body.WriteString(strings.Repeat(string(rune('a'+n%26)), 300_000))
		err := x.Send(t.Context())
		if err == nil && x.Status != http.StatusServiceUnavailable {
			t.Fatalf("status %d", x.Status)
		}
		x.Free()
	}
	mu.Lock()
	defer mu.Unlock()
	if mixed {
		t.Error("a body changed on its way")
	}
}

func TestRedirectsAreAnswers(t *testing.T) {
	p := poster(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	x := p.New()
	if err := x.Send(t.Context()); err != nil || x.Status != http.StatusTemporaryRedirect {
		t.Errorf("Send = %v, status %d; want 307 as it is", err, x.Status)
	}
}

func TestWhyNoAnswerCame(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body); <-r.Context().Done() }
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for want, f := range map[string]http.HandlerFunc{"no answer in time": hang, "answer cut short": cut, "connection closed": hangUp} {
		t.Run(want, func(t *testing.T) {
			x := poster(t, f).New()
			x.Body.WriteString("{}")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if want != "no answer in time" {
				ctx = t.Context()
			}
			err := x.Send(ctx)
			if got := whyLost(ctx, err); err == nil || got != want {
				t.Errorf("Send = %v, %q; want %q", err, got, want)
			}
		})
	}
	t.Run("connection refused", func(t *testing.T) {
		s := httptest.NewServer(nil)
		s.Close()
		p, err := NewPoster(s.URL, &http.Transport{})
		if err != nil {
			t.Fatal(err)
		}
		err = p.New().Send(t.Context())
		if got := whyLost(t.Context(), err); got != "connection refused" {
			t.Errorf("Send = %v, %q", err, got)
		}
	})
	if got := whyLost(t.Context(), errors.New("odd")); got != "transport" {
		t.Errorf("whyLost of an unknown error = %q", got)
	}
}

func TestPosterRefusesABadURL(t *testing.T) {
	if _, err := NewPoster("http://[", &http.Transport{}); err == nil {
		t.Error("NewPoster of a bad URL = nil error")
	}
}
