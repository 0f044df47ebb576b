package nodestore

import (
	"context"
	"sync"
	"time"
)

// renewal reads again what is remembered of nodes in use, before it counts no
// more, so that no diff waits for it. What cannot be read stays as it is: it will
// be missed in its time.
type renewal struct {
	read func(ctx context.Context, ids []string) error
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex
	waiting []string
	running bool
	closed  bool
	reader  sync.WaitGroup
}

// gatherFor is how long ids wait for others: one statement reads many.
const gatherFor = 100 * time.Millisecond

func newRenewal(read func(ctx context.Context, ids []string) error) *renewal {
	r := &renewal{read: read}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// add has ids read, soon.
func (r *renewal) add(ids []string) {
	if len(ids) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.waiting = append(r.waiting, ids...)
	if !r.running {
		r.running = true
		r.reader.Go(r.run)
	}
}

// run reads until nothing waits.
func (r *renewal) run() {
	gather := time.NewTimer(gatherFor)
	defer gather.Stop()
	for {
		select {
		case <-gather.C:
		case <-r.life.Done():
		}
		ids := r.take()
		if len(ids) == 0 {
			return
		}
		if r.read(r.life, ids) != nil { // told and counted where it was noticed
			r.drop()
		}
		gather.Reset(gatherFor)
	}
}

// take gives what is to be read at once; nothing ends the run.
func (r *renewal) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.waiting), mostReads)
	if r.closed {
		n = 0
	}
	ids := r.waiting[:n:n]
	r.waiting = r.waiting[n:]
	r.running = n > 0
	return ids
}

func (r *renewal) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = nil
}

// close ends what is read and waits for it.
func (r *renewal) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.reader.Wait()
}
