package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// External takes servers that run already. It checks each by a real operation,
// never stops one, names what it makes by the run id and removes it in Close:
// the control topics, and every topic whose name carries the run id. Redis
// keys bear names that the contract fixes, so Redis must be one that holds no
// strategies yet; what the run registered there is removed as well.
type External struct {
	Kafka string // host:port, required
	Redis string // host:port, required
	Neo4j string // bolt://host:port; "": the graph stays in the DAG Manager
	// Within bounds each check; 0: 10 s.
	Within time.Duration
}

// Start checks the servers and makes the control topics.
func (e External) Start(ctx context.Context, o Options) (_ *Set, err error) {
	if err := e.validate(o); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, e.within())
	defer stop()
	var undo Unwind
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx))
		}
	}()
	if err := e.check(ctx, o); err != nil {
		return nil, err
	}
	prefix := "plumbline." + o.RunID + "."
	undo.Add(func(ctx context.Context) error { return removeTopics(ctx, e.Kafka, o.RunID) })
	if err := CreateControlTopics(ctx, e.Kafka, prefix); err != nil {
		return nil, err
	}
	undo.Add(func(ctx context.Context) error { return removeKeys(ctx, e.Redis) })
	set := &Set{
		Kind: KindExternal, Reason: "asked for", Kafka: e.Kafka,
		Prefix: prefix, Versions: map[string]string{},
	}
	if set.Redis, err = o.FrontOf("redis", e.Redis); err != nil {
		return nil, err
	}
	if set.Neo4j, err = e.graph(o); err != nil {
		return nil, err
	}
	return Assemble(set, undo.Run, nil), nil
}

// graph is the address by which the SUT shall reach the graph.
func (e External) graph(o Options) (string, error) {
	if e.Neo4j == "" {
		return "", nil
	}
	front, err := o.FrontOf("neo4j", strings.TrimPrefix(e.Neo4j, "bolt://"))
	return "bolt://" + front, err
}

func (e External) within() time.Duration {
	if e.Within > 0 {
		return e.Within
	}
	return 10 * time.Second
}

func (e External) validate(o Options) error {
	var errs []error
	for _, a := range []struct{ name, addr string }{{"kafka", e.Kafka}, {"redis", e.Redis}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			errs = append(errs, usagef("external backends: %s address %q: want host:port", a.name, a.addr))
		}
	}
	if e.Neo4j != "" && !strings.HasPrefix(e.Neo4j, "bolt://") {
		errs = append(errs, usagef("external backends: neo4j address %q: want bolt://host:port", e.Neo4j))
	}
	if o.RunID == "" {
		errs = append(errs, usagef("external backends: no run id to name things by"))
	}
	return errors.Join(errs...)
}

func (e External) check(ctx context.Context, o Options) error {
	errs := []error{CheckKafka(ctx, e.Kafka, o.RunID), CheckRedis(ctx, e.Redis, o.RunID)}
	if errs[1] == nil {
		errs = append(errs, checkUnused(ctx, e.Redis))
	}
	if e.Neo4j != "" {
		errs = append(errs, CheckNeo4j(ctx, e.Neo4j, o.RunID))
	}
	return errors.Join(errs...)
}

// registrations are the patterns of every key that a gateway writes
// (contract/gateway.md 3.1; gateway:* are the reference's own).
func registrations() []string {
	return []string{"dag_hash:*", "strategy:*", "strategy_queue", "lock:*", "gateway:*"}
}

func checkUnused(ctx context.Context, addr string) error {
	cl := redisClient(addr)
	defer cl.Close()
	for _, pattern := range registrations() {
		it := cl.Scan(ctx, 0, pattern, 1000).Iterator()
		if it.Next(ctx) {
			return usagef("redis %s: holds %q already, which this run could not tell from its own; give one without strategies", addr, it.Val())
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("redis %s: SCAN: %w", addr, err)
		}
	}
	return nil
}

func removeKeys(ctx context.Context, addr string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	cl := redisClient(addr)
	defer cl.Close()
	for _, pattern := range registrations() {
		it := cl.Scan(ctx, 0, pattern, 1000).Iterator()
		for it.Next(ctx) {
			if err := cl.Del(ctx, it.Val()).Err(); err != nil {
				return fmt.Errorf("redis %s: DEL %s: %w", addr, it.Val(), err)
			}
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("redis %s: SCAN: %w", addr, err)
		}
	}
	return nil
}

// removeTopics deletes the topics that carry the run id in their names.
func removeTopics(ctx context.Context, addr, runID string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	cl, err := kafkaClient(addr)
	if err != nil {
		return fmt.Errorf("kafka %s: %w", addr, err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("kafka %s: list topics: %w", addr, err)
	}
	var ours []string
	for _, name := range topics.Names() {
		if strings.Contains(name, runID) {
			ours = append(ours, name)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	return explain(ctx, "kafka "+addr, deleteTopics(ctx, cl, ours...))
}
