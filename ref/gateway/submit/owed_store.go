package submit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"qmtl.internal/plumbline/scenarios/contract"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// OwedKey is the Redis sorted set of the accepted strategies whose diff is still
// owed; a score is when the next attempt is due, in epoch milliseconds. Gateways
// on one Redis share it. It is there only while something is owed.
const OwedKey = "gateway:owed_diffs"

// owed is one entry of the set.
type owed struct {
	id  string
	due int64 // epoch milliseconds
}

// Owed gives at most n debts that are due at now, the oldest first, and how many
// there are at all.
func (r *Registry) Owed(ctx context.Context, now time.Time, n int) (due []owed, all int64, err error) {
	var found *redis.ZSliceCmd
	var count *redis.IntCmd
	_, err = r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		found = p.ZRangeByScoreWithScores(ctx, OwedKey, &redis.ZRangeBy{
			Min: "-inf", Max: strconv.FormatInt(now.UnixMilli(), 10), Count: int64(n)})
		count = p.ZCard(ctx, OwedKey)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%w: owed diffs: %w", ErrRegistry, err)
	}
	for _, z := range found.Val() {
		id, _ := z.Member.(string)
		due = append(due, owed{id, int64(z.Score)})
	}
	return due, count.Val(), nil
}

// ClaimOwed makes a debt due at until, so that nobody else pays it meanwhile. It
// is false when somebody else claimed or settled it since it was read: the score
// is raised, not set, and only the first to raise it gets what it expects.
func (r *Registry) ClaimOwed(ctx context.Context, o owed, until time.Time) (bool, error) {
	by := float64(until.UnixMilli() - o.due)
	got, err := r.raiseOwed(ctx, o.id, by)
	switch {
	case errors.Is(err, redis.Nil):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: claim owed diff %s: %w", ErrRegistry, o.id, err)
	case got == float64(until.UnixMilli()):
		return true, nil
	}
	_, err = r.raiseOwed(ctx, o.id, -by) // the winner's claim stands as it was
	if err != nil && !errors.Is(err, redis.Nil) {
		err = fmt.Errorf("%w: leave owed diff %s: %w", ErrRegistry, o.id, err)
	} else {
		err = nil
	}
	return false, err
}

func (r *Registry) raiseOwed(ctx context.Context, id string, by float64) (float64, error) {
	return r.rdb.ZAddArgsIncr(ctx, OwedKey, redis.ZAddArgs{XX: true, Members: []redis.Z{{Score: by, Member: id}}}).Result()
}

// DeferOwed makes a debt due at until; one that is settled stays so.
func (r *Registry) DeferOwed(ctx context.Context, id string, until time.Time) error {
	err := r.rdb.ZAddXX(ctx, OwedKey, redis.Z{Score: float64(until.UnixMilli()), Member: id}).Err()
	if err != nil {
		return fmt.Errorf("%w: defer owed diff %s: %w", ErrRegistry, id, err)
	}
	return nil
}

// SettleOwed removes a debt.
func (r *Registry) SettleOwed(ctx context.Context, id string) error {
	if err := r.rdb.ZRem(ctx, OwedKey, id).Err(); err != nil {
		return fmt.Errorf("%w: settle owed diff %s: %w", ErrRegistry, id, err)
	}
	return nil
}

// errUnpayable: what is stored of a strategy makes no diff; asking again
// changes nothing.
var errUnpayable = errors.New("no diff can be made of what is stored")

// OwedRequest is the diff of an accepted strategy, made of its registration. The
// error wraps ErrRegistry or errUnpayable.
func (r *Registry) OwedRequest(ctx context.Context, id string) (*pb.DiffRequest, error) {
	stored, err := r.rdb.HMGet(ctx, "strategy:"+id, "dag", "compute_world_id", "compute_execution_domain",
		"compute_as_of", "compute_partition", "compute_dataset_fingerprint").Result()
	if err != nil {
		return nil, fmt.Errorf("%w: read strategy %s: %w", ErrRegistry, id, err)
	}
	field := make([]string, len(stored))
	for i, v := range stored {
		field[i], _ = v.(string) // absent: nil
	}
	text, err := submittedText(field[0], id)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(field[1:], func(s string) bool { return !utf8.ValidString(s) }) {
		return &pb.DiffRequest{StrategyId: id, DagJson: text, WorldId: field[1], ExecutionDomain: field[2],
			AsOf: field[3], Partition: field[4], DatasetFingerprint: field[5]}, nil
	}
	return nil, fmt.Errorf("%w: strategy %s: its compute context is not UTF-8", errUnpayable, id)
}

// submittedText gives the DAG as it was submitted: what is stored of it, without
// the sentinel.
func submittedText(dag64, id string) (string, error) {
	if dag64 == "" {
		return "", fmt.Errorf("%w: strategy %s is not registered", errUnpayable, id)
	}
	stored, err := contract.DecodeDAG(dag64)
	if err != nil {
		return "", fmt.Errorf("%w: strategy %s: %w", errUnpayable, id, err)
	}
	nodes := stored.Member("nodes").Elems()
	if last := len(nodes) - 1; last >= 0 && isSentinel(nodes[last], id) {
		stored = stored.With("nodes", pyjson.OfArray(nodes[:last]...))
	}
	return string(contract.StoredJSON(stored)), nil
}

func isSentinel(node pyjson.Value, strategyID string) bool {
	kind, _ := node.Member("node_type").Str()
	id, _ := node.Member("node_id").Str()
	return kind == contract.SentinelType && id == contract.SentinelID(strategyID)
}
