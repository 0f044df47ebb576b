package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// An action does one thing on the wire and says what it saw. Its error means
// that it could not be done at all; answers that one may not like are part of
// the observation.
type action interface {
	do(ctx context.Context, x *execution, st *Step) (observation, error)
}

// actionKind says how an action's value is read and which parts it shows. The
// same reading runs at load, with ${…} still in the texts, and at run time.
type actionKind struct {
	read  func(args any) (action, error)
	parts []string
}

// actionKinds is the table of all actions.
func actionKinds() map[string]actionKind {
	answer := []string{"status", "headers", "body", "text", "elapsed_ms", "statuses", "answers"}
	return map[string]actionKind{
		"submit":     {readAs[submitAction], answer},
		"dry_run":    {readDryRun, answer},
		"http":       {readAs[httpAction], answer},
		"diff":       {readAs[diffAction], []string{"code", "message", "chunks", "queue_map", "buffer_nodes", "sentinel_id", "version", "crc32", "elapsed_ms", "codes", "calls"}},
		"grpc":       {readAs[grpcAction], []string{"code", "message", "reply", "elapsed_ms"}},
		"produce":    {readAs[produceAction], []string{"records"}},
		"consume":    {readAs[consumeAction], []string{"records"}},
		"topics":     {readAs[topicsAction], []string{"topics"}},
		"redis":      {readAs[redisAction], []string{"reply"}},
		"ws":         {readAs[wsAction], []string{"frames", "status", "close_code"}},
		"token":      {readAs[tokenAction], []string{"token", "header", "claims"}},
		"metrics":    {readAs[metricsAction], nil},
		"wait":       {readWait, nil},
		"eventually": {readAs[eventuallyAction], nil},
		"for_each":   {readAs[forEachAction], nil},
		"parallel":   {readParallel, nil},
		"fault":      {readAs[faultAction], nil},
		"start":      {readAs[startAction], []string{"exit_code", "text", "elapsed_ms"}},

		"worldservice": {readAs[worldServiceAction], []string{"calls", "count"}},
		"dagmanager":   {readAs[dagManagerAction], []string{"calls", "count"}},
	}
}

// validator is an action that can tell a wrong value beyond its shape.
type validator interface{ validate() error }

func readAs[T action](args any) (action, error) {
	a, err := decode[T](args)
	if err != nil {
		return nil, err
	}
	if v, ok := any(a).(validator); ok {
		if err := v.validate(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// duration is a time.Duration written as text.
type duration time.Duration

func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	*d = duration(v)
	return err
}

// or gives d, or the default where d is not set.
func (d duration) or(otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return time.Duration(d)
}

// exactlyOne checks that one of the named things was given.
func exactlyOne(given map[string]bool, names ...string) error {
	n := 0
	for _, name := range names {
		if given[name] {
			n++
		}
	}
	if n == 1 {
		return nil
	}
	return &wrong{what: fmt.Sprintf("%d of %s are given", n, strings.Join(names, ", ")), mend: "give exactly one"}
}

// atMostOne checks that no two of the named things were given.
func atMostOne(given map[string]bool, names ...string) error {
	n := 0
	for _, name := range names {
		if given[name] {
			n++
		}
	}
	if n <= 1 {
		return nil
	}
	return &wrong{what: fmt.Sprintf("%d of %s are given", n, strings.Join(names, ", ")), mend: "give one of them"}
}

// waitAction pauses where the contract itself asks for it.
type waitAction time.Duration

func readWait(args any) (action, error) {
	d, err := time.ParseDuration(text(args))
	return waitAction(d), err
}

func (a waitAction) do(ctx context.Context, _ *execution, _ *Step) (observation, error) {
	return nil, sleep(ctx, time.Duration(a))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
