package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"encoding/json"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metricsAction remembers the gateway's counters and gauges, or compares them.
type metricsAction struct {
	Snapshot string        `json:"snapshot"`
	Since    string        `json:"since"`
	Series   []seriesCheck `json:"series"`
}

type seriesCheck struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	By     *any              `json:"by"`
	Value  *any              `json:"value"`
}

func (a metricsAction) validate() error {
	if a.Snapshot == "" && len(a.Series) == 0 {
		return &wrong{what: "metrics neither takes a snapshot nor looks at series", mend: "give snapshot, or series (with since for differences)"}
	}
	for i, s := range a.Series {
		at := fmt.Sprintf("/series/%d", i)
		if s.By == nil && s.Value == nil {
			return &wrong{key: at, what: "the series expects nothing", mend: "give by or value"}
		}
		if s.By != nil && a.Since == "" {
			return &wrong{key: at, what: "by needs a snapshot to compare with", mend: "name it in since"}
		}
	}
	return nil
}

func (a metricsAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	base, err := x.wire.gateway()
	if err != nil {
		return nil, err
	}
	now, err := x.wire.scrape(ctx, base+"/metrics")
	if err != nil {
		return nil, err
	}
	r := &report{}
	for _, s := range a.Series {
		x.shared.evaluated.Add(1)
		s.check(x, now, a.Since, r)
	}
	if a.Snapshot != "" {
		x.shared.mu.Lock()
		x.shared.snapshots[a.Snapshot] = now
		x.shared.mu.Unlock()
	}
	if len(r.problems) > 0 {
		return nil, errors.New(strings.Join(r.problems, "; "))
	}
	return observation{}, nil
}

func (s seriesCheck) check(x *execution, now samples, since string, r *report) {
	name := fmt.Sprintf("%s%v", s.Name, s.Labels)
	value, found := now.sum(s.Name, s.Labels)
	if s.Value != nil {
		got := any(absent{})
		if found {
			got = figure(value)
		}
		compile(*s.Value, "", func(_, what, _ string) { r.add(name, "%s", what) }).check(got, name, r)
	}
	if s.By == nil {
		return
	}
	x.shared.mu.Lock()
	before, ok := x.shared.snapshots[since]
	x.shared.mu.Unlock()
	if !ok {
		r.add(name, "there is no snapshot %q", since)
		return
	}
	was, _ := before.sum(s.Name, s.Labels) // a series that did not exist counts from 0
	compile(*s.By, "", func(_, what, _ string) { r.add(name, "%s", what) }).check(figure(value-was), name+" by", r)
}

func figure(f float64) json.Number { return json.Number(strconv.FormatFloat(f, 'f', -1, 64)) }

// samples are the values of one scrape.
type samples map[string]*dto.MetricFamily

// sum adds up the series of a name that carry all the labels.
func (s samples) sum(name string, labels map[string]string) (total float64, found bool) {
	family := s[name]
	for _, m := range family.GetMetric() {
		if carries(m, labels) {
			total, found = total+valueOf(m), true
		}
	}
	return total, found
}

func carries(m *dto.Metric, labels map[string]string) bool {
	have := map[string]string{}
	for _, l := range m.GetLabel() {
		have[l.GetName()] = l.GetValue()
	}
	for k, v := range labels {
		if have[k] != v {
			return false
		}
	}
	return true
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	case m.Histogram != nil:
		return float64(m.GetHistogram().GetSampleCount())
	case m.Summary != nil:
		return float64(m.GetSummary().GetSampleCount())
	}
	return m.GetUntyped().GetValue()
}

func (w *wire) scrape(ctx context.Context, url string) (samples, error) {
	o, err := w.ask(ctx, request{method: http.MethodGet, url: url, timeout: DefaultTimeout})
	if err != nil {
		return nil, err
	}
	if o["status"] != count(http.StatusOK) {
		return nil, fmt.Errorf("GET /metrics: status %s", o["status"])
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text(o["text"])))
	if err != nil {
		return nil, fmt.Errorf("GET /metrics: %w", err)
	}
	return families, nil
}
