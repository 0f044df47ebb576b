package topics_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// creations watches the requests that make topics. hold is called with each, on
// a goroutine of its own, and delays the answer; codes are answers by topic
// instead of the broker's.
type creations struct {
	mu    sync.Mutex
	sizes []int
	asked map[string]int
}

func (s *stand) creations(hold func(request int), answer func(topic string, time int) *kerr.Error) *creations {
	c := &creations{asked: map[string]int{}}
	s.ControlKey(kmsg.CreateTopics.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		s.KeepControl()
		req := r.(*kmsg.CreateTopicsRequest)
		n, codes := c.note(req, answer)
		s.SleepControl(func() { hold(n) })
		if len(codes) == 0 {
			return nil, nil, false
		}
		return told(req, codes), nil, true
	})
	return c
}

// note counts a request; codes are the answers other than the broker's.
func (c *creations) note(req *kmsg.CreateTopicsRequest, answer func(string, int) *kerr.Error) (n int, codes map[string]int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, len(req.Topics))
	codes = map[string]int16{}
	for _, t := range req.Topics {
		if err := answer(t.Topic, c.asked[t.Topic]); err != nil {
			codes[t.Topic] = err.Code
		}
		c.asked[t.Topic]++
	}
	return len(c.sizes), codes
}

// told answers for all topics of a request, of which none is made.
func told(req *kmsg.CreateTopicsRequest, codes map[string]int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	for _, t := range req.Topics {
		resp.Topics = append(resp.Topics, kmsg.CreateTopicsResponseTopic{Topic: t.Topic, ErrorCode: codes[t.Topic]})
	}
	return resp
}

func (c *creations) requests() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sizes
}

func fine(string, int) *kerr.Error { return nil }

// While one request is on its way, what 64 other diffs need is collected and
// sent as the next one.
func TestConcurrentDiffsShareRequests(t *testing.T) {
	s := newStand(t, topics.Options{})
	first := make(chan struct{})
	begun := make(chan struct{})
	c := s.creations(func(request int) {
		if request == 1 {
			close(begun)
			<-first
		}
	}, fine)
	var wg sync.WaitGroup
	ensure := func(name string) {
		wg.Go(func() {
			if err := s.Ensure(t.Context(), wanted(diff.Indicator, name, "shared")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	ensure("first")
	<-begun
	for i := range 64 {
		ensure(fmt.Sprint("own", i))
	}
	for s.Count() < 66 { // all are waiting
		time.Sleep(time.Millisecond)
	}
	close(first)
	wg.Wait()
	if got := c.requests(); len(got) > 3 {
		t.Errorf("%d requests, of %v topics; want the first and one or two for all others", len(got), got)
	}
	if got := s.names(t); len(got) != 66 {
		t.Errorf("%d topics, want 66", len(got))
	}
}

// A diff waits for its own topics only: not for those of a larger one.
func TestManyTopicsGoInSeveralRequests(t *testing.T) {
	s := newStand(t, topics.Options{Batch: 50})
	second, release := make(chan struct{}), make(chan struct{})
	c := s.creations(func(request int) {
		switch request {
		case 2:
			close(second)
		case 4:
			<-release
		}
	}, fine)
	var wg sync.WaitGroup
	wg.Go(func() { s.mustEnsure(t, numbered("n", 1000)...) })
	<-second
	s.mustEnsure(t, "small")
	close(release)
	wg.Wait()
	got := c.requests()
	if len(got) < 20 || len(got) > 25 || slices.Max(got) > 50 {
		t.Errorf("requests of %v topics, want some 20 of at most 50", got)
	}
	if got := s.names(t); len(got) != 1001 {
		t.Errorf("%d topics", len(got))
	}
}

func numbered(name string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(name, i)
	}
	return names
}

func (s *stand) mustEnsure(t *testing.T, names ...string) {
	t.Helper()
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, names...)); err != nil {
		t.Error(err)
	}
}

// What goes wrong with one topic of a request is told to those who need it.
func TestErrorsOfOneTopicAreItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		code *kerr.Error
		is   func(error) bool
	}{
		"refused":  {kerr.PolicyViolation, func(err error) bool { return errors.As(err, new(*topics.RefusedError)) }},
		"bad name": {kerr.InvalidTopicException, func(err error) bool { return errors.As(err, new(*topics.NameError)) }},
		"busy":     {kerr.ThrottlingQuotaExceeded, func(err error) bool { return errors.Is(err, topics.ErrUnavailable) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, topics.Options{})
			begun, go2 := make(chan struct{}), make(chan struct{})
			s.creations(func(request int) {
				if request == 1 {
					close(begun)
					<-go2
				}
			}, func(topic string, _ int) *kerr.Error {
				if topic == "bad" {
					return c.code
				}
				return nil
			})
			var wg sync.WaitGroup
			var good, bad atomic.Int32
			ensure := func(names ...string) {
				wg.Go(func() {
					err := s.Ensure(t.Context(), wanted(diff.Indicator, names...))
					switch {
					case err == nil:
						good.Add(1)
					case c.is(err):
						bad.Add(1)
					default:
						t.Errorf("%v: %v", names, err)
					}
				})
			}
			ensure("first")
			<-begun
			for i := range 10 {
				ensure(fmt.Sprint("good", i))
				ensure(fmt.Sprint("other", i), "bad")
			}
			for s.Count() < 22 {
				time.Sleep(time.Millisecond)
			}
			close(go2)
			wg.Wait()
			if good.Load() != 11 || bad.Load() != 10 {
				t.Errorf("%d diffs went well and %d did not, want 11 and 10", good.Load(), bad.Load())
			}
		})
	}
}

// A topic that the broker wants to be asked about again holds up nobody else.
func TestBusyTopicIsTriedAgainBesideOthers(t *testing.T) {
	s := newStand(t, topics.Options{})
	done := make(chan struct{}) // the other diff is
	s.creations(func(int) {}, func(topic string, _ int) *kerr.Error {
		select {
		case <-done:
		default:
			if topic == "busy" {
				return kerr.RequestTimedOut
			}
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Ensure(t.Context(), wanted(diff.Indicator, "busy", "fine")); err != nil {
			t.Error(err)
		}
	})
	for s.Count() < 2 {
		time.Sleep(time.Millisecond)
	}
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "fine", "more")); err != nil {
		t.Error(err)
	}
	close(done)
	wg.Wait()
}

// Another process made the topic so lately that the broker does not show it yet.
func TestTopicThatIsNotShownYet(t *testing.T) {
	s := newStand(t, topics.Options{})
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.CreateTopic(t.Context(), 1, 1, map[string]*string{
		"retention.ms": kadm.StringPtr("2592000000"), "cleanup.policy": kadm.StringPtr("delete")}, "late"); err != nil {
		t.Fatal(err)
	}
	var hidden atomic.Int32
	s.ControlKey(kmsg.Metadata.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		s.KeepControl()
		req := r.(*kmsg.MetadataRequest)
		if len(req.Topics) == 0 || hidden.Add(1) > 2 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		for _, t := range req.Topics {
			resp.Topics = append(resp.Topics, kmsg.MetadataResponseTopic{Topic: t.Topic, ErrorCode: kerr.UnknownTopicOrPartition.Code})
		}
		return resp, nil, true
	})
	if err := s.Ensure(t.Context(), wanted(diff.Indicator, "late")); err != nil {
		t.Error(err)
	}
	if hidden.Load() < 3 {
		t.Errorf("asked %d times: the topic was never hidden", hidden.Load())
	}
}
