// Package crowd is many clients of a gateway at once: some that are connected
// and say nothing, or half of something, and some that all submit at the same
// moment, each over a connection of its own. No open model has that shape: its
// requests share connections and leave one after another.
package crowd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/workload"
)

// Dial opens one connection.
type Dial func(ctx context.Context) (net.Conn, error)

// To dials the host of a base URL; secured is for https and may be nil.
func To(base string, secured *tls.Config) (Dial, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("target %q: want http://HOST:PORT or https://HOST:PORT", base)
	}
	plain := &net.Dialer{Timeout: 30 * time.Second}
	if u.Scheme == "http" {
		return func(ctx context.Context) (net.Conn, error) { return plain.DialContext(ctx, "tcp", u.Host) }, nil
	}
	d := &tls.Dialer{NetDialer: plain, Config: secured}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", u.Host) }, nil
}

// Connections are open; whoever gathered them closes them.
type Connections []net.Conn

// dialling is how many connections are on their way at once: fewer than any
// server's line of those it has not accepted yet.
const dialling = 128

// Gather opens n connections. After an error none is left open.
func Gather(ctx context.Context, n int, dial Dial) (Connections, error) {
	all := make(Connections, n)
	errs := make([]error, n)
	next := make(chan int)
	var dials sync.WaitGroup
	for range min(n, dialling) {
		dials.Go(func() {
			for i := range next {
				all[i], errs[i] = dial(ctx)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	dials.Wait()
	if err := first(errs); err != nil {
		all.Close()
		return nil, fmt.Errorf("%d connections: %w", n, err)
	}
	return all, nil
}

// first is one error of many that say the same.
func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Say writes the same words to each connection.
func (c Connections) Say(words string) error {
	for _, conn := range c {
		if _, err := io.WriteString(conn, words); err != nil {
			return fmt.Errorf("say: %w", err)
		}
	}
	return nil
}

// Close closes what is open.
func (c Connections) Close() {
	for _, conn := range c {
		if conn != nil {
			_ = conn.Close() // the other side may have been first
		}
	}
}

// Profile is what n clients submit: the mix of the other profiles, without the
// duplicates, which must come later than what they repeat.
func Profile(n int) load.Profile {
	return load.Profile{
		Name: "crowd", Rate: int64(n), Window: time.Second, PrivateNode: 0.01,
		Mix: load.Mix{Single: 0.1, Worlds: 0.1, Catalogue: 0.8},
	}
}

// Submit lets each connection send one submission of w, all at the same moment,
// and waits for the answers, within limit. Times of the outcomes count from
// that moment. An error means that nothing was sent.
func Submit(ctx context.Context, all Connections, w *workload.Workload, limit time.Duration) ([]load.Outcome, error) {
	clients := make([]client, len(all))
	for i := range clients {
		body, s, err := w.Append(nil, int64(i))
		if err != nil {
			return nil, fmt.Errorf("crowd: %w", err)
		}
		clients[i] = client{conn: all[i], of: s, text: request(body)}
	}
	outcomes := make([]load.Outcome, len(all))
	var answers sync.WaitGroup
	start := make(chan struct{})
	var zero time.Time // set before start is closed
	for i := range clients {
		answers.Go(func() {
			<-start
			outcomes[i] = clients[i].submit(w, zero, limit)
		})
	}
	stop := context.AfterFunc(ctx, all.Close)
	defer stop()
	zero = time.Now()
	close(start)
	answers.Wait()
	return outcomes, nil
}

// client is one that submits.
type client struct {
	conn net.Conn
	of   workload.Submission
	text []byte
}

func request(body []byte) []byte {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", workload.Path, len(body))
	return append([]byte(head), body...)
}

func (c *client) submit(w *workload.Workload, zero time.Time, limit time.Duration) load.Outcome {
	o := load.Outcome{Index: c.of.Index, Class: c.of.Class, Key: c.of.Key, Window: true, Sent: time.Since(zero)}
	status, answer, err := c.exchange(zero.Add(limit))
	o.Done = time.Since(zero)
	if err != nil {
		o.Fate, o.Error = load.Lost, reason(err)
		return o
	}
	reply := w.Judge(c.of, status, answer)
	o.Fate, o.Status, o.ID, o.Error = reply.Fate, reply.Status, reply.ID, reply.Why
	return o
}

const maxAnswer = 1 << 20

func (c *client) exchange(until time.Time) (status int, answer []byte, err error) {
	if err := c.conn.SetDeadline(until); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(c.text); err != nil {
		return 0, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c.conn, 1<<10), nil)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}

// reason is an error without the addresses, so that equal ones can be counted.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
