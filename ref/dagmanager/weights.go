package dagmanager

import (
	"math"
	"strings"
	"sync"

	"qmtl.internal/plumbline/scenarios/contract"
)

// weights remembers the last weight of each sentinel in each world, so that only
// changes are announced (dagmanager.md 2.8).
type weights struct {
	mu   sync.Mutex
	last map[[2]string]known
}

type known struct {
	weight  float64
	version string
}

const (
	mostWeights = 100_000 // beyond that all are forgotten: an event too many harms nobody
	tolerance   = 1e-6    // relative or absolute
)

// changed keeps w and says whether it differs from what was known.
func (c *weights) changed(w contract.SentinelWeight) bool {
	key := [2]string{strings.Clone(w.WorldID), strings.Clone(w.SentinelID)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.last[key]; ok && old.version == w.SentinelVersion && near(old.weight, w.Weight) {
		return false
	}
	if c.last == nil || len(c.last) >= mostWeights {
		c.last = map[[2]string]known{}
	}
	c.last[key] = known{w.Weight, strings.Clone(w.SentinelVersion)}
	return true
}

func near(a, b float64) bool {
	return math.Abs(a-b) <= tolerance*max(1, math.Abs(a), math.Abs(b))
}
