package harness

import (
	"context"
	"fmt"
	"sync"
	"time"

	"qmtl.internal/plumbline/harness/probe"
	"qmtl.internal/plumbline/harness/sut"
)

const (
	// profileFor bounds the profiles of a window.
	profileFor = 10 * time.Second
	// loadBegins is about how long k6 takes until the load begins.
	loadBegins = time.Second
)

// takeProfiles takes the profiles of every process during the window, where the
// plan wants them. The returned function ends it and waits for it; what could
// not be taken is absent, with the reason.
func (x *execution) takeProfiles(ctx context.Context, in *sut.Instance) (wait func()) {
	if !x.Profiles {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	over := min(profileFor, x.profile.Window).Truncate(time.Second)
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, p := range in.Processes() {
		all.Go(func() {
			if !pause(ctx, loadBegins+x.profile.WarmUp) {
				return
			}
			if _, err := probe.Profiles(ctx, p.Name, p.Admin, x.dir.Path("profiles"), over); err != nil {
				mu.Lock()
				defer mu.Unlock()
				x.run.Absent["profiles/"+p.Name] = err.Error()
			}
		})
	}
	return func() {
		late := time.AfterFunc(profileFor/2, stop) // the load has ended; what is left is short
		all.Wait()
		late.Stop()
		stop()
	}
}

// ProfileFile is where a run of the given directory keeps the CPU profile of a process.
func ProfileFile(dir, process string) string {
	return fmt.Sprintf("%s/profiles/%s-cpu.pb.gz", dir, process)
}
