package bound_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"qmtl.internal/plumbline/harness/bound"
)

func below(limit float64) func(context.Context, float64, bool) (bool, error) {
	return func(_ context.Context, x float64, _ bool) (bool, error) { return x <= limit, nil }
}

func TestHighestFindsTheBoundary(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		limit := math.Exp(rng.Float64()*math.Log(1e4)) + 1
		s := bound.Search{First: 500, Least: 1, Most: 1e5, Within: 0.05, Times: 2, Round: math.Floor, Try: below(limit)}
		a, err := bound.Highest(t.Context(), s)
		if err != nil || !a.Confirmed || a.X > limit || (a.Above > a.X+1 && a.Above/a.X > 1.06) || a.Above <= limit && a.Above != 0 {
			t.Fatalf("limit %g: %+v, %v", limit, a, err)
		}
		if a.Trials > 40 {
			t.Errorf("limit %g took %d trials", limit, a.Trials)
		}
	}
}

func TestLowestFindsTheBoundary(t *testing.T) {
	for _, limit := range []float64{17, 40.5, 64, 100} {
		try := func(_ context.Context, x float64, _ bool) (bool, error) { return x >= limit, nil }
		a, err := bound.Lowest(t.Context(), bound.Search{First: 128, Least: 8, Most: 512, Within: 0.05, Times: 1, Round: math.Ceil, Try: try})
		if err != nil || !a.Confirmed || a.X < limit || a.X/limit > 1.12 || a.Above >= limit {
			t.Errorf("limit %g: %+v, %v", limit, a, err)
		}
	}
}

func TestEndsOfTheRange(t *testing.T) {
	s := bound.Search{First: 100, Least: 10, Most: 1000, Within: 0.05, Times: 1, Try: below(1e9)}
	if a, err := bound.Highest(t.Context(), s); err != nil || !a.Confirmed || a.X != 1000 || a.Above != 0 {
		t.Errorf("all hold: %+v, %v", a, err)
	}
	s.Try = below(1)
	if a, err := bound.Highest(t.Context(), s); err != nil || a.Confirmed || a.X != 0 {
		t.Errorf("none holds: %+v, %v", a, err)
	}
}

// What held once, but does not when it is confirmed, is not the answer.
func TestAnAnswerThatIsNotConfirmedStepsDown(t *testing.T) {
	try := func(_ context.Context, x float64, confirm bool) (bool, error) {
		return x <= 900 && (!confirm || x <= 700), nil
	}
	a, err := bound.Highest(t.Context(), bound.Search{First: 400, Least: 10, Most: 5000, Within: 0.1, Times: 3, Try: try})
	if err != nil || !a.Confirmed || a.X > 700 || a.X < 600 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestErrorsEndTheSearch(t *testing.T) {
	broke := errors.New("broke")
	try := func(_ context.Context, x float64, _ bool) (bool, error) { return false, broke }
	if _, err := bound.Highest(t.Context(), bound.Search{First: 4, Least: 1, Most: 9, Within: 0.1, Times: 1, Try: try}); !errors.Is(err, broke) {
		t.Errorf("Highest = %v", err)
	}
	if _, err := bound.Highest(t.Context(), bound.Search{}); err == nil {
		t.Error("an empty search was carried out")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bound.Highest(ctx, bound.Search{First: 4, Least: 1, Most: 9, Within: 0.1, Times: 1, Try: below(5)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Highest after a cancel = %v", err)
	}
}
