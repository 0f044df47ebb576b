package stream_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"qmtl.internal/plumbline/ref/dagmanager/stream"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is the other end of one stream.
type client struct {
	mu   sync.Mutex
	got  []*pb.DiffChunk
	done chan struct{} // closed when Run returned
	err  error
	end  context.CancelFunc
	took time.Duration
}

// open runs a stream of n chunks. onChunk, which may be nil, is called for each
// chunk in the sender's goroutine with its number of arrival.
func open(r *stream.Registry, who stream.Identity, n int, onChunk func(k int)) *client {
	ctx, end := context.WithCancel(context.Background())
	c := &client{done: make(chan struct{}), end: end}
	chunks := make([]*pb.DiffChunk, n)
	for i := range chunks {
		chunks[i] = &pb.DiffChunk{SentinelId: who.SentinelID}
	}
	start := time.Now()
	go func() {
		defer close(c.done)
		c.err = r.Run(ctx, who, chunks, func(chunk *pb.DiffChunk) error {
			c.mu.Lock()
			k := len(c.got)
			c.got = append(c.got, chunk)
			c.mu.Unlock()
			if onChunk != nil {
				onChunk(k)
			}
			return nil
		})
		c.took = time.Since(start)
	}()
	return c
}

func (c *client) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

func me(token string) stream.Identity {
	return stream.Identity{SentinelID: "s-sentinel", Peer: "p", Token: token}
}

func inBubble(t *testing.T, o stream.Options, check func(*testing.T, *stream.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		r := stream.NewRegistry(o)
		check(t, r)
		r.Wait()
		if n := r.Open(); n != 0 {
			t.Errorf("%d streams stay open", n)
		}
	})
}

func TestAckedByNumber(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 25, func(k int) { r.Ack(me(""), uint32(k)) })
		<-c.done
		if c.err != nil || c.count() != 25 || c.took != 0 {
			t.Errorf("%v, %d chunks, %v", c.err, c.count(), c.took)
		}
	})
}

func TestAckedByZeroAlways(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 25, func(int) { r.Ack(me(""), 0) })
		<-c.done
		if c.err != nil || c.count() != 25 || c.took != 0 {
			t.Errorf("%v, %d chunks, %v", c.err, c.count(), c.took)
		}
	})
}

func TestWindowHoldsBack(t *testing.T) {
	inBubble(t, stream.Options{Replay: time.Hour, AckTimeout: 2 * time.Hour}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 15, nil)
		synctest.Wait()
		if c.count() != 10 {
			t.Fatalf("%d chunks before an acknowledgement, want 10", c.count())
		}
		r.Ack(me(""), 4)
		synctest.Wait()
		if c.count() != 11 {
			t.Errorf("%d chunks after one, want 11", c.count())
		}
		for n := range uint32(15) {
			r.Ack(me(""), n)
			synctest.Wait()
		}
		<-c.done
		if c.err != nil || c.count() != 15 {
			t.Errorf("%v, %d chunks", c.err, c.count())
		}
	})
}

func TestNeverAckedIsEndedAfterItsTime(t *testing.T) {
	for _, n := range []int{1, 3, 15} {
		inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
			c := open(r, me(""), n, nil)
			<-c.done // by then the last repetition has left, too
			burst := min(n, 10)
			if !errors.Is(c.err, stream.ErrNeverAcked) || c.took != 30*time.Second {
				t.Errorf("%v after %v", c.err, c.took)
			}
			if want := burst + 30*burst; c.count() != want {
				t.Errorf("%d chunks, want %d", c.count(), want)
			}
		})
	}
}

func TestReplayKeepsOrderAndWhatIsAcked(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 3, nil)
		time.Sleep(500 * time.Millisecond)
		r.Ack(me(""), 1)
		time.Sleep(1200 * time.Millisecond) // the acknowledgement began the second anew
		if c.count() != 5 {
			t.Fatalf("%d chunks, want 3 and 2 again", c.count())
		}
		if c.got[3] != c.got[0] || c.got[4] != c.got[2] {
			t.Error("the repeated chunks are not the first and the third")
		}
		r.Ack(me(""), 0)
		r.Ack(me(""), 2)
		<-c.done
		if c.err != nil {
			t.Error(c.err)
		}
	})
}

func TestSlowClientThatAcksInTimeIsKept(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 5, nil)
		for n := range uint32(5) {
			time.Sleep(29 * time.Second)
			r.Ack(me(""), n)
		}
		<-c.done
		if c.err != nil {
			t.Error(c.err)
		}
	})
}

func TestStreamsOfOneSentinelDoNotStealAcks(t *testing.T) {
	for _, token := range []bool{true, false} {
		inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
			name := func(i int) stream.Identity {
				if token {
					return me(string(rune('a' + i)))
				}
				return me("")
			}
			var all []*client
			for i := range 20 {
				all = append(all, open(r, name(i), 3, func(int) { r.Ack(me(strings.Trim(name(i).Token, " ")), 0) }))
			}
			for i, c := range all {
				<-c.done
				if c.err != nil || c.took != 0 {
					t.Errorf("stream %d: %v after %v", i, c.err, c.took)
				}
			}
		})
	}
}

// A dead client must not cost those who share its sentinel and connection more
// than one repetition.
func TestDeadClientDoesNotBlockOthers(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		dead := open(r, me(""), 1, nil)
		time.Sleep(1500 * time.Millisecond)
		for range 5 {
			c := open(r, me(""), 2, func(int) { r.Ack(me(""), 0) })
			<-c.done
			if c.err != nil || c.took != 0 {
				t.Errorf("%v after %v", c.err, c.took)
			}
		}
		<-dead.done
		if !errors.Is(dead.err, stream.ErrNeverAcked) {
			t.Errorf("dead client: %v", dead.err)
		}
	})
}

func TestAcksKeepToTheirConnectionFirst(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		other := stream.Identity{SentinelID: "s-sentinel", Peer: "q"}
		first, second := open(r, me(""), 1, nil), open(r, other, 1, nil)
		synctest.Wait()
		r.Ack(other, 0)
		<-second.done
		select {
		case <-first.done:
			t.Error("the other connection's acknowledgement ended this stream")
		default:
		}
		r.Ack(stream.Identity{SentinelID: "s-sentinel", Peer: "a proxy"}, 0)
		<-first.done
		if first.err != nil || second.err != nil {
			t.Error(first.err, second.err)
		}
	})
}

func TestAckOfNobody(t *testing.T) {
	inBubble(t, stream.Options{Replay: time.Hour, AckTimeout: 2 * time.Hour}, func(t *testing.T, r *stream.Registry) {
		if r.Ack(me(""), 0) || r.Ack(me("token"), 7) {
			t.Error("an acknowledgement was taken though no stream is open")
		}
		c := open(r, me("right"), 1, nil)
		synctest.Wait()
		if r.Ack(me("wrong"), 0) {
			t.Error("a wrong token was taken")
		}
		if r.Ack(me(""), 1) {
			t.Error("an acknowledgement of no chunk was taken")
		}
		if !r.Ack(me("right"), 0) {
			t.Error("the right token was refused")
		}
		<-c.done
	})
}

func TestAcksAhead(t *testing.T) {
	inBubble(t, stream.Options{Window: 1}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 4, func(k int) {
			if k == 0 {
				for range 10 {
					r.Ack(me(""), 0)
				}
			}
		})
		<-c.done
		if c.err != nil || c.count() != 4 || c.took != 0 {
			t.Errorf("%v, %d chunks, %v", c.err, c.count(), c.took)
		}
	})
}

func TestCancelEndsAtOnce(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 30, nil)
		synctest.Wait()
		c.end()
		<-c.done
		if !errors.Is(c.err, context.Canceled) || c.took != 0 {
			t.Errorf("%v after %v", c.err, c.took)
		}
	})
}

func TestFailedSendEndsTheStream(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		broken := errors.New("broken")
		err := r.Run(t.Context(), me(""), []*pb.DiffChunk{{}, {}, {}}, func(*pb.DiffChunk) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("Run: %v", err)
		}
	})
}

// A client that reads nothing holds the sender; the stream ends all the same.
func TestClientThatDoesNotRead(t *testing.T) {
	inBubble(t, stream.Options{}, func(t *testing.T, r *stream.Registry) {
		ended := make(chan struct{}) // the transport frees the sender once the handler returned
		start := time.Now()
		err := r.Run(t.Context(), me(""), []*pb.DiffChunk{{}, {}}, func(*pb.DiffChunk) error {
			<-ended
			return errors.New("stream is over")
		})
		if !errors.Is(err, stream.ErrNeverAcked) || time.Since(start) > 32*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		close(ended)
	})
}

// What answers hold together is bounded; one alone may be of any size.
func TestTooManyBytes(t *testing.T) {
	inBubble(t, stream.Options{MaxBytes: 100}, func(t *testing.T, r *stream.Registry) {
		large := stream.Identity{SentinelID: strings.Repeat("x", 90)}
		first := open(r, large, 3, nil)
		synctest.Wait()
		if err := r.Room(); !errors.Is(err, stream.ErrTooMany) {
			t.Errorf("Room: %v", err)
		}
		second := open(r, me(""), 1, nil)
		<-second.done
		if !errors.Is(second.err, stream.ErrTooMany) || second.count() > 0 {
			t.Errorf("%v, %d chunks", second.err, second.count())
		}
		first.end()
		<-first.done
		if err := r.Room(); err != nil {
			t.Errorf("Room afterwards: %v", err)
		}
	})
}

func TestTooManyStreams(t *testing.T) {
	inBubble(t, stream.Options{MaxStreams: 2}, func(t *testing.T, r *stream.Registry) {
		a, b := open(r, me(""), 1, nil), open(r, me(""), 1, nil)
		synctest.Wait()
		if err := r.Room(); !errors.Is(err, stream.ErrTooMany) {
			t.Errorf("Room: %v", err)
		}
		c := open(r, me(""), 1, nil)
		<-c.done
		if !errors.Is(c.err, stream.ErrTooMany) {
			t.Errorf("Run: %v", c.err)
		}
		a.end()
		b.end()
		<-a.done
		<-b.done
		if err := r.Room(); err != nil {
			t.Errorf("Room after all ended: %v", err)
		}
	})
}

// A client that numbers what it receives, repetitions too, is past the last
// chunk's number when it answers one; that acknowledges the oldest.
func TestAckThatCountsRepetitions(t *testing.T) {
	inBubble(t, stream.Options{Replay: time.Second, AckTimeout: time.Minute}, func(t *testing.T, r *stream.Registry) {
		c := open(r, me(""), 1, nil)
		synctest.Wait()
		if r.Ack(me(""), 1) {
			t.Error("a number beyond the last chunk was taken before anything was repeated")
		}
		time.Sleep(1500 * time.Millisecond)
		if !r.Ack(me(""), 1) {
			t.Error("the acknowledgement of a repetition was refused")
		}
		<-c.done
		if c.err != nil {
			t.Error(c.err)
		}
	})
}
