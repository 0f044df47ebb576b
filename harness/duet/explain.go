package duet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"qmtl.internal/plumbline/harness/hotspot"
	"qmtl.internal/plumbline/harness/probe"
)

// profiled is how long both arms are profiled, and profiledLoad what is offered
// meanwhile.
const (
	profiled     = 10 * time.Second
	profiledLoad = profiled + time.Second
)

// explain measures both arms once more, under profiles, and notes the functions
// whose share of the CPU time grew from the base to the candidate. The profiles
// lie in profiles/base and profiles/candidate. The answer stands without them,
// so what goes wrong here is a note as well.
func (d *duet) explain(ctx context.Context) {
	d.Progress("profiles of both sides", d.Budget, d.Budget)
	r := d.next()
	err := r.profile(ctx)
	if err = errors.Join(err, r.stop(ctx)); err != nil {
		d.c.Notes = append(d.c.Notes, "profiles are missing: "+err.Error())
	}
	for _, p := range d.Descriptor.Processes {
		if words, err := d.growth(p.Name); err == nil {
			d.c.Notes = append(d.c.Notes, p.Name+": "+words)
		}
	}
}

// profile starts both arms, offers load in turns and takes profiles meanwhile.
func (r *round) profile(ctx context.Context) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	if _, err := r.gen.do(ctx, r.offer(warmUp)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var missing []error
	for arm, in := range r.suts {
		for _, p := range in.Processes() {
			all.Go(func() {
				if _, err := probe.Profiles(ctx, p.Name, p.Admin, r.profiles(arm), profiled); err != nil {
					mu.Lock()
					defer mu.Unlock()
					missing = append(missing, fmt.Errorf("%s: %w", armNames[arm], err))
				}
			})
		}
	}
	_, err := r.gen.do(ctx, r.offer(profiledLoad))
	if err != nil {
		cancel()
	}
	all.Wait()
	return errors.Join(append(missing, err)...)
}

func (d *duet) profiles(arm int) string { return filepath.Join(d.Dir, "profiles", armNames[arm]) }

// growth says of which functions of a process the share grew. A process without
// CPU profiles of both arms has none.
func (d *duet) growth(process string) (string, error) {
	var both [2]*hotspot.Profile
	for arm := range both {
		p, err := hotspot.ReadFile(filepath.Join(d.profiles(arm), process+"-cpu.pb.gz"))
		if err != nil {
			return "", err
		}
		both[arm] = p
	}
	return hotspot.Words(both[base], both[candidate]), nil
}
