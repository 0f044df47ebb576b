package contract

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The match modes of a tag query.
const (
	MatchAny = "any"
	MatchAll = "all"
)

// TagQuery is what a TagQueryNode asks for: queues of nodes with any or all of
// Tags and that interval in seconds. Tags are unique and sorted.
type TagQuery struct {
	Tags      []string
	MatchMode string
	Interval  *int64 // nil when the node has none that is an integer
}

// TagQueryOf reads the tag query of a node (gateway.md 2.4). The error, which
// wraps ErrNode, means that tags or match mode have a shape that cannot be
// read, or that the interval is beyond 64 bits.
func TagQueryOf(node pyjson.Value) (TagQuery, error) {
	tags, mode, interval, err := tagQuery(node)
	if err != nil {
		return TagQuery{}, err
	}
	q := TagQuery{Tags: tags, MatchMode: mode}
	if interval.IsNull() {
		return q, nil
	}
	seconds, err := pyjson.ToInt(interval)
	if err != nil {
		return TagQuery{}, fmt.Errorf("%w: interval: %w", ErrNode, err)
	}
	q.Interval = &seconds
	return q, nil
}

// Missing names what the query lacks to be looked up, in the words of
// gateway.md 2.3: without an interval both tags and interval are named.
func (q TagQuery) Missing() []string {
	switch {
	case len(q.Tags) == 0:
		return []string{"tags"}
	case q.Interval == nil:
		return []string{"tags", "interval"}
	default:
		return nil
	}
}

func tagQuery(node pyjson.Value) (tags []string, mode string, interval pyjson.Value, err error) {
	params := node.Member("params") // its members are null unless it is an object
	from := params.Member("query_tags").Or(params.Member("tags"))
	if tags, err = SplitTags(orNull(from, node.Member("tags"))); err != nil {
		return nil, "", pyjson.Value{}, fmt.Errorf("%w: tags: %w", ErrNode, err)
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	if mode, err = NormalizeMatchMode(orNull(params.Member("match_mode"), node.Member("match_mode"))); err != nil {
		return nil, "", pyjson.Value{}, fmt.Errorf("%w: match_mode: %w", ErrNode, err)
	}
	interval, err = pyjson.ToInteger(orNull(node.Member("interval"), params.Member("interval")))
	if err != nil {
		interval = pyjson.Value{}
	}
	return tags, mode, interval, nil
}

// orNull gives v, or other when v is null.
func orNull(v, other pyjson.Value) pyjson.Value {
	if v.IsNull() {
		return other
	}
	return v
}

// tagQueryParams gives the parameters that stand for a tag query in its node's
// id.
func tagQueryParams(node pyjson.Value) (pyjson.Value, error) {
	tags, mode, interval, err := tagQuery(node)
	if err != nil {
		return pyjson.Value{}, err
	}
	list := make([]pyjson.Value, 0, len(tags))
	for _, tag := range tags {
		list = append(list, pyjson.OfString(tag))
	}
	return pyjson.OfObject(
		pyjson.Member{Key: "interval", Value: interval},
		pyjson.Member{Key: "match_mode", Value: pyjson.OfString(mode)},
		pyjson.Member{Key: "query_tags", Value: pyjson.OfArray(list...)},
	), nil
}

// SplitTags reads a list of tags: null is none, a string splits at commas, an
// array or object gives the texts of its items. Tags are trimmed, empty ones
// dropped, order and repetition kept. A number or boolean is an error.
func SplitTags(v pyjson.Value) ([]string, error) {
	if v.IsNull() {
		return nil, nil
	}
	if s, ok := v.Str(); ok {
		return SplitTagText(s), nil
	}
	items, err := Iterate(v)
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, item := range items {
		if tag := pyjson.Strip(item.Text()); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// SplitTagText is SplitTags on a comma list.
func SplitTagText(s string) []string {
	var tags []string
	for part := range strings.SplitSeq(s, ",") {
		if tag := pyjson.Strip(part); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// NormalizeMatchMode gives "all" or "any": falsy and unknown values are "any",
// case does not matter, space does. A truthy value that is no string is an
// error.
func NormalizeMatchMode(v pyjson.Value) (string, error) {
	s, ok := v.Str()
	if !ok && v.Truthy() {
		return "", fmt.Errorf("not a string: %s", v.Kind())
	}
	return MatchMode(s), nil
}

// MatchMode is NormalizeMatchMode on a text.
func MatchMode(s string) string {
	if pyjson.Lower(s) == MatchAll {
		return MatchAll
	}
	return MatchAny
}

// ErrQueue is wrapped by the errors of NormalizeQueues.
var ErrQueue = errors.New("queue descriptor")

// NormalizeQueues gives the names of the queues that a client may subscribe
// to: global ones are left out. A descriptor that is no object or has no queue
// name is an error.
func NormalizeQueues(v pyjson.Value) ([]string, error) {
	items, err := Iterate(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrQueue, err)
	}
	names := make([]string, 0, len(items))
	for i, item := range items {
		if item.Kind() != pyjson.Object {
			return nil, fmt.Errorf("%w %d: %s, not an object", ErrQueue, i, item.Kind())
		}
		if item.Member("global").Truthy() {
			continue
		}
		name := item.Member("queue")
		if !name.Truthy() {
			return nil, fmt.Errorf("%w %d: no queue", ErrQueue, i)
		}
		names = append(names, name.Text())
	}
	return names, nil
}
