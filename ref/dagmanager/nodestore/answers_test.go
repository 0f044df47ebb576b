package nodestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/scenarios/contract"
)

// asker counts how often a question reaches the database.
type asker struct {
	*answers
	asked int
}

func (a *asker) ask(t *testing.T, q question) string {
	t.Helper()
	got, err := a.get(t.Context(), q, func() ([]contract.QueueRef, error) {
		a.asked++
		return []contract.QueueRef{{Queue: fmt.Sprint("t", a.asked)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got[0].Queue
}

func newAsker() (*asker, *time.Time) {
	now := time.Unix(0, 0)
	a := &asker{answers: newAnswers(time.Second)}
	a.now = func() time.Time { return now }
	return a, &now
}

func TestAnswersAreKeptForAMoment(t *testing.T) {
	a, now := newAsker()
	any, all := question{[]string{"x", "y"}, 60, false}, question{[]string{"x", "y"}, 60, true}
	for _, c := range []struct {
		q    question
		wait time.Duration
		want string
	}{
		{any, 0, "t1"}, {question{[]string{"y", "x"}, 60, false}, 0, "t1"}, {all, 0, "t2"},
		{question{[]string{"x y"}, 60, false}, 0, "t3"}, {question{any.tags, 30, false}, 0, "t4"},
		{any, 999 * time.Millisecond, "t1"}, {any, time.Millisecond, "t5"},
	} {
		*now = now.Add(c.wait)
		if got := a.ask(t, c.q); got != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got, c.want)
		}
	}
}

func TestAnswersLearnOfNewQueues(t *testing.T) {
	sixty := int64(60)
	node := &diff.Node{Interval: &sixty, Tags: []string{"x"}, Global: true}
	fresh := contract.QueueRef{Queue: "fresh", Global: true}
	for _, c := range []struct {
		q      question
		learns bool
	}{
		{question{[]string{"x", "y"}, 60, false}, true}, {question{[]string{"x", "y"}, 60, true}, false},
		{question{[]string{"x"}, 60, true}, true}, {question{[]string{"x"}, 30, false}, false}, {question{[]string{"z"}, 60, false}, false},
	} {
		a, now := newAsker()
		want := []contract.QueueRef{{Queue: "t1"}}
		a.ask(t, c.q)
		before := a.byKey[c.q.key()].queues
		a.add(&diff.Node{Tags: []string{"x"}}, []string{"of another interval"})
		for range 2 { // the second time it is there already
			a.add(node, []string{"fresh"})
		}
		if c.learns {
			want = append(want, fresh)
		}
		got, err := a.get(t.Context(), c.q, nil)
		if err != nil || !slices.Equal(got, want) || a.asked != 1 {
			t.Errorf("%+v: %v, %v, asked %d times; want %v", c.q, got, err, a.asked, want)
		}
		if len(before) != 1 || before[0].Queue != "t1" {
			t.Errorf("%+v: an answer that was given changed: %v", c.q, before)
		}
		*now = now.Add(time.Second) // learning makes it no younger
		if a.ask(t, c.q); a.asked != 2 {
			t.Errorf("%+v: not asked again in its time", c.q)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	a, _ := newAsker()
	for i := range 3 * mostAnswers {
		a.ask(t, question{[]string{fmt.Sprint(i)}, 60, false})
	}
	if len(a.byKey) > mostAnswers {
		t.Errorf("%d answers kept", len(a.byKey))
	}
}

// A node that comes while a question is asked is not missing from later answers.
func TestANodeThatComesWhileAskedIsNotMissed(t *testing.T) {
	a, sixty := newAnswers(time.Hour), int64(60)
	q := question{[]string{"x"}, 60, false}
	old, err := a.get(t.Context(), q, func() ([]contract.QueueRef, error) {
		a.add(&diff.Node{Interval: &sixty, Tags: []string{"x"}}, []string{"new"})
		return nil, nil
	})
	now, _ := a.get(t.Context(), q, func() ([]contract.QueueRef, error) { return []contract.QueueRef{{Queue: "new"}}, nil })
	if len(old) != 0 || err != nil || len(now) != 1 {
		t.Errorf("first %v, %v; then %v", old, err, now)
	}
}

// Callers at once share one question; one that leaves does not take the others along.
func TestCallersShareAQuestion(t *testing.T) {
	a, q := newAnswers(time.Hour), question{[]string{"x"}, 60, false}
	leaving, leave := context.WithCancel(t.Context())
	begun := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.get(leaving, q, func() ([]contract.QueueRef, error) {
			close(begun)
			<-leaving.Done()
			return nil, leaving.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
	})
	<-begun
	var mu sync.Mutex
	asked := 0
	for range 8 {
		wg.Go(func() {
			got, err := a.get(t.Context(), q, func() ([]contract.QueueRef, error) {
				mu.Lock()
				defer mu.Unlock()
				asked++
				return []contract.QueueRef{{Queue: "t"}}, nil
			})
			if err != nil || len(got) != 1 {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	leave()
	wg.Wait()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	a, _ := newAsker()
	q := question{[]string{"x"}, 60, false}
	if _, err := a.get(t.Context(), q, func() ([]contract.QueueRef, error) { return nil, ErrUnavailable }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if got := a.ask(t, q); got != "t1" {
		t.Errorf("after an error: %s", got)
	}
}

func ready(id string) *diff.Node {
	return &diff.Node{ID: id, HasQueue: true, Topic: id, Bindings: []diff.Binding{{Topic: id, Ready: true}}}
}

func TestCacheKeepsTheLastUsed(t *testing.T) {
	c, now := newCache(2, time.Minute), time.Unix(0, 0)
	c.now = func() time.Time { return now }
	c.put(c.begin(), ready("a"))
	c.put(c.begin(), ready("b"))
	c.get([]string{"a"})
	c.put(c.begin(), ready("c"))
	found, missing, _ := c.get([]string{"a", "b", "c"})
	if found[0] == nil || found[1] != nil || found[2] == nil || len(missing) != 1 || c.count() != 2 {
		t.Errorf("found %v, missing %v, %d kept", found, missing, c.count())
	}
	now = now.Add(time.Minute + 1)
	if _, missing, _ := c.get([]string{"a", "c"}); len(missing) != 2 {
		t.Errorf("after its age: missing %v", missing)
	}
}

// What is in use is told once, in good time, as to be read again.
func TestCacheTellsWhatAges(t *testing.T) {
	c, now := newCache(10, time.Minute), time.Unix(0, 0)
	c.now = func() time.Time { return now }
	ask := func() []string { _, _, aging := c.get([]string{"a", "b"}); return aging }
	c.put(c.begin(), ready("a"))
	if got := ask(); got != nil {
		t.Errorf("at once: %v", got)
	}
	now = now.Add(44 * time.Second) // the earliest end is 45 s, and it is told a quarter of a minute before
	told := ask()
	now = now.Add(time.Second)
	if told = append(told, ask()...); !slices.Equal(told, []string{"a"}) {
		t.Errorf("told %v", told)
	}
	c.put(c.begin(), ready("a"))
	now = now.Add(29 * time.Second)
	if got := ask(); got != nil {
		t.Errorf("after it was read again: %v", got)
	}
}

// A lookup of what ages asks for nothing, and has it read again.
func TestLookupHasAgingNodesReadAgain(t *testing.T) {
	s, err := OpenNeo4j(Neo4jOptions{URL: "bolt://127.0.0.1:1", Cache: 10})
	if err != nil {
		t.Fatal(err)
	}
	now, read := time.Unix(0, 0), make(chan []string, 1)
	s.cache.now = func() time.Time { return now }
	s.renewal.read = func(_ context.Context, ids []string) error { read <- ids; return nil }
	s.cache.put(s.cache.begin(), ready("a"))
	now = now.Add(45 * time.Second)
	if found, err := s.Lookup(t.Context(), []string{"a"}); err != nil || found[0] == nil {
		t.Errorf("found %v, %v", found, err)
	}
	if got := <-read; !slices.Equal(got, []string{"a"}) {
		t.Errorf("read again: %v", got)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRenewalReadsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls [][]string
		r := newRenewal(func(_ context.Context, ids []string) error {
			calls = append(calls, ids)
			if len(calls) == 1 {
				return ErrUnavailable
			}
			return nil
		})
		r.add([]string{"a"})
		r.add([]string{"b"})
		r.add(nil)
		time.Sleep(time.Second)
		r.add([]string{"c"})
		time.Sleep(time.Second)
		r.add([]string{"never"})
		r.close()
		r.add([]string{"late"})
		if d := cmp.Diff([][]string{{"a", "b"}, {"c"}}, calls); d != "" {
			t.Errorf("read (-want +got):\n%s", d)
		}
	})
}

func TestCacheTakesOnlyWhatLasts(t *testing.T) {
	open, foreign, bare := ready("open"), ready("foreign"), &diff.Node{ID: "bare"}
	open.Bindings = append(open.Bindings, diff.Binding{Topic: "t"})
	foreign.Topic = "by others"
	c := newCache(10, time.Minute)
	for _, n := range []*diff.Node{open, foreign, bare, ready("ready")} {
		c.put(c.begin(), n)
	}
	if _, missing, _ := c.get([]string{"open", "foreign", "bare", "ready"}); len(missing) != 3 {
		t.Errorf("missing %v", missing)
	}
	before := c.begin()
	c.clear()
	c.put(before, ready("late"))
	if c.count() != 0 {
		t.Errorf("%d kept of what was read before all was forgotten", c.count())
	}
}
