package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrNoFault is in the chain of an error that says that a kind of backend
// cannot do the asked harm. A scenario that needs it is skipped, with the
// error as its reason.
var ErrNoFault = errors.New("not among the faults of these backends")

// Names of faults. Each acts on one server, "kafka", "redis" or "neo4j".
const (
	FaultStop      = "stop"      // the server is gone: its connections end and new ones are refused; the data stays
	FaultPause     = "pause"     // the server holds its connections and answers nothing
	FaultKill      = "kill"      // the server is killed; what it had not written is lost
	FaultCut       = "cut"       // the network drops every connection
	FaultBlackHole = "blackhole" // the network swallows everything
	FaultLatency   = "latency"   // the network is late
	FaultBandwidth = "bandwidth" // the network is narrow
)

// Fault is one harm that a Set can do to one of its servers.
type Fault struct {
	Server string // kafka, redis, neo4j
	Name   string
	// Apply does the harm and returns how to heal it. The harm lasts until
	// heal is called or the Set is closed. Heal returns when the server has
	// done a real operation again.
	Apply func(ctx context.Context) (heal func(context.Context) error, err error)
	// Tune gives the same fault with other parameters; nil: it takes none.
	Tune func(Params) (Fault, error)
}

// Params of a fault that comes in degrees. Zero fields stand for the fault's
// own defaults.
type Params struct {
	Latency time.Duration // added to every piece of data, each way
	// Jitter is added on top by draws from a heavy-tailed (Lomax) distribution
	// whose median is about 0.41 Jitter at the default Tail.
	Jitter time.Duration
	Tail   float64 // shape of the tail: smaller is heavier; 0: 2
	Rate   int64   // bytes per second, each way
	Seed   uint64  // of the draws
}

// With gives the fault with parameters. Parameters for a fault that takes none
// are an error.
func (f Fault) With(p Params) (Fault, error) {
	if f.Tune != nil {
		return f.Tune(p)
	}
	if p.Seed = 0; p != (Params{}) {
		return f, usagef("fault %s of %s: takes no parameters", f.Name, f.Server)
	}
	return f, nil
}

// Faults lists what a Set can do, in no order.
type Faults []Fault

// Get finds one fault; the error says what these backends have instead.
func (f Faults) Get(server, name string) (Fault, error) {
	for _, x := range f {
		if x.Server == server && x.Name == name {
			return x, nil
		}
	}
	return Fault{}, fmt.Errorf("fault %s of %s: %w, which have %s", name, server, ErrNoFault, f.list())
}

// Names lists the faults as server/name, sorted.
func (f Faults) Names() []string {
	names := make([]string, 0, len(f))
	for _, x := range f {
		names = append(names, x.Server+"/"+x.Name)
	}
	slices.Sort(names)
	return names
}

func (f Faults) list() string {
	if len(f) == 0 {
		return "none"
	}
	return strings.Join(f.Names(), ", ")
}
