// Package k6x is the k6 module k6/x/plumbline. It adapts bench/load and
// bench/workload to k6: settings, metrics, execution segments and the end of a
// run are k6's, the load is theirs.
package k6x

import (
	"sync"

	"go.k6.io/k6/js/common"
	"go.k6.io/k6/js/modules"
	"go.k6.io/k6/lib"
	"go.k6.io/k6/subcommand"
)

// Register makes the module, the executor and the commands known to k6. The
// main package of our k6 calls it once, before k6 starts.
func Register() {
	modules.Register("k6/x/plumbline", &root{})
	lib.RegisterExecutorConfigType(ArrivalRate, newArrivalConfig)
	subcommand.RegisterExtension(mergeCommand, newMergeCommand)
	subcommand.RegisterExtension(turnsCommand, newTurnsCommand)
}

// root is the module, one a process.
type root struct {
	offering sync.Map // names of scenarios that some VU offers already
}

// NewModuleInstance runs once a VU, in the init context.
func (r *root) NewModuleInstance(vu modules.VU) modules.Instance {
	m, err := newMeters(vu.InitEnv().Registry)
	if err != nil {
		common.Throw(vu.Runtime(), err)
	}
	return &instance{root: r, vu: vu, meters: m}
}

// instance is the module in one VU.
type instance struct {
	root   *root
	vu     modules.VU
	meters *meters
	timed  timed
}

// Exports implements modules.Instance.
func (in *instance) Exports() modules.Exports {
	return modules.Exports{Named: map[string]any{"plan": in.plan, "offer": in.offer, "begin": in.begin, "end": in.end}}
}
