package submit

import (
	"context"
	"errors"
	"time"
)

// owes says whether a worker has to look at a diff that ended with err: to
// repeat it, or to be refused and say that the strategy failed. After a wrong
// CRC it has not: the diff was done, only its answer is not ours.
func owes(err error) bool {
	return err != nil && !errors.Is(err, errCRC)
}

const (
	lateDiffs = 64
	lateLimit = 5 * time.Second // of a late diff, from the acceptance on
	lateBytes = 64 << 10        // a larger DAG is not kept in memory for it
	bookLimit = time.Second     // of writing down how an attempt ended
)

// A lateDiff is a diff that goes on after its submission's limit.
type lateDiff struct {
	ended  chan diffEnd // of room for one
	cancel context.CancelFunc
}

// diffEnd is how a diff ended.
type diffEnd struct {
	reply *DiffReply
	err   error
}

// keep finds a place for a diff of size bytes that is late; false when it must
// be ended instead.
func (w *Worker) keep(size int) bool {
	if size > lateBytes {
		return false
	}
	select {
	case w.late <- struct{}{}:
		return true
	default:
		return false
	}
}

// follow waits for a late diff of an accepted strategy and settles the debt.
func (w *Worker) follow(id string, d *lateDiff) {
	if !w.spawn(func() { w.await(id, d) }) {
		w.abandon(d)
	}
}

func (w *Worker) await(id string, d *lateDiff) {
	limit := time.AfterFunc(lateLimit, d.cancel)
	defer limit.Stop()
	end := <-d.ended
	w.enter(id, end.err)
	w.abandon(d)
}

// enter writes down how a late diff ended. What did not end well is due at once:
// a worker repeats it, and says what comes of it.
func (w *Worker) enter(id string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.life), bookLimit)
	defer cancel()
	var unwritten error
	if owes(err) {
		unwritten = w.registry.DeferOwed(ctx, id, time.Now())
	} else {
		w.metrics.paid.Inc()
		unwritten = w.registry.SettleOwed(ctx, id)
	}
	if unwritten != nil {
		w.complain("late diff", unwritten) // it comes up again; a diff may be repeated
	}
}

// abandon ends a late diff that nobody waits for and frees its place.
func (w *Worker) abandon(d *lateDiff) {
	d.cancel()
	<-w.late
}
