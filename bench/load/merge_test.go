package load

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// share offers one of k shares of a schedule into a directory.
func share(t *testing.T, k, of int64, startAt time.Time, change ...func(*Result)) (dir string) {
	t.Helper()
	dir = t.TempDir()
	d, err := CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := virtual(100)
	c.Stripe, c.Observe, c.StartAt = Stripe{Start: k, Offsets: []int64{of}}, d.Observe, startAt
	c.MaxInFlight = 1000 // shares of a server are not modelled
	ev, err := Offer(t.Context(), c, scripted(mixed))
	if err != nil {
		t.Fatal(err)
	}
	ev.Result.Tag = "t"
	for _, f := range change {
		f(&ev.Result)
	}
	if err := d.Close(ev); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mixed answers by index alone, late, badly or not at all.
func mixed(ctx context.Context, i int64) (Reply, error) {
	switch {
	case i%50 == 7:
		return Reply{Fate: Unexpected, Status: 500, Why: "500", Body: []byte(fmt.Sprint(i))}, nil
	case i%50 == 8:
		<-ctx.Done()
		return Reply{}, ctx.Err()
	}
	return sleepy(time.Duration(i%97)*37*time.Millisecond)(ctx, i)
}

func TestMergedInstancesEqualOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := func() time.Time { return time.Now().Add(time.Second) }
		alone := share(t, 0, 1, start())
		whole, err := ReadResult(filepath.Join(alone, ResultFile))
		if err != nil {
			t.Fatal(err)
		}
		at := start()
		dirs := make([]string, 3)
		done := make(chan int)
		for k := range dirs {
			go func() { dirs[k] = share(t, int64(k), 3, at); done <- k }()
		}
		for range dirs {
			<-done
		}
		ev, err := MergeDirs(dirs...)
		if err != nil {
			t.Fatal(err)
		}
		got := ev.Result
		// What may differ: when it ran, and what each instance has of its own.
		whole.Started, whole.MaxInFlight, whole.Backlog = got.Started, 3*whole.MaxInFlight, 3*whole.Backlog
		whole.Samples, got.Samples = nil, nil
		if diff := cmp.Diff(*whole, got); diff != "" {
			t.Errorf("one instance and three merged differ (-one +merged):\n%s", diff)
		}
		checkBuckets(t, alone, ev.Timings)
		if got.Ledger.Unexpected != 4 || got.Ledger.Lost != 4 || got.LostBy["no answer in time"] != 4 {
			t.Errorf("ledger %+v, lost by %v; want both kinds of bad news in it", got.Ledger, got.LostBy)
		}
	})
}

// checkBuckets holds merged histograms against those of one instance.
func checkBuckets(t *testing.T, alone string, merged Timings) {
	t.Helper()
	f, err := os.Open(filepath.Join(alone, TimingsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := Timings{}
	if err := ReadTimings(f, one); err != nil || len(one) == 0 || len(merged) != len(one) {
		t.Fatalf("%v, %d classes of one instance, %d merged", err, len(one), len(merged))
	}
	for class, want := range one {
		for _, p := range want.pairs(merged.of(class)) {
			if !p[0].Equals(p[1]) {
				t.Errorf("class %s: buckets of the merged histogram differ from those of one instance", class)
			}
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Add(time.Hour)
		a := share(t, 0, 2, now)
		foreign := share(t, 1, 2, time.Time{}, func(r *Result) { r.Started, r.Tag = now, "u" })
		late := share(t, 1, 2, time.Time{}, func(r *Result) { r.Started = now.Add(time.Second) })
		thin := share(t, 1, 2, time.Time{}, func(r *Result) { r.Started = now })
		if err := os.WriteFile(filepath.Join(thin, OutcomesFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for want, dirs := range map[string][]string{
			"no directories":                        nil,
			"is not a share of the run":             {a, foreign},
			"started 1s apart":                      {a, late},
			"request 0 was offered by " + a + " as": {a, a},
			"the outcomes add up to":                {a, thin},
			"no-such-dir":                           {a, filepath.Join(a, "no-such-dir")},
		} {
			if _, err := MergeDirs(dirs...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("MergeDirs(%q) = %v; want %q", dirs, err, want)
			}
		}
	})
}
