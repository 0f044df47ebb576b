package load

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// ProfileSchema is the JSON Schema of a profile file.
//
//go:embed profile.schema.json
var ProfileSchema []byte

// Profile says what load is offered, and under which heap cap of the SUT.
type Profile struct {
	Name        string
	Title       string
	Rate        int64  // requests per second; with Ramps: at the start
	Ramps       []Ramp // the window, when its rate changes; else empty
	WarmUp      time.Duration
	Window      time.Duration
	MaxInFlight int
	Backlog     int
	Drain       time.Duration
	HeapCap     int64   // bytes; 0: none
	PrivateNode float64 // share of the catalogue submissions with a node of their own
	Mix         Mix
	Faults      []string // harm planned into the load, as AT:TARGET.KIND:FOR; for the harness, the load itself does none
}

// Mix is the share of each class of submissions; the sum is 1.
type Mix struct {
	Single    float64 `json:"single"`
	Worlds    float64 `json:"worlds"`
	Catalogue float64 `json:"catalogue"`
	Duplicate float64 `json:"duplicate"`
}

const maxDrain = 60 * time.Second

// warmUpStart is the share of the rate that the warm-up begins with.
const warmUpStart = 0.1

// Schedule of the warm-up and the window. The warm-up rises in a straight line
// from a tenth of the rate to the rate: servers that have compiled and cached
// nothing yet are not buried under a backlog that the window would inherit.
func (p Profile) Schedule() Schedule {
	if len(p.Ramps) == 0 && p.WarmUp == 0 {
		return Constant{Rate: p.Rate, For: p.Window}
	}
	rate := float64(p.Rate)
	s := Ramps{Start: rate}
	if p.WarmUp > 0 {
		s = Ramps{Start: warmUpStart * rate, Ramps: []Ramp{{Rate: rate, For: p.WarmUp}}}
	}
	if len(p.Ramps) == 0 {
		s.Ramps = append(s.Ramps, Ramp{Rate: rate, For: p.Window})
	}
	s.Ramps = append(s.Ramps, p.Ramps...)
	return s
}

// MeanRate is the offered rate per second, on average over the window.
func (p Profile) MeanRate() float64 {
	if len(p.Ramps) == 0 {
		return float64(p.Rate)
	}
	total, r0 := 0.0, float64(p.Rate)
	for _, r := range p.Ramps {
		total += area(r0, r)
		r0 = r.Rate
	}
	return total / p.Window.Seconds()
}

// Config is how the profile is offered; the caller adds what is not the
// profile's to say.
func (p Profile) Config() Config {
	return Config{
		Schedule: p.Schedule(), WarmUp: p.WarmUp, Window: p.Window,
		MaxInFlight: p.MaxInFlight, Backlog: p.Backlog, Drain: p.Drain,
	}
}

// profileFile is the JSON shape of a profile.
type profileFile struct {
	Schema      string      `json:"$schema"`
	Name        string      `json:"name"`
	Title       string      `json:"title"`
	Rate        json.Number `json:"rate_per_s"`
	Stages      []stageFile `json:"stages"`
	WarmUp      string      `json:"warm_up"`
	Window      string      `json:"window"`
	MaxInFlight json.Number `json:"max_in_flight"`
	Backlog     json.Number `json:"backlog"`
	Drain       string      `json:"drain"`
	HeapCap     json.Number `json:"heap_cap_bytes"`
	PrivateNode float64     `json:"private_node_share"`
	Mix         Mix         `json:"mix"`
	Faults      []string    `json:"faults"`
}

type stageFile struct {
	Rate float64 `json:"rate_per_s"`
	For  string  `json:"for"`
}

// ReadProfile reads a profile file. The error names every mistake.
func ReadProfile(path string) (Profile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Profile{}, fmt.Errorf("profile: %w", err)
	}
	p, err := ParseProfile(b)
	if err != nil {
		return Profile{}, fmt.Errorf("profile %s: %w", path, err)
	}
	return p, nil
}

// ParseProfile reads the text of a profile file: strict JSON of the shape that
// ProfileSchema gives. The error names every mistake.
func ParseProfile(b []byte) (Profile, error) {
	doc, err := oneDocument(b)
	if err != nil {
		return Profile{}, err
	}
	if err := errors.Join(repeatedKeys(b), matchSchema(doc)); err != nil {
		return Profile{}, err
	}
	var f profileFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Profile{}, err
	}
	return f.profile()
}

// profile turns what matches the schema into a Profile.
func (f profileFile) profile() (Profile, error) {
	var m mistakes
	p := Profile{
		Name: f.Name, Title: f.Title, PrivateNode: f.PrivateNode, Mix: f.Mix, Faults: f.Faults,
		Rate: m.integer("rate_per_s", f.Rate), HeapCap: m.integer("heap_cap_bytes", f.HeapCap),
		MaxInFlight: int(m.integer("max_in_flight", f.MaxInFlight)), Backlog: int(m.integer("backlog", f.Backlog)),
		WarmUp: m.duration("warm_up", f.WarmUp), Window: m.duration("window", f.Window), Drain: m.duration("drain", f.Drain),
	}
	for i, s := range f.Stages {
		p.Ramps = append(p.Ramps, Ramp{Rate: s.Rate, For: m.duration(fmt.Sprintf("stages/%d/for", i), s.For)})
	}
	if m == nil {
		m = p.mistakes()
	}
	return p, errors.Join(m...)
}

// mistakes are those that the schema cannot say.
func (p Profile) mistakes() (m mistakes) {
	m.unless(p.Window > 0, "/window: %v is no time to measure in", p.Window)
	m.unless(p.Drain > 0 && p.Drain <= maxDrain, "/drain: %v is not within 0s to %v", p.Drain, maxDrain)
	sum := p.Mix.Single + p.Mix.Worlds + p.Mix.Catalogue + p.Mix.Duplicate
	m.unless(math.Abs(sum-1) < 1e-9, "/mix: the shares add up to %v, not to 1", sum)
	m.unless(p.Mix.Duplicate < 1, "/mix/duplicate: 1 leaves nothing to repeat")
	m.unless(p.Schedule().N() > 0, "/window: nothing is offered at %v/s within %v", p.Rate, p.WarmUp+p.Window)
	if len(p.Ramps) == 0 {
		return m
	}
	var total time.Duration
	for i, r := range p.Ramps {
		m.unless(r.For > 0, "/stages/%d/for: %v is no time", i, r.For)
		total += r.For
	}
	m.unless(total == p.Window, "/stages: they last %v in all, the window %v", total, p.Window)
	return m
}

// WithEnv applies the variables PLUMBLINE_RATE, PLUMBLINE_WINDOW and
// PLUMBLINE_WARMUP; an unset or empty one changes nothing.
func (p Profile) WithEnv(lookup func(string) (string, bool)) (Profile, error) {
	var m mistakes
	value := func(name string) string {
		v, _ := lookup(name)
		if v != "" && name != "PLUMBLINE_WARMUP" {
			m.unless(len(p.Ramps) == 0, "%s: the profile %s has stages, which it cannot override", name, p.Name)
		}
		return v
	}
	if v := value("PLUMBLINE_RATE"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		m.unless(err == nil && n >= 1 && n <= 1_000_000, "PLUMBLINE_RATE: %q is not a whole number of requests per second from 1 to 1000000", v)
		p.Rate = n
	}
	for name, d := range map[string]*time.Duration{"PLUMBLINE_WINDOW": &p.Window, "PLUMBLINE_WARMUP": &p.WarmUp} {
		if v := value(name); v != "" {
			got, err := time.ParseDuration(v)
			m.unless(err == nil && got >= 0, "%s: %q is not a duration like 30s or 1m30s", name, v)
			*d = got
		}
	}
	if m == nil {
		m = p.mistakes()
	}
	return p, errors.Join(m...)
}

// mistakes collects what is wrong with a profile.
type mistakes []error

func (m *mistakes) unless(ok bool, format string, a ...any) {
	if !ok {
		*m = append(*m, fmt.Errorf(format, a...))
	}
}

func (m *mistakes) duration(field, text string) time.Duration {
	d, err := time.ParseDuration(text)
	m.unless(err == nil, "/%s: %q is not a duration like 30s or 1m30s", field, text)
	return d
}

// integer reads a whole number as JSON Schema means it, so 1e3 is one.
func (m *mistakes) integer(field string, n json.Number) int64 {
	if n == "" {
		return 0
	}
	v, err := n.Int64()
	if err == nil {
		return v
	}
	f, err := n.Float64()
	m.unless(err == nil && math.Abs(f) < 1<<53, "/%s: %s is too large", field, n)
	return int64(f)
}

// oneDocument parses b and refuses anything after the first value.
func oneDocument(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: %w", position(b, d.InputOffset(), err), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: something follows the profile", position(b, d.InputOffset(), nil))
	}
	return doc, nil
}

// position is line:column of a syntax error, or of offset.
func position(b []byte, offset int64, err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = max(0, syntax.Offset-1)
	}
	before := b[:min(offset, int64(len(b)))]
	return fmt.Sprintf("%d:%d", 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n'))
}

// repeatedKeys finds members that occur twice, of which JSON would silently
// take the last. b is known to be JSON.
func repeatedKeys(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	var m mistakes
	m.repeated(d, "")
	return errors.Join(m...)
}

func (m *mistakes) repeated(d *json.Decoder, at string) {
	switch t, _ := d.Token(); t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			t, _ := d.Token()
			key := fmt.Sprint(t)
			m.unless(!seen[key], "%s/%s: occurs twice", at, key)
			seen[key] = true
			m.repeated(d, at+"/"+key)
		}
		_, _ = d.Token()
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			m.repeated(d, at+"/"+strconv.Itoa(i))
		}
		_, _ = d.Token()
	}
}

// matchSchema checks doc against ProfileSchema.
func matchSchema(doc any) error {
	const name = "profile.schema.json"
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(ProfileSchema))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, parsed); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var bad *jsonschema.ValidationError
	if err := schema.Validate(doc); !errors.As(err, &bad) {
		return err
	}
	var m mistakes
	m.leaves(bad.BasicOutput())
	return errors.Join(m...)
}

// leaves are the units of a schema error that say something of their own.
func (m *mistakes) leaves(u *jsonschema.OutputUnit) {
	if len(u.Errors) == 0 && u.Error != nil {
		at := u.InstanceLocation
		if at == "" {
			at = "/"
		}
		*m = append(*m, fmt.Errorf("%s: %s", at, strings.TrimSpace(u.Error.String())))
	}
	for i := range u.Errors {
		m.leaves(&u.Errors[i])
	}
}
