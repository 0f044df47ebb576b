package topics

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// Spec is a topic to be made.
type Spec struct {
	Name string
	Config
}

// ErrExists is the answer of Create for a topic that is there already.
var ErrExists = errors.New("topic exists")

// Broker is what a session needs of a message broker. Errors are of the kinds
// of errors.go.
type Broker interface {
	// List returns all topics without their configuration.
	List(ctx context.Context) (map[string]Shape, error)
	// Describe returns those of the topics that exist, with configuration.
	Describe(ctx context.Context, names []string) (map[string]Shape, error)
	// Create makes topics with one request and returns what went wrong with
	// each, nil for those that were made and ErrExists for those that were there.
	Create(ctx context.Context, specs []Spec) ([]error, error)
	// Extents returns the offsets of the topics that exist, of all but the
	// broker's own when no name is given.
	Extents(ctx context.Context, names ...string) (map[string]Extent, error)
	// Delete deletes topics with one request and returns what went wrong with
	// each; one that is not there is deleted.
	Delete(ctx context.Context, names []string) ([]error, error)
}

// Extent is how many records the partitions of a topic hold and ever held.
type Extent struct {
	Held    int64 // between the first and the last offset
	Written int64 // up to the last offset
}

// Memory is a broker in memory: topics that hold nothing, under any name.
type Memory struct {
	mu     sync.Mutex
	topics map[string]Shape
	order  []string
}

// NewMemory returns a broker without topics.
func NewMemory() *Memory { return &Memory{topics: map[string]Shape{}} }

// List implements Broker.
func (m *Memory) List(context.Context) (map[string]Shape, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.topics), nil
}

// Describe implements Broker.
func (m *Memory) Describe(_ context.Context, names []string) (map[string]Shape, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]Shape{}
	for _, name := range names {
		if s, ok := m.topics[name]; ok {
			out[name] = s
		}
	}
	return out, nil
}

// Create implements Broker.
func (m *Memory) Create(_ context.Context, specs []Spec) ([]error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := make([]error, len(specs))
	for i, s := range specs {
		if _, there := m.topics[s.Name]; there {
			errs[i] = ErrExists
			continue
		}
		m.put(s.Name, Shape{Partitions: s.Partitions, Replication: s.Replication, Config: s.Entries(), Own: true, CreatedAt: time.Now()})
	}
	return errs, nil
}

// Extents implements Broker: topics in memory hold nothing.
func (m *Memory) Extents(_ context.Context, names ...string) (map[string]Extent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(names) == 0 {
		names = m.order
	}
	out := make(map[string]Extent, len(names))
	for _, name := range names {
		if _, there := m.topics[name]; there {
			out[name] = Extent{}
		}
	}
	return out, nil
}

// Delete implements Broker.
func (m *Memory) Delete(_ context.Context, names []string) ([]error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := make(map[string]bool, len(names))
	for _, name := range names {
		delete(m.topics, name)
		gone[name] = true
	}
	m.order = slices.DeleteFunc(m.order, func(name string) bool { return gone[name] })
	return make([]error, len(names)), nil
}

// Put adds a topic as it is.
func (m *Memory) Put(name string, s Shape) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(name, s)
}

func (m *Memory) put(name string, s Shape) {
	m.topics[name] = s
	m.order = append(m.order, name)
}

// Names returns the topics in the order in which they came.
func (m *Memory) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.order)
}
