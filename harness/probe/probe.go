// Package probe reads numbers of a running SUT from outside: the kernel's view
// of its processes, and what they publish on their admin address. What cannot
// be read is absent, with a reason, never zero.
//
// Probing must not disturb what it measures. Reading /proc costs the SUT
// nothing; one scrape of the reference's /metrics costs it about 2 ms of CPU,
// so scrapes are half as frequent as reads of /proc, uncompressed and over one
// kept connection, and the processes take turns.
package probe

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"qmtl.internal/plumbline/harness/record"
)

// Names of series. Byte counts are of one moment; seconds and counts of CPU
// grow from the start of the process.
const (
	RSS         = "rss_bytes"          // resident set: VmRSS of /proc/PID/status
	RSSPeak     = "rss_peak_bytes"     // its high-water mark: VmHWM
	CPU         = "cpu_seconds"        // user and system time of /proc/PID/stat
	Cgroup      = "cgroup_bytes"       // charged to the process's memory cgroup
	HeapLive    = "heap_live_bytes"    // heap marked live by the last collection
	HeapObjects = "heap_objects_bytes" // heap of live objects and garbage not yet swept
	GoTotal     = "go_total_bytes"     // all memory mapped by the Go runtime
	Goroutines  = "goroutines"
	GCCPU       = "gc_cpu_seconds" // CPU spent on collecting, as of the last collection
)

// DefaultEvery is the time between two reads of /proc.
const DefaultEvery = 250 * time.Millisecond

// scrapeEach says how many reads of /proc go with one scrape.
const scrapeEach = 2

// timeLimit of one scrape.
const timeLimit = time.Second

// ticksPerSecond is the unit of /proc/PID/stat, fixed by Linux's ABI.
const ticksPerSecond = 100

// Target is one process to watch.
type Target struct {
	Process string
	PID     func() int // asked each time, for a process may be restarted; nil or 0: not ours to look at now
	Admin   string     // host:port that serves /metrics; "": none
	Usage   string     // file that tells the bytes charged to its cgroup; "": none
}

// Fixed is the PID of a Target that is never restarted.
func Fixed(pid int) func() int { return func() int { return pid } }

// Options of a Watcher.
type Options struct {
	Every time.Duration // 0: DefaultEvery
	Since time.Time     // zero of every point's time, as a rule the start of the run; zero: now
	Log   *slog.Logger  // nil: discard
}

// Watcher watches until its Stop.
type Watcher struct {
	samplers []*sampler
	cancel   context.CancelFunc
	done     sync.WaitGroup
	stopping sync.Once
}

// Watch begins to watch. It ends with ctx or by Stop, which must be called.
func Watch(ctx context.Context, targets []Target, o Options) *Watcher {
	o.Every = cmp.Or(o.Every, DefaultEvery)
	if o.Since.IsZero() {
		o.Since = time.Now()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{}
	ctx, w.cancel = context.WithCancel(ctx)
	for i, t := range targets {
		delay := o.Every * time.Duration(i) / time.Duration(len(targets))
		// Apart, so that a process too busy to answer is still looked at.
		w.begin(ctx, newSampler(t, o, kernelSeries(), (*sampler).sampleKernel), delay, o.Every)
		w.begin(ctx, newSampler(t, o, runtimeSeries(), (*sampler).sampleRuntime), delay, o.Every*scrapeEach)
	}
	return w
}

func (w *Watcher) begin(ctx context.Context, s *sampler, delay, every time.Duration) {
	w.samplers = append(w.samplers, s)
	w.done.Go(func() { s.run(ctx, delay, every) })
}

// Stop takes a last sample, ends the watch and gives every series that has a
// point. absent says of each other series, by "name/process", why it has none.
// It is idempotent.
func (w *Watcher) Stop() (series []record.Series, absent map[string]string) {
	w.stopping.Do(func() {
		w.cancel()
		w.done.Wait()
	})
	absent = map[string]string{}
	for _, s := range w.samplers {
		for _, name := range s.names {
			if points := s.points[name]; len(points) > 0 {
				series = append(series, record.Series{Name: name, Process: s.Process, Unit: unitOf(name), Points: slices.Clone(points)})
			} else {
				absent[name+"/"+s.Process] = cmp.Or(s.reasons[name], "the watch ended before the first sample")
			}
		}
	}
	return series, absent
}

func kernelSeries() []string  { return []string{RSS, RSSPeak, Cgroup, CPU} }
func runtimeSeries() []string { return []string{HeapLive, HeapObjects, GoTotal, GCCPU, Goroutines} }

func unitOf(name string) record.Unit {
	switch {
	case strings.HasSuffix(name, "_bytes"):
		return record.Bytes
	case strings.HasSuffix(name, "_seconds"):
		return record.Seconds
	}
	return record.Count
}

// metrics are the series that a Go process publishes, by Prometheus name.
func metrics() map[string]string {
	return map[string]string{
		"go_gc_heap_live_bytes":                     HeapLive,
		"go_memory_classes_heap_objects_bytes":      HeapObjects,
		"go_memory_classes_total_bytes":             GoTotal,
		"go_goroutines":                             Goroutines,
		"go_cpu_classes_gc_total_cpu_seconds_total": GCCPU,
	}
}

// sampler reads some series of one target. Its fields belong to its goroutine
// until that has ended.
type sampler struct {
	Target
	names   []string
	sample  func(*sampler, context.Context)
	since   time.Time
	log     *slog.Logger
	client  *http.Client
	points  map[string][][2]float64
	reasons map[string]string // why the newest sample of a series is missing
}

func newSampler(t Target, o Options, names []string, sample func(*sampler, context.Context)) *sampler {
	return &sampler{
		Target: t, names: names, sample: sample, since: o.Since, log: o.Log,
		client: &http.Client{Transport: &http.Transport{DisableCompression: true}},
		points: map[string][][2]float64{}, reasons: map[string]string{},
	}
}

func (s *sampler) run(ctx context.Context, delay, every time.Duration) {
	defer s.client.CloseIdleConnections()
	last := context.WithoutCancel(ctx)
	defer func() { s.sample(s, last) }()
	select {
	case <-ctx.Done():
		return
	case <-time.After(delay):
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.sample(s, ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *sampler) sampleKernel(context.Context) {
	s.sampleProc()
	s.sampleCgroup()
}

func (s *sampler) add(name string, value float64) {
	s.points[name] = append(s.points[name], [2]float64{time.Since(s.since).Seconds(), value})
}

func (s *sampler) miss(reason string, names ...string) {
	for _, name := range names {
		if s.reasons[name] == "" {
			s.log.Debug("probe cannot read", "series", name, "process", s.Process, "reason", reason)
		}
		s.reasons[name] = reason
	}
}

func (s *sampler) sampleProc() {
	pid := 0
	if s.PID != nil {
		pid = s.PID()
	}
	if pid == 0 {
		s.miss("the process is not run by plumbline, or not running", RSS, RSSPeak, CPU)
		return
	}
	s.addOr(RSS, func() (float64, error) { return procStatus(pid, "VmRSS:") })
	s.addOr(RSSPeak, func() (float64, error) { return procStatus(pid, "VmHWM:") })
	s.addOr(CPU, func() (float64, error) { return procCPU(pid) })
}

func (s *sampler) addOr(name string, read func() (float64, error)) {
	value, err := read()
	if err != nil {
		s.miss(err.Error(), name)
		return
	}
	s.add(name, value)
}

func (s *sampler) sampleCgroup() {
	if s.Usage == "" {
		s.miss("the process has no memory cgroup of its own", Cgroup)
		return
	}
	s.addOr(Cgroup, func() (float64, error) {
		b, err := os.ReadFile(s.Usage)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	})
}

// procStatus reads one line of /proc/PID/status, which counts in KiB, in bytes.
func procStatus(pid int, key string) (float64, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, key); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no %s line, as of a process that has ended", file, key)
}

// ResidentBytes is the memory of a process that is in RAM now.
func ResidentBytes(pid int) (float64, error) { return procStatus(pid, "VmRSS:") }

// CPUSeconds is the user and system time that a process has used so far.
func CPUSeconds(pid int) (float64, error) { return procCPU(pid) }

// procCPU reads user and system time of /proc/PID/stat, in seconds. The name
// in it may hold anything, so fields count from the last parenthesis.
func procCPU(pid int) (float64, error) {
	file := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: %d fields behind the name, want 13 at least", file, len(fields))
	}
	user, uerr := strconv.ParseFloat(fields[11], 64)
	system, serr := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond, cmp.Or(uerr, serr)
}

func (s *sampler) sampleRuntime(ctx context.Context) {
	if s.Admin == "" {
		s.miss("the process offers no admin address", s.names...)
		return
	}
	values, err := s.scrape(ctx)
	if err != nil {
		s.miss(err.Error(), s.names...)
		return
	}
	for metric, name := range metrics() {
		if value, ok := values[metric]; ok {
			s.add(name, value)
		} else {
			s.miss(fmt.Sprintf("http://%s/metrics: has no %s", s.Admin, metric), name)
		}
	}
}

// scrape gives every metric without labels.
func (s *sampler) scrape(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	body, err := fetch(ctx, s.client, "http://"+s.Admin+"/metrics")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(body)
	if err != nil {
		return nil, fmt.Errorf("http://%s/metrics: %w", s.Admin, err)
	}
	values := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			if len(m.GetLabel()) == 0 {
				// Of the three, all but one are nil and count as 0.
				values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
			}
		}
	}
	return values, nil
}

func fetch(ctx context.Context, client *http.Client, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp.Body, nil
}
