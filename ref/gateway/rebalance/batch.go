package rebalance

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/ref/internal/metric"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Log takes records of the commit log; it returns when a record is stored.
type Log interface {
	Write(ctx context.Context, key string, value []byte) error
}

// Metrics are the families of gateway.md section 4 that batches move.
type Metrics struct {
	batches     *metric.Counters
	size, ratio *metric.Gauges
}

// NewMetrics registers the families with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		batches: metric.NewCounters(reg, "rebalance_batches_submitted_total", "Batches of orders on their way to the commit log.", "world_id", "scope"),
		size:    metric.NewGauges(reg, "rebalance_last_batch_size", "Orders in the last batch.", "world_id", "scope"),
		ratio:   metric.NewGauges(reg, "rebalance_reduce_only_ratio", "Share of orders in the last batch that only reduce.", "world_id", "scope"),
	}
}

// batch is one record of orders (controlbus.md appendix B).
type batch struct {
	world, scope string
	orders       []Order
	entries      pyjson.Value // instead of the orders, unless null
	mode         string       // "" when the world names none
	shared       bool
}

// reduceOnly counts the orders that only reduce.
func (b batch) reduceOnly() (n int) {
	for _, o := range b.orders {
		if o.ReduceOnly {
			n++
		}
	}
	return n
}

func (b batch) ratio() float64 { return float64(b.reduceOnly()) / float64(len(b.orders)) }

// event is the type of a batch's record and of its payload.
const event = "gateway.rebalance"

// record writes the batch as the commit log has it; unique makes its id.
func (b batch) record(unique string, at, submitted time.Time) (key string, value []byte) {
	id := b.world + ":" + unique
	said := b.entries
	if said.IsNull() {
		said = values(b.orders)
	}
	payload := []pyjson.Member{
		{Key: "event", Value: pyjson.OfString(event)}, {Key: "version", Value: pyjson.OfInt(1)},
		{Key: "world_id", Value: pyjson.OfString(b.world)}, {Key: "scope", Value: pyjson.OfString(b.scope)},
		{Key: "orders", Value: said},
		{Key: "counts", Value: pyjson.OfObject(
			pyjson.Member{Key: "total", Value: pyjson.OfInt(int64(len(b.orders)))},
			pyjson.Member{Key: "reduce_only", Value: pyjson.OfInt(int64(b.reduceOnly()))})},
		{Key: "reduce_only_ratio", Value: pyjson.OfFloat(b.ratio())},
		{Key: "submitted_at", Value: pyjson.OfString(contract.ISOTime(submitted, "+00:00"))},
	}
	if b.mode != "" {
		payload = append(payload, pyjson.Member{Key: "mode", Value: pyjson.OfString(b.mode)})
	}
	if b.shared {
		payload = append(payload, pyjson.Member{Key: "shared_account", Value: pyjson.OfBool(true)})
	}
	value = append([]byte(`["`+event+`", `), strconv.FormatInt(at.UnixMilli(), 10)...)
	value = append(value, ", "...)
	value = pyjson.Append(value, pyjson.OfString(id), pyjson.Spaced|pyjson.ASCII)
	value = append(value, ", "...)
	value = pyjson.Append(value, pyjson.OfObject(payload...), pyjson.Spaced|pyjson.ASCII)
	return "rebalance:" + id, append(value, ']')
}

// submit writes the orders to the commit log; false when there were none. A
// world that only watches refuses all of them, before anything is written.
func (e *Executor) submit(ctx context.Context, made *orders, shared bool) (bool, error) {
	if e.Log == nil {
		return false, refuse(http.StatusServiceUnavailable, contract.CodeCommitLogDisabled, "commit log unavailable")
	}
	modes := map[string]worldMode{}
	for _, w := range made.involved() {
		modes[w] = e.modeOf(ctx, w)
		if err := blocked(modes[w]); err != nil {
			return false, err
		}
	}
	any := false
	for _, b := range made.batches(modes, shared) {
		if len(b.orders) == 0 {
			continue
		}
		any = true
		if err := e.publish(ctx, b); err != nil {
			return false, err
		}
	}
	return any, nil
}

// batches are the records that orders come to, in the order of writing.
func (o *orders) batches(modes map[string]worldMode, shared bool) []batch {
	var all []batch
	for _, w := range o.worlds {
		all = append(all, batch{world: w, scope: "per_world", orders: o.of[w], mode: modes[w].mode, shared: shared})
	}
	if o.global != nil {
		all = append(all, batch{world: "global", scope: "global", orders: o.global, shared: true})
	}
	byWorld := map[string][]strategyOrder{}
	var order []string
	for _, s := range o.shares {
		if byWorld[s.world] == nil {
			order = append(order, s.world)
		}
		byWorld[s.world] = append(byWorld[s.world], s)
	}
	for _, w := range order {
		b := batch{world: w, scope: "per_strategy", entries: entries(byWorld[w]), mode: modes[w].mode}
		for _, s := range byWorld[w] {
			b.orders = append(b.orders, s.order)
		}
		all = append(all, b)
	}
	return all
}

func (e *Executor) publish(ctx context.Context, b batch) error {
	e.Metrics.batches.With(b.world, b.scope).Inc()
	e.Metrics.size.With(b.world, b.scope).Set(float64(len(b.orders)))
	e.Metrics.ratio.With(b.world, b.scope).Set(b.ratio())
	now := time.Now()
	key, value := b.record(strings.ReplaceAll(uuid.NewString(), "-", ""), now, now)
	if err := e.Log.Write(ctx, key, value); err != nil {
		return unavailable(err)
	}
	return nil
}

// modeOf asks a world whether it trades. One that does not answer is taken to.
func (e *Executor) modeOf(ctx context.Context, id string) worldMode {
	data, err := e.Worlds.World(ctx, id)
	if err != nil {
		return worldMode{}
	}
	inner := data.Member("world")
	mode := inner.Member("mode")
	if mode.IsNull() {
		mode = data.Member("mode").Or(data.Member("effective_mode"))
	}
	domain := inner.Member("execution_domain")
	if domain.IsNull() {
		domain = data.Member("execution_domain")
	}
	m := worldMode{}
	m.mode, _ = mode.Str()
	if named, ok := domain.Str(); ok {
		m.domain = dag.ResolveDomain(pyjson.Strip(named))
	}
	return m
}
