package scenario

import (
	"context"
	"sync"
	"time"
)

// eventuallyAction repeats its steps until all of them hold.
type eventuallyAction struct {
	Within duration `json:"within"`
	Every  duration `json:"every"`
	Steps  []any    `json:"steps"`
}

func (a eventuallyAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	limited, cancel := context.WithTimeout(ctx, time.Duration(a.Within))
	defer cancel()
	var last *failure // of the last round that was not cut short
	for {
		failed := x.run(limited, st.lists[0])
		if failed == nil {
			return nil, nil
		}
		if last == nil || limited.Err() == nil {
			last = failed
		}
		if sleep(limited, a.Every.or(100*time.Millisecond)) == nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, last.under("not within %s", time.Duration(a.Within))
	}
}

// forEachAction runs its steps once for each element.
type forEachAction struct {
	As    string `json:"as"`
	In    []any  `json:"in"`
	Steps []any  `json:"steps"`
}

func (a forEachAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	name := a.As
	if name == "" {
		name = "row"
	}
	for i, element := range a.In {
		if failed := x.inRow(name, element, st.Line, i).run(ctx, st.lists[0]); failed != nil {
			return nil, failed.under("with %s %d = %s", name, i, short(element))
		}
	}
	return nil, nil
}

// parallelAction runs lists of steps at the same time. All are waited for; the
// first list that failed is reported.
type parallelAction struct{}

func readParallel(any) (action, error) { return parallelAction{}, nil }

func (parallelAction) do(ctx context.Context, x *execution, st *Step) (observation, error) {
	failures := make([]*failure, len(st.lists))
	var wg sync.WaitGroup
	for i, list := range st.lists {
		wg.Go(func() { failures[i] = x.run(ctx, list) })
	}
	wg.Wait()
	for _, f := range failures {
		if f != nil {
			return nil, f
		}
	}
	return nil, nil
}
