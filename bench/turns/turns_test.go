package turns_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/turns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sut keeps what it was asked; it answers 418, which no submission hopes for.
type sut struct {
	mu     sync.Mutex
	bodies []string
	slow   time.Duration
}

func (s *sut) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/strategies" {
		b = []byte(fmt.Sprint("bad request: ", r.URL.Path, err))
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, string(b))
	s.mu.Unlock()
	time.Sleep(s.slow)
	w.WriteHeader(http.StatusTeapot)
}

func start(t *testing.T, slow time.Duration) (*sut, string) {
	s := &sut{slow: slow}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func profile(t *testing.T) load.Profile {
	t.Helper()
	p, err := load.ReadProfile("../profiles/turns.json")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ask sends commands and returns the answers.
func ask(t *testing.T, commands ...any) (out []load.TurnsAnswer) {
	t.Helper()
	var in, got bytes.Buffer
	for _, c := range commands {
		if text, ok := c.(string); ok {
			in.WriteString(text + "\n")
			continue
		}
		if err := json.NewEncoder(&in).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := turns.Serve(t.Context(), profile(t), &in, &got); err != nil {
		t.Fatalf("Serve: %v", err)
	}
	for d := json.NewDecoder(&got); d.More(); {
		var a load.TurnsAnswer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	if len(out) != len(commands) {
		t.Fatalf("%d answers to %d commands", len(out), len(commands))
	}
	return out
}

func open(a, b string) load.TurnsCommand {
	return load.TurnsCommand{Open: &load.TurnsOpen{Targets: [2]string{a, b}, Seed: 7, Tag: "t1"}}
}

func offer(slots string) load.TurnsCommand {
	return load.TurnsCommand{Offer: &load.TurnsOffer{Slots: slots, Slot: 50 * time.Millisecond}}
}

func TestEachGetsItsTurnsAndTheSameSubmissions(t *testing.T) {
	a, aURL := start(t, 0)
	b, bURL := start(t, 0)
	const order = "0110"
	answers := ask(t, open(aURL, bURL), offer("01"), offer(order))
	r := answers[2].Result
	if r == nil || len(r.Slots) != len(order) {
		t.Fatalf("offer = %+v; want four slots", answers[2])
	}
	const perSlot = 20 // 400/s for 50 ms
	want := load.Ledger{Offered: perSlot, Answered: perSlot, Unexpected: perSlot}
	for k, s := range r.Slots {
		if s.Target != int(order[k]-'0') || s.Ledger != want {
			t.Errorf("slot %d = %+v; want %+v of target %c", k, s, want, order[k])
		}
	}
	sortedA, sortedB := slices.Sorted(slices.Values(a.bodies)), slices.Sorted(slices.Values(b.bodies))
	if len(sortedA) != 3*perSlot || !slices.Equal(sortedA, sortedB) || r.Reasons == nil {
		t.Errorf("the SUTs got %d and %d submissions, the same: %v; want the same %d", len(sortedA), len(sortedB), slices.Equal(sortedA, sortedB), 3*perSlot)
	}
	if distinct := len(slices.Compact(sortedA)); distinct < 3*perSlot*9/10 {
		t.Error("submissions repeat: a later offer begins anew")
	}
}

// The histograms of the slots merge to the histogram of all their requests.
func TestSlotsMergeExactly(t *testing.T) {
	_, aURL := start(t, 0)
	_, bURL := start(t, 20*time.Millisecond)
	r := ask(t, open(aURL, bURL), offer("01011010"))[1].Result
	by := [2]load.Latencies{{}, {}}
	for _, s := range r.Slots {
		if err := by[s.Target].Add(s); err != nil {
			t.Fatal(err)
		}
	}
	for target, l := range by {
		n := int64(0)
		for _, h := range l {
			n += h.TotalCount()
		}
		if n != 80 || l.Union().TotalCount() != 80 {
			t.Errorf("target %d: %d latencies, %d in the union; want 80", target, n, l.Union().TotalCount())
		}
	}
	if fast, slow := by[0].Union().ValueAtQuantile(50), by[1].Union().ValueAtQuantile(50); slow < fast+int64(15*time.Millisecond) {
		t.Errorf("medians %v and %v; want the second SUT slower by its 20 ms", time.Duration(fast), time.Duration(slow))
	}
}

func TestMistakesAreAnswered(t *testing.T) {
	_, url := start(t, 0)
	bad := []any{
		"no JSON", `{}`, offer("01"), open(url, "::"), open(url, url), offer("02"), offer(""),
		load.TurnsCommand{Offer: &load.TurnsOffer{Slots: "01"}},
		load.TurnsCommand{Open: &load.TurnsOpen{Targets: [2]string{url, url}, Tag: "not a tag!"}},
	}
	for i, a := range ask(t, bad...) {
		if wrong := i != 4; (a.Error != "") != wrong || a.Result != nil {
			t.Errorf("command %d %v: answer %+v; want an error: %v", i, bad[i], a, wrong)
		}
	}
	stages := profile(t)
	stages.Ramps = []load.Ramp{{Rate: 10, For: time.Second}}
	if err := turns.Serve(t.Context(), stages, strings.NewReader(""), io.Discard); err == nil {
		t.Error("a profile with stages was taken")
	}
}
