package sut

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/neighbour"
)

// Names of templates that have a value only for a process beside the others.
const (
	worldServiceName = "neighbour.worldservice" // base URL of its WorldService
	kafkaName        = "neighbour.kafka"        // host:port of its broker
	besideName       = "beside.name"            // a name of its own
	besidePort       = "beside.port"            // a free port
	settingPrefix    = "setting."               // what a scenario sets
)

// What a descriptor offers beyond settings, as in neighbour.Starter.
const (
	offerWorldService = "worldservice"
	offerDagManager   = "dagmanager"
	offerKafka        = "kafka"
	offerWithout      = "without."
)

// Beside starts further gateways of the SUT, each a process of its own by the
// same descriptor with the arguments that it adds for them (beside), against the
// same servers, tampered with alike. What they may be told follows from the names in the gateway's templates: a WorldService
// from ${neighbour.worldservice:-}, a setting from ${setting.NAME:-default}, a
// DAG Manager from the address of the SUT's own, and that they may do without a
// server from a default for its address. An attached SUT has none to offer.
func (in *Instance) Beside() neighbour.Starter { return in.starterOf(in.plan.gatewayAlone()) }

// BesideDagManager starts further DAG Managers of the SUT in the same way, on
// the same control bus. It can only where the descriptor adds arguments for
// them, for those have to part them from the SUT's own: one that collects
// garbage takes every topic of its broker that its own graph does not know. A
// broker is theirs by ${neighbour.kafka:-}.
func (in *Instance) BesideDagManager() neighbour.Starter {
	return in.starterOf(in.plan.dagManagerAlone())
}

// starterOf starts processes beside those of the SUT, each by alone.
func (in *Instance) starterOf(alone Descriptor) neighbour.Starter {
	if in.starter == nil {
		return neighbour.Starter{}
	}
	offers := alone.offers(in.plan.Endpoints.DagManager)
	if len(offers) == 0 {
		return neighbour.Starter{}
	}
	return neighbour.Starter{Offers: offers, Start: func(ctx context.Context, w neighbour.Wish) (*neighbour.Service, error) {
		return in.beside(ctx, alone, w, offers)
	}}
}

func (in *Instance) beside(ctx context.Context, d Descriptor, w neighbour.Wish, offers []string) (*neighbour.Service, error) {
	if err := notOffered(w, offers); err != nil {
		return nil, fmt.Errorf("sut %s: %w", in.name, err)
	}
	d.Name += "-" + w.Name
	s, err := in.starter.beside(ctx, d, w)
	if err != nil {
		return nil, err
	}
	if w.DagManager != "" {
		name, role := processOf(in.plan.Endpoints.DagManager)
		s.values.listens(name, map[string]string{role: w.DagManager})
	}
	own, err := s.launch(ctx, d)
	if err != nil {
		return nil, err
	}
	at := own.endpoints
	return &neighbour.Service{
		Gateway: at.Gateway, DagManager: at.DagManager, DagManagerHTTP: at.DagManagerHTTP,
		Dead: own.dead, Err: own.Err, Stop: own.Stop,
	}, nil
}

// notOffered tells what of a wish is not offered.
func notOffered(w neighbour.Wish, offers []string) error {
	var asked []string
	if w.WorldService != "" {
		asked = append(asked, offerWorldService)
	}
	if w.DagManager != "" {
		asked = append(asked, offerDagManager)
	}
	if w.Kafka != "" {
		asked = append(asked, offerKafka)
	}
	for _, server := range w.Without {
		asked = append(asked, offerWithout+server)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Settings)) {
		asked = append(asked, settingPrefix+name)
	}
	var errs []error
	for _, one := range asked {
		if !slices.Contains(offers, one) {
			errs = append(errs, usagef("a process of its own cannot be given %s; there are %s", one, strings.Join(offers, ", ")))
		}
	}
	return errors.Join(errs...)
}

// beside is a starter for one more process, which knows where the processes of
// s listen.
func (s *starter) beside(ctx context.Context, d Descriptor, w neighbour.Wish) (*starter, error) {
	o := s.o
	o.HeapCap = 0
	if d.Endpoints.Gateway == "" {
		o.Tamper = nil // which is done to gateways
	}
	if o.LogDir != "" {
		o.LogDir = filepath.Join(o.LogDir, "beside", w.Name)
	}
	own, err := newStarter(d, o)
	if err != nil {
		return nil, err
	}
	s.values.mu.Lock()
	maps.Copy(own.values.listening, s.values.listening)
	s.values.mu.Unlock()
	delete(own.values.listening, d.Processes[0].Name) // its addresses are another's
	fixed := own.values.fixed
	own.events, fixed["run.event_trust"] = s.events, s.events.trust() // the harness signs for both alike
	fixed[worldServiceName], fixed[kafkaName], fixed[besideName] = w.WorldService, w.Kafka, w.Name
	for name, value := range w.Settings {
		fixed[settingPrefix+name] = value
	}
	for _, server := range w.Without {
		fixed["backend."+server] = ""
	}
	fixed[besidePort], err = freePort(ctx)
	return own, err
}

// freePort is a port that nobody listened on a moment ago; for gateways that
// cannot choose one themselves.
func freePort(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("sut: a free port: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// gatewayAlone is d with only the process behind the gateway's endpoint.
func (d Descriptor) gatewayAlone() Descriptor {
	return d.alone(d.Endpoints.Gateway, Endpoints{Gateway: d.Endpoints.Gateway})
}

// dagManagerAlone is d with only the process behind the DAG Manager's endpoint,
// and without any where it is not told how it stands beside the SUT's own.
func (d Descriptor) dagManagerAlone() Descriptor {
	e := d.Endpoints
	out := d.alone(e.DagManager, Endpoints{DagManager: e.DagManager, DagManagerHTTP: e.DagManagerHTTP})
	name, _ := processOf(e.DagManager)
	if !slices.ContainsFunc(d.Processes, func(p Spec) bool { return p.Name == name && len(p.Beside) > 0 }) {
		out.Processes = nil
	}
	return out
}

// alone is d with only the process behind an endpoint, told what is added for
// those beside the SUT's own.
func (d Descriptor) alone(endpoint string, left Endpoints) Descriptor {
	name, _ := processOf(endpoint)
	out := d
	out.Processes = nil
	for _, p := range d.Processes {
		if p.Name == name {
			p.Argv, p.Beside = slices.Concat(p.Argv, p.Beside), nil
			out.Processes = []Spec{p}
		}
	}
	out.Endpoints = left
	return out
}

// processOf finds ${process.NAME.ROLE} in a text; "" without one.
func processOf(text string) (name, role string) {
	m := regexp.MustCompile(`\$\{process\.([^.}]+)\.([^}:]+)\}`).FindStringSubmatch(text)
	if m == nil {
		return "", ""
	}
	return m[1], m[2]
}

// offers are what further processes by d, which has one only, may be told; none
// where it has none, or one that could not run twice. dagManager is the template
// of the DAG Manager's address.
func (d Descriptor) offers(dagManager string) []string {
	if len(d.Processes) == 0 {
		return nil
	}
	named := d.names()
	var all []string
	for name := range named {
		if rest, ok := strings.CutPrefix(name, settingPrefix); ok {
			all = append(all, settingPrefix+rest)
		}
	}
	manager, role := processOf(dagManager)
	for name, offer := range map[string]string{worldServiceName: offerWorldService, kafkaName: offerKafka, "process." + manager + "." + role: offerDagManager} {
		if _, ok := named[name]; ok {
			all = append(all, offer)
		}
	}
	for _, server := range []string{"kafka", "redis", "neo4j"} {
		if optional, ok := named["backend."+server]; ok && optional {
			all = append(all, offerWithout+server)
		}
	}
	slices.Sort(all)
	return all
}

// names are the names in the templates of d; true: each place has a default.
func (d Descriptor) names() map[string]bool {
	found := map[string]bool{}
	for _, text := range d.texts() {
		for _, m := range regexp.MustCompile(`\$\{([^}:]+)(:-)?`).FindAllStringSubmatch(text, -1) {
			optional, seen := found[m[1]]
			found[m[1]] = m[2] != "" && (optional || !seen)
		}
	}
	return found
}

// texts are the templates of d.
func (d Descriptor) texts() []string {
	var all []string
	for _, f := range d.Files {
		all = append(all, f.Content)
	}
	for _, p := range d.Processes {
		all = append(all, p.Argv...)
		all = append(all, slices.Collect(maps.Values(p.Env))...)
		all = append(all, slices.Collect(maps.Values(p.Addresses))...)
		all = append(all, p.Dir, p.Ready.URL)
	}
	return all
}
