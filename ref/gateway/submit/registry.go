package submit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Registry keeps registrations in Redis as its PersistencePlan says. A
// registration is pending until Confirm: its keys expire and it has no state, so
// a process that dies in between leaves nothing behind.
type Registry struct {
	rdb  *redis.Client
	plan PersistencePlan
}

// NewRegistry keeps registrations in rdb.
func NewRegistry(rdb *redis.Client, plan PersistencePlan) *Registry {
	return &Registry{rdb: rdb, plan: plan}
}

// Registration is one strategy's claim on one DAG.
type Registration struct {
	ID   string // strategy id
	Hash string // of the DAG
	DAG  string // base64 of the stored DAG
}

func (r Registration) hashKey() string     { return hashKey(r.Hash) }
func (r Registration) strategyKey() string { return strategyKey(r.ID) }

// HeldKey is the Redis list of accepted strategies that wait for the DAG Manager
// to be well again before they join the queue, oldest first (gateway.md 5.1). The
// original keeps them in its memory and loses them with it.
const HeldKey = "gateway:held"

// heldAtOnce is how many strategies join the queue in one go.
const heldAtOnce = 500

// Drain lets what is held join the queue, in order.
func (r *Registry) Drain(ctx context.Context) (int, error) {
	for all := 0; ; {
		n, err := r.drain(ctx)
		if all += n; err != nil {
			return all, fmt.Errorf("%w: let held strategies go: %w", ErrRegistry, err)
		}
		if n < heldAtOnce {
			return all, nil
		}
	}
}

func (r *Registry) drain(ctx context.Context) (moved int, err error) {
	held, err := r.rdb.LLen(ctx, HeldKey).Result()
	if err != nil || held == 0 {
		return 0, err
	}
	var moves []*redis.StringCmd
	_, err = r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range min(held, heldAtOnce) {
			moves = append(moves, p.LMove(ctx, HeldKey, QueueKey, "LEFT", "RIGHT"))
		}
		return nil
	})
	for _, m := range moves {
		if m.Err() == nil {
			moved++
		}
	}
	if errors.Is(err, redis.Nil) { // another gateway was faster
		err = nil
	}
	return moved, err
}

// Holder says who holds a DAG, and whether that is settled.
type Holder struct {
	ID      string
	Settled bool
}

// Claim registers g as pending unless somebody holds its DAG already. It gives
// the holder: g itself when the claim succeeded. One round trip for a winner;
// a loser removes what it wrote with a second one. The claim may be repeated:
// the same id wins again.
func (r *Registry) Claim(ctx context.Context, g Registration) (Holder, error) {
	var held *redis.StringCmd
	hashKey, key := g.hashKey(), g.strategyKey()
	_, err := r.rdb.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.SetArgs(ctx, hashKey, g.ID, redis.SetArgs{Mode: "NX", TTL: r.plan.PendingTTL})
		held = tx.Get(ctx, hashKey)
		tx.HSet(ctx, key, "dag", g.DAG, "hash", g.Hash)
		tx.Expire(ctx, key, r.plan.PendingTTL)
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) { // Nil is the answer of a SET NX that lost
		return Holder{}, fmt.Errorf("%w: claim dag %s: %w", ErrRegistry, g.Hash, err)
	}
	if id := held.Val(); id == g.ID {
		return Holder{ID: id}, nil
	}
	return r.yield(ctx, g, held.Val())
}

// yield removes the loser's record and looks whether the winner is settled.
func (r *Registry) yield(ctx context.Context, g Registration, winner string) (Holder, error) {
	var state *redis.StringCmd
	_, err := r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, g.strategyKey())
		state = p.HGet(ctx, strategyKey(winner), "state")
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return Holder{}, fmt.Errorf("%w: read strategy %s: %w", ErrRegistry, winner, err)
	}
	return Holder{ID: winner, Settled: state.Val() != ""}, nil
}

// errExpired: the registration was not confirmed in time and may belong to
// somebody else by now.
var errExpired = errors.New("registration expired before it was confirmed")

// Confirm makes a pending registration last: it joins the queue, gets its
// compute fields and the state queued, and loses its expiry, all at once. A diff
// that it still owes is written down as due at owes; zero: it owes none. With
// hold it does not join the queue yet, see HeldKey.
func (r *Registry) Confirm(ctx context.Context, g Registration, owes time.Time, hold bool, fields ...any) error {
	var kept, keptHash *redis.BoolCmd
	key, queue := g.strategyKey(), QueueKey
	if hold {
		queue = HeldKey
	}
	_, err := r.rdb.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		kept = tx.Persist(ctx, key)
		keptHash = tx.Persist(ctx, g.hashKey())
		tx.HSet(ctx, key, append(fields, "state", string(StateQueued))...)
		tx.RPush(ctx, queue, g.ID)
		if !owes.IsZero() {
			tx.ZAdd(ctx, OwedKey, redis.Z{Score: float64(owes.UnixMilli()), Member: g.ID})
		}
		return nil
	})
	if err == nil && !(kept.Val() && keptHash.Val()) {
		err = errExpired
	}
	if err != nil {
		return fmt.Errorf("%w: confirm strategy %s: %w", ErrRegistry, g.ID, err)
	}
	return nil
}

// Release takes a registration back, confirmed or not; a DAG that somebody else
// holds by now stays theirs.
func (r *Registry) Release(ctx context.Context, g Registration) error {
	err := r.rdb.Watch(ctx, func(tx *redis.Tx) error {
		holder, err := tx.Get(ctx, g.hashKey()).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			if holder == g.ID {
				p.Del(ctx, g.hashKey())
			}
			p.Del(ctx, g.strategyKey())
			p.LRem(ctx, QueueKey, 0, g.ID)
			p.LRem(ctx, HeldKey, 0, g.ID)
			p.ZRem(ctx, OwedKey, g.ID)
			p.ZRem(ctx, inWorkKey, g.ID)
			return nil
		})
		return err
	}, g.hashKey())
	if err != nil {
		return fmt.Errorf("%w: release strategy %s: %w", ErrRegistry, g.ID, err)
	}
	return nil
}

// State gives the state of a strategy; "" when there is none of that id or its
// submission was not accepted yet.
func (r *Registry) State(ctx context.Context, id string) (State, error) {
	state, err := r.rdb.HGet(ctx, strategyKey(id), "state").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("%w: state of strategy %s: %w", ErrRegistry, id, err)
	}
	return State(state), nil
}

// Alive asks Redis for a sign of life.
func (r *Registry) Alive(ctx context.Context) (bool, error) {
	pong, err := r.rdb.Ping(ctx).Result()
	return pong == "PONG", err
}
