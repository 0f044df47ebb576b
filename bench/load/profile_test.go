package load

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPublishedProfilesAreRead(t *testing.T) {
	files, err := filepath.Glob("../profiles/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("profiles = %v, %v; want at least smoke, burst and tiny", files, err)
	}
	for _, f := range files {
		p, err := ReadProfile(f)
		if err != nil {
			t.Error(err)
		}
		if want := strings.TrimSuffix(filepath.Base(f), ".json"); p.Name != want {
			t.Errorf("%s: name %q; want %q", f, p.Name, want)
		}
	}
}

func TestBurstOffersThirtyThousandInTheWindow(t *testing.T) {
	p, err := ReadProfile("../profiles/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	if p.HeapCap != 128<<20 || p.Rate != 1000 || p.WarmUp != 20*time.Second || p.Window != 30*time.Second {
		t.Errorf("burst = %+v", p)
	}
	s, n := p.Schedule(), 0
	for i := range s.N() {
		if s.Due(i) >= p.WarmUp {
			n++
		}
	}
	if n != 30000 {
		t.Errorf("%d due in the window; want 30000", n)
	}
}

func TestWarmUpRisesFromATenth(t *testing.T) {
	p, err := ParseProfile([]byte(strings.Replace(good, `"rate_per_s":10,"warm_up":"1s"`, `"rate_per_s":1000,"warm_up":"10s"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	s, seconds := p.Schedule(), [14]int{}
	for i := range s.N() {
		seconds[s.Due(i)/time.Second]++
	}
	if diff := cmp.Diff([14]int{145, 235, 325, 415, 505, 595, 685, 775, 865, 955, 1000, 1000, 1000, 1000}, seconds); diff != "" {
		t.Errorf("requests due in each second (-want +got):\n%s", diff)
	}
}

// good is a profile that a test then spoils.
const good = `{"name":"x","rate_per_s":10,"warm_up":"1s","window":"4s","max_in_flight":4,"backlog":2,"drain":"1s","mix":{"catalogue":1}}`

func TestProfileMistakesAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		want     []string
	}{
		"unknown member":     {`"name"`, `"nmae":"y","name"`, []string{"/: additional properties 'nmae' not allowed"}},
		"every mistake":      {`"rate_per_s":10,"warm_up":"1s"`, `"rate_per_s":0,"warm_up":"soon"`, []string{"/rate_per_s: ", "/warm_up: "}},
		"missing":            {`"backlog":2,`, ``, []string{"missing property 'backlog'"}},
		"fraction":           {`"max_in_flight":4`, `"max_in_flight":4.5`, []string{"/max_in_flight: "}},
		"text for number":    {`"rate_per_s":10`, `"rate_per_s":"10"`, []string{"/rate_per_s: got string, want integer"}},
		"unknown class":      {`{"catalogue":1}`, `{"catalog":1}`, []string{"/mix: additional properties 'catalog' not allowed"}},
		"mix sum":            {`{"catalogue":1}`, `{"catalogue":0.5,"single":0.4}`, []string{"/mix: the shares add up to 0.9, not to 1"}},
		"only duplicates":    {`{"catalogue":1}`, `{"duplicate":1}`, []string{"/mix/duplicate: 1 leaves nothing to repeat"}},
		"no window":          {`"window":"4s"`, `"window":"0s"`, []string{"/window: 0s is no time to measure in"}},
		"long drain":         {`"drain":"1s"`, `"drain":"2m"`, []string{"/drain: 2m0s is not within"}},
		"repeated":           {`"name":"x"`, `"name":"x","name":"y"`, []string{"/name: occurs twice"}},
		"repeated within":    {`{"catalogue":1}`, `{"catalogue":1,"catalogue":1}`, []string{"/mix/catalogue: occurs twice"}},
		"stages add up":      {`"warm_up"`, `"stages":[{"rate_per_s":5,"for":"1s"}],"warm_up"`, []string{"/stages: they last 1s in all, the window 4s"}},
		"stage without time": {`"warm_up"`, `"stages":[{"rate_per_s":5,"for":"0s"},{"rate_per_s":5,"for":"4s"}],"warm_up"`, []string{"/stages/0/for: 0s is no time"}},
		"not JSON":           {`"name":"x",`, "\n\"name\":\"x\",\n,", []string{"3:1: invalid character"}},
		"more than one":      {`{"catalogue":1}}`, `{"catalogue":1}}{}`, []string{"something follows the profile"}},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, c.old, c.new, 1)
			_, err := ParseProfile([]byte(bad))
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("ParseProfile(%s) = %v; want it to say %q", bad, err, want)
				}
			}
		})
	}
}

func TestProfileErrorNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadProfile(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("ReadProfile = %v; want the file's name", err)
	}
	if _, err := ReadProfile(file + ".none"); err == nil || !strings.Contains(err.Error(), file+".none") {
		t.Errorf("ReadProfile = %v; want the file's name", err)
	}
}

func TestEnvironmentOverridesProfile(t *testing.T) {
	p, err := ParseProfile([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	env := func(m map[string]string) func(string) (string, bool) {
		return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
	}
	got, err := p.WithEnv(env(map[string]string{"PLUMBLINE_RATE": "70", "PLUMBLINE_WINDOW": "2s", "PLUMBLINE_WARMUP": "0s"}))
	if err != nil || got.Rate != 70 || got.Window != 2*time.Second || got.WarmUp != 0 {
		t.Errorf("WithEnv = %+v, %v", got, err)
	}
	if same, err := p.WithEnv(env(map[string]string{"PLUMBLINE_RATE": ""})); err != nil || same.Rate != 10 {
		t.Errorf("WithEnv of nothing = %+v, %v; want no change", same, err)
	}
}

func TestEnvironmentMistakesAreNamed(t *testing.T) {
	bad := map[string]string{"PLUMBLINE_RATE": "fast", "PLUMBLINE_WINDOW": "-1s", "PLUMBLINE_WARMUP": "5"}
	_, err := Profile{}.WithEnv(func(k string) (string, bool) { return bad[k], true })
	for _, name := range []string{"PLUMBLINE_RATE", "PLUMBLINE_WINDOW", "PLUMBLINE_WARMUP"} {
		if err == nil || !strings.Contains(err.Error(), name+":") {
			t.Errorf("WithEnv = %v; want it to name %s", err, name)
		}
	}
}

func TestStagedProfile(t *testing.T) {
	staged := strings.Replace(good, `"warm_up"`, `"stages":[{"rate_per_s":30,"for":"2s"},{"rate_per_s":30,"for":"2s"}],"warm_up"`, 1)
	p, err := ParseProfile([]byte(staged))
	if err != nil {
		t.Fatal(err)
	}
	// The warm-up rises from 1/s to 10/s within a second.
	if n := p.Schedule().N(); n != 6+40+60 || p.MeanRate() != 25 {
		t.Errorf("N = %d, mean rate %v; want 106, 25", n, p.MeanRate())
	}
	if last, first := p.Schedule().Due(5), p.Schedule().Due(6); last >= time.Second || first < time.Second {
		t.Errorf("the window begins between requests due at %v and %v; want 1s between them", last, first)
	}
	rate := func(string) (string, bool) { return "5", true }
	if _, err := p.WithEnv(rate); err == nil || !strings.Contains(err.Error(), "has stages") {
		t.Errorf("WithEnv on stages = %v; want a refusal", err)
	}
}
