package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"qmtl.internal/plumbline/harness/neighbour"
)

// ownPrefix begins the capabilities of a gateway that a scenario has to itself.
const ownPrefix = "own-gateway"

// leaveWithin bounds how long a gateway of a scenario's own may take to stop.
const leaveWithin = 30 * time.Second

// ownGateway is what a scenario's header says of the gateway that it has to
// itself.
type ownGateway struct {
	WorldService *[]worldRule   `json:"worldservice"`
	DagManager   *[]dagRule     `json:"dagmanager"`
	Without      []string       `json:"without"`
	Settings     map[string]any `json:"settings"`
}

func (g ownGateway) validate() error {
	var errs [2]error
	if g.WorldService != nil {
		_, errs[0] = worldRules(*g.WorldService, "/worldservice")
	}
	if g.DagManager != nil {
		_, errs[1] = dagRules(*g.DagManager, "/dagmanager")
	}
	return errors.Join(errs[:]...)
}

// needs are the capabilities that such a gateway calls for.
func (g ownGateway) needs() []string {
	all := []string{ownPrefix}
	if g.WorldService != nil {
		all = append(all, ownPrefix+".worldservice")
	}
	if g.DagManager != nil {
		all = append(all, ownPrefix+".dagmanager")
	}
	for _, server := range g.Without {
		all = append(all, ownPrefix+".without."+server)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Settings)) {
		all = append(all, ownPrefix+".setting."+name)
	}
	return all
}

// ownGateway reads the header's gateway the way the run will.
func (c *checker) ownGateway(s *Scenario, v any) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	const at = "/gateway"
	c.own, s.own, s.ownLine = m, m, c.doc.atKey(at).line
	c.references(m, at)
	g, err := decode[ownGateway](m)
	if err == nil {
		err = g.validate()
	}
	s.Needs = append(s.Needs, g.needs()...)
	c.mistakes(err, at, "")
}

// neighbour refuses a step that looks at a neighbour whom nobody plays.
func (c *checker) neighbour(st *Step, pointer string) {
	if st.Action != "worldservice" && st.Action != "dagmanager" {
		return
	}
	if _, there := c.own[st.Action]; !there {
		c.doc.mistake(c.doc.atKey(pointer+"/"+st.Action), "the scenario has no scripted "+st.Action,
			"add gateway: { "+st.Action+": [] } to its header")
	}
}

// neighbours are those whom a scenario's own gateway talks to; each nil where
// it talks to the SUT's.
type neighbours struct {
	world *neighbour.WorldService
	dag   *neighbour.DagManager
}

func (n *neighbours) close() error {
	var err error
	if n.world != nil {
		err = n.world.Close()
	}
	if n.dag != nil {
		n.dag.Close()
	}
	return err
}

// moveIn starts the scenario's own gateway and its neighbours. The context it
// gives ends when that gateway dies; leave stops all that was started and waits
// for it. On error nothing is left running.
func (x *execution) moveIn(ctx context.Context) (_ context.Context, leave func(context.Context) error, err error) {
	args, err := x.scope.expand(x.scenario.own)
	if err != nil {
		return ctx, nil, err
	}
	g, err := decode[ownGateway](args)
	if err != nil {
		return ctx, nil, err
	}
	near := &neighbours{}
	wish := neighbour.Wish{Name: x.uniq, Without: g.Without, Settings: map[string]string{}}
	for name, v := range g.Settings {
		wish.Settings[name] = written(v)
	}
	err = errors.Join(near.startWorld(ctx, g, &wish), near.startDag(ctx, g, &wish))
	var gateway *neighbour.Gateway
	if err == nil {
		gateway, err = x.env.Beside.Start(ctx, wish)
	}
	if err != nil {
		return ctx, nil, errors.Join(err, near.close())
	}
	alive, end := livesWith(ctx, gateway)
	x.near, x.runner = near, x.toward(gateway.URL)
	return alive, func(ctx context.Context) error {
		defer x.wire.close()
		died := end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
		defer cancel()
		return errors.Join(died, gateway.Stop(ctx), near.close())
	}, nil
}

// livesWith gives a context that ends when a gateway dies. end lets go of the
// gateway and tells whether it had died.
func livesWith(ctx context.Context, g *neighbour.Gateway) (alive context.Context, end func() error) {
	alive, die := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-g.Dead:
			die(g.Err())
		case <-alive.Done():
		}
	}()
	return alive, func() error {
		die(nil)
		<-watched
		return g.Err()
	}
}

func (n *neighbours) startWorld(ctx context.Context, g ownGateway, wish *neighbour.Wish) error {
	if g.WorldService == nil {
		return nil
	}
	rules, err := worldRules(*g.WorldService, "/worldservice")
	if err != nil {
		return err
	}
	if n.world, err = neighbour.StartWorldService(ctx); err != nil {
		return err
	}
	wish.WorldService = n.world.URL()
	return n.world.Script(rules)
}

func (n *neighbours) startDag(ctx context.Context, g ownGateway, wish *neighbour.Wish) error {
	if g.DagManager == nil {
		return nil
	}
	rules, err := dagRules(*g.DagManager, "/dagmanager")
	if err != nil {
		return err
	}
	if n.dag, err = neighbour.StartDagManager(ctx); err != nil {
		return err
	}
	wish.DagManager = n.dag.Address()
	return n.dag.Script(rules)
}

// toward is the same run with another gateway.
func (r *runner) toward(url string) *runner {
	other := *r
	other.env.Gateway = url
	other.wire = r.wire.toward(other.env)
	return &other
}

// ownFailure is a scenario whose own gateway could not be had, or did not leave
// as it should.
func (x *execution) ownFailure(ctx context.Context, err error) *failure {
	f := &failure{step: &Step{Action: "gateway", Line: x.scenario.ownLine}, problems: []string{err.Error()}}
	if ctx.Err() != nil {
		f.problems = append(f.problems, fmt.Sprint(context.Cause(ctx)))
	}
	return f
}
