package gc

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// Policy says when an orphan of one tag goes, and how.
type Policy struct {
	TTL, Grace time.Duration
	Archive    bool // before it is dropped
}

// String gives the policy as ParsePolicy reads it.
func (p Policy) String() string { return p.TTL.String() + "+" + p.Grace.String() }

var errPolicy = errors.New("want TTL+GRACE, two durations such as 168h+24h")

// Set reads TTL+GRACE, two durations, for flags. Archive stays.
func (p *Policy) Set(text string) error {
	ttl, grace, both := strings.Cut(text, "+")
	t, err := time.ParseDuration(ttl)
	if err != nil || !both || t < 0 {
		return errPolicy
	}
	g, err := time.ParseDuration(grace)
	if err != nil || g < 0 {
		return errPolicy
	}
	p.TTL, p.Grace = t, g
	return nil
}

// The tags that have a policy.
const (
	Raw       = "raw"
	Indicator = "indicator"
	Sentinel  = "sentinel"
)

const day = 24 * time.Hour

// Policies are the policies by tag.
type Policies map[string]*Policy

// DefaultPolicies are those of dagmanager.md 6.1.
func DefaultPolicies() Policies {
	return Policies{
		Raw:       {TTL: 7 * day, Grace: day},
		Indicator: {TTL: 30 * day, Grace: 3 * day},
		Sentinel:  {TTL: 180 * day, Grace: 30 * day, Archive: true},
	}
}

// first gives the first entry of a topic's configuration that is not empty.
func first(config map[string]string, keys ...string) string {
	for _, key := range keys {
		if v := config[key]; v != "" {
			return v
		}
	}
	return ""
}

// tagOf is the tag of a topic: what its configuration says, else what its
// retention tells, else its name.
func tagOf(name string, config map[string]string) string {
	if tag := first(config, "qmtl.tag", "qmtl_tag", "queue.tag", "queue_tag"); tag != "" {
		return tag
	}
	if ms, err := strconv.ParseInt(config["retention.ms"], 10, 64); err == nil {
		switch kept := time.Duration(ms) * time.Millisecond; {
		case ms >= (180 * day).Milliseconds():
			return Sentinel
		case kept <= 7*day:
			return Raw
		case kept <= 30*day:
			return Indicator
		}
	}
	if strings.Contains(strings.ToLower(name), Sentinel) {
		return Sentinel
	}
	return Indicator
}

// createdKeys are entries of a topic's configuration that tell when it was made.
var createdKeys = []string{"qmtl.created_at", "qmtl_created_at", "created_at"}

// createdAt is when a topic was made, zero when nothing tells: a number of
// seconds, or of milliseconds above 1e12, or ISO 8601.
func createdAt(s topics.Shape) time.Time {
	for _, key := range createdKeys {
		if at := instant(strings.TrimSpace(s.Config[key])); !at.IsZero() {
			return at
		}
	}
	return s.CreatedAt
}

// isoLayouts are the ways in which ISO 8601 is written, without a zone in UTC.
var isoLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999", "2006-01-02T15:04", time.DateOnly,
}

const leastMillis = 1e12

func instant(text string) time.Time {
	if n, err := strconv.ParseFloat(text, 64); err == nil && n > 0 && n < 1e15 {
		if n > leastMillis {
			n /= 1000
		}
		return time.UnixMilli(int64(n * 1000))
	}
	for _, layout := range isoLayouts {
		if at, err := time.Parse(layout, text); err == nil {
			return at
		}
	}
	return time.Time{}
}

// intervalOf is the interval in seconds that a topic's configuration tells.
func intervalOf(config map[string]string) *int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(first(config, "qmtl.interval", "qmtl_interval", "interval")), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}
