package scenario

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answerLimit bounds what is read of one answer, in bytes.
const answerLimit = 64 << 20

// httpAction is one plain HTTP request, or many at once.
type httpAction struct {
	Target    string            `json:"target"`
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	Query     map[string]any    `json:"query"`
	Headers   map[string]string `json:"headers"`
	Body      *any              `json:"body"`
	Raw       *string           `json:"raw"`
	RawBase64 *string           `json:"raw_base64"`
	Gzip      bool              `json:"gzip"`
	Parallel  int               `json:"parallel"`
	Timeout   duration          `json:"timeout"`
}

func (a httpAction) validate() error {
	return atMostOne(map[string]bool{"body": a.Body != nil, "raw": a.Raw != nil, "raw_base64": a.RawBase64 != nil}, "body", "raw", "raw_base64")
}

func (a httpAction) do(ctx context.Context, x *execution, _ *Step) (observation, error) {
	base, err := x.wire.gateway()
	if a.Target == "dagmanager" {
		base, err = x.wire.dmHTTP()
	}
	if err != nil {
		return nil, err
	}
	body, err := a.payload()
	if err != nil {
		return nil, err
	}
	q := request{method: a.Method, url: base + a.Path + a.query(), headers: a.Headers, body: body, timeout: a.Timeout.or(DefaultTimeout)}
	if q.method == "" {
		q.method = http.MethodGet
	}
	if a.Gzip {
		if q.body, err = gzipped(q.body); err != nil {
			return nil, err
		}
		q.headers = withHeader(q.headers, "Content-Encoding", "gzip")
	}
	if a.Parallel == 0 {
		return x.wire.ask(ctx, q)
	}
	return together(a.Parallel, func(int) (observation, error) { return x.wire.ask(ctx, q) })
}

func (a httpAction) payload() ([]byte, error) {
	switch {
	case a.Body != nil:
		return appendJSON(nil, *a.Body, dressing{}, 0), nil
	case a.Raw != nil:
		return []byte(*a.Raw), nil
	case a.RawBase64 != nil:
		return base64.StdEncoding.DecodeString(*a.RawBase64)
	}
	return nil, nil
}

// query writes the parameters; a list gives one parameter each.
func (a httpAction) query() string {
	if len(a.Query) == 0 {
		return ""
	}
	v := url.Values{}
	for k, item := range a.Query {
		many, ok := item.([]any)
		if !ok {
			many = []any{item}
		}
		for _, one := range many {
			v.Add(k, written(one))
		}
	}
	return "?" + v.Encode()
}

func gzipped(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	err := z.Close()
	return out.Bytes(), err
}

func withHeader(h map[string]string, name, value string) map[string]string {
	out := map[string]string{name: value}
	for k, v := range h {
		out[k] = v
	}
	return out
}

// request is one HTTP request as sent.
type request struct {
	method, url string
	headers     map[string]string
	body        []byte
	timeout     time.Duration
}

// ask sends q and observes the answer. An answer of any status is an
// observation; only the lack of one is an error.
func (w *wire) ask(ctx context.Context, q request) (observation, error) {
	limited, cancel := context.WithTimeoutCause(ctx, q.timeout, fmt.Errorf("no answer within %s", q.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(limited, q.method, q.url, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range q.headers {
		req.Header.Set(k, v)
		if v == "" {
			req.Header.Del(k) // an empty value takes the header away
		}
	}
	start := time.Now()
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, errors.Join(err, context.Cause(limited))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: answer %d broke off after %d bytes: %w", q.method, q.url, resp.StatusCode, len(b), err)
	}
	if len(b) > answerLimit {
		return nil, fmt.Errorf("%s %s: answer %d is longer than %d bytes", q.method, q.url, resp.StatusCode, answerLimit)
	}
	return answer(resp, b, time.Since(start)), nil
}

func answer(resp *http.Response, b []byte, took time.Duration) observation {
	o := observation{
		"status": count(resp.StatusCode), "text": string(b), "headers": headers(resp.Header),
		"elapsed_ms": millis(took),
	}
	if v, err := parseJSON(b); err == nil {
		o["body"] = v
	}
	return o
}

func headers(h http.Header) map[string]any {
	out := map[string]any{}
	for k := range h {
		out[strings.ToLower(k)] = strings.Join(h.Values(k), ", ")
	}
	return out
}

func count(n int) json.Number { return json.Number(strconv.Itoa(n)) }

func millis(d time.Duration) json.Number {
	return json.Number(strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 3, 64))
}

// together does n things at once and observes the answers and how many had
// which status. Things that got no answer are an error.
func together(n int, do func(i int) (observation, error)) (observation, error) {
	answers, errs := make([]any, n), make([]error, n)
	statuses := map[string]any{}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards statuses
	for i := range n {
		wg.Go(func() {
			o, err := do(i)
			if errs[i] = err; err != nil {
				return
			}
			answers[i] = map[string]any(o)
			mu.Lock()
			defer mu.Unlock()
			key := written(o["status"])
			before, _ := statuses[key].(json.Number)
			n, _ := strconv.Atoi(before.String())
			statuses[key] = count(n + 1)
		})
	}
	wg.Wait()
	return observation{"answers": answers, "statuses": statuses}, errors.Join(errs...)
}
