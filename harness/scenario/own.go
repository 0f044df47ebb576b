package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"qmtl.internal/plumbline/harness/neighbour"
)

// ownPrefix begins the capabilities of a gateway, or a DAG Manager, that a
// scenario has to itself; then comes the key of its header.
const ownPrefix = "own-"

// leaveWithin bounds how long a service of a scenario's own may take to stop.
const leaveWithin = 30 * time.Second

// ownGateway is what a scenario's header says of the gateway that it has to
// itself.
type ownGateway struct {
	WorldService *[]worldRule   `json:"worldservice"`
	DagManager   *[]dagRule     `json:"dagmanager"`
	Without      []string       `json:"without"`
	Settings     map[string]any `json:"settings"`
}

// ownService is a service that a scenario has to itself, as its header says.
type ownService interface {
	validate() error
	// needs are what a wish for it contains, as a neighbour.Starter offers it.
	needs() []string
	// surround starts those whom it talks to, and names them in the wish.
	surround(ctx context.Context, near *neighbours, wish *neighbour.Wish) error
}

// ownKind says how one kind of service is read and who starts it.
type ownKind struct {
	read    func(header any) (ownService, error)
	starter func(Env) neighbour.Starter
}

// ownKinds are the kinds by the key of the header.
func ownKinds() map[string]ownKind {
	return map[string]ownKind{
		"gateway":    {readOwn[ownGateway], func(e Env) neighbour.Starter { return e.Beside }},
		"dagmanager": {readOwn[ownDagManager], func(e Env) neighbour.Starter { return e.BesideDagManager }},
	}
}

func readOwn[T ownService](header any) (ownService, error) {
	s, err := decode[T](header)
	return s, err
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

func (g ownGateway) needs() []string {
	var all []string
	if g.WorldService != nil {
		all = append(all, "worldservice")
	}
	if g.DagManager != nil {
		all = append(all, "dagmanager")
	}
	for _, server := range g.Without {
		all = append(all, "without."+server)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Settings)) {
		all = append(all, "setting."+name)
	}
	return all
}

func (g ownGateway) surround(ctx context.Context, near *neighbours, wish *neighbour.Wish) error {
	wish.Without = g.Without
	for name, v := range g.Settings {
		wish.Settings[name] = written(v)
	}
	return errors.Join(near.startWorld(ctx, g, wish), near.startDag(ctx, g, wish))
}

// ownDagManager is what a scenario's header says of the DAG Manager that it has
// to itself.
type ownDagManager struct {
	Kafka *[]ownTopic `json:"kafka"`
}

// ownTopic is one that the broker of a scenario's own DAG Manager begins with.
type ownTopic struct {
	Name       string            `json:"name"`
	Partitions int32             `json:"partitions"`
	Age        *duration         `json:"age"`
	Config     map[string]string `json:"config"`
}

func (ownDagManager) validate() error { return nil }

func (d ownDagManager) needs() []string {
	if d.Kafka == nil {
		return nil
	}
	return []string{"kafka"}
}

func (d ownDagManager) surround(_ context.Context, near *neighbours, wish *neighbour.Wish) (err error) {
	if d.Kafka == nil {
		return nil
	}
	var topics []neighbour.Topic
	for _, t := range *d.Kafka {
		topics = append(topics, neighbour.Topic{Name: t.Name, Partitions: t.Partitions, Age: (*time.Duration)(t.Age), Config: t.Config})
	}
	if near.kafka, err = neighbour.StartKafka(topics); err != nil {
		return err
	}
	wish.Kafka = near.kafka.Address()
	return nil
}

// ownServices reads the services of the header the way the run will.
func (c *checker) ownServices(s *Scenario, header map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(ownKinds())) {
		m, ok := header[key].(map[string]any)
		if !ok {
			continue
		}
		at := "/" + key
		if s.own != nil {
			c.doc.mistake(c.doc.atKey(at), "the scenario has a "+s.ownKey+" of its own, and a "+key, "keep one of them; a gateway's DAG Manager is a scripted one")
		}
		s.own, s.ownKey, s.ownLine = m, key, c.doc.atKey(at).line
		c.references(m, at)
		o, err := ownKinds()[key].read(m)
		if err == nil {
			err = o.validate()
		}
		s.Needs = append(s.Needs, ownPrefix+key)
		for _, need := range o.needs() {
			s.Needs = append(s.Needs, ownPrefix+key+"."+need)
		}
		c.mistakes(err, at, "")
	}
	if s.ownKey == "gateway" {
		c.own = s.own
	}
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

// neighbours are those whom a scenario's own service talks to; each nil where
// it talks to the SUT's, or to none.
type neighbours struct {
	world *neighbour.WorldService
	dag   *neighbour.DagManager
	kafka *neighbour.Kafka
}

func (n *neighbours) close() error {
	var err error
	if n.world != nil {
		err = n.world.Close()
	}
	if n.dag != nil {
		n.dag.Close()
	}
	if n.kafka != nil {
		n.kafka.Close()
	}
	return err
}

// moveIn starts the scenario's own service and its neighbours. The context it
// gives ends when that service dies; leave stops all that was started and waits
// for it. On error nothing is left running.
func (x *execution) moveIn(ctx context.Context) (_ context.Context, leave func(context.Context) error, err error) {
	args, err := x.scope.expand(x.scenario.own)
	if err != nil {
		return ctx, nil, err
	}
	kind := ownKinds()[x.scenario.ownKey]
	wanted, err := kind.read(args)
	if err != nil {
		return ctx, nil, err
	}
	near := &neighbours{}
	wish := neighbour.Wish{Name: x.uniq, Settings: map[string]string{}}
	err = wanted.surround(ctx, near, &wish)
	var own *neighbour.Service
	if err == nil {
		own, err = kind.starter(x.env).Start(ctx, wish)
	}
	if err != nil {
		return ctx, nil, errors.Join(err, near.close())
	}
	alive, end := livesWith(ctx, own)
	x.near, x.runner = near, x.toward(own)
	return alive, func(ctx context.Context) error {
		defer x.wire.close()
		died := end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
		defer cancel()
		return errors.Join(died, own.Stop(ctx), near.close())
	}, nil
}

// livesWith gives a context that ends when a service dies. end lets go of the
// service and tells whether it had died.
func livesWith(ctx context.Context, g *neighbour.Service) (alive context.Context, end func() error) {
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

// toward is the same run with another gateway or DAG Manager.
func (r *runner) toward(s *neighbour.Service) *runner {
	other := *r
	other.env.Gateway = cmp.Or(s.Gateway, r.env.Gateway)
	other.env.DagManager = cmp.Or(s.DagManager, r.env.DagManager)
	other.env.DagManagerHTTP = cmp.Or(s.DagManagerHTTP, r.env.DagManagerHTTP)
	other.wire = r.wire.toward(other.env)
	return &other
}

// ownFailure is a scenario whose own service could not be had, or did not leave
// as it should.
func (x *execution) ownFailure(ctx context.Context, err error) *failure {
	f := &failure{step: &Step{Action: x.scenario.ownKey, Line: x.scenario.ownLine}, problems: []string{err.Error()}}
	if ctx.Err() != nil {
		f.problems = append(f.problems, fmt.Sprint(context.Cause(ctx)))
	}
	return f
}
