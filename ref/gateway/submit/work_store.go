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

// Work is one strategy that a worker took.
type Work struct {
	ID      string
	Attempt int       // from 1
	Owed    time.Time // its diff is owed, from then on; zero: it is not owed
}

// Outcome is how a worker's attempt at a strategy ended.
type Outcome struct {
	ID     string
	Event  Event     // complete, fail or PutOff
	Due    time.Time // of the next attempt; zero: there is none
	Reason string    // of a failure
}

// PutOff is the event of an attempt that does not count: it is to be made
// another time, and the strategy stays processing.
const PutOff Event = ""

// state is where the strategy stands after the attempt.
func (o Outcome) state() (State, error) {
	if o.Event == PutOff {
		return StateProcessing, nil
	}
	return StateProcessing.On(o.Event)
}

// The scripts decide in Redis, in one piece: who takes a strategy, and whether
// who took it still holds it when it writes down what came of it. One call
// serves a whole batch.
var (
	// takeScript takes what is due of the strategies in work, then the head of
	// the queue. ARGV: how many, owner, now, lease (ms), states that may be taken.
	takeScript = redis.NewScript(`
local out, now, lease, states = {}, tonumber(ARGV[3]), tonumber(ARGV[4]), {}
for i = 5, #ARGV do states[ARGV[i]] = true end
local function take(id)
	local state = redis.call('HGET', '` + strategyPrefix + `'..id, 'state')
	if not state or not states[state] then
		redis.call('ZREM', KEYS[2], id)
		return
	end
	local lock = '` + lockPrefix + `'..id
	local free = redis.call('SET', lock, ARGV[2], 'NX', 'PX', lease)
	redis.call('HSET', '` + strategyPrefix + `'..id, 'state', '` + string(StateProcessing) + `')
	if not free then
		redis.call('ZADD', KEYS[2], now + math.max(1000, redis.call('PTTL', lock)), id)
		return
	end
	redis.call('ZADD', KEYS[2], now + lease, id)
	out[#out + 1] = id
	out[#out + 1] = tostring(redis.call('HINCRBY', '` + strategyPrefix + `'..id, 'attempts', 1))
	out[#out + 1] = redis.call('ZSCORE', KEYS[3], id) or ''
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])) do take(id) end
while #out < 3 * tonumber(ARGV[1]) do
	local id = redis.call('LPOP', KEYS[1])
	if not id then break end
	take(id)
end
return out`)

	// finishScript writes down outcomes where the lock is still the owner's, and
	// gives the ids where it is not. ARGV: owner; id, state, due or "", reason of each.
	finishScript = redis.NewScript(`
local lost = {}
for i = 2, #ARGV, 4 do
	local id, to, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
	local key, lock = '` + strategyPrefix + `'..id, '` + lockPrefix + `'..id
	if redis.call('GET', lock) ~= ARGV[1] then
		lost[#lost + 1] = id
	else
		redis.call('DEL', lock)
		if redis.call('HEXISTS', key, 'dag') == 0 then
			redis.call('ZREM', KEYS[2], id)
			redis.call('DEL', key)
		else
			redis.call('HSET', key, 'state', to)
			if ARGV[i + 3] ~= '' then redis.call('HSET', key, 'failure', ARGV[i + 3]) end
			if due ~= '' then
				redis.call('ZADD', KEYS[2], due, id)
				if to == '` + string(StateProcessing) + `' then redis.call('HINCRBY', key, 'attempts', -1) end
			else
				redis.call('ZREM', KEYS[2], id)
				redis.call('ZREM', KEYS[3], id)
				redis.call('HDEL', key, 'attempts')
				if to == '` + string(StateCompleted) + `' then redis.call('HDEL', key, 'failure') end
			end
		end
	end
end
return lost`)

	// renewScript prolongs the owner's locks and gives the ids that are not its
	// own any more. ARGV: owner, now, lease (ms), ids.
	renewScript = redis.NewScript(`
local lost = {}
for i = 4, #ARGV do
	local lock = '` + lockPrefix + `'..ARGV[i]
	if redis.call('GET', lock) == ARGV[1] then
		redis.call('PEXPIRE', lock, ARGV[3])
		redis.call('ZADD', KEYS[2], ARGV[2] + ARGV[3], ARGV[i])
	else
		lost[#lost + 1] = ARGV[i]
	end
end
return lost`)
)

var workKeys = []string{QueueKey, inWorkKey, OwedKey}

// Take gives owner at most n strategies to work on: first those whose worker is
// gone or whose next attempt is due, then the oldest of the queue. Each is
// processing from now on and locked for the lease; owner must name this one
// call, so that an owner that overslept its lease finds it lost even when the
// strategy is back in the same process.
func (r *Registry) Take(ctx context.Context, owner string, n int, now time.Time) ([]Work, error) {
	args := []any{n, owner, now.UnixMilli(), r.plan.Lease.Milliseconds()}
	for state := range moves {
		if state.taken() {
			args = append(args, string(state))
		}
	}
	flat, err := takeScript.Run(ctx, r.rdb, workKeys, args...).StringSlice()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%w: take work: %w", ErrRegistry, err)
	}
	all := make([]Work, 0, len(flat)/3)
	for w := range slices.Chunk(flat, 3) {
		work := Work{ID: w[0]}
		work.Attempt, _ = strconv.Atoi(w[1]) // Redis counts it
		if due, err := strconv.ParseFloat(w[2], 64); err == nil {
			work.Owed = time.UnixMilli(int64(due))
		}
		all = append(all, work)
	}
	return all, nil
}

// Finish writes down what came of the strategies that owner took, and gives
// those that it did not hold any more: of them nothing is written.
func (r *Registry) Finish(ctx context.Context, owner string, outcomes []Outcome) (lost []string, err error) {
	args := []any{owner}
	for _, o := range outcomes {
		due := ""
		if !o.Due.IsZero() {
			due = strconv.FormatInt(o.Due.UnixMilli(), 10)
		}
		to, err := o.state()
		if err != nil {
			return nil, fmt.Errorf("strategy %s: %w", o.ID, err)
		}
		args = append(args, o.ID, string(to), due, o.Reason)
	}
	lost, err = finishScript.Run(ctx, r.rdb, workKeys, args...).StringSlice()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%w: finish work: %w", ErrRegistry, err)
	}
	return lost, nil
}

// Renew prolongs owner's lease on ids and gives those that it lost.
func (r *Registry) Renew(ctx context.Context, owner string, now time.Time, ids []string) (lost []string, err error) {
	args := []any{owner, now.UnixMilli(), r.plan.Lease.Milliseconds()}
	for _, id := range ids {
		args = append(args, id)
	}
	lost, err = renewScript.Run(ctx, r.rdb, workKeys, args...).StringSlice()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%w: renew work: %w", ErrRegistry, err)
	}
	return lost, nil
}

// Backlog counts the strategies that wait in the queue, are in work, and owe
// their diff.
func (r *Registry) Backlog(ctx context.Context) (queued, inWork, owed int64, err error) {
	var counts [3]*redis.IntCmd
	_, err = r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		counts = [3]*redis.IntCmd{p.LLen(ctx, QueueKey), p.ZCard(ctx, inWorkKey), p.ZCard(ctx, OwedKey)}
		return nil
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%w: backlog: %w", ErrRegistry, err)
	}
	return counts[0].Val(), counts[1].Val(), counts[2].Val(), nil
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

// Request is the diff of an accepted strategy, made of its registration. The
// error wraps ErrRegistry or errUnpayable.
func (r *Registry) Request(ctx context.Context, id string) (*pb.DiffRequest, error) {
	stored, err := r.rdb.HMGet(ctx, strategyKey(id), "dag", "compute_world_id", "compute_execution_domain",
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
