package world

import (
	"container/list"
	"sync"
)

// cache remembers the last entries by key; over its bound the one that was not
// used for longest goes. It is safe for concurrent use.
type cache[V any] struct {
	mu    sync.Mutex
	bound int
	byKey map[string]*list.Element // guarded by mu
	used  list.List                // *kept[V], newest first; guarded by mu
}

type kept[V any] struct {
	key   string
	value V
}

func newCache[V any](bound int) *cache[V] {
	return &cache[V]{bound: bound, byKey: map[string]*list.Element{}}
}

func (c *cache[V]) get(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		var none V
		return none, false
	}
	c.used.MoveToFront(e)
	return e.Value.(*kept[V]).value, true
}

func (c *cache[V]) set(key string, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		e.Value.(*kept[V]).value = value
		c.used.MoveToFront(e)
		return
	}
	c.byKey[key] = c.used.PushFront(&kept[V]{key, value})
	if c.used.Len() > c.bound {
		oldest := c.used.Back()
		delete(c.byKey, c.used.Remove(oldest).(*kept[V]).key)
	}
}
