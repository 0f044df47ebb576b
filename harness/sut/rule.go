package sut

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The kinds of tamper rules. A share k/n takes exactly k of every n
// submissions (POST /strategies), or of every n events for reorder, at places
// drawn by seed, so that the number of harmed ones does not depend on luck.
const (
	// TamperLose: a submission is acknowledged with a well-formed 202 that
	// the proxy makes up; the SUT never sees it.
	TamperLose = "lose"
	// TamperDouble: after its 202 a submission's commit-log record is written
	// a second time, same key, value and headers, before the answer goes on.
	TamperDouble = "double"
	// TamperDelay: every HTTP answer begins that much later.
	TamperDelay = "delay"
	// TamperDropField: the named field is missing from every JSON answer, at
	// any depth.
	TamperDropField = "drop-field"
	// TamperRewrite: the named field has another value in every JSON answer,
	// at any depth. The value is JSON, or else taken as text.
	TamperRewrite = "rewrite"
	// TamperReorder: a submission is held back until the next one has been
	// answered, or 100 ms; an event on a WebSocket changes places with the
	// next one that comes within 100 ms.
	TamperReorder = "reorder"
)

// Rule is one deliberate wrong that the proxy does before the Gateway.
type Rule struct {
	Kind   string
	K, N   int64         // share k of n: lose, double, reorder
	Delay  time.Duration // delay
	Field  string        // drop-field, rewrite
	Value  string        // rewrite: JSON text
	source string
}

// String is the rule as it was written.
func (r Rule) String() string { return r.source }

// ParseRules reads rules such as lose=1/1000, double=1/1000, delay=5ms,
// drop-field=queue_map, rewrite=safe_mode:true and reorder=1/100. Every
// mistake is reported at once; the error is an ErrUsage.
func ParseRules(texts ...string) ([]Rule, error) {
	var rules []Rule
	var errs []error
	for _, text := range texts {
		r, err := parseRule(text)
		if err != nil {
			errs = append(errs, usagef("tamper rule %q: %w", text, err))
			continue
		}
		rules = append(rules, r)
	}
	return rules, errors.Join(errs...)
}

func parseRule(text string) (Rule, error) {
	kind, arg, _ := strings.Cut(text, "=")
	r := Rule{Kind: kind, source: text}
	var err error
	switch kind {
	case TamperLose, TamperDouble, TamperReorder:
		r.K, r.N, err = parseShare(arg)
	case TamperDelay:
		r.Delay, err = parseDelay(arg)
	case TamperDropField:
		r.Field, err = parseField(arg)
	case TamperRewrite:
		field, value, ok := strings.Cut(arg, ":")
		if !ok {
			return r, errors.New("want rewrite=field:value, such as rewrite=safe_mode:true")
		}
		r.Value = jsonText(value)
		r.Field, err = parseField(field)
	default:
		err = errors.New("want one of lose=1/1000, double=1/1000, reorder=1/100, delay=5ms, drop-field=name, rewrite=field:value")
	}
	return r, err
}

func parseShare(text string) (k, n int64, err error) {
	left, right, ok := strings.Cut(text, "/")
	k, kerr := strconv.ParseInt(left, 10, 64)
	n, nerr := strconv.ParseInt(right, 10, 64)
	if !ok || kerr != nil || nerr != nil || k < 1 || k > n || n > 1_000_000 {
		return 0, 0, fmt.Errorf("share %q: want k/n with 1 ≤ k ≤ n ≤ 1000000, such as 1/1000", text)
	}
	return k, n, nil
}

func parseDelay(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Minute {
		return 0, fmt.Errorf("delay %q: want a time up to 1m, such as 5ms", text)
	}
	return d, nil
}

func parseField(text string) (string, error) {
	if strings.TrimSpace(text) == "" {
		return "", errors.New("want the name of a field, such as queue_map")
	}
	return text, nil
}

// jsonText is value if that is JSON, else value as a JSON string.
func jsonText(value string) string {
	if json.Valid([]byte(value)) {
		return value
	}
	b, _ := json.Marshal(value) // a string always can
	return string(b)
}

// checkRules refuses what cannot be done to this SUT.
func checkRules(rules []Rule, kafka string) error {
	var errs []error
	for _, r := range rules {
		if _, err := parseRule(r.source); err != nil {
			errs = append(errs, usagef("tamper rule %q: not made by ParseRules", r.source))
		}
		if r.Kind == TamperDouble && kafka == "" {
			errs = append(errs, usagef("tamper rule %s: needs the address of the SUT's Kafka", r))
		}
	}
	return errors.Join(errs...)
}

// share takes k of every n calls, at places drawn by seed.
type share struct {
	k, n int64

	mu    sync.Mutex
	rng   *rand.Rand         // guarded by mu
	seen  int64              // guarded by mu; calls in this block
	taken map[int64]struct{} // guarded by mu; places of this block that are taken
}

// newShare draws by seed; a nil share takes nothing.
func newShare(rules []Rule, kind string, seed uint64) *share {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Kind == kind })
	if i < 0 {
		return nil
	}
	var salt uint64
	for _, c := range kind {
		salt = salt*131 + uint64(c)
	}
	return &share{k: rules[i].K, n: rules[i].N, rng: rand.New(rand.NewPCG(seed, salt))}
}

func (s *share) take() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == 0 {
		s.draw()
	}
	_, taken := s.taken[s.seen]
	s.seen = (s.seen + 1) % s.n
	return taken
}

// draw picks k different places of the next block. It holds mu.
func (s *share) draw() {
	s.taken = make(map[int64]struct{}, s.k)
	for int64(len(s.taken)) < s.k {
		s.taken[s.rng.Int64N(s.n)] = struct{}{}
	}
}
