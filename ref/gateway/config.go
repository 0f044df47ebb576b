package gateway

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"qmtl.internal/plumbline/ref/gateway/health"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/internal/service"
	"qmtl.internal/plumbline/ref/internal/tracing"
)

// Config is what a gateway can be told by file, environment or flag.
type Config struct {
	Listen     string
	Redis      string
	RedisPool  int
	Kafka      string // "" means no commit log and no ControlBus
	DagManager string

	DagManagerCA, DagManagerCert, DagManagerKey string // files; no CA: no TLS

	CommitLogTopic   string
	CommitLogTimeout time.Duration
	CommitLogLinger  time.Duration
	CommitLogBytes   int
	ControlBusTopics string // comma list; "" means no ControlBus
	ControlBusGroup  string

	Places       int
	Waiting      int
	WaitLimit    time.Duration
	MaxBody      int64
	Workers      int
	Plan         submit.PersistencePlan
	DiffLimit    time.Duration
	DryRunLimit  time.Duration
	LookupLimit  time.Duration
	BreakerOpen  time.Duration
	NoSentinel   bool
	AllowLive    bool
	Capabilities health.Capabilities

	WorldService        string // base URL; "" means none
	WorldServiceTimeout time.Duration
	WorldServiceRetries int
	NoWorldService      bool

	DegradeEvery time.Duration
	DegradeBusy  bool

	SharedAccount     bool
	SharedMaxGross    optionalFloat
	SharedMaxNet      optionalFloat
	SharedMinHeadroom optionalFloat

	Traces string // where they go; "" means none

	EventsURL         string
	EventsFallbackURL string
	EventsTTL         time.Duration
	EventsTrust       string // comma list of KID=KEY
	FillSecret        string
	EventsKeys        string // comma list of kid=FILE; "" means a key pair of this process
	EventsActiveKID   string
	WebSocketRate     int
}

func (c *Config) flags(fs *service.FlagSet) {
	fs.StringVar(&c.Listen, "listen", "127.0.0.1:0", "`HOST:PORT` of the HTTP interface; port 0 chooses one")
	fs.StringVar(&c.Redis, "redis", "", "`HOST:PORT` of Redis, or redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss:// with TLS (required)")
	fs.IntVar(&c.RedisPool, "redis-pool", 48, "most connections to Redis")
	fs.StringVar(&c.Kafka, "kafka", "", "`HOST:PORT` of Kafka, or a comma list; empty: no commit log, no ControlBus")
	fs.StringVar(&c.DagManager, "dagmanager", "127.0.0.1:50051", "`HOST:PORT` of the DAG Manager's gRPC interface")
	fs.StringVar(&c.DagManagerCA, "dagmanager-ca", "", "`FILE` with the authorities of the DAG Manager's certificate, in PEM; empty: no TLS towards it")
	fs.StringVar(&c.DagManagerCert, "dagmanager-cert", "", "`FILE` with the certificate that the DAG Manager is shown; empty: none")
	fs.StringVar(&c.DagManagerKey, "dagmanager-key", "", "`FILE` with the private key of --dagmanager-cert")
	fs.StringVar(&c.CommitLogTopic, "commitlog-topic", "gateway.ingest", "`topic` of the commit log")
	fs.DurationVar(&c.CommitLogTimeout, "commitlog-timeout", 3*time.Second, "how `long` a record may take to be stored, at least 1s")
	fs.DurationVar(&c.CommitLogLinger, "commitlog-linger", 0, "how `long` to wait for more records before a batch is sent")
	fs.IntVar(&c.CommitLogBytes, "commitlog-max-bytes", 1_000_000, "largest record in `bytes`; what exceeds it is answered 413")
	fs.StringVar(&c.ControlBusTopics, "controlbus-topics", "activation,policy,queue,sentinel_weight,rebalancing_planned", "comma `list` of ControlBus topics; empty: none")
	fs.StringVar(&c.ControlBusGroup, "controlbus-group", "gateway", "consumer `group` of the ControlBus")
	fs.IntVar(&c.Places, "max-in-work", 128, "most submissions worked on at once; the others wait in order")
	fs.IntVar(&c.Waiting, "max-waiting", 8192, "most submissions that wait; a further one is answered 503")
	fs.DurationVar(&c.WaitLimit, "wait-limit", 10*time.Second, "how `long` a submission waits to be worked on before it is answered 503")
	fs.Int64Var(&c.MaxBody, "max-body", 32<<20, "largest request body in `bytes`")
	fs.IntVar(&c.Workers, "workers", 2, "how `many` goroutines work off accepted strategies; 0 leaves it to other gateways")
	c.Plan = submit.DefaultPlan()
	fs.DurationVar(&c.Plan.Lease, "worker-lease", c.Plan.Lease, "how `long` a strategy is locked by the worker that holds it; renewed while it works")
	fs.IntVar(&c.Plan.Attempts, "worker-attempts", c.Plan.Attempts, "how `often` a strategy is tried before it has failed")
	fs.DurationVar(&c.Plan.Backoff, "worker-backoff", c.Plan.Backoff, "how `long` to wait after the first failed attempt; it doubles with each")
	fs.DurationVar(&c.Plan.PendingTTL, "pending-ttl", c.Plan.PendingTTL, "how `long` an unfinished registration survives a crash")
	fs.DurationVar(&c.DiffLimit, "diff-limit", 100*time.Millisecond, "how `long` a submission waits for its diff")
	fs.DurationVar(&c.DryRunLimit, "dryrun-limit", 500*time.Millisecond, "how `long` a dry run of one world waits for its diff")
	fs.DurationVar(&c.LookupLimit, "lookup-limit", time.Second, "how `long` a request waits for its tag lookups")
	fs.DurationVar(&c.BreakerOpen, "breaker-open", 2*time.Second, "how `long` an open breaker waits before it tries again")
	fs.BoolVar(&c.NoSentinel, "no-sentinel", false, "store DAGs without a version sentinel")
	fs.BoolVar(&c.AllowLive, "allow-live", false, "turn the live guard off")
	fs.StringVar(&c.WorldService, "worldservice-url", "", "base `URL` of the WorldService; empty: none")
	fs.DurationVar(&c.WorldServiceTimeout, "worldservice-timeout", 300*time.Millisecond, "how `long` one request to the WorldService may take")
	fs.IntVar(&c.WorldServiceRetries, "worldservice-retries", 2, "how often a request to the WorldService is repeated that got no answer")
	fs.BoolVar(&c.NoWorldService, "no-worldservice", false, "do as if --worldservice-url were empty")
	fs.DurationVar(&c.DegradeEvery, "degrade-every", 5*time.Second, "how `long` until the degradation level is looked at again")
	fs.BoolVar(&c.DegradeBusy, "degrade-busy", false, "let processors that are busier than 85 and 95 % degrade the gateway too")
	fs.BoolVar(&c.SharedAccount, "shared-account", false, "let worlds share an account in /rebalancing/execute")
	fs.Var(&c.SharedMaxGross, "shared-account-max-gross", "largest gross `notional` of orders in a shared account; empty: any")
	fs.Var(&c.SharedMaxNet, "shared-account-max-net", "largest net `notional` of a shared account; empty: any")
	fs.Var(&c.SharedMinHeadroom, "shared-account-min-headroom", "least `share` of a shared account's equity that must stay free; empty: any")
	fs.StringVar(&c.Traces, tracing.Flag, "", tracing.Help)
	fs.StringVar(&c.EventsURL, "events-url", "wss://gateway/ws/evt", "`URL` of the event stream as clients reach it")
	fs.StringVar(&c.EventsFallbackURL, "events-fallback-url", "wss://gateway/ws", "`URL` of the stream without tokens as clients reach it")
	fs.DurationVar(&c.EventsTTL, "events-ttl", 5*time.Minute, "how `long` an event token is valid")
	fs.StringVar(&c.EventsTrust, "events-trust", "", "comma list of `KID=KEY`, Ed25519 public keys in base64url: tokens of theirs are accepted too")
	service.SecretVar(fs, &c.FillSecret, "fill-secret", "`SECRET` that signs fills; also QMTL_FILL_SECRET; empty: no signature is valid")
	fs.StringVar(&c.EventsKeys, "events-keys", "", "comma `list` of KID=FILE, Ed25519 keys in PEM whose event tokens are accepted; empty: a key pair of this process")
	fs.StringVar(&c.EventsActiveKID, "events-active-kid", "default", "`KID` of the private key that signs event tokens")
	fs.IntVar(&c.WebSocketRate, "websocket-rate-limit", 0, "most `frames` a second for one WebSocket client, the others are left out; 0: no limit")
	fs.IntVar(&c.Capabilities.RebalanceSchemaVersion, "rebalance-schema-version", 1, "capability that /health announces")
	fs.BoolVar(&c.Capabilities.AlphaMetricsCapable, "alpha-metrics-capable", false, "capability that /health announces")
	fs.StringVar(&c.Capabilities.ComputeContextContract, "compute-context-contract", "", "capability that /health announces, unless empty")
}

// keys are the names of the contract (gateway.md 3.5) where they are not the
// flags' own.
var keys = map[string]service.Key{
	"host":                {Flag: "listen", As: service.Host},
	"port":                {Flag: "listen", As: service.Port},
	"redis_dsn":           {Flag: "redis"},
	"commitlog_bootstrap": {Flag: "kafka"},
	"controlbus_brokers":  {Flag: "kafka"},
	"insert_sentinel":     {Flag: "no-sentinel", As: service.Not},
	"enforce_live_guard":  {Flag: "allow-live", As: service.Not},
	"events.stream_url":   {Flag: "events-url"},

	"websocket.rate_limit_per_sec": {Flag: "websocket-rate-limit"},

	"enable_worldservice_proxy": {Flag: "no-worldservice", As: service.Not},

	"shared_account_policy.enabled":             {Flag: "shared-account"},
	"shared_account_policy.max_gross_notional":  {Flag: "shared-account-max-gross"},
	"shared_account_policy.max_net_notional":    {Flag: "shared-account-max-net"},
	"shared_account_policy.min_margin_headroom": {Flag: "shared-account-min-headroom"},

	"/worldservice.url":                {Flag: "worldservice-url"},
	"/worldservice.timeout":            {Flag: "worldservice-timeout"},
	"/worldservice.retries":            {Flag: "worldservice-retries"},
	"/worldservice.enable_proxy":       {Flag: "no-worldservice", As: service.Not},
	"/worldservice.enforce_live_guard": {Flag: "allow-live", As: service.Not},
}

// optionalFloat is a number that may be left open.
type optionalFloat struct{ value *float64 }

// Set reads the number; nothing leaves it open.
func (o *optionalFloat) Set(text string) error {
	o.value = nil
	if text == "" {
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return errors.New("want a number")
	}
	o.value = &n
	return nil
}

// String is the number as it can be set.
func (o *optionalFloat) String() string {
	if o == nil || o.value == nil {
		return ""
	}
	return strconv.FormatFloat(*o.value, 'g', -1, 64)
}

// check gives every mistake.
func (c *Config) check() []error {
	errs := []error{
		service.CheckAddr("listen", c.Listen),
		c.checkRedis(),
		c.checkTraces(),
		service.CheckAddr("dagmanager", c.DagManager),
	}
	for _, seed := range c.seeds() {
		errs = append(errs, service.CheckAddr("kafka", seed))
	}
	if c.WorldServiceRetries < 0 {
		errs = append(errs, service.Wrong("worldservice-retries", "%d: must not be negative", c.WorldServiceRetries))
	}
	for _, one := range list(c.EventsKeys) {
		if kid, file, ok := strings.Cut(one, "="); !ok || kid == "" || file == "" {
			errs = append(errs, service.Wrong("events-keys", "%q: want KID=FILE", one))
		}
	}
	if c.Kafka != "" && c.CommitLogTopic == "" {
		errs = append(errs, service.Wrong("commitlog-topic", "must not be empty"))
	}
	if _, err := c.trusted(); err != nil {
		errs = append(errs, service.Wrong("events-trust", "%v", err))
	}
	return append(errs, c.checkLimits()...)
}

// trusted are the public keys of others whose tokens are accepted, by kid.
func (c *Config) trusted() (map[string]ed25519.PublicKey, error) {
	all := map[string]ed25519.PublicKey{}
	for _, one := range list(c.EventsTrust) {
		kid, text, _ := strings.Cut(one, "=")
		key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil || kid == "" || kid == c.EventsActiveKID || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%q: want KID=KEY, a kid that is not %q and 32 bytes in base64url", one, c.EventsActiveKID)
		}
		all[kid] = key
	}
	return all, nil
}

// redisOptions reads the address of Redis: HOST:PORT, or a URL that may hold
// user, password, database and, as rediss, TLS.
func (c *Config) redisOptions() (*redis.Options, error) {
	if !strings.Contains(c.Redis, "://") {
		return &redis.Options{Addr: c.Redis}, nil
	}
	return redis.ParseURL(c.Redis)
}

func (c *Config) checkRedis() error {
	o, err := c.redisOptions()
	if err != nil {
		return service.Wrong("redis", "want HOST:PORT or redis://[USER:PASSWORD@]HOST:PORT[/DB]") // the URL may hold a password
	}
	return service.CheckAddr("redis", o.Addr)
}

func (c *Config) checkTraces() error {
	if err := tracing.Check(c.Traces); err != nil {
		return service.Wrong(tracing.Flag, "%q: %v", c.Traces, err)
	}
	return nil
}

func (c *Config) checkLimits() (errs []error) {
	for _, l := range []struct {
		flag      string
		is, least time.Duration
	}{
		{"commitlog-timeout", c.CommitLogTimeout, time.Second},
		{"pending-ttl", c.Plan.PendingTTL, 30 * time.Second}, // longer than a submission can take
		{"worker-lease", c.Plan.Lease, time.Second},
		{"worker-backoff", c.Plan.Backoff, time.Millisecond},
		{"diff-limit", c.DiffLimit, time.Millisecond},
		{"dryrun-limit", c.DryRunLimit, time.Millisecond},
		{"lookup-limit", c.LookupLimit, time.Millisecond},
		{"breaker-open", c.BreakerOpen, time.Millisecond},
		{"wait-limit", c.WaitLimit, time.Millisecond},
		{"events-ttl", c.EventsTTL, time.Second},
		{"degrade-every", c.DegradeEvery, time.Millisecond},
		{"worldservice-timeout", c.WorldServiceTimeout, time.Millisecond},
	} {
		if l.is < l.least {
			errs = append(errs, service.Wrong(l.flag, "%s: must be at least %s", l.is, l.least))
		}
	}
	for _, n := range []struct {
		flag string
		is   int64
	}{
		{"redis-pool", int64(c.RedisPool)},
		{"max-in-work", int64(c.Places)},
		{"max-waiting", int64(c.Waiting)},
		{"max-body", c.MaxBody},
		{"worker-attempts", int64(c.Plan.Attempts)},
		{"workers", int64(c.Workers) + 1},
		{"commitlog-max-bytes", int64(c.CommitLogBytes)},
		{"rebalance-schema-version", int64(c.Capabilities.RebalanceSchemaVersion)},
	} {
		if n.is < 1 {
			errs = append(errs, service.Wrong(n.flag, "%d: must be at least 1", n.is))
		}
	}
	return errs
}

func (c *Config) seeds() []string { return list(c.Kafka) }

// list splits a comma list and drops blanks.
func list(s string) []string {
	var all []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
