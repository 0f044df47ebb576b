package load

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// senders serve jobs, at most limit at once; a few more may wait in line.
type senders struct {
	serve func(job)
	limit int
	wg    sync.WaitGroup

	mu    sync.Mutex
	busy  int  // guarded by mu
	queue ring // guarded by mu
}

// give hands j to a sender, or puts it in line when none is free. It never
// blocks, and returns false when the line is full. Not to be called during
// wg.Wait.
func (s *senders) give(j job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == s.limit {
		j.waited = true
		return s.queue.push(j)
	}
	s.busy++
	s.wg.Go(func() {
		for ok := true; ok; j, ok = s.next() {
			s.serve(j)
		}
	})
	return true
}

// next returns the job that waited longest, or false, and the sender is free.
func (s *senders) next() (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.queue.pop()
	if !ok {
		s.busy--
	}
	return j, ok
}

// takeAll empties the line.
func (s *senders) takeAll() []job {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []job
	for j, ok := s.queue.pop(); ok; j, ok = s.queue.pop() {
		all = append(all, j)
	}
	return all
}

// ring is a first-in first-out queue of fixed size.
type ring struct {
	jobs    []job
	head, n int
}

func newRing(size int) ring { return ring{jobs: make([]job, size)} }

func (r *ring) push(j job) bool {
	if r.n == len(r.jobs) {
		return false
	}
	r.jobs[(r.head+r.n)%len(r.jobs)] = j
	r.n++
	return true
}

func (r *ring) pop() (job, bool) {
	if r.n == 0 {
		return job{}, false
	}
	j := r.jobs[r.head]
	r.jobs[r.head] = job{} // let go of the request
	r.head = (r.head + 1) % len(r.jobs)
	r.n--
	return j, true
}

// lostReasons are the classes of errors that end a request without an answer,
// most telling first.
var lostReasons = []struct {
	err error
	why string
}{
	{context.DeadlineExceeded, "no answer in time"},
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.ECONNRESET, "connection reset"},
	{syscall.EPIPE, "connection reset"},
	{io.ErrUnexpectedEOF, "answer cut short"},
	{io.EOF, "connection closed"},
}

// whyLost names the class of an error of Send.
func whyLost(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errAborted) {
			return errAborted.Error()
		}
		return lostReasons[0].why
	}
	for _, r := range lostReasons {
		if errors.Is(err, r.err) {
			return r.why
		}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return "network: " + op.Op
	}
	return "transport"
}
