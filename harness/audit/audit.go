// Package audit compares, after a load has drained, what was acknowledged with
// what is stored: the commit log on Kafka, the registrations and the queue in
// Redis, the topics of the nodes. It looks only at submissions of the workload,
// which carry load.KeyField in their DAG, so that other tenants of the same
// servers do not disturb it.
//
// It reads every stored DAG but keeps only digests: memory grows by some hundred
// bytes a submission, whatever the size of the DAGs.
package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/harness/record"
)

// World says where a SUT stores. Redis is host:port or a redis:// URL, Kafka
// host:port of one broker.
type World struct {
	Kafka     string
	Redis     string
	CommitLog string // topic of the commit log
	// Dial reaches both servers where the SUT sees them through something else;
	// nil: they are dialled as they are.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrNothing is in the chain of the error that Run gives when no submission was
// acknowledged: an audit of nothing proves nothing.
var ErrNothing = errors.New("no submission was acknowledged, so there is nothing to audit")

// Run audits. outcomes holds one load.Outcome a line (outcomes.jsonl), before
// what Look saw before the load. An error means that the audit itself broke;
// what the SUT did wrong is in the result.
func Run(ctx context.Context, w World, before Snapshot, outcomes io.Reader) (*record.Audit, error) {
	c, err := dial(w)
	if err != nil {
		return nil, err
	}
	defer c.close()
	b := newBook(before)
	if err := b.readOutcomes(outcomes); err != nil {
		return nil, err
	}
	if b.accepted == 0 {
		return nil, ErrNothing
	}
	if err := b.readCommitLog(ctx, c, w.CommitLog); err != nil {
		return nil, fmt.Errorf("commit log %s: %w", w.CommitLog, err)
	}
	if err := b.readRedis(ctx, c.redis); err != nil {
		return nil, fmt.Errorf("redis %s: %w", w.Redis, err)
	}
	topics, err := listTopics(ctx, c.admin)
	if err != nil {
		return nil, fmt.Errorf("topics of kafka %s: %w", w.Kafka, err)
	}
	return b.settle(topics), nil
}

// clients are the two servers to read from.
type clients struct {
	kafka *kgo.Client
	admin *kadm.Client
	redis *redis.Client
}

func dial(w World) (*clients, error) {
	o, err := redisOptions(w.Redis)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{kgo.SeedBrokers(w.Kafka), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()}
	if w.Dial != nil {
		o.Dialer, opts = w.Dial, append(opts, kgo.Dialer(w.Dial))
	}
	k, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka %s: %w", w.Kafka, err)
	}
	return &clients{kafka: k, admin: kadm.NewClient(k), redis: redis.NewClient(o)}, nil
}

func (c *clients) close() {
	c.kafka.Close()
	_ = c.redis.Close() // nothing was written: an error on closing changes nothing
}

// submission is one strategy id and every effect it had.
type submission struct {
	id, key     string
	acked       bool
	warm        bool    // acknowledged in the warm-up
	records     int     // commit-log records
	blob        uint64  // digest of the record's dag_base64
	hash        string  // the record's dag_hash
	nodes       []int32 // into book.nodes
	registered  bool
	moved       bool // past queued: its queue entry was taken
	hashKeys    int  // dag_hash:* that point here
	queued      int
	faults      []string // what is wrong with what is stored
	regBlob     uint64
	regHash     string
	hashKeyHash string
}

// request is what the workload knows of one key.
type request struct {
	acked   []string // ids acknowledged for this key
	window  bool     // some request of it was due in the window
	excused bool     // some request of it got no answer or an odd one: it may have had an effect
}

// book gathers everything seen, by id and by key.
type book struct {
	before    Snapshot
	accepted  int
	excused   int
	ids       map[string]*submission
	keys      map[string]*request
	refused   []load.Outcome // refusals that name a strategy
	foreign   map[string]bool
	nodes     []node
	nodeIndex map[node]int32

	lost, duplicates, orphans []record.Finding
}

func newBook(before Snapshot) *book {
	return &book{
		before: before, ids: map[string]*submission{}, keys: map[string]*request{},
		foreign: map[string]bool{}, nodeIndex: map[node]int32{},
	}
}

func finding(id, format string, args ...any) record.Finding {
	return record.Finding{ID: id, What: fmt.Sprintf(format, args...)}
}

// settle weighs all that was seen.
func (b *book) settle(topics []string) *record.Audit {
	out := &record.Audit{Accepted: b.accepted}
	wanted := map[int32]bool{}
	for _, s := range b.ids {
		out.Records += s.records
		if s.registered {
			out.Registered++
		}
		if !s.acked {
			b.weighUnacked(s)
			continue
		}
		b.weighAcked(s)
		for _, n := range s.nodes {
			wanted[n] = true
		}
	}
	b.weighKeys()
	b.weighRefusals()
	out.Nodes = len(wanted)
	out.Topics = b.weighTopics(slices.Collect(maps.Keys(wanted)), topics)
	out.Lost, out.Duplicates, out.Orphans = sorted(b.lost), sorted(b.duplicates), sorted(b.orphans)
	return out
}

func sorted(fs []record.Finding) []record.Finding {
	slices.SortFunc(fs, func(a, b record.Finding) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.What, b.What)) })
	if fs == nil {
		return []record.Finding{}
	}
	return fs
}

// weighAcked asks that an acknowledged submission has each effect once. What is
// wrong with it is one finding of each kind.
func (b *book) weighAcked(s *submission) {
	if wrong := slices.Concat(s.missing(), s.faults, s.differing()); len(wrong) > 0 {
		b.lost = append(b.lost, record.Finding{ID: s.id, What: "acknowledged, but " + strings.Join(wrong, "; "), WarmUp: s.warm})
	}
	if twice := s.twice(); len(twice) > 0 {
		b.duplicates = append(b.duplicates, record.Finding{ID: s.id, What: strings.Join(twice, "; ") + ", must be one", WarmUp: s.warm})
	}
}

// differing lists where the stores do not agree about a submission that has a
// record.
func (s *submission) differing() (out []string) {
	if s.records == 0 {
		return nil
	}
	if s.registered && s.blob != s.regBlob {
		out = append(out, "the DAG in Redis is not the one in its commit-log record")
	}
	if s.registered && s.hash != s.regHash {
		out = append(out, fmt.Sprintf("hash in Redis is %s, dag_hash in its record %s", s.regHash, s.hash))
	}
	if s.hashKeys > 0 && s.hash != s.hashKeyHash {
		out = append(out, fmt.Sprintf("dag_hash:%s points to it, but its DAG hashes to %s", s.hashKeyHash, s.hash))
	}
	return out
}

// missing lists the effects that an acknowledged submission does not have.
func (s *submission) missing() (out []string) {
	say := func(when bool, what string) {
		if when {
			out = append(out, "it has no "+what)
		}
	}
	say(s.records == 0, "commit-log record")
	say(!s.registered, "registration "+strategyPrefix+s.id)
	say(s.hashKeys == 0, "dag_hash key")
	say(s.queued == 0 && !s.moved, "entry in "+queueKey)
	return out
}

// twice lists the effects that a submission has more than once.
func (s *submission) twice() (out []string) {
	say := func(n int, what string) {
		if n > 1 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	say(s.records, "commit-log records")
	say(s.hashKeys, "dag_hash keys")
	say(s.queued, "entries in "+queueKey)
	return out
}

// weighUnacked looks at something stored that nobody was told of. That is right
// only where a request of the same key got no answer or an odd one.
func (b *book) weighUnacked(s *submission) {
	r := b.keys[s.key]
	f := record.Finding{ID: s.id, WarmUp: r != nil && !r.window}
	switch {
	case r == nil:
		f.What = fmt.Sprintf("stored%s, but no request had its key %q", s.where(), s.key)
		b.orphans = append(b.orphans, f)
	case r.excused:
	case len(r.acked) > 0:
		f.What = fmt.Sprintf("stored%s beside %s, which was acknowledged for the same submission %s", s.where(), r.acked[0], s.key)
		b.duplicates = append(b.duplicates, f)
	default:
		f.What = fmt.Sprintf("stored%s, but submission %s was never acknowledged", s.where(), s.key)
		b.orphans = append(b.orphans, f)
	}
}

func (s *submission) where() string {
	out := ""
	if s.records > 0 {
		out += " in the commit log"
	}
	if s.registered {
		out += " in Redis"
	}
	return out
}

// weighKeys asks that one submission was acknowledged at most once.
func (b *book) weighKeys() {
	for key, r := range b.keys {
		for _, again := range r.acked[min(1, len(r.acked)):] {
			b.duplicates = append(b.duplicates, record.Finding{
				ID: again, WarmUp: !r.window,
				What: fmt.Sprintf("acknowledged for submission %s, as %s was: one DAG must be acknowledged once", key, r.acked[0]),
			})
		}
	}
}

// weighRefusals asks that a refusal as duplicate names the strategy that was
// acknowledged for the same DAG.
func (b *book) weighRefusals() {
	for _, o := range b.refused {
		r := b.keys[o.Key]
		if !r.excused && !slices.Contains(r.acked, o.ID) {
			b.orphans = append(b.orphans, record.Finding{
				ID: o.ID, WarmUp: !o.Window,
				What: fmt.Sprintf("request %d was refused as a duplicate of it, but submission %s was acknowledged as %v", o.Index, o.Key, r.acked),
			})
		}
	}
}
