package diff

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"qmtl.internal/plumbline/ref/dag"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// ExecutionContext is all that a diff works on besides its ports: a value.
type ExecutionContext struct {
	StrategyID string
	DAG        string // JSON text
	Request    RequestContext
	// Namespaces lets topics be prefixed with world and domain.
	Namespaces bool
	Now        time.Time // the time of marks and sentinels
}

// RequestContext is the compute context that came beside the DAG; "" is absent.
type RequestContext struct {
	WorldID, ExecutionDomain, AsOf, Partition, DatasetFingerprint string
}

// InferContext reads the compute context that a DAG itself carries: its
// compute_context, else that of its meta. It decides compute keys and the
// namespace of topics (dagmanager.md 2.4).
func InferContext(doc pyjson.Value) dag.ComputeContext {
	meta := doc.Member("meta")
	given := doc.Member("compute_context")
	if given.Kind() != pyjson.Object {
		given = meta.Member("compute_context")
	}
	c := dag.Coerce(given)
	if fingerprint := dag.NormalizeValue(meta.Member("dataset_fingerprint")); c.DatasetFingerprint == "" && fingerprint != "" {
		return c.WithOverrides(dag.Overrides{DatasetFingerprint: &fingerprint})
	}
	return c
}

// MergeContext lays the request's fields over the inferred context and decides
// anew whether it is safe. It decides about sentinels and weights.
func MergeContext(inferred dag.ComputeContext, r RequestContext) dag.ComputeContext {
	merged := inferred
	if world := pyjson.Strip(r.WorldID); world != "" {
		merged = merged.ForWorld(world)
	}
	return merged.WithOverrides(dag.Overrides{
		ExecutionDomain:    given(r.ExecutionDomain),
		AsOf:               given(r.AsOf),
		Partition:          given(r.Partition),
		DatasetFingerprint: given(r.DatasetFingerprint),
	})
}

func given(s string) *string {
	if s = pyjson.Strip(s); s == "" {
		return nil
	}
	return &s
}

// NamespaceOf is the prefix of the topics of a DAG (dagmanager.md 3.4): what its
// meta asks for, else the world of the context or of the meta with the domain
// of the context, else "".
func NamespaceOf(doc pyjson.Value, inferred dag.ComputeContext) string {
	meta := doc.Member("meta")
	if ns := contract.NamespaceOf(meta.Member("topic_namespace")); ns != "" {
		return ns
	}
	world := pyjson.OfString(inferred.WorldID).Or(meta.Member("world")).Or(meta.Member("world_id"))
	return contract.Namespace(pyjson.OfString(contract.Stringify(world)), pyjson.OfString(inferred.ExecutionDomain))
}

// Version is what a DAG says about its own version.
type Version struct {
	Label    string
	Weight   *float64 // share of the traffic, 0 to 1; nil when none is given
	Sentinel bool     // the DAG holds a sentinel node
}

// The keys that may hold a version or a weight, by precedence.
var (
	sentinelVersions = []string{"version", "strategy_version", "build_version"}
	rootVersions     = []string{"strategy_version", "version"}
	metaVersions     = []string{"version", "strategy_version", "build_version"}
	weightKeys       = []string{"traffic_weight", "sentinel_weight", "weight"}
)

// VersionOf reads label and weight (dagmanager.md 2.3). sentinels are the
// sentinel nodes of the DAG, in order.
func VersionOf(doc pyjson.Value, sentinels []pyjson.Value) Version {
	v := Version{Sentinel: len(sentinels) > 0}
	meta := doc.Member("meta")
	if v.Sentinel {
		v.Label = sentinelVersion(sentinels[0])
	} else {
		v.Label = contract.NormalizeVersion(firstTruthy(doc, rootVersions).Or(firstTruthy(meta, metaVersions)))
	}
	for _, holder := range append(sentinels[:len(sentinels):len(sentinels)], meta) {
		if v.Weight = weightOf(holder); v.Weight != nil {
			break
		}
	}
	return v
}

// sentinelVersion takes the first key that is there, whatever its value.
func sentinelVersion(node pyjson.Value) string {
	for _, key := range sentinelVersions {
		if value, there := node.Get(key); there {
			return contract.NormalizeVersion(value)
		}
	}
	return contract.NormalizeVersion(node.Member("node_id"))
}

func firstTruthy(v pyjson.Value, keys []string) pyjson.Value {
	for _, key := range keys {
		if value := v.Member(key); value.Truthy() {
			return value
		}
	}
	return pyjson.Value{}
}

func weightOf(v pyjson.Value) *float64 {
	for _, key := range weightKeys {
		if w, ok := CoerceWeight(v.Member(key)); ok {
			return &w
		}
	}
	return nil
}

// CoerceWeight reads a number or numeric text as a weight between 0 and 1; false
// for anything else, NaN and the infinities.
func CoerceWeight(v pyjson.Value) (float64, bool) {
	f, ok := toFloat(v)
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	return min(max(f, 0), 1), true
}

// floatText is what Python's float() reads, save for nan and the infinities.
var floatText = regexp.MustCompile(`^[+-]?(\d+(_\d+)*\.?|(\d+(_\d+)*)?\.\d+(_\d+)*)([eE][+-]?\d+(_\d+)*)?$`)

// decimal gives the ASCII digit that a decimal digit of any script stands for,
// as float() reads them. The digits of a script stand in a row, from 0 on, and
// so do several rows without a gap.
func decimal(r rune) rune {
	if r < utf8.RuneSelf || !unicode.Is(unicode.Nd, r) {
		return r
	}
	place := rune(0)
	for unicode.Is(unicode.Nd, r-place-1) {
		place++
	}
	return '0' + place%10
}

func toFloat(v pyjson.Value) (float64, bool) {
	switch v.Kind() {
	case pyjson.Float:
		return v.Float64()
	case pyjson.Bool:
		if v.IsTrue() {
			return 1, true
		}
		return 0, true
	case pyjson.Int, pyjson.String:
		text := strings.Map(decimal, pyjson.Strip(v.Text()))
		if !floatText.MatchString(text) {
			return 0, false
		}
		f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
		return f, err == nil
	default:
		return 0, false
	}
}
