package faultproxy

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"

	"qmtl.internal/plumbline/harness/backend"
)

const (
	shapeType   = "plumbline_shape"
	defaultTail = 2.0
	// most bounds one draw of the jitter, in units of the jitter.
	most = 100.0
	// flushWithin bounds how long healing waits for a client that does not
	// read; its connection is closed then.
	flushWithin = 2 * time.Second
)

// shape delays data and narrows the way for it. Unlike toxiproxy's own
// latency its jitter has a heavy tail and its draws a seed; one piece never
// overtakes another.
type shape struct {
	Latency time.Duration `json:"latency"`
	Jitter  time.Duration `json:"jitter"`
	Tail    float64       `json:"tail"`
	Rate    int64         `json:"rate"` // bytes per second; 0: unlimited
	Seed    uint64        `json:"seed"`

	links atomic.Uint64
}

// attributes of the toxic, with the defaults of a fault: 100 ms late with
// 20 ms of jitter, or 64 KiB/s.
func attributes(name string, p backend.Params) map[string]any {
	if p.Tail == 0 {
		p.Tail = defaultTail
	}
	if name == backend.FaultLatency && p.Latency == 0 && p.Jitter == 0 {
		p.Latency, p.Jitter = 100*time.Millisecond, 20*time.Millisecond
	}
	if name == backend.FaultBandwidth && p.Rate == 0 {
		p.Rate = 64 << 10
	}
	return map[string]any{"latency": p.Latency, "jitter": p.Jitter, "tail": p.Tail, "rate": p.Rate, "seed": p.Seed}
}

// draws is the state of one link: the same seed gives its n-th link the same
// delays.
type draws struct{ rng *rand.Rand }

// NewState is called once a link.
func (t *shape) NewState() any {
	return &draws{rand.New(rand.NewPCG(t.Seed, t.links.Add(1)))}
}

// GetBufferSize lets data queue up here rather than with the sender.
func (t *shape) GetBufferSize() int { return 1024 }

// Cleanup is there because toxiproxy looks only after it whether a link that
// it heals is closed.
func (t *shape) Cleanup(*toxics.ToxicStub) {}

// Pipe passes data on until the link ends or the toxic is changed.
func (t *shape) Pipe(stub *toxics.ToxicStub) {
	d, ok := stub.State.(*draws)
	if !ok {
		d = &draws{rand.New(rand.NewPCG(t.Seed, 0))}
	}
	for {
		select {
		case <-stub.Interrupt:
			return
		case c := <-stub.Input:
			if c == nil {
				stub.Close()
				return
			}
			if !t.pass(stub, c, d.next(t)) {
				return
			}
		}
	}
}

// pass hands one piece on when it is due; false when the toxic must end.
func (t *shape) pass(stub *toxics.ToxicStub, c *stream.StreamChunk, late time.Duration) bool {
	wait := late - time.Since(c.Timestamp)
	if t.Rate > 0 {
		wait = max(wait, 0) + time.Duration(float64(len(c.Data))/float64(t.Rate)*float64(time.Second))
	}
	due := time.NewTimer(wait)
	defer due.Stop()
	select {
	case <-due.C:
	case <-stub.Interrupt:
		t.flush(stub, c)
		return false
	}
	select {
	case stub.Output <- c:
		return true
	case <-stub.Interrupt:
		t.flush(stub, c)
		return false
	}
}

// flush gives the last piece away, or ends the link: a stream with a hole in
// it must not live on.
func (t *shape) flush(stub *toxics.ToxicStub, c *stream.StreamChunk) {
	if err := stub.WriteOutput(c, flushWithin); err != nil {
		stub.Close()
	}
}

// next draws the delay of a piece.
func (d *draws) next(t *shape) time.Duration {
	if t.Jitter <= 0 {
		return t.Latency
	}
	return t.Latency + time.Duration(float64(t.Jitter)*lomax(d.rng.Float64(), t.Tail))
}

// lomax is the quantile u of the Lomax distribution of scale 1, cut at most.
func lomax(u, tail float64) float64 {
	return math.Min(most, math.Pow(1-u, -1/tail)-1)
}
