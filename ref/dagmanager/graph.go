package dagmanager

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/internal/service"
)

// neo4jFlags are the settings that the service and the commands of the graph
// database share.
func neo4jFlags(fs *service.FlagSet, o *nodestore.Neo4jOptions) {
	fs.StringVar(&o.URL, "neo4j", "", "`URL` of Neo4j, bolt://HOST:PORT; empty: the graph is in memory")
	fs.StringVar(&o.User, "neo4j-user", "neo4j", "`user` of Neo4j")
	service.SecretVar(fs, &o.Password, "neo4j-password", "`password` of that user; empty: none is asked for. The environment variable keeps it out of the list of processes")
	fs.StringVar(&o.Database, "neo4j-database", "", "`name` of the database; empty: the user's home database")
	fs.DurationVar(&o.Timeout, "neo4j-timeout", 5*time.Second, "how `long` one operation on Neo4j may take")
	fs.DurationVar(&o.Retry, "neo4j-retry", 2*time.Second, "how `long` an operation on Neo4j that fails is tried again, and a connection is waited for")
}

func (c *Config) checkGraph() (errs []error) {
	if c.Neo4j.Cache < 0 {
		errs = append(errs, service.Wrong("neo4j-cache", "%d: want 0 or more", c.Neo4j.Cache))
	}
	if c.Neo4j.URL == "" {
		return errs
	}
	if err := nodestore.CheckNeo4jURL(c.Neo4j.URL); err != nil {
		errs = append(errs, service.Wrong("neo4j", "%s", err))
	}
	if c.Graph != "" {
		errs = append(errs, service.Wrong("memory-repo", "begins a graph in memory: give it or --neo4j"))
	}
	return errs
}

// openStore opens the graph store that c names.
func openStore(ctx context.Context, rt *service.Runtime, c Config) (Store, error) {
	if c.Neo4j.URL == "" {
		return openMemory(ctx, rt, c.Graph)
	}
	c.Neo4j.Log = rt.Log
	store, err := nodestore.OpenNeo4j(c.Neo4j)
	if err != nil {
		return nil, err
	}
	rt.OnStop("neo4j", store.Close)
	rt.Metrics.MustRegister(gaugeFunc("dagmanager_nodes_remembered", "Nodes of the graph database that are remembered.",
		func() float64 { return float64(store.Remembered()) }))
	if err := warm(ctx, store, c.Neo4j.Timeout); err != nil {
		rt.Log.Warn("the graph database is not ready; diffs of new nodes wait for it", "error", err)
	}
	return store, nil
}

// warmLimit is how long a graph database that answers slowly may hold up a start.
const warmLimit = 10 * time.Second

// warm prepares the graph database. One that has just started takes seconds for
// its first statements, which no diff should wait for: it is asked again when it
// took all of timeout. One that is away holds up nothing.
func warm(ctx context.Context, store *nodestore.Neo4j, timeout time.Duration) error {
	for begun := time.Now(); ; {
		asked := time.Now()
		err := store.Warm(ctx)
		slow := time.Since(asked) >= timeout
		if err == nil || !slow || ctx.Err() != nil || time.Since(begun) > warmLimit {
			return err
		}
	}
}

// openMemory makes a store in memory with the graph of a file to begin with.
func openMemory(ctx context.Context, rt *service.Runtime, file string) (Store, error) {
	store := nodestore.NewMemory()
	rt.Metrics.MustRegister(
		gaugeFunc(nodesTotal, nodesHelp, func() float64 { n, _ := store.Size(); return float64(n) }),
		gaugeFunc(queuesTotal, queuesHelp, func() float64 { _, q := store.Size(); return float64(q) }))
	if file == "" {
		return store, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("--memory-repo: %w", err)
	}
	defer f.Close()
	if err := store.Load(ctx, f); err != nil {
		return nil, fmt.Errorf("--memory-repo %s: %w", file, err)
	}
	return store, nil
}

// The gauges of the graph's size.
const (
	nodesTotal, nodesHelp   = "compute_nodes_total", "Nodes that are registered."
	queuesTotal, queuesHelp = "queues_total", "Queues that are registered."
)

// graphCounter gives a job that keeps the gauges of the graph's size
// (dagmanager.md 6.6). They are not there before the first count; a count that
// fails leaves them as they are.
func graphCounter(store *nodestore.Neo4j, reg prometheus.Registerer) func(context.Context) error {
	nodes, queues := gauge(nodesTotal, nodesHelp), gauge(queuesTotal, queuesHelp)
	shown := false
	return func(ctx context.Context) error {
		n, q, err := store.Size(ctx)
		if err != nil {
			return err
		}
		nodes.Set(float64(n))
		queues.Set(float64(q))
		if !shown {
			reg.MustRegister(nodes, queues)
			shown = true
		}
		return nil
	}
}
