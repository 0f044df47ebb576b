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

// Names of templates that have a value only for a gateway beside the others.
const (
	worldServiceName = "neighbour.worldservice" // base URL of its WorldService
	besideName       = "beside.name"            // a name of its own
	besidePort       = "beside.port"            // a free port
	settingPrefix    = "setting."               // what a scenario sets
)

// What a descriptor offers beyond settings, as in neighbour.Starter.
const (
	offerWorldService = "worldservice"
	offerDagManager   = "dagmanager"
	offerWithout      = "without."
)

// Beside starts further gateways of the SUT, each a process of its own by the
// same descriptor with the arguments that it adds for them (beside), against the
// same servers, tampered with alike. What they may be told follows from the names in the gateway's templates: a WorldService
// from ${neighbour.worldservice:-}, a setting from ${setting.NAME:-default}, a
// DAG Manager from the address of the SUT's own, and that they may do without a
// server from a default for its address. An attached SUT has none to offer.
func (in *Instance) Beside() neighbour.Starter {
	if in.starter == nil {
		return neighbour.Starter{}
	}
	offers := in.plan.offers()
	if len(offers) == 0 {
		return neighbour.Starter{}
	}
	return neighbour.Starter{Offers: offers, Start: func(ctx context.Context, w neighbour.Wish) (*neighbour.Gateway, error) {
		return in.beside(ctx, w, offers)
	}}
}

func (in *Instance) beside(ctx context.Context, w neighbour.Wish, offers []string) (*neighbour.Gateway, error) {
	if err := notOffered(w, offers); err != nil {
		return nil, fmt.Errorf("sut %s: %w", in.name, err)
	}
	d := in.plan.gatewayAlone()
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
	return &neighbour.Gateway{URL: own.endpoints.Gateway, Dead: own.dead, Err: own.Err, Stop: own.Stop}, nil
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
	for _, server := range w.Without {
		asked = append(asked, offerWithout+server)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Settings)) {
		asked = append(asked, settingPrefix+name)
	}
	var errs []error
	for _, one := range asked {
		if !slices.Contains(offers, one) {
			errs = append(errs, usagef("a gateway of its own cannot be given %s; there are %s", one, strings.Join(offers, ", ")))
		}
	}
	return errors.Join(errs...)
}

// beside is a starter for one more gateway, which knows where the processes of
// s listen.
func (s *starter) beside(ctx context.Context, d Descriptor, w neighbour.Wish) (*starter, error) {
	o := s.o
	o.HeapCap = 0
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
	fixed[worldServiceName], fixed[besideName] = w.WorldService, w.Name
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
	name, _ := processOf(d.Endpoints.Gateway)
	out := d
	out.Processes = nil
	for _, p := range d.Processes {
		if p.Name == name {
			p.Argv, p.Beside = slices.Concat(p.Argv, p.Beside), nil
			out.Processes = []Spec{p}
		}
	}
	out.Endpoints = Endpoints{Gateway: d.Endpoints.Gateway}
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

// offers are what further gateways of d may be told; none where d has no
// gateway of its own, or one that could not run twice.
func (d Descriptor) offers() []string {
	alone := d.gatewayAlone()
	if len(alone.Processes) == 0 {
		return nil
	}
	named := alone.names()
	var all []string
	for name := range named {
		if rest, ok := strings.CutPrefix(name, settingPrefix); ok {
			all = append(all, settingPrefix+rest)
		}
	}
	if _, ok := named[worldServiceName]; ok {
		all = append(all, offerWorldService)
	}
	if name, role := processOf(d.Endpoints.DagManager); name != "" {
		if _, ok := named["process."+name+"."+role]; ok {
			all = append(all, offerDagManager)
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
