package service_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/internal/service"
)

// shop is a service with a setting of each kind.
type shop struct {
	count    int
	ttl      time.Duration
	topics   string
	listen   string
	store    string
	open     bool
	password string
}

func (s *shop) spec() service.Spec {
	return service.Spec{
		Name: "shop",
		Flags: func(fs *service.FlagSet) {
			fs.IntVar(&s.count, "count", 1, "how many")
			fs.DurationVar(&s.ttl, "events-ttl", time.Minute, "how long")
			fs.StringVar(&s.topics, "bus-topics", "a,b", "which")
			fs.StringVar(&s.listen, "listen", "127.0.0.1:0", "where")
			fs.StringVar(&s.store, "store", "", "where things are kept")
			fs.BoolVar(&s.open, "open", false, "open all night")
			service.SecretVar(fs, &s.password, "password", "of the store")
		},
		Keys: map[string]service.Key{
			"host":          {Flag: "listen", As: service.Host},
			"port":          {Flag: "listen", As: service.Port},
			"closed":        {Flag: "open", As: service.Not},
			"store_dsn":     {Flag: "store"},
			"/spy.endpoint": {Flag: "store"},
		},
		Beside:     []string{"market"},
		Production: []string{"store"},
		Check: func() []error {
			if s.count < 1 {
				return []error{service.Wrong("count", "%d: must be at least 1", s.count)}
			}
			return nil
		},
		Start: hello,
	}
}

// outcome is what "config check" or a start with a mistake said.
type outcome struct {
	code     int
	out, err string
}

func (s *shop) config(file string, env map[string]string, args ...string) outcome {
	var out, errs bytes.Buffer
	w := service.IO{
		Args: args, Getenv: func(k string) string { return env[k] }, Out: &out, Err: &errs,
		ReadFile: func(name string) ([]byte, error) {
			if name != "shop.yml" || file == "" {
				return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
			}
			return []byte(file), nil
		},
	}
	code := service.Run(context.Background(), w, s.spec())
	return outcome{code, out.String(), errs.String()}
}

func TestConfigFileSetsEverySettingUnderItsNames(t *testing.T) {
	const file = `
profile: dev
market: {anything: [goes, here]}
shop:
  count: 7            # a comment
  events: {ttl: 1.5}  # a bare number is seconds
  bus_topics: [x, "y"]
  host: 0.0.0.0
  port: 8000
  closed: false
  store_dsn: "tcp://me:hush@host/1"
  password: hush-hush
`
	var s shop
	got := s.config(file, nil, "config", "check", "--config", "shop.yml")
	if got.code != service.ExitOK || got.err != "" {
		t.Fatalf("exit code %d: %s", got.code, got.err)
	}
	want := shop{7, 1500 * time.Millisecond, "x,y", "0.0.0.0:8000", "tcp://me:hush@host/1", true, "hush-hush"}
	if s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
	if strings.Contains(got.out, "hush") {
		t.Errorf("a secret is printed:\n%s", got.out)
	}
	for _, line := range []string{"count: 7", "shop.yml:5:3", `store: "tcp://me:********@host/1"`, `password: "********"`, "drain: 10s", "# default"} {
		if !strings.Contains(got.out, line) {
			t.Errorf("the printed configuration lacks %s:\n%s", line, got.out)
		}
	}
}

func TestPrintedConfigurationIsAFileThatSaysTheSame(t *testing.T) {
	var first, second shop
	printed := first.config("shop: {count: 3, bus_topics: [p], open: true, events_ttl: 90s}", nil, "config", "check", "--config", "shop.yml").out
	again := second.config(printed, nil, "config", "check", "--config", "shop.yml")
	if again.code != service.ExitOK || first != second {
		t.Errorf("exit code %d, %s\n%+v\n%+v", again.code, again.err, first, second)
	}
}

func TestFlagWinsOverEnvironmentWinsOverFile(t *testing.T) {
	const file = "shop: {count: 2}"
	env := map[string]string{"PLUMBLINE_SHOP_COUNT": "3", "PLUMBLINE_SHOP_CONFIG": "shop.yml"}
	for _, c := range []struct {
		env  map[string]string
		args []string
		want int
	}{
		{map[string]string{"PLUMBLINE_SHOP_CONFIG": "shop.yml"}, nil, 2},
		{env, nil, 3},
		{env, []string{"--count", "4"}, 4},
	} {
		var s shop
		if got := s.config(file, c.env, append([]string{"config", "check"}, c.args...)...); s.count != c.want {
			t.Errorf("%v %v: count %d, want %d; %s", c.env, c.args, s.count, c.want, got.err)
		}
	}
}

func TestEveryMistakeInAFileIsNamedWithItsPlace(t *testing.T) {
	const file = `market: 1
shopp: {}
shop:
  count: 0
  cuont: 5
  bus_topics: {a: b}
  events:
    ttl: soon
    size: 1
  open: perhaps
  open: true
  store: a
  store_dsn: b
  config: other.yml
`
	var s shop
	got := s.config(file, map[string]string{"PLUMBLINE_SHOP_LOG_LEVEL": "loud"}, "config", "check", "--config", "shop.yml", "--nope")
	want := []string{
		`shop.yml:2:1: no section "shopp"; want shop, market`,
		"shop.yml:5:3: cuont: no such key; did you mean count?",
		"shop.yml:6:15: bus_topics: want a value, got a mapping",
		`shop.yml:8:10: events.ttl: unusable value "soon"`,
		"shop.yml:9:5: events.size: no such key",
		`shop.yml:10:9: open: unusable value "perhaps"`,
		"shop.yml:11:3: open: a second time; the first is in line 10",
		"shop.yml:13:14: store_dsn: says otherwise than store in line 12; both mean --store",
		"shop.yml:14:3: config: no such key",
		"environment variable PLUMBLINE_SHOP_LOG_LEVEL",
		"-nope",
		"shop.yml:4:3: --count 0: must be at least 1",
	}
	lines := strings.Split(strings.TrimSpace(got.err), "\n")
	if got.code != service.ExitUsage || len(lines) != len(want) {
		t.Fatalf("exit code %d, %d lines, want %d:\n%s", got.code, len(lines), len(want), got.err)
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) {
			t.Errorf("line %d: %s\nwant %s", i, lines[i], want[i])
		}
	}
}

func TestUnusableFiles(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"absent":        {"", "configuration file: open shop.yml"},
		"empty":         {"\n", `shop.yml:1:1: the file is empty; want a section "shop"`},
		"other section": {"market: {}\n", `shop.yml:1:1: no section "shop"`},
		"a list":        {"- shop\n", "the file: want keys with values, got a sequence"},
		"a scalar":      {"shop: 3\n", "shop.yml:1:7: shop: want keys with values, got an integer"},
		"two documents": {"shop: {}\n---\nshop: {}\n", "a second document"},
		"broken":        {"shop:\n  count: [1\n", "shop.yml:2:"},
		"alias":         {"shop:\n  count: &n 1\n  store: *n\n", "want a value, got a"},
		"production":    {"profile: prod\nshop: {}\n", "--store is empty; the profile prod wants it"},
		"odd profile":   {"profile: test\nshop: {}\n", "want dev or prod"},
	} {
		var s shop
		got := s.config(c.file, nil, "config", "check", "--config", "shop.yml")
		if got.code != service.ExitUsage || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: exit code %d: %swant %s", name, got.code, got.err, c.want)
		}
	}
}

func TestUsualFileIsReadWhenItIsThere(t *testing.T) {
	var s shop
	var errs bytes.Buffer
	w := service.IO{Args: []string{"config", "check"}, Getenv: func(string) string { return "" }, Out: &bytes.Buffer{}, Err: &errs,
		ReadFile: func(name string) ([]byte, error) {
			if name == "qmtl.yaml" {
				return []byte("shop: {count: 12}"), nil
			}
			return nil, fs.ErrNotExist
		}}
	if code := service.Run(t.Context(), w, s.spec()); code != service.ExitOK || s.count != 12 {
		t.Errorf("exit code %d, count %d: %s", code, s.count, errs.String())
	}
}

func TestMistakeInAFileEndsTheStartOnOneLine(t *testing.T) {
	var s shop
	got := s.config("shop: {a: 1, b: 2}", nil, "--config", "shop.yml")
	if got.code != service.ExitUsage || strings.Count(got.err, "\n") != 1 || strings.Count(got.err, "no such key") != 2 {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
}

func TestConfigCommandWantsCheck(t *testing.T) {
	var s shop
	if got := s.config("", nil, "config", "chekc"); got.code != service.ExitUsage || !strings.Contains(got.err, "shop config check") {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
}
