// Package gc takes away topics that no node feeds any more, and claims that
// nobody completes.
package gc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// Broker is what a collector needs of the broker, a *topics.Session.
type Broker interface {
	List(ctx context.Context) (map[string]topics.Shape, error)
	Describe(ctx context.Context, names []string) (map[string]topics.Shape, error)
	Extents(ctx context.Context, names ...string) (map[string]topics.Extent, error)
	Delete(ctx context.Context, names []string) ([]error, error)
}

// Graph is what a collector needs of a graph store.
type Graph interface {
	Claim(ctx context.Context, claims []diff.Claim) ([]diff.Claimed, error)
	Release(ctx context.Context, queues []diff.Claimed) error
	// Owned says of each topic whether a queue has it, claimed or ready.
	Owned(ctx context.Context, topics []string) ([]bool, error)
	// OpenClaims returns queues that are claimed and not ready, at most most.
	OpenClaims(ctx context.Context, most int) ([]diff.Claimed, error)
}

// Archive keeps what a topic holds under a key, before the topic goes.
type Archive interface {
	Archive(ctx context.Context, topic, key string) error
}

// Options are the settings of a collector. A zero field takes its default.
type Options struct {
	Policies Policies // by tag; DefaultPolicies
	Batch    int      // most topics that one run takes; 50
	// Load is how busy the broker is, as dagmanager.md 6.1 reads it: from 80 on a
	// run takes half a batch. nil means that it is not.
	Load    func(context.Context) float64
	Archive Archive // nil: what should be archived is dropped, and said to have no archive
	// Keep, when it is not empty, is the reason why nothing is dropped whatever
	// its age.
	Keep string
	// ClaimGrace is how long a claim must have been seen open before it counts as
	// given up; 2 min.
	ClaimGrace time.Duration
	// Hold is for how long a dropped topic's name is kept from diffs; 1 min. It
	// is longer than any view of the broker counts unasked (topics.Options.Trust).
	Hold time.Duration
	Now  func() time.Time // time.Now
	Log  *slog.Logger     // nil logs nothing
}

func (o Options) withDefaults() Options {
	o.Batch = cmp.Or(o.Batch, 50)
	o.ClaimGrace = cmp.Or(o.ClaimGrace, 2*time.Minute)
	o.Hold = cmp.Or(o.Hold, time.Minute)
	if o.Policies == nil {
		o.Policies = DefaultPolicies()
	}
	if o.Load == nil {
		o.Load = func(context.Context) float64 { return 0 }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// What is done with an orphan.
const (
	ActionDrop    = "drop"
	ActionArchive = "archive"
	ActionSkip    = "skip"
)

// Why it is done. The first four are dagmanager.md's.
const (
	ReasonEligible      = "eligible"
	ReasonUnknownPolicy = "unknown_policy"
	ReasonWithinGrace   = "within_grace"
	ReasonArchiveFailed = "archive_failed"
	ReasonTaken         = "taken_up"      // by a node, meanwhile
	ReasonDeleteFailed  = "delete_failed" // the broker would not
)

// What became of the archive.
const (
	Archived      = "archived"
	MissingClient = "missing_client"
	ArchiveFailed = "failed"
)

// Item is what a run did with one orphan.
type Item struct {
	Queue         string  `json:"queue"`
	Tag           string  `json:"tag"`
	Interval      *int64  `json:"interval"` // seconds
	Action        string  `json:"action"`
	Reason        string  `json:"reason"`
	ArchiveStatus *string `json:"archive_status"`
}

// Report is what a run found and did (dagmanager.md 6.1). No list in it is null.
type Report struct {
	Observed   int            `json:"observed"`   // orphans
	Candidates int            `json:"candidates"` // that are old enough, also beyond the batch
	Processed  []string       `json:"processed"`
	Skipped    []Item         `json:"skipped"`
	Actions    Actions        `json:"actions"`
	ByTag      map[string]int `json:"by_tag"` // of Observed
	Items      []Item         `json:"items"`  // processed ones, then skipped ones
}

// Actions counts the items of a report.
type Actions struct {
	Drop    int `json:"drop"`
	Archive int `json:"archive"`
	Skip    int `json:"skip"`
}

// Collector collects orphans: topics of a DAG Manager that no queue of the graph
// has. It is safe for concurrent use; one run is on its way at a time.
//
// A topic whose age is known goes after TTL and grace. A Kafka broker does not
// tell a topic's age; there an orphan goes that holds no record, be it that
// retention took them (after the TTL, then) or that it never had any, and that
// this collector has seen so for as long as its grace.
//
// To take a topic a collector first claims its name in the graph, as a diff
// does: a diff that has claimed it, confirmed or not, keeps it, and one that
// comes later gets another name.
type Collector struct {
	broker Broker
	graph  Graph
	opts   Options
	turn   chan struct{}

	idle   map[string]time.Time // since when an orphan of unknown age is seen to be empty
	claims map[string]time.Time // since when an open claim is seen
}

// New returns a collector that has seen nothing yet.
func New(b Broker, g Graph, o Options) *Collector {
	return &Collector{broker: b, graph: g, opts: o.withDefaults(), turn: make(chan struct{}, 1),
		idle: map[string]time.Time{}, claims: map[string]time.Time{}}
}

// Run does one batch. A dry run reports what it would do and changes nothing,
// but what it sees counts for later runs.
func (c *Collector) Run(ctx context.Context, dry bool) (*Report, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := c.tidy(ctx, dry); err != nil {
		return nil, err
	}
	orphans, err := c.orphans(ctx)
	if err != nil {
		return nil, err
	}
	r := &run{Collector: c, report: Report{
		Observed: len(orphans), Processed: []string{}, Skipped: []Item{}, ByTag: map[string]int{}, Items: []Item{}}}
	chosen := r.choose(orphans)
	if n := r.most(ctx); len(chosen) > n {
		chosen = chosen[:n]
	}
	if dry {
		r.pretend(chosen)
	} else if err := r.take(ctx, chosen); err != nil {
		return nil, err
	}
	r.report.Items = append(r.report.Items, r.report.Skipped...)
	return &r.report, nil
}

// most is how many topics a run takes.
func (c *Collector) most(ctx context.Context) int {
	const busy = 80
	if c.opts.Load(ctx) >= busy {
		return max(1, c.opts.Batch/2)
	}
	return c.opts.Batch
}

// condemned begins the id under which a collector claims a topic.
const condemned = "plumbline:condemned:"

const mostClaims = 1000

// tidy gives up claims that nobody completes: those of a diff whose process
// died, and those under which a collector keeps the names of dropped topics. A
// diff that lives after all finds that its claim is gone, and begins anew.
func (c *Collector) tidy(ctx context.Context, dry bool) error {
	open, err := c.graph.OpenClaims(ctx, mostClaims)
	if err != nil {
		return fmt.Errorf("open claims: %w", err)
	}
	now, seen := c.opts.Now(), map[string]time.Time{}
	var stale []diff.Claimed
	for _, q := range open {
		key := q.NodeID + "\x00" + q.Binding.Topic
		seen[key] = earliest(c.claims[key], now)
		grace := c.opts.ClaimGrace
		if strings.HasPrefix(q.NodeID, condemned) {
			grace = c.opts.Hold
		}
		if now.Sub(seen[key]) >= grace {
			stale = append(stale, q)
		}
	}
	c.claims = seen
	if len(stale) == 0 || dry {
		return nil
	}
	if err := c.graph.Release(ctx, stale); err != nil {
		return fmt.Errorf("release %d claims: %w", len(stale), err)
	}
	c.opts.Log.Info("claims given up", "count", len(stale), "first", stale[0].Binding.Topic)
	return nil
}

func earliest(known, now time.Time) time.Time {
	if known.IsZero() {
		return now
	}
	return known
}

// orphan is a topic that no queue has.
type orphan struct {
	name     string
	tag      string
	interval *int64
	created  time.Time // zero: not known
	idle     time.Time // since when it is seen to hold nothing; zero: it holds something
}

// orphans finds the orphans among the broker's topics, in the order of their
// names. Topics that no DAG Manager made are none.
func (c *Collector) orphans(ctx context.Context) ([]orphan, error) {
	all, err := c.broker.List(ctx)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(all))
	owned, err := c.graph.Owned(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("owners of %d topics: %w", len(names), err)
	}
	var free []string
	for i, name := range names {
		if !owned[i] {
			free = append(free, name)
		}
	}
	shapes, err := c.broker.Describe(ctx, free)
	if err != nil {
		return nil, err
	}
	var found []orphan
	for _, name := range free {
		s := shapes[name]
		created := createdAt(s)
		if !created.IsZero() || topics.Ours(name, s) {
			found = append(found, orphan{name: name, tag: tagOf(name, s.Config), interval: intervalOf(s.Config), created: created})
		}
	}
	return found, c.watch(ctx, found)
}

// watch keeps in mind since when orphans of unknown age hold nothing.
func (c *Collector) watch(ctx context.Context, found []orphan) error {
	var ageless []string
	for _, o := range found {
		if o.created.IsZero() {
			ageless = append(ageless, o.name)
		}
	}
	var extents map[string]topics.Extent
	if len(ageless) > 0 {
		var err error
		if extents, err = c.broker.Extents(ctx, ageless...); err != nil {
			return err
		}
	}
	now, idle := c.opts.Now(), map[string]time.Time{}
	for i := range found {
		o := &found[i]
		if e, known := extents[o.name]; o.created.IsZero() && known && e.Held == 0 {
			idle[o.name] = earliest(c.idle[o.name], now)
			o.idle = idle[o.name]
		}
	}
	c.idle = idle
	return nil
}
