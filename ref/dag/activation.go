package dag

import "qmtl.internal/plumbline/scenarios/contract/pyjson"

// AugmentActivation gives an activation with what follows from its mode: the
// canonical effective_mode, execution_domain and, for a world, compute_context
// (controlbus.md 2.2). reason says why the context was downgraded, "" when it
// was not.
func AugmentActivation(activation pyjson.Value) (augmented pyjson.Value, reason string) {
	mode := activation.Member("effective_mode")
	name, named := mode.Str()
	if !named {
		activation = activation.Without("execution_domain")
	} else {
		if canonical, known := WorldMode(mode); known {
			name = canonical
			activation = activation.With("effective_mode", pyjson.OfString(canonical))
		}
		activation = activation.With("execution_domain", pyjson.OfString(ResolveDomain(name)))
	}
	world := activation.Member("world_id")
	if !world.Truthy() {
		return activation, ""
	}
	c := FromDecision(NormalizeValue(world), activation)
	if !named {
		c = c.Downgrade(Backtest, DecisionUnavailable)
	}
	return activation.With("compute_context", c.Value()).
		With("execution_domain", pyjson.OfString(c.ExecutionDomain)), c.DowngradeReason
}

// AugmentDecision gives a decision about world with what follows from its mode:
// execution_domain and compute_context (controlbus.md 6.4), and the canonical
// effective_mode. One without effective_mode stays as it is. reason says why the
// context was downgraded, "" when it was not.
func AugmentDecision(world string, decision pyjson.Value) (augmented pyjson.Value, reason string) {
	mode, there := decision.Get("effective_mode")
	if !there {
		return decision, ""
	}
	if canonical, known := WorldMode(mode); known {
		decision = decision.With("effective_mode", pyjson.OfString(canonical))
	}
	c := FromDecision(world, decision)
	return decision.With("execution_domain", pyjson.OfString(c.ExecutionDomain)).
		With("compute_context", c.Value()), c.DowngradeReason
}

// A Decision is what became of asking a WorldService where a world's strategies
// compute.
type Decision struct {
	Envelope pyjson.Value // of no meaning unless Known
	Known    bool         // there was an answer, be it an old one
	Stale    bool         // it is an old one
}

// Decided gives the context of a submission to world: what meta asks for, as far
// as d lets it (gateway.md 2.5). cause says how d itself downgraded it,
// StaleDecision or DecisionUnavailable, "" when it did not.
func Decided(meta pyjson.Value, world string, d Decision) (c ComputeContext, cause string) {
	asked := FromMeta(meta).ForWorld(world)
	switch {
	case !d.Known || d.Envelope.Kind() != pyjson.Object:
		return asked.undecided()
	case d.Stale:
		c = FromDecision(world, d.Envelope).with(asked)
		return c.Downgrade(Backtest, StaleDecision), StaleDecision
	default:
		return FromDecision(world, d.Envelope).with(asked), ""
	}
}

// undecided: without a decision nothing but a safe mode is safe.
func (c ComputeContext) undecided() (ComputeContext, string) {
	if c.SafeMode {
		return c, ""
	}
	domain := c.ExecutionDomain
	if domain != DryRun && domain != Shadow {
		domain = Backtest
	}
	return c.Downgrade(domain, DecisionUnavailable), DecisionUnavailable
}

// with lets the caller's partition override and the caller's as-of fill what
// the decision leaves open.
func (c ComputeContext) with(asked ComputeContext) ComputeContext {
	var o Overrides
	if asked.Partition != "" {
		o.Partition = &asked.Partition
	}
	if c.AsOf == "" && asked.AsOf != "" {
		o.AsOf = &asked.AsOf
	}
	if o == (Overrides{}) {
		return c
	}
	return c.WithOverrides(o)
}
