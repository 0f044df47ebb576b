package dagmanager

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/ref/dagmanager/jobs"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
)

// gcConfig is what the garbage collection can be told.
type gcConfig struct {
	Interval   time.Duration // 0: only when asked
	Batch      int
	Drop       string // auto, always, never
	Policies   gc.Policies
	ClaimGrace time.Duration
	Hold       time.Duration
	Archive    string
	MetricsURL string
	Announce   bool
}

// What --gc-drop may be.
const (
	dropAuto   = "auto"
	dropAlways = "always"
	dropNever  = "never"
)

func (c *gcConfig) flags(fs *service.FlagSet) {
	c.Policies = gc.DefaultPolicies()
	fs.DurationVar(&c.Interval, "gc-interval", time.Minute, "how `often` orphans are collected; 0: only when somebody asks")
	fs.IntVar(&c.Batch, "gc-batch", 50, "most `topics` that one collection takes; half as many on a busy broker")
	fs.StringVar(&c.Drop, "gc-drop", dropAuto, "`when` orphans are dropped: always, never (only reported), or auto: not from a Kafka whose nodes are in memory only, since a restart forgets them")
	for _, tag := range []string{gc.Raw, gc.Indicator, gc.Sentinel} {
		fs.Var(c.Policies[tag], "gc-"+tag, "`TTL+GRACE` of orphans with the tag "+tag+"; where the broker tells no age, those without a record go after the grace")
	}
	fs.DurationVar(&c.ClaimGrace, "gc-claim-grace", 2*time.Minute, "how `long` a diff may leave a claim open before it counts as dead")
	fs.DurationVar(&c.Hold, "gc-hold", time.Minute, "how `long` the name of a dropped topic is kept from diffs")
	fs.StringVar(&c.Archive, "gc-archive", "", "`URL` below which, or directory in which, a record of each archived topic is put; empty: none")
	fs.StringVar(&c.MetricsURL, "kafka-metrics-url", "", "`URL` of the broker's metrics as text; from 80 messages a second on collections are smaller")
	fs.BoolVar(&c.Announce, "gc-announce", false, "announce on the ControlBus what scheduled collections drop, as those that somebody asked for are")
}

// leastHold keeps a name for longer than any diff trusts what it knows of it.
const leastHold = 15 * time.Second

func (c *gcConfig) check() (errs []error) {
	if c.Interval < 0 {
		errs = append(errs, service.Wrong("gc-interval", "%s: want 0 or more", c.Interval))
	}
	if c.Batch < 1 {
		errs = append(errs, service.Wrong("gc-batch", "%d: want at least 1", c.Batch))
	}
	if !slices.Contains([]string{dropAuto, dropAlways, dropNever}, c.Drop) {
		errs = append(errs, service.Wrong("gc-drop", "%q: want auto, always or never", c.Drop))
	}
	if c.ClaimGrace < time.Millisecond {
		errs = append(errs, service.Wrong("gc-claim-grace", "%s: want at least 1ms", c.ClaimGrace))
	}
	if c.Hold < leastHold {
		errs = append(errs, service.Wrong("gc-hold", "%s: want at least %s", c.Hold, leastHold))
	}
	return append(errs, checkURL("kafka-metrics-url", c.MetricsURL))
}

// checkURL does not repeat the address: it may hold a secret.
func checkURL(flag, address string) error {
	u, err := url.Parse(address)
	if address != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return service.Wrong(flag, "is unusable: want http://… or https://…")
	}
	return nil
}

// keep is the reason why nothing is dropped, "" when it is.
func (c Config) keep() string {
	switch {
	case c.GC.Drop == dropNever:
		return "dropping_is_off"
	case c.GC.Drop == dropAuto && c.Neo4j.URL == "" && c.Kafka.Brokers != "":
		return "graph_in_memory"
	}
	return ""
}

// jobsConfig is what the jobs can be told. A job whose interval is 0 does not run.
type jobsConfig struct {
	GraphCount     time.Duration
	Recompute      time.Duration
	RecomputeAge   time.Duration
	Completion     time.Duration
	Lag            time.Duration
	LagGroups      string
	LagThreshold   int64
	Monitor        time.Duration
	Repeat         time.Duration
	SlackURL       string
	PagerDutyURL   string
	MostDurationMS float64
}

func (c *jobsConfig) flags(fs *service.FlagSet) {
	fs.DurationVar(&c.GraphCount, "graph-count-every", time.Minute, "how `often` nodes and queues in Neo4j are counted; 0: never")
	fs.DurationVar(&c.Recompute, "recompute-every", 0, "how `often` nodes that buffer for too long are diffed again and released, say 1h; 0: never")
	fs.DurationVar(&c.RecomputeAge, "recompute-age", 7*24*time.Hour, "how `long` too long is")
	fs.DurationVar(&c.Completion, "completion-every", 0, "how `often` to look for queues that grow no more, say 5s; 0: never")
	fs.DurationVar(&c.Lag, "lag-every", 0, "how `often` the lag of consumer groups is looked at, say 30s; 0: never")
	fs.StringVar(&c.LagGroups, "lag-groups", "", "consumer `groups` whose lag is watched, parted by commas")
	fs.Int64Var(&c.LagThreshold, "lag-threshold", 10000, "`records` above which a lag is worth an alert")
	fs.DurationVar(&c.Monitor, "monitor-every", 0, "how `often` to look for what people should know, say 5s; 0: never")
	fs.DurationVar(&c.Repeat, "alert-repeat", 10*time.Minute, "how `long` until an alert that lasts is sent again")
	service.SecretVar(fs, &c.SlackURL, "alert-slack", "`URL` of the webhook for what can wait")
	service.SecretVar(fs, &c.PagerDutyURL, "alert-pagerduty", "`URL` of the webhook for what cannot")
	fs.Float64Var(&c.MostDurationMS, "alert-diff-ms", 200, "`milliseconds` of the 95th percentile of diffs that are worth an alert")
}

func (c *jobsConfig) check(all *Config) (errs []error) {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"graph-count-every", c.GraphCount}, {"recompute-every", c.Recompute}, {"completion-every", c.Completion},
		{"lag-every", c.Lag}, {"monitor-every", c.Monitor}, {"recompute-age", c.RecomputeAge}, {"alert-repeat", c.Repeat}} {
		if f.d < 0 {
			errs = append(errs, service.Wrong(f.name, "%s: want 0 or more", f.d))
		}
	}
	if c.Lag > 0 && (c.LagGroups == "" || all.Kafka.Brokers == "") {
		errs = append(errs, service.Wrong("lag-every", "%s: wants --kafka and --lag-groups", c.Lag))
	}
	if c.Monitor > 0 && c.SlackURL == "" && c.PagerDutyURL == "" {
		errs = append(errs, service.Wrong("monitor-every", "%s: wants --alert-slack or --alert-pagerduty", c.Monitor))
	}
	return append(errs, checkURL("alert-slack", c.SlackURL), checkURL("alert-pagerduty", c.PagerDutyURL))
}

// openJobs makes the collector and starts the jobs that c wants; rt waits for
// them.
func (s *server) openJobs(rt *service.Runtime, c Config, session *topics.Session, kafka *topics.Kafka) error {
	archive, err := openArchive(rt, c.GC.Archive)
	if err != nil {
		return err
	}
	s.sizes = func(ctx context.Context) (map[string]topics.Extent, error) { return session.Extents(ctx) }
	s.collector = gc.New(session, s.store, gc.Options{
		Policies: c.GC.Policies, Batch: c.GC.Batch, Load: loadOf(rt, c.GC.MetricsURL), Archive: archive, Keep: c.keep(),
		ClaimGrace: c.GC.ClaimGrace, Hold: c.GC.Hold, Log: rt.Log,
	})
	keeper := jobs.NewKeeper(rt.Metrics, rt.Log)
	for _, j := range s.jobs(rt, c, session, kafka) {
		if j.Every > 0 {
			rt.Go("job "+j.Name, func(ctx context.Context) error { keeper.Keep(ctx, j); return nil })
		}
	}
	return nil
}

func (s *server) jobs(rt *service.Runtime, c Config, session *topics.Session, kafka *topics.Kafka) []jobs.Job {
	all := []jobs.Job{
		{Name: "gc", Every: c.GC.Interval, Run: func(ctx context.Context) error {
			_, err := s.collect(ctx, false, c.GC.Announce)
			return err
		}},
		{Name: "recompute", Every: c.Jobs.Recompute, Run: s.recompute(c).Run},
		{Name: "completion", Every: c.Jobs.Completion, Run: (&jobs.Completion{
			Sizes: s.sizes, Node: s.store.NodeByQueue, Announce: s.completed}).Run},
	}
	if store, ok := s.store.(*nodestore.Neo4j); ok {
		all = append(all, jobs.Job{Name: "graph count", Every: c.Jobs.GraphCount, Run: graphCounter(store, rt.Metrics)})
	}
	lag := func(context.Context) (map[string]int64, error) { return nil, nil }
	if c.Jobs.Lag > 0 && kafka != nil {
		groups := strings.FieldsFunc(c.Jobs.LagGroups, func(r rune) bool { return r == ',' || r == ' ' })
		lag = func(ctx context.Context) (map[string]int64, error) {
			ctx, cancel := context.WithTimeout(ctx, c.Kafka.Timeout)
			defer cancel()
			return kafka.Lag(ctx, groups...)
		}
		all = append(all, jobs.Job{Name: "lag", Every: c.Jobs.Lag, Run: jobs.NewLag(rt.Metrics, c.Jobs.LagThreshold, lag).Run})
	}
	if c.Jobs.Monitor > 0 {
		all = append(all, jobs.Job{Name: "monitor", Every: c.Jobs.Monitor, Run: s.monitor(rt, c, session, lag).Run})
	}
	return all
}

func (s *server) recompute(c Config) *jobs.Recompute {
	return &jobs.Recompute{
		Nodes: s.store, Age: c.Jobs.RecomputeAge, Now: time.Now,
		Diff: func(ctx context.Context, strategyID, dag string) error {
			_, err := diff.Run(ctx, diff.ExecutionContext{StrategyID: strategyID, DAG: dag, Namespaces: s.namespaces, Now: time.Now()}, s.nodes, s.topics)
			return err
		},
		Announce: func(tags []string, interval int64) {
			if s.outbox != nil {
				s.outbox.queueUpdated(tags, interval)
			}
		},
	}
}

func (s *server) completed(tags []string, interval int64) {
	if s.outbox != nil {
		s.outbox.queueCompleted(tags, interval)
	}
}

// monitor looks at what dagmanager.md 6.5 has.
func (s *server) monitor(rt *service.Runtime, c Config, session *topics.Session, lag func(context.Context) (map[string]int64, error)) *jobs.Monitor {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}}
	rt.OnStop("alerts", func(context.Context) error { client.CloseIdleConnections(); return nil })
	when := func(bad func(context.Context) bool, a jobs.Alert) jobs.Probe {
		return func(ctx context.Context) []jobs.Alert {
			if bad(ctx) {
				return []jobs.Alert{a}
			}
			return nil
		}
	}
	var stalled int64
	return &jobs.Monitor{
		Repeat: c.Jobs.Repeat, Now: time.Now,
		Alerter: jobs.NewAlerter(rt.Metrics, map[string]string{jobs.Slack: c.Jobs.SlackURL, jobs.PagerDuty: c.Jobs.PagerDutyURL}, client),
		Probes: []jobs.Probe{
			when(func(ctx context.Context) bool { return s.storeState(ctx) != stateOK }, jobs.Alert{Channel: jobs.PagerDuty, Text: "Neo4j leader down"}),
			when(func(context.Context) bool { return session.Broken() }, jobs.Alert{Channel: jobs.Slack, Text: "Kafka session lost"}),
			when(func(context.Context) bool {
				before := stalled
				stalled = s.metrics.neverAcked.Load()
				return stalled > before
			}, jobs.Alert{Channel: jobs.Slack, Text: "Diff stream stalled"}),
			when(func(context.Context) bool { return s.metrics.durations.p95() > c.Jobs.MostDurationMS },
				jobs.Alert{Channel: jobs.Slack, Text: "Diff duration high"}),
			lagging(lag, c.Jobs.LagThreshold),
		},
	}
}

func lagging(lag func(context.Context) (map[string]int64, error), threshold int64) jobs.Probe {
	return func(ctx context.Context) (alerts []jobs.Alert) {
		behind, err := lag(ctx)
		if err != nil {
			return nil // the broker is another probe's matter
		}
		for topic, records := range behind {
			if records > threshold {
				alerts = append(alerts, jobs.Alert{Channel: jobs.Slack, Text: "Queue lag high", Topic: topic})
			}
		}
		return alerts
	}
}

// probeLimit is how long the broker's metrics, or an archive, may take.
const (
	probeLimit   = 2 * time.Second
	archiveLimit = 10 * time.Second
)

const busyLine = "kafka_server_BrokerTopicMetrics_MessagesInPerSec"

// loadOf gives what asks the broker's metrics how busy it is; what fails is 0.
func loadOf(rt *service.Runtime, address string) func(context.Context) float64 {
	if address == "" {
		return nil
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: probeLimit}
	return func(ctx context.Context) float64 {
		body, err := fetch(ctx, client, address)
		if err != nil {
			rt.Log.Debug("broker metrics not read", "error", err)
			return 0
		}
		return lastNumber(body, busyLine)
	}
}

func fetch(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 16<<20))
}

// lastNumber is the last word of the first line that begins so, 0 when that is
// no number.
func lastNumber(text []byte, begins string) float64 {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 1 && strings.HasPrefix(lines.Text(), begins) {
			n, err := strconv.ParseFloat(words[len(words)-1], 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// openArchive gives the archive at a URL or in a directory; nil for "".
func openArchive(rt *service.Runtime, where string) (gc.Archive, error) {
	switch {
	case where == "":
		return nil, nil
	case strings.HasPrefix(where, "http://"), strings.HasPrefix(where, "https://"):
		if err := checkURL("gc-archive", where); err != nil {
			return nil, err
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: archiveLimit}
		return bucket{strings.TrimSuffix(where, "/"), client}, nil
	}
	if info, err := os.Stat(where); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("--gc-archive %s: want a URL or a directory that exists", where)
	}
	rt.Log.Debug("archive", "directory", where)
	return shelf(where), nil
}

// bucket is an archive that takes objects by PUT, as S3 does.
type bucket struct {
	address string
	client  *http.Client
}

// Archive puts an object without content under the key (dagmanager.md 6.1).
func (b bucket) Archive(ctx context.Context, _, key string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, b.address+"/"+url.PathEscape(key), http.NoBody)
	if err != nil {
		return errors.New("the address of the archive is no URL")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, which may hold a secret
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("the archive answered %s", resp.Status)
	}
	return nil
}

// shelf is an archive in a directory.
type shelf string

// Archive makes an empty file under the key.
func (d shelf) Archive(_ context.Context, _, key string) error {
	return os.WriteFile(filepath.Join(string(d), filepath.Base(key)), nil, 0o644)
}
