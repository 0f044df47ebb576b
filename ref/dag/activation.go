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
