// Package topics makes sure that the topics of nodes exist: a session with the
// broker that is shared by all diffs, a cached view of what is there, and a
// breaker that heals by itself.
package topics

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// Config is how topics of one kind are made.
type Config struct {
	Partitions  int
	Replication int           // 0 in a wanted Config means: whatever the broker has
	Retention   time.Duration // whole milliseconds
	Cleanup     string        // "" is not sent and not compared
}

const day = 24 * time.Hour

// configs is the table of dagmanager.md 3.2.
var configs = map[diff.Kind]Config{
	diff.Raw:       {Partitions: 3, Replication: 3, Retention: 7 * day},
	diff.Indicator: {Partitions: 1, Replication: 2, Retention: 30 * day, Cleanup: "delete"},
	diff.TradeExec: {Partitions: 1, Replication: 3, Retention: 90 * day},
}

// ConfigOf gives the configuration of a kind; an unknown kind is an error.
func ConfigOf(kind diff.Kind) (Config, error) {
	c, known := configs[kind]
	if !known {
		return Config{}, fmt.Errorf("topic kind %q is unknown", kind)
	}
	return c, nil
}

// Names of the entries of a topic's configuration that we set.
const (
	retentionKey = "retention.ms"
	cleanupKey   = "cleanup.policy"
)

// Entries gives the configuration as a broker takes it.
func (c Config) Entries() map[string]string {
	e := map[string]string{retentionKey: strconv.FormatInt(c.Retention.Milliseconds(), 10)}
	if c.Cleanup != "" {
		e[cleanupKey] = c.Cleanup
	}
	return e
}

// Shape is what a broker says of a topic. A zero number and a missing entry are
// not known.
type Shape struct {
	Partitions  int
	Replication int
	Config      map[string]string
	// Own says that the retention was set for this very topic, as we do.
	Own       bool
	CreatedAt time.Time // zero: the broker does not know
}

// Fits says whether the topic has as many partitions as wanted.
func (c Config) Fits(s Shape) bool { return s.Partitions == 0 || s.Partitions == c.Partitions }

// Ours says whether a topic is one that a DAG Manager makes: named after an
// asset, a node type, a digest and a version, and made in the shape of a kind,
// with a retention of its own. It needs a described shape.
func Ours(name string, s Shape) bool {
	if strings.Count(name, "_") < 3 || !s.Own {
		return false
	}
	for _, c := range configs {
		c.Replication = 0 // there is an override for it
		if s.Config[retentionKey] != "" && compare(name, c, s) == nil {
			return true
		}
	}
	return false
}

// CollisionError says that topics exist whose names differ only in case.
type CollisionError struct {
	Topic  string
	Others []string
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf("name collision for topic '%s' with %s", e.Topic, strings.Join(e.Others, ", "))
}

// MismatchError says that a topic exists and is made in another way.
type MismatchError struct {
	Topic string
	What  string // partition, replication, retention, cleanup policy
	Has   string // the broker's value
	Want  string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s mismatch for topic '%s': it has %s, want %s", e.What, e.Topic, e.Has, e.Want)
}

// ForeignTopic tells a diff that another name may help.
func (e *MismatchError) ForeignTopic() string { return e.Topic }

// ErrMissing says that the broker does not know a topic.
var ErrMissing = errors.New("topic is missing")

// Verify compares a topic with what we would make (dagmanager.md 3.5): nil when
// it is there and equal, ErrMissing, a *CollisionError or a *MismatchError.
// What the broker does not say is not compared.
func Verify(name string, want Config, existing map[string]Shape) error {
	var others []string
	for other := range existing {
		if other != name && strings.EqualFold(other, name) {
			others = append(others, other)
		}
	}
	if len(others) > 0 {
		slices.Sort(others)
		return &CollisionError{Topic: name, Others: others}
	}
	has, there := existing[name]
	if !there {
		return fmt.Errorf("%q: %w", name, ErrMissing)
	}
	return compare(name, want, has)
}

func compare(name string, want Config, has Shape) error {
	for _, c := range []struct{ what, has, want string }{
		{"partition", number(has.Partitions), number(want.Partitions)},
		{"replication", number(has.Replication), number(want.Replication)},
		{"retention", has.Config[retentionKey], want.Entries()[retentionKey]},
		{"cleanup policy", cleanup(has.Config), want.Cleanup},
	} {
		if c.has != "" && c.want != "" && !same(c.has, c.want) {
			return &MismatchError{Topic: name, What: c.what, Has: c.has, Want: c.want}
		}
	}
	return nil
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// cleanup is the policy in force: a broker that names none deletes.
func cleanup(config map[string]string) string {
	if policy := config[cleanupKey]; policy != "" {
		return policy
	}
	return "delete"
}

// same compares lists parted by commas, whatever their order, case and spaces.
func same(a, b string) bool { return slices.Equal(list(a), list(b)) }

func list(s string) []string {
	parts := strings.Split(strings.ToLower(s), ",")
	for i, p := range parts {
		parts[i] = strings.TrimSpace(p)
	}
	slices.Sort(parts)
	return parts
}
