package contract

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// TopicSpec is what the name of a node's topic is made of (dagmanager.md 3.3).
type TopicSpec struct {
	Asset    string // from AssetOf; put in as it is
	NodeType string // put in as it is, case kept
	NodeID   string // "blake3:<hex>" counts by its hex digits, any other id whole
	Version  string // from NormalizeVersion
	// CodeHash lets a topic that was named after the code be found again; ""
	// means that there is none.
	CodeHash  string
	DryRun    bool   // appends _sim
	Namespace string // from Namespace or NamespaceOf; "" means none
}

// Lengths of the digest in a topic's name: the first that is tried, and the step.
const (
	shortDigest = 8
	digestStep  = 2
	lastSuffix  = 9999
)

// LegacyStem is how many characters of a code hash a topic that was named after
// it has at least, unless the hash is shorter.
const LegacyStem = 6

// ErrNoTopicName means that every name of a node's topic is taken.
var ErrNoTopicName = errors.New("every topic name is taken")

// TopicName chooses the topic of a node: a topic that was named after its code
// hash when one exists, else the shortest name that does not. The comparison
// with existing names is exact. Every name may be taken: ErrNoTopicName.
func TopicName(s TopicSpec, exists func(name string) bool) (string, error) {
	for name := range s.LegacyNames() {
		if exists(name) {
			return name, nil
		}
	}
	for name := range s.Names() {
		if !exists(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("node %s: %w", s.NodeID, ErrNoTopicName)
}

// LegacyNames gives the names that a topic named after the code hash may have,
// in the order of preference. Without a code hash there are none.
func (s TopicSpec) LegacyNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		for cut := range prefixes(s.CodeHash, LegacyStem) {
			base := s.base(cut)
			namespaced := EnsureNamespace(base, s.Namespace)
			if !yield(namespaced) {
				return
			}
			if namespaced != base && !yield(base) {
				return
			}
		}
	}
}

// LegacyStems are what the names of LegacyNames begin with, each with one of the
// two: up to LegacyStem characters of the code hash, which follow an underscore.
// They let a few questions stand for dozens. It is not ok when they cannot be
// told: the code hash is shorter, or the namespace reaches into it.
func (s TopicSpec) LegacyStems() (namespaced, plain string, ok bool) {
	for code := range prefixes(s.CodeHash, LegacyStem) {
		base := s.base(code)
		plain = base[:len(s.Asset)+len(s.NodeType)+len(code)+2]
		ok = utf8.RuneCountInString(code) == LegacyStem && len(s.Namespace) < len(plain)
		return EnsureNamespace(plain, s.Namespace), plain, ok
	}
	return "", "", false
}

// Names gives the names that the topic of the node may take, the preferred one
// first: ever more digits of its digest, then a counted suffix.
func (s TopicSpec) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		digest := digestOf(s.NodeID)
		if digest == "" && !yield(s.name("", "")) {
			return
		}
		for cut := range prefixes(digest, shortDigest) {
			if !yield(s.name(cut, "")) {
				return
			}
		}
		for n := 1; n <= lastSuffix; n++ {
			if !yield(s.name(digest, "-"+strconv.Itoa(n))) {
				return
			}
		}
	}
}

func (s TopicSpec) name(digest, suffix string) string {
	return EnsureNamespace(s.base(digest)+suffix, s.Namespace)
}

func (s TopicSpec) base(digest string) string {
	name := s.Asset + "_" + s.NodeType + "_" + digest + "_" + s.Version
	if s.DryRun {
		name += "_sim"
	}
	return name
}

// prefixes gives the first from, from+2, … characters of text and last the
// whole of it; of an empty text it gives nothing.
func prefixes(text string, from int) iter.Seq[string] {
	return func(yield func(string) bool) {
		chars := 0
		for at := range text {
			if chars >= from && (chars-from)%digestStep == 0 && !yield(text[:at]) {
				return
			}
			chars++
		}
		if text != "" {
			yield(text)
		}
	}
}

// digestOf cuts the prefix "blake3:" of any case from an id that goes on after it.
func digestOf(id string) string {
	prefix, rest, cut := strings.Cut(id, ":")
	if cut && rest != "" && strings.EqualFold(prefix, "blake3") {
		return rest
	}
	return id
}

// alphanumeric is Python's str.isalnum of one character.
func alphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

// NamespaceSegment sanitises one segment of a namespace (dagmanager.md 3.4):
// trimmed, alphanumerics in lower case, "-" and "_" kept, all else "-", no "-"
// or "_" at either end. What nothing is left of, and what is no string, is "".
func NamespaceSegment(v pyjson.Value) string {
	text, _ := v.Str()
	var out strings.Builder
	for _, r := range pyjson.Strip(text) {
		switch {
		case alphanumeric(r):
			out.WriteString(pyjson.Lower(string(r)))
		case r == '-' || r == '_':
			out.WriteRune(r)
		default:
			out.WriteByte('-')
		}
	}
	return strings.Trim(out.String(), "-_")
}

// Namespace is the namespace of a world and an execution domain, "" when one of
// the two leaves nothing.
func Namespace(world, domain pyjson.Value) string {
	w, d := NamespaceSegment(world), NamespaceSegment(domain)
	if w == "" || d == "" {
		return ""
	}
	return w + "." + d
}

// NamespaceOf reads the namespace that a DAG's meta.topic_namespace gives: a
// string of segments parted by dots, or an object that has both a world and a
// domain. Anything else, and what leaves nothing, is "".
func NamespaceOf(v pyjson.Value) string {
	if v.Kind() == pyjson.Object {
		return Namespace(v.Member("world").Or(v.Member("world_id")),
			v.Member("domain").Or(v.Member("execution_domain")))
	}
	text, _ := v.Str()
	var parts []string
	for part := range strings.SplitSeq(text, ".") {
		if clean := NamespaceSegment(pyjson.OfString(part)); clean != "" {
			parts = append(parts, clean)
		}
	}
	return strings.Join(parts, ".")
}

// EnsureNamespace puts the namespace before the topic unless it is there; an
// empty namespace changes nothing.
func EnsureNamespace(topic, namespace string) string {
	if InNamespace(topic, namespace) {
		return topic
	}
	return namespace + "." + topic
}

// InNamespace says whether the topic's name begins with the namespace; every
// topic is in the empty one.
func InNamespace(topic, namespace string) bool {
	return namespace == "" || len(topic) > len(namespace) &&
		topic[len(namespace)] == '.' && topic[:len(namespace)] == namespace
}

// LiveDomain is the domain that a namespace has when no domain is known.
const LiveDomain = "live"

// DomainOrLive is the text of v in lower case, "live" when nothing is left.
func DomainOrLive(v pyjson.Value) string {
	if text := pyjson.Lower(Stringify(v)); text != "" {
		return text
	}
	return LiveDomain
}

// Stringify is the trimmed text of v as Python's str() gives it; null is "".
func Stringify(v pyjson.Value) string {
	if v.IsNull() {
		return ""
	}
	return pyjson.Strip(v.Text())
}

// ReplyNamespace is the namespace that a gateway puts before the topics of a
// diff reply (gateway.md 2.8): the DAG's meta.topic_namespace, else the world of
// the request with the domain of the DAG's meta, else with the domain of the
// request, "live" by default. Without a world it is "".
func ReplyNamespace(dag pyjson.Value, world, domain string) string {
	meta := dag.Member("meta")
	if given := NamespaceOf(meta.Member("topic_namespace")); given != "" {
		return given
	}
	of := pyjson.OfString(Stringify(meta.Member("execution_domain"))).Or(pyjson.OfString(domain))
	return Namespace(pyjson.OfString(world), pyjson.OfString(DomainOrLive(of)))
}

// PartitionKey is the key of a node's queue in a diff reply (dagmanager.md 2.5):
// id, interval and bucket parted by colons, "0" for an interval or bucket that
// is false to Python, and "#ck=" with the compute key unless that is empty.
func PartitionKey(nodeID string, interval, bucket pyjson.Value, computeKey string) string {
	key := nodeID + ":" + orZero(interval) + ":" + orZero(bucket)
	if computeKey != "" {
		key += "#ck=" + computeKey
	}
	return key
}

func orZero(v pyjson.Value) string {
	if !v.Truthy() {
		return "0"
	}
	return v.Text()
}

// NodeIDOfPartitionKey is the inverse of PartitionKey: what is before the first
// "#", without its last two parts at colons. A key with nothing before the "#"
// is its own node id.
func NodeIDOfPartitionKey(key string) string {
	id, _, _ := strings.Cut(key, "#")
	if id == "" {
		return key
	}
	for range 2 {
		if at := strings.LastIndexByte(id, ':'); at >= 0 {
			id = id[:at]
		}
	}
	return id
}

// AssetOf is the first part of a topic's name: the first of a node's tags that
// is true to Python and has something left in lower case with only
// alphanumerics, "_" and "-"; "asset" when there is none (dagmanager.md 3.1).
func AssetOf(tags []pyjson.Value) string {
	for _, tag := range tags {
		if !tag.Truthy() {
			continue
		}
		if asset := strings.Map(assetRune, pyjson.Lower(tag.Text())); asset != "" {
			return asset
		}
	}
	return "asset"
}

func assetRune(r rune) rune {
	if alphanumeric(r) || r == '_' || r == '-' {
		return r
	}
	return -1
}

// DefaultVersion is the version label of what names none.
const DefaultVersion = "v1"

// NormalizeVersion is the version label of a value (dagmanager.md 2.3): its text
// trimmed, every character but alphanumerics and "-_." as "-", none of "-_." at
// either end. What is neither text nor number, and what leaves nothing, is "v1".
func NormalizeVersion(v pyjson.Value) string {
	switch v.Kind() {
	case pyjson.Null, pyjson.Array, pyjson.Object:
		return DefaultVersion
	}
	label := strings.Trim(strings.Map(versionRune, pyjson.Strip(v.Text())), "-_.")
	if label == "" {
		return DefaultVersion
	}
	return label
}

func versionRune(r rune) rune {
	if alphanumeric(r) || r == '-' || r == '_' || r == '.' {
		return r
	}
	return '-'
}

// The limits that Kafka sets to the name of a topic.
const maxTopicName = 249

// CheckTopicName says why a Kafka broker would refuse a topic of that name.
func CheckTopicName(name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > maxTopicName {
		return fmt.Errorf("topic name %.60q has %d characters; Kafka wants 1 to %d", name, n, maxTopicName)
	}
	if name == "." || name == ".." {
		return fmt.Errorf("topic name %q is reserved in Kafka", name)
	}
	for _, r := range name {
		if r >= utf8.RuneSelf || !alphanumeric(r) && !strings.ContainsRune("._-", r) {
			return fmt.Errorf("topic name %.260q holds %q; Kafka knows only ASCII letters, digits and ._-", name, r)
		}
	}
	return nil
}
