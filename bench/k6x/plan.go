package k6x

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.k6.io/k6/js/common"
	"go.k6.io/k6/lib/fsext"

	"qmtl.internal/plumbline/bench/load"
)

// Plan is what offer offers. A script makes it in the init context and may read
// its fields for k6's options.
type Plan struct {
	Name        string  `js:"name"` // of the profile
	Title       string  `js:"title"`
	Rate        float64 `js:"rate"`        // mean of the window, per second
	WarmUp      string  `js:"warmUp"`      // like 5s
	Window      string  `js:"window"`      // like 30s
	Drain       string  `js:"drain"`       // like 10s
	MaxDuration string  `js:"maxDuration"` // after which the run is stuck
	Out         string  `js:"out"`         // directory of the results; "" for none

	profile load.Profile
	target  string // URL that submissions are posted to
	seed    uint64
	tag     string
	startAt time.Time
}

// settingNames are the members that plan takes, all of them optional but
// profile and target. Empty text is as good as absent.
var settingNames = []string{"profile", "target", "seed", "out", "tag", "startAt", "rate", "window", "warmUp"}

// settings are the members given to plan, as text.
type settings map[string]string

// plan reads the profile and checks all settings. It belongs to the init
// context, so that k6 archives the profile with the script.
func (in *instance) plan(given map[string]any) (*Plan, error) {
	env := in.vu.InitEnv()
	if env == nil {
		return nil, errors.New("plumbline: plan() belongs to the init context, outside of functions")
	}
	s, err := readSettings(given)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(func(path string) ([]byte, error) { return readFile(env, path) })
	if err != nil {
		return nil, fmt.Errorf("plumbline: %w", err)
	}
	return p, nil
}

// readFile reads as k6's open() does, but relative to the working directory.
func readFile(env *common.InitEnvironment, path string) ([]byte, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return fsext.ReadFile(env.FileSystems["file"], env.GetAbsFilePath(abs))
}

func readSettings(given map[string]any) (settings, error) {
	s := settings{}
	var unknown []string
	for name, v := range given {
		if !slices.Contains(settingNames, name) {
			unknown = append(unknown, name)
		} else if v != nil {
			s[name] = strings.TrimSpace(fmt.Sprint(v))
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return nil, fmt.Errorf("plumbline: plan: unknown settings %s; there are %s",
			strings.Join(unknown, ", "), strings.Join(settingNames, ", "))
	}
	return s, nil
}

// plan makes a Plan of the settings, or names every mistake.
func (s settings) plan(read func(path string) ([]byte, error)) (*Plan, error) {
	var errs [5]error
	p := &Plan{Out: s["out"], tag: s["tag"]}
	p.profile, errs[0] = s.readProfile(read)
	p.target, errs[1] = s.readTarget()
	p.seed, errs[2] = s.number("seed", 1)
	p.startAt, errs[3] = s.readStart()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	p.Name, p.Title, p.Rate = p.profile.Name, p.profile.Title, p.profile.MeanRate()
	p.WarmUp, p.Window, p.Drain = p.profile.WarmUp.String(), p.profile.Window.String(), p.profile.Drain.String()
	p.MaxDuration = p.longest(time.Now()).String()
	return p, nil
}

// longest is how long the offering can take, with room to spare.
func (p *Plan) longest(now time.Time) time.Duration {
	wait := time.Duration(0)
	if !p.startAt.IsZero() {
		wait = max(0, p.startAt.Sub(now)).Round(time.Second)
	}
	return wait + p.profile.WarmUp + p.profile.Window + 2*p.profile.Drain + 30*time.Second
}

func (s settings) readProfile(read func(string) ([]byte, error)) (load.Profile, error) {
	path := s["profile"]
	if path == "" {
		return load.Profile{}, errors.New("profile: give the path of a load profile, like bench/profiles/smoke.json (PLUMBLINE_PROFILE)")
	}
	b, err := read(path)
	if err != nil {
		return load.Profile{}, fmt.Errorf("profile: %w", err)
	}
	p, err := load.ParseProfile(b)
	if err != nil {
		return load.Profile{}, fmt.Errorf("profile %s: %w", path, err)
	}
	overrides := map[string]string{"PLUMBLINE_RATE": s["rate"], "PLUMBLINE_WINDOW": s["window"], "PLUMBLINE_WARMUP": s["warmUp"]}
	return p.WithEnv(func(name string) (string, bool) { v, ok := overrides[name]; return v, ok })
}

func (s settings) readTarget() (string, error) {
	text := s["target"]
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", fmt.Errorf("target: %q is not the base URL of a gateway, like http://127.0.0.1:8000 (PLUMBLINE_TARGET)", text)
	}
	return strings.TrimSuffix(text, "/"), nil
}

func (s settings) readStart() (time.Time, error) {
	ms, err := s.number("startAt", 0)
	if err != nil || ms == 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(int64(ms)), nil
}

func (s settings) number(name string, absent uint64) (uint64, error) {
	text := s[name]
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a whole number from 0 to 2^64-1", name, text)
	}
	return n, nil
}
