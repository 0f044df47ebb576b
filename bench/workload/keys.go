package workload

import "sync"

// remembered is how many of the latest keys are remembered: enough for 5,000
// submissions a second and answers that take 10 s.
const remembered = 1 << 16

// keys remembers what the answers said about each key, since two requests of
// one key must agree: one acceptance, and every refusal names its id. An
// original that is slow may be overtaken by its duplicate; then the duplicate
// is accepted and the original refused, which is just as well.
type keys struct {
	shared bool

	mu    sync.Mutex
	slots []keySlot // guarded by mu
}

// keySlot is what is known of the key of one original.
type keySlot struct {
	original int64 // plus one, so that the zero slot is nobody's
	left     int   // requests of the key that left
	accepted string
	claimed  string // id that a refusal named
}

func newKeys(shared bool) *keys { return &keys{shared: shared, slots: make([]keySlot, remembered)} }

// of returns the slot of original, or nil when it was given up for a later one.
// The caller holds mu.
func (k *keys) of(original int64) *keySlot {
	s := &k.slots[original%remembered]
	if s.original > original+1 {
		return nil
	}
	if s.original < original+1 {
		*s = keySlot{original: original + 1}
	}
	return s
}

// leaves notes that a request of the key is about to be sent.
func (k *keys) leaves(original int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.of(original); s != nil {
		s.left++
	}
}

// accept notes that a request of the key was accepted under id. It returns what
// is wrong with that, or "".
func (k *keys) accept(original int64, id string) (wrong string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.of(original)
	switch {
	case s == nil:
		return ""
	case s.accepted != "":
		return "the DAG was accepted before"
	case s.claimed != "" && s.claimed != id:
		return "its duplicate was told another strategy_id"
	}
	s.accepted = id
	return ""
}

// refuse notes that a request of the key was refused as a duplicate of id. It
// returns what is wrong with that, or "".
func (k *keys) refuse(original int64, id string) (wrong string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.of(original)
	switch {
	case s == nil:
		return ""
	case s.left < 2 && !k.shared:
		return "the DAG was sent once only"
	case s.accepted != "" && s.accepted != id, s.claimed != "" && s.claimed != id:
		return "strategy_id of another submission"
	}
	s.claimed = id
	return ""
}
