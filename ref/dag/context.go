// Package dag holds what the Gateway and the DAG Manager know about a strategy
// graph by itself: in which compute context it runs, the key that its nodes
// have there, and the order of its nodes. It takes values and gives values.
package dag

import (
	"strings"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The execution domains that have a meaning of their own; any other text is a
// domain too.
const (
	Backtest = "backtest"
	DryRun   = "dryrun"
	Live     = "live"
	Shadow   = "shadow"

	unset = "default" // a domain that says: none
)

// Why a context was downgraded.
const (
	MissingAsOf         = "missing_as_of"
	StaleDecision       = "stale_decision"
	DecisionUnavailable = "decision_unavailable"
)

// ComputeContext says where and as of when a strategy computes (gateway.md 2.5).
// "" stands for an absent value. It is a value: changing one gives a new one.
type ComputeContext struct {
	WorldID            string
	ExecutionDomain    string // canonical, never ""
	AsOf               string
	Partition          string
	DatasetFingerprint string
	Downgraded         bool
	DowngradeReason    string // one of the reasons above when Downgraded
	SafeMode           bool
}

// NormalizeValue gives the trimmed text of a string, number or boolean, ""
// for null, blank and containers.
func NormalizeValue(v pyjson.Value) string {
	switch v.Kind() {
	case pyjson.Null, pyjson.Array, pyjson.Object:
		return ""
	default:
		return pyjson.Strip(v.Text())
	}
}

// ResolveDomain maps the name of an execution domain to its canonical one: the
// first segment between '/' and ':' that is a known token decides, whatever
// its case, spaces, '_' and '-'. An unknown name stays, in lower case.
func ResolveDomain(name string) string {
	lowered := pyjson.Lower(name)
	for segment := range strings.FieldsFuncSeq(lowered, func(r rune) bool { return r == '/' || r == ':' }) {
		if domain := domainOf(strings.Map(bare, segment)); domain != "" {
			return domain
		}
	}
	return lowered
}

// bare drops what a token may be written with.
func bare(r rune) rune {
	if r == '_' || r == '-' || pyjson.IsSpace(r) {
		return -1
	}
	return r
}

func domainOf(token string) string {
	switch token {
	case "backtest", "backtesting", "compute", "computeonly", "offline", "sandbox", "validate", "validation":
		return Backtest
	case "dryrun", "dryrunmode", "paper", "papermode", "papertrade", "papertrading", "papertrader",
		"sim", "simulation", "simulated":
		return DryRun
	case "live", "prod", "production":
		return Live
	case "shadow":
		return Shadow
	default:
		return ""
	}
}

// WorldMode gives the canonical mode of a WorldService decision: validate,
// compute-only, paper, live or shadow. known is false for what is none of
// their names, which counts as validate.
func WorldMode(v pyjson.Value) (mode string, known bool) {
	s, _ := v.Str()
	switch pyjson.Lower(pyjson.Strip(s)) {
	case "validate":
		return "validate", true
	case "compute-only", "compute_only", "computeonly":
		return "compute-only", true
	case "paper", "sim", "simulation", "simulated", "papertrade", "papertrading", "paper_trading":
		return "paper", true
	case "live", "active":
		return "live", true
	case "shadow":
		return "shadow", true
	default:
		return "validate", false
	}
}

// WorldModeDomain gives the execution domain of a WorldService decision.
func WorldModeDomain(v pyjson.Value) string {
	switch mode, _ := WorldMode(v); mode {
	case "paper":
		return DryRun
	case "live":
		return Live
	case "shadow":
		return Shadow
	default:
		return Backtest
	}
}

// SafeMode is the outcome of EvaluateSafeMode.
type SafeMode struct {
	Domain     string // to run in
	Downgraded bool   // true means safe mode too
	Reason     string
}

// EvaluateSafeMode decides whether a domain may be run in: without a domain, or
// in backtest and dryrun without asOf, the strategy is downgraded to a safe
// backtest. The domain is trimmed and lower-cased, not resolved.
func EvaluateSafeMode(domain, asOf string) SafeMode {
	domain = pyjson.Lower(pyjson.Strip(domain))
	switch {
	case domain == "" || domain == unset:
		return SafeMode{Domain: Backtest, Downgraded: true, Reason: DecisionUnavailable}
	case (domain == Backtest || domain == DryRun) && asOf == "":
		return SafeMode{Domain: Backtest, Downgraded: true, Reason: MissingAsOf}
	default:
		return SafeMode{Domain: domain}
	}
}

// evaluated gives c with the outcome of EvaluateSafeMode on its domain.
func (c ComputeContext) evaluated() ComputeContext {
	mode := EvaluateSafeMode(c.ExecutionDomain, c.AsOf)
	c.ExecutionDomain, c.Downgraded, c.DowngradeReason, c.SafeMode = mode.Domain, mode.Downgraded, mode.Reason, mode.Downgraded
	return c
}

// FromMeta reads the context that the meta of a submission asks for. It has no
// world: see ForWorld.
func FromMeta(meta pyjson.Value) ComputeContext {
	return read(pyjson.Value{}, ResolveDomain(NormalizeValue(meta.Member("execution_domain"))), meta)
}

// Coerce reads a context object as it stands in a DAG, with the aliases world
// and domain.
func Coerce(payload pyjson.Value) ComputeContext {
	world := payload.Member("world_id").Or(payload.Member("world"))
	domain := payload.Member("execution_domain").Or(payload.Member("domain"))
	return read(world, ResolveDomain(NormalizeValue(domain)), payload)
}

// FromDecision reads the context of a WorldService decision about worldID.
func FromDecision(worldID string, decision pyjson.Value) ComputeContext {
	return read(pyjson.OfString(worldID), WorldModeDomain(decision.Member("effective_mode")), decision)
}

func read(world pyjson.Value, domain string, from pyjson.Value) ComputeContext {
	return ComputeContext{
		WorldID:            NormalizeValue(world),
		ExecutionDomain:    domain,
		AsOf:               NormalizeValue(from.Member("as_of")),
		Partition:          NormalizeValue(from.Member("partition")),
		DatasetFingerprint: NormalizeValue(from.Member("dataset_fingerprint").Or(from.Member("datasetFingerprint"))),
	}.evaluated()
}

// ForWorld gives c in the world worldID.
func (c ComputeContext) ForWorld(worldID string) ComputeContext {
	c.WorldID = pyjson.Strip(worldID)
	return c
}

// Overrides replaces fields of a context; nil leaves a field, blank clears it.
type Overrides struct{ ExecutionDomain, AsOf, Partition, DatasetFingerprint *string }

// WithOverrides gives c with o and decides anew whether it is safe. The domain
// that an earlier downgrade left behind counts as its domain.
func (c ComputeContext) WithOverrides(o Overrides) ComputeContext {
	if o.ExecutionDomain != nil {
		c.ExecutionDomain = ResolveDomain(pyjson.Strip(*o.ExecutionDomain))
	}
	override(&c.AsOf, o.AsOf)
	override(&c.Partition, o.Partition)
	override(&c.DatasetFingerprint, o.DatasetFingerprint)
	return c.evaluated()
}

func override(field, with *string) {
	if with != nil {
		*field = pyjson.Strip(*with)
	}
}

// Downgrade gives c in domain, in safe mode for reason.
func (c ComputeContext) Downgrade(domain, reason string) ComputeContext {
	c.ExecutionDomain = EvaluateSafeMode(domain, c.AsOf).Domain
	c.Downgraded, c.DowngradeReason, c.SafeMode = true, reason, true
	return c
}

// Value is the context as the commit log and the WebSocket carry it: members
// in contract order, null for what is absent, the flags only when set.
func (c ComputeContext) Value() pyjson.Value {
	members := []pyjson.Member{
		nullable("execution_domain", c.ExecutionDomain), nullable("as_of", c.AsOf), nullable("partition", c.Partition),
		nullable("dataset_fingerprint", c.DatasetFingerprint), nullable("world_id", c.WorldID),
	}
	if c.Downgraded {
		members = append(members, pyjson.Member{Key: "downgraded", Value: pyjson.OfBool(true)})
	}
	if c.Downgraded && c.DowngradeReason != "" {
		members = append(members, nullable("downgrade_reason", c.DowngradeReason))
	}
	if c.SafeMode {
		members = append(members, pyjson.Member{Key: "safe_mode", Value: pyjson.OfBool(true)})
	}
	return pyjson.OfObject(members...)
}

func nullable(key, s string) pyjson.Member {
	if s == "" {
		return pyjson.Member{Key: key}
	}
	return pyjson.Member{Key: key, Value: pyjson.OfString(s)}
}

// RedisFields is the context as fields and values, by turns, of the hash
// strategy:<id>: every text that is there, its name behind "compute_".
func (c ComputeContext) RedisFields() []any {
	fields := make([]any, 0, 16) // room for the caller's own, too
	reason := c.DowngradeReason
	if !c.Downgraded {
		reason = ""
	}
	for _, f := range [...]struct {
		name any
		text string
	}{
		{"compute_execution_domain", c.ExecutionDomain}, {"compute_as_of", c.AsOf}, {"compute_partition", c.Partition},
		{"compute_dataset_fingerprint", c.DatasetFingerprint}, {"compute_world_id", c.WorldID}, {"compute_downgrade_reason", reason},
	} {
		if f.text != "" {
			fields = append(fields, f.name, f.text)
		}
	}
	return fields
}

// ComputeKey gives the key of a node in a context: "blake3:" and the hash over
// node id, world, domain, as-of and partition with U+001F between
// (dagmanager.md 2.5). The dataset fingerprint is not part of it.
func ComputeKey(nodeID string, c ComputeContext) string {
	domain := c.ExecutionDomain
	if d := pyjson.Lower(pyjson.Strip(domain)); d == "" || d == unset {
		domain = Backtest
	}
	return contract.HashID([]byte(strings.Join([]string{nodeID, c.WorldID, domain, c.AsOf, c.Partition}, "\x1f")))
}
