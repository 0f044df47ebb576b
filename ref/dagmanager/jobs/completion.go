package jobs

import (
	"context"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// stillChecks is how many checks in a row find no growth before a queue counts
// as complete.
const stillChecks = 2

// Completion announces queues that grow no more (dagmanager.md 6.3).
type Completion struct {
	Sizes    func(context.Context) (map[string]topics.Extent, error)
	Node     func(ctx context.Context, topic string) (*diff.Node, error)
	Announce func(tags []string, interval int64)

	seen map[string]*growth
}

// growth is what is known of a topic.
type growth struct {
	written int64
	still   int // checks without growth
	done    bool
}

// Run checks once. What is complete stays so, as long as the topic is there.
func (c *Completion) Run(ctx context.Context) error {
	sizes, err := c.Sizes(ctx)
	if err != nil {
		return err
	}
	seen := make(map[string]*growth, len(sizes))
	for topic, size := range sizes {
		g := c.seen[topic]
		if g == nil {
			g = &growth{written: size.Written, still: -1}
		}
		seen[topic] = g
		if err == nil {
			err = c.check(ctx, topic, g, size.Written)
		}
	}
	c.seen = seen
	return err
}

func (c *Completion) check(ctx context.Context, topic string, g *growth, written int64) error {
	if g.done {
		return nil
	}
	g.still++
	if written != g.written {
		g.written, g.still = written, 0
	}
	if g.still < stillChecks {
		return nil
	}
	n, err := c.Node(ctx, topic)
	if err != nil {
		return err
	}
	g.still = 0 // a topic that is nobody's yet is asked about again after as many checks
	if n == nil || n.Interval == nil || len(n.Tags) == 0 {
		return nil
	}
	g.done = true
	c.Announce(n.Tags, *n.Interval)
	return nil
}
