package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// redisAction runs one command, or lists keys.
type redisAction struct {
	Command []any   `json:"command"`
	Keys    *string `json:"keys"`
}

func (a redisAction) validate() error {
	return exactlyOne(map[string]bool{"command": a.Command != nil, "keys": a.Keys != nil}, "command", "keys")
}

func (a redisAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	cl, err := x.wire.store()
	if err != nil {
		return nil, err
	}
	if a.Keys != nil {
		names, err := scan(ctx, cl, *a.Keys)
		if err != nil {
			return nil, fmt.Errorf("redis: keys %s: %w", *a.Keys, err)
		}
		return observation{"reply": anys(names)}, nil
	}
	args := make([]any, len(a.Command))
	for i, arg := range a.Command {
		args[i] = written(arg)
	}
	reply, err := cl.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		return observation{"reply": nil}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("redis: %v: %w", args[0], err)
	}
	return observation{"reply": shownReply(reply)}, nil
}

// scan lists every key that fits, sorted, each once.
func scan(ctx context.Context, cl *redis.Client, match string) ([]string, error) {
	var names []string
	it := cl.Scan(ctx, 0, match, 1000).Iterator()
	for it.Next(ctx) {
		names = append(names, it.Val())
	}
	slices.Sort(names)
	return slices.Compact(names), it.Err()
}

func shownReply(v any) any {
	switch v := v.(type) {
	case int64:
		return json.Number(fmt.Sprint(v))
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = shownReply(item)
		}
		return out
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[fmt.Sprint(k)] = shownReply(item)
		}
		return out
	}
	return v
}
