package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Alert is a message to people (dagmanager.md 6.5).
type Alert struct {
	Channel string `json:"-"` // PagerDuty or Slack
	Text    string `json:"text"`
	Topic   string `json:"topic,omitempty"`
	Node    string `json:"node,omitempty"`
}

// The channels.
const (
	PagerDuty = "pagerduty"
	Slack     = "slack"
)

// Alerter sends alerts to webhooks. Their addresses are secrets: no error or log
// line has one.
type Alerter struct {
	URLs   map[string]string // by channel; one without is not sent to
	Client *http.Client
	sent   *prometheus.CounterVec
}

// alertLimit is how long a webhook may take.
const alertLimit = 5 * time.Second

// NewAlerter registers its counter with reg.
func NewAlerter(reg prometheus.Registerer, urls map[string]string, client *http.Client) *Alerter {
	a := &Alerter{URLs: urls, Client: client, sent: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dagmanager_alerts_total", Help: "Alerts by channel and how they ended: sent, failed or without a webhook."},
		[]string{"channel", "outcome"})}
	reg.MustRegister(a.sent)
	return a
}

// Send sends all alerts at once and returns what went wrong with each.
func (a *Alerter) Send(ctx context.Context, alerts []Alert) []error {
	errs := make([]error, len(alerts))
	var all sync.WaitGroup
	for i, alert := range alerts {
		if a.URLs[alert.Channel] == "" {
			a.sent.WithLabelValues(alert.Channel, "unaddressed").Inc()
			continue
		}
		all.Go(func() { errs[i] = a.send(ctx, alert) })
	}
	all.Wait()
	return errs
}

func (a *Alerter) send(ctx context.Context, alert Alert) error {
	ctx, cancel := context.WithTimeout(ctx, alertLimit)
	defer cancel()
	err := a.post(ctx, a.URLs[alert.Channel], alert)
	if err != nil {
		a.sent.WithLabelValues(alert.Channel, "failed").Inc()
		return fmt.Errorf("alert %q to %s: %w", alert.Text, alert.Channel, err)
	}
	a.sent.WithLabelValues(alert.Channel, "sent").Inc()
	return nil
}

func (a *Alerter) post(ctx context.Context, address string, alert Alert) error {
	body, err := json.Marshal(alert)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("its webhook is no URL")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.Client.Do(req)
	if err != nil {
		return bare(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the webhook answered %s", resp.Status)
	}
	return nil
}

// bare leaves the address out of an error.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Probe looks at one thing and says what people should know; none when all is
// well.
type Probe func(context.Context) []Alert

// Monitor looks at what people must know of and calls them once for each thing,
// again when it lasts for Repeat.
type Monitor struct {
	Probes  []Probe
	Alerter *Alerter
	Repeat  time.Duration
	Now     func() time.Time

	told map[Alert]time.Time
}

// Run looks once. An alert that could not be sent is sent again next time.
func (m *Monitor) Run(ctx context.Context) error {
	now, told := m.Now(), map[Alert]time.Time{}
	var news []Alert
	for _, probe := range m.Probes {
		for _, alert := range probe(ctx) {
			last, known := m.told[alert]
			if !known || now.Sub(last) >= m.Repeat {
				news = append(news, alert)
				last = now
			}
			told[alert] = last
		}
	}
	m.told = told
	errs := m.Alerter.Send(ctx, news)
	for i, err := range errs {
		if err != nil {
			delete(told, news[i])
		}
	}
	return errors.Join(errs...)
}
