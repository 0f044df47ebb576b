package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/harness/record"
)

// history is all that the scenarios of one Run did which leaves traces: what
// the oracle compares the stores with.
type history struct {
	mu          sync.Mutex
	submissions []submission // in the order of their answers; guarded by mu
	queues      []queueSeen  // guarded by mu
}

// submission is one POST /strategies and its answer.
type submission struct {
	scenario string
	hash     string // dag_hash of what was sent
	nodes    []string
	began    time.Time
	ended    time.Time
	answered bool
	status   string // as text; "" without an answer
	id       string // strategy id of a 202
}

func (s submission) accepted() bool { return s.status == "202" }

// queueSeen is one entry of a diff's queue map, with the code hash that the
// node was sent with: other code is another queue.
type queueSeen struct{ key, code, topic string }

// submission adds a POST; o is nil when no answer came. Text that the scenario
// wrote itself has no known hash and is left out.
func (h *history) submission(scenario, path string, known bool, dag builtDAG, began time.Time, o observation) {
	if path != "/strategies" || !known {
		return
	}
	s := submission{scenario: scenario, hash: dag.hash, nodes: dag.ids, began: began, ended: time.Now(), answered: o != nil}
	if o != nil {
		s.status = written(o["status"])
		id, _ := o.path("body.strategy_id")
		s.id = text(id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.submissions = append(h.submissions, s)
}

// diff adds what a diff answered. A DAG that the scenario wrote as text is left
// out: its code hashes are not known.
func (h *history) diff(dag builtDAG, o observation) {
	if dag.root == nil {
		return
	}
	code := map[string]string{}
	nodes, _ := dag.root["nodes"].([]any)
	for _, n := range nodes {
		m, _ := n.(map[string]any)
		code[text(m["node_id"])] = text(m["code_hash"])
	}
	m, _ := o["queue_map"].(map[string]any)
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, topic := range m {
		h.queues = append(h.queues, queueSeen{k, code[nodeOf(k)], text(topic)})
	}
}

// of gives the submissions of one scenario, or all for "".
func (h *history) of(scenario string) ([]submission, []queueSeen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if scenario == "" {
		return slices.Clone(h.submissions), slices.Clone(h.queues)
	}
	own := slices.DeleteFunc(slices.Clone(h.submissions), func(s submission) bool { return s.scenario != scenario })
	return own, slices.Clone(h.queues)
}

// An invariant must hold over a whole history, whoever made it.
type invariant struct {
	name, id, title, clause string
	class                   Class
	needs                   []string
	check                   func(p past) []string // what is wrong, one entry a finding
}

// past is what the oracle knows: the history, and what the stores hold of it.
type past struct {
	submissions []submission
	queues      []queueSeen
	records     []commitRecord
	registered  map[string]string            // dag hash → strategy id, as dag_hash:* says
	strategies  map[string]map[string]string // strategy id → its hash, as strategy:* says
	topics      []string
}

// commitRecord is one record of the commit log.
type commitRecord struct {
	partition int32
	offset    int64
	strategy  string
	hash      string
}

func invariants() []invariant {
	const registration = "contract/gateway.md#26-registration-duplicate-detection-sentinel"
	return []invariant{
		{"one-accept-per-dag", "INV-ONE-ACCEPT", "a DAG is accepted at most once", registration, Strict, []string{"gateway"}, oneAccept},
		{"nothing-lost", "INV-LOST", "each accepted submission is registered and has a commit-log record", "contract/gateway.md#27-commit-log-record", Strict, []string{"redis"}, nothingLost},
		{"nothing-doubled", "INV-DOUBLED", "no submission has two commit-log records, none that was refused has one", "contract/gateway.md#27-commit-log-record", Strict, []string{"commitlog"}, nothingDoubled},
		{"order-per-key", "INV-ORDER", "the commit log keeps the order of submissions that followed one another", "contract/gateway.md#21-overview-and-strict-order-of-side-effects", Strict, []string{"commitlog"}, orderKept},
		{"one-topic-per-node", "INV-TOPIC", "a node has one topic in one context, however often it is diffed", "contract/dagmanager.md#25-hash-compare-_build_topic_binding_plan-_execute_topic_binding_plan", Reference, []string{"dagmanager"}, oneTopic},
	}
}

// invariants checks the whole history and gives an outcome each.
func (r *runner) invariants(ctx context.Context) []record.Outcome {
	submissions, queues := r.past.of("")
	all := invariants()
	out := make([]record.Outcome, 0, len(all))
	p, err := r.remember(ctx, submissions, queues)
	for _, inv := range all {
		start := time.Now()
		o := record.Outcome{ID: inv.id, Title: inv.title, Class: string(inv.class), Clause: inv.clause, File: "harness/scenario/oracle.go"}
		o.Status, o.Reason = r.judgeInvariant(ctx, inv, p, err)
		o.DurationMS = float64(time.Since(start).Microseconds()) / 1000
		out = append(out, o)
	}
	return out
}

func (r *runner) judgeInvariant(ctx context.Context, inv invariant, p past, err error) (record.Status, string) {
	s := &Scenario{Class: inv.class, Needs: inv.needs}
	if why := r.lacking(s); why != "" {
		return record.Skipped, why
	}
	switch {
	case ctx.Err() != nil:
		return record.Failed, "not checked: " + context.Cause(ctx).Error()
	case err != nil:
		return record.Failed, "not checked: " + err.Error()
	case len(p.submissions) == 0 && len(p.queues) == 0:
		return record.Skipped, "no scenario submitted anything"
	}
	if found := inv.check(p); len(found) > 0 {
		return record.Failed, fmt.Sprintf("%d findings: %s", len(found), shorten(strings.Join(found, "; "), 2000))
	}
	return record.Passed, ""
}

// ownInvariants checks those that the scenario names, over its own history.
func (x *execution) ownInvariants(ctx context.Context) *failure {
	if len(x.scenario.Invariants) == 0 {
		return nil
	}
	submissions, queues := x.past.of(x.scenario.ID)
	p, err := x.remember(ctx, submissions, queues)
	if err != nil {
		return &failure{step: &Step{Action: "invariants"}, problems: []string{err.Error()}}
	}
	for _, inv := range invariants() {
		if !slices.Contains(x.scenario.Invariants, inv.name) {
			continue
		}
		x.shared.evaluated.Add(1)
		if found := inv.check(p); len(found) > 0 {
			return &failure{step: &Step{Action: "invariants", Name: inv.name}, problems: found}
		}
	}
	return nil
}

// oneAccept: registration is one atomic step, so one sender wins.
func oneAccept(p past) []string {
	first := map[string]string{}
	var found []string
	for _, s := range p.submissions {
		if !s.accepted() {
			continue
		}
		if id, again := first[s.hash]; again {
			found = append(found, fmt.Sprintf("DAG %.12s was accepted as %s and as %s", s.hash, id, s.id))
			continue
		}
		first[s.hash] = s.id
	}
	return found
}

// nothingLost: the commit log is looked at only when the run can read it.
func nothingLost(p past) []string {
	logged := map[string]bool{}
	for _, r := range p.records {
		logged[r.strategy] = true
	}
	var found []string
	for _, s := range p.submissions {
		if !s.accepted() {
			continue
		}
		if id := p.registered[s.hash]; id != s.id {
			found = append(found, fmt.Sprintf("strategy %s: dag_hash:%.12s… names %q", s.id, s.hash, id))
		}
		if hash := p.strategies[s.id]["hash"]; hash != s.hash {
			found = append(found, fmt.Sprintf("strategy %s: its record has hash %q", s.id, hash))
		}
		if p.records != nil && !logged[s.id] {
			found = append(found, fmt.Sprintf("strategy %s has no commit-log record", s.id))
		}
	}
	return found
}

// nothingDoubled: a submission without an answer may have gone either way.
func nothingDoubled(p past) []string {
	accepted, unsure, times := map[string]bool{}, map[string]bool{}, map[string]int{}
	ours := map[string]bool{}
	for _, s := range p.submissions {
		accepted[s.id] = accepted[s.id] || s.accepted()
		unsure[s.hash] = unsure[s.hash] || !s.answered
		ours[s.hash] = true
	}
	var found []string
	for _, r := range p.records {
		if !ours[r.hash] {
			continue
		}
		if times[r.strategy]++; times[r.strategy] == 2 {
			found = append(found, fmt.Sprintf("strategy %s has more than one commit-log record", r.strategy))
		}
		if !accepted[r.strategy] && !unsure[r.hash] {
			found = append(found, fmt.Sprintf("strategy %s has a commit-log record but was never accepted", r.strategy))
		}
	}
	return found
}

// orderKept: when one submission was answered before the next was sent, their
// records have that order, within a partition.
func orderKept(p past) []string {
	at := map[string]commitRecord{}
	for _, r := range p.records {
		at[r.strategy] = r
	}
	last := map[string]submission{} // by scenario and partition
	var found []string
	for _, s := range p.submissions {
		r, ok := at[s.id]
		if !s.accepted() || !ok {
			continue
		}
		key := fmt.Sprintf("%s/%d", s.scenario, r.partition)
		if before, ok := last[key]; ok && before.ended.Before(s.began) && at[before.id].offset > r.offset {
			found = append(found, fmt.Sprintf("strategy %s was answered before %s was sent, but its record comes later", before.id, s.id))
		}
		last[key] = s
	}
	return found
}

// oneTopic: the same queue key never names two topics, and the broker holds no
// second topic for a node's digest in one namespace and version.
func oneTopic(p past) []string {
	topics := map[queueSeen]string{}
	var found []string
	for _, q := range p.queues {
		queue := queueSeen{key: q.key, code: q.code}
		before, seen := topics[queue]
		if seen && before != q.topic {
			found = append(found, fmt.Sprintf("%s has the topics %s and %s", q.key, before, q.topic))
		}
		topics[queue] = q.topic
	}
	return append(found, longerNames(p)...)
}

// longerNames finds topics that a second diff of the same node made: the name
// that a diff gave, with more digits of the node's digest. A topic that another
// node has is none of them.
func longerNames(p past) []string {
	owned := map[string]bool{}
	for _, q := range p.queues {
		owned[q.topic] = true
	}
	seen := map[queueSeen]bool{}
	var found []string
	for _, q := range p.queues {
		if seen[q] {
			continue
		}
		seen[q] = true
		for _, t := range p.topics {
			if !owned[t] && extends(q, t) {
				found = append(found, fmt.Sprintf("topic %s stands beside %s", t, q.topic))
			}
		}
	}
	return found
}

// extends tells whether t is named like q's topic but for more digits of the
// digest of q's node.
func extends(q queueSeen, t string) bool {
	name, version, ok := cutLast(q.topic, "_")
	if !ok {
		return false
	}
	rest, same := strings.CutPrefix(t, name)
	digits, tail, cut := cutLast(rest, "_")
	_, short, _ := cutLast(name, "_")
	return same && cut && tail == version && digits != "" && strings.HasPrefix(digestOf(q.key), short+digits)
}

// nodeOf is the node id in a queue key.
func nodeOf(key string) string {
	id, _, _ := strings.Cut(key, "#")
	for range 2 { // interval and bucket
		id, _, _ = cutLast(id, ":")
	}
	return id
}

// digestOf is the part of a queue key's node id that topic names are cut from.
func digestOf(key string) string {
	id := nodeOf(key)
	if rest, ok := strings.CutPrefix(id, "blake3:"); ok && rest != "" {
		return rest
	}
	return id
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// remember reads from the stores what belongs to the submissions.
func (r *runner) remember(ctx context.Context, submissions []submission, queues []queueSeen) (past, error) {
	p := past{submissions: submissions, queues: queues}
	have := r.capabilities()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	if have["redis"] && len(submissions) > 0 {
		err = errors.Join(err, r.readRegistrations(limited, &p))
	}
	if have["commitlog"] && len(submissions) > 0 {
		err = errors.Join(err, r.readCommitLog(limited, &p))
	}
	if have["dm-kafka"] && len(queues) > 0 {
		err = errors.Join(err, r.readTopics(limited, &p))
	}
	return p, err
}

func (r *runner) readRegistrations(ctx context.Context, p *past) error {
	cl, err := r.wire.store()
	if err != nil {
		return err
	}
	p.registered, p.strategies = map[string]string{}, map[string]map[string]string{}
	for _, s := range p.submissions {
		if !s.accepted() {
			continue
		}
		id, err := cl.Get(ctx, "dag_hash:"+s.hash).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("redis: dag_hash:%s: %w", s.hash, err)
		}
		p.registered[s.hash] = id
		if p.strategies[s.id], err = cl.HGetAll(ctx, "strategy:"+s.id).Result(); err != nil {
			return fmt.Errorf("redis: strategy:%s: %w", s.id, err)
		}
	}
	return nil
}

// readCommitLog reads the log from where the run began to where it ends now.
func (r *runner) readCommitLog(ctx context.Context, p *past) error {
	p.records = []commitRecord{}
	topic := r.env.CommitLogTopic
	cl, err := r.wire.broker()
	if err != nil {
		return err
	}
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("commit log %s: %w", topic, err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > r.wire.began(topic, o.Partition) {
			left[o.Partition] = o.Offset
		}
	})
	if len(left) == 0 {
		return nil
	}
	reader, err := r.wire.reader(ctx, topic)
	if err != nil {
		return err
	}
	defer reader.Close()
	return drain(ctx, reader, left, func(rec *kgo.Record) {
		if c, ok := commitRecordOf(rec); ok {
			p.records = append(p.records, c)
		}
	})
}

// drain reads until every partition has reached its end. Control records are
// kept by the client so that a transaction's marker also counts as progress.
func drain(ctx context.Context, reader *kgo.Client, ends map[int32]int64, each func(*kgo.Record)) error {
	for len(ends) > 0 {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("reading to the end: %w", context.Cause(ctx))
		}
		if err := fetchError(fetches); err != nil {
			return err
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				each(rec)
			}
			if end, ok := ends[rec.Partition]; ok && rec.Offset+1 >= end {
				delete(ends, rec.Partition)
			}
		})
	}
	return nil
}

// commitRecordOf reads ["gateway.ingest", ms, id, {…}]; other records of the
// log are not submissions.
func commitRecordOf(rec *kgo.Record) (commitRecord, bool) {
	var parts []json.RawMessage
	if json.Unmarshal(rec.Value, &parts) != nil || len(parts) != 4 {
		return commitRecord{}, false
	}
	var kind, id string
	var payload struct {
		Hash string `json:"dag_hash"`
	}
	if json.Unmarshal(parts[0], &kind) != nil || json.Unmarshal(parts[2], &id) != nil || json.Unmarshal(parts[3], &payload) != nil {
		return commitRecord{}, false
	}
	return commitRecord{partition: rec.Partition, offset: rec.Offset, strategy: id, hash: payload.Hash}, kind == "gateway.ingest"
}

func (r *runner) readTopics(ctx context.Context, p *past) error {
	cl, err := r.wire.broker()
	if err != nil {
		return err
	}
	details, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("topics: %w", err)
	}
	p.topics = details.Names()
	return nil
}
