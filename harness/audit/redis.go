package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Keys of a control plane in Redis (gateway.md 3.1).
const (
	strategyPrefix = "strategy:"
	hashPrefix     = "dag_hash:"
	queueKey       = "strategy_queue"
	batch          = 2000 // keys or entries a round trip
)

func redisOptions(addr string) (*redis.Options, error) {
	if !strings.Contains(addr, "://") {
		return &redis.Options{Addr: addr}, nil
	}
	o, err := redis.ParseURL(addr)
	if err != nil {
		return nil, fmt.Errorf("redis address: %w", err)
	}
	return o, nil
}

// readRedis takes in registrations, duplicate keys and the queue. The queue
// comes first: workers may take from it meanwhile, and a strategy that was taken
// says so in its state from then on.
func (b *book) readRedis(ctx context.Context, cl *redis.Client) error {
	var queue []string
	if err := eachQueued(ctx, cl, func(id string) { queue = append(queue, id) }); err != nil {
		return err
	}
	if err := scan(ctx, cl, strategyPrefix, func(keys []string) error { return b.readStrategies(ctx, cl, keys) }); err != nil {
		return err
	}
	dangling := map[string]string{}
	err := eachHashKey(ctx, cl, func(hash, id string) { b.hashKey(hash, id, dangling) })
	if err != nil {
		return err
	}
	for _, id := range queue {
		if s := b.ids[id]; s != nil {
			s.queued++
		} else if !b.foreign[id] && !b.before.ids[id] {
			dangling[id] = queueKey
		}
	}
	// A lost or odd answer may stand behind what dangles; without one nobody does.
	if b.excused == 0 {
		for id, where := range dangling {
			b.orphans = append(b.orphans, finding(id, "%s points to it, but there is no such strategy", where))
		}
	}
	return nil
}

func (b *book) hashKey(hash, id string, dangling map[string]string) {
	if s := b.ids[id]; s != nil {
		s.hashKeys++
		s.hashKeyHash = hash
	} else if !b.foreign[id] && !b.before.ids[id] {
		dangling[id] = hashPrefix + hash
	}
}

// scan walks the keys with a prefix, some thousand at a time. A key may come
// twice.
func scan(ctx context.Context, cl *redis.Client, prefix string, each func(keys []string) error) error {
	var cursor uint64
	for {
		keys, next, err := cl.Scan(ctx, cursor, prefix+"*", batch).Result()
		if err != nil {
			return fmt.Errorf("scan %s*: %w", prefix, err)
		}
		for part := range chunks(keys) {
			if err := each(part); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// chunks cuts keys, so that a server that answers a scan at once does not make
// one round trip of everything.
func chunks(keys []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(keys) > 0 {
			n := min(len(keys), batch)
			if !yield(keys[:n]) {
				return
			}
			keys = keys[n:]
		}
	}
}

func (b *book) readStrategies(ctx context.Context, cl *redis.Client, keys []string) error {
	pipe := cl.Pipeline()
	cmds := make([]*redis.SliceCmd, len(keys))
	for i, k := range keys {
		cmds[i] = pipe.HMGet(ctx, k, "dag", "hash", "state")
	}
	// Exec gives the first failed command's error; each command is looked at below.
	if _, err := pipe.Exec(ctx); err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return fmt.Errorf("hmget of strategies: %w", err)
	}
	for i, k := range keys {
		b.registration(strings.TrimPrefix(k, strategyPrefix), cmds[i])
	}
	return nil
}

func (b *book) registration(id string, cmd *redis.SliceCmd) {
	fields, err := cmd.Result()
	s := b.ids[id]
	if err != nil {
		if s != nil {
			s.faults = append(s.faults, fmt.Sprintf("%s%s cannot be read: %v", strategyPrefix, id, err))
		}
		return
	}
	dag, _ := fields[0].(string)
	if s == nil {
		key, ours := workloadKey(dag)
		if !ours {
			b.foreign[id] = true
			return
		}
		s = b.submissionOf(id, key)
	}
	state, _ := fields[2].(string)
	hash, _ := fields[1].(string)
	s.registered, s.regBlob, s.regHash = true, digest(dag), strings.Clone(hash)
	s.moved = state != "" && state != "queued"
}

// workloadKey reads the workload's mark from a stored DAG.
func workloadKey(stored string) (key string, ours bool) {
	dag, err := contract.DecodeDAG(stored)
	if err != nil {
		return "", false
	}
	key, ours = dag.Member(load.KeyField).Str()
	return strings.Clone(key), ours
}

func eachHashKey(ctx context.Context, cl *redis.Client, see func(hash, id string)) error {
	seen := map[string]bool{}
	return scan(ctx, cl, hashPrefix, func(keys []string) error {
		ids, err := cl.MGet(ctx, keys...).Result()
		if err != nil {
			return fmt.Errorf("mget of %s*: %w", hashPrefix, err)
		}
		for i, k := range keys {
			id, ok := ids[i].(string)
			if ok && !seen[k] {
				see(strings.TrimPrefix(k, hashPrefix), id)
			}
			seen[k] = true
		}
		return nil
	})
}

// eachQueued walks the queue from its end, so that what workers take from its
// head meanwhile does not shift the rest.
func eachQueued(ctx context.Context, cl *redis.Client, see func(id string)) error {
	for end := int64(-1); ; end -= batch {
		ids, err := cl.LRange(ctx, queueKey, end-batch+1, end).Result()
		if err != nil {
			return fmt.Errorf("lrange %s: %w", queueKey, err)
		}
		for _, id := range ids {
			see(id)
		}
		if len(ids) < batch {
			return nil
		}
	}
}
