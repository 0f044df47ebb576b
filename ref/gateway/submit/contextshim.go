package submit

import (
	"strings"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

type shimContext struct {
	WorldID, ExecutionDomain, AsOf, Partition, DatasetFingerprint string
	Downgraded                                                    bool
	DowngradeReason                                               string
	SafeMode                                                      bool
}

func shimMeta(meta pyjson.Value) shimContext {
	s := func(k string) string {
		v := meta.Member(k)
		if v.IsNull() {
			return ""
		}
		return pyjson.Strip(v.Text())
	}
	c := shimContext{ExecutionDomain: ShimDomain(s("execution_domain")), AsOf: s("as_of"), Partition: s("partition"), DatasetFingerprint: s("dataset_fingerprint")}
	switch {
	case c.ExecutionDomain == "" || c.ExecutionDomain == "default":
		c.ExecutionDomain, c.Downgraded, c.DowngradeReason, c.SafeMode = "backtest", true, "decision_unavailable", true
	case (c.ExecutionDomain == "backtest" || c.ExecutionDomain == "dryrun") && c.AsOf == "":
		c.ExecutionDomain, c.Downgraded, c.DowngradeReason, c.SafeMode = "backtest", true, "missing_as_of", true
	}
	return c
}

func ShimDomain(s string) string {
	s = strings.ToLower(s)
	switch s {
	case "paper", "sim":
		return "dryrun"
	case "prod":
		return "live"
	}
	return s
}

func (c shimContext) JSON() pyjson.Value {
	n := func(s string) pyjson.Value {
		if s == "" {
			return pyjson.Value{}
		}
		return pyjson.OfString(s)
	}
	m := []pyjson.Member{member("execution_domain", n(c.ExecutionDomain)), member("as_of", n(c.AsOf)), member("partition", n(c.Partition)), member("dataset_fingerprint", n(c.DatasetFingerprint)), member("world_id", n(c.WorldID))}
	if c.Downgraded {
		m = append(m, member("downgraded", pyjson.OfBool(true)), text("downgrade_reason", c.DowngradeReason), member("safe_mode", pyjson.OfBool(true)))
	}
	return pyjson.OfObject(m...)
}

func (c shimContext) Redis() []string {
	var f []string
	for _, m := range c.JSON().Members() {
		if s, _ := m.Value.Str(); s != "" {
			f = append(f, "compute_"+m.Key, s)
		}
	}
	return f
}
