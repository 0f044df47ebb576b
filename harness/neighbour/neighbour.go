// Package neighbour plays those whom a gateway talks to: a WorldService over
// HTTP and a DAG Manager over gRPC, both on loopback, both by a script that may
// change while they run; and the broker of a DAG Manager, with the topics that it
// is given. They answer, dawdle, hang or break off as the script
// says, and remember what they were asked. What no rule covers is answered as a
// neighbour in good health would, where that needs no knowledge, and else
// refused in a way that cannot be taken for scripted.
//
// The package also says how a gateway, or a DAG Manager, is asked for that talks
// to them, without knowing who starts it.
package neighbour

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Wish says what a gateway, or a DAG Manager, beside the others of a SUT shall
// be like.
type Wish struct {
	Name         string            // names its logs, its groups and ids on shared servers
	WorldService string            // base URL; "": as the SUT's own gateway
	DagManager   string            // host:port; "": as the SUT's own gateway
	Kafka        string            // of a DAG Manager: host:port; "": none, its topics are in memory
	Without      []string          // servers that it shall do without, such as kafka
	Settings     map[string]string // by the names that the SUT's descriptor gives them
}

// A Service is a gateway or a DAG Manager beside those of a SUT. It runs until
// its Stop, which must be called once.
type Service struct {
	Gateway        string // URL; "" where it is none
	DagManager     string // gRPC, host:port; "" where it is none
	DagManagerHTTP string // URL; likewise

	Dead <-chan struct{} // closed when it ends without being asked to
	Err  func() error    // why; nil before Dead is closed
	Stop func(context.Context) error
}

// A Starter starts gateways, or DAG Managers, beside those of a SUT. The zero
// Starter cannot.
type Starter struct {
	// Offers are what a Wish may contain: worldservice, dagmanager, kafka,
	// without.<server>, setting.<name>.
	Offers []string
	// Start gives one that is ready. ctx bounds the start only.
	Start func(context.Context, Wish) (*Service, error)
}

// errClosed ends what waits in a neighbour that is being closed.
var errClosed = errors.New("the neighbour is closed")

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tally finds the rule for a call and counts how often each was used.
type tally struct {
	mu   sync.Mutex
	used []int // guarded by mu; as often as each rule of the script was used
}

// next is the first rule that fits and is not used up, -1 for none. times tells
// how often a rule may be used, 0 for always.
func (t *tally) next(fits func(i int) bool, times func(i int) int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.used {
		if limit := times(i); (limit == 0 || t.used[i] < limit) && fits(i) {
			t.used[i]++
			return i
		}
	}
	return -1
}
