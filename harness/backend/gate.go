package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// gate is kfake's listener. It can be taken away and put back on its port, as
// when a broker is stopped and started, without kfake noticing: what was
// stored stays. It may say that it is somewhere else, which is what the broker
// then advertises.
type gate struct {
	front      func(server, addr string) (string, error)
	own        string // address it listens on, host:port
	advertised string // what it says of itself

	mu     sync.Mutex
	turned *sync.Cond        // of mu: listens again, or is closed
	ln     net.Listener      // guarded by mu; nil while it is taken away
	closed bool              // guarded by mu
	conns  map[net.Conn]bool // guarded by mu
}

// listen is what kfake calls instead of net.Listen, once.
func (g *gate) listen(network, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen(network, net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	g.own, g.ln, g.conns, g.turned = ln.Addr().String(), ln, map[net.Conn]bool{}, sync.NewCond(&g.mu)
	if g.advertised, err = g.front("kafka", g.own); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return g, nil
}

// Addr is the advertised address.
func (g *gate) Addr() net.Addr { return told(g.advertised) }

// told is an address as text.
type told string

func (told) Network() string  { return "tcp" }
func (t told) String() string { return string(t) }

// Accept gives the next connection. While the gate is taken away it waits.
func (g *gate) Accept() (net.Conn, error) {
	for {
		ln, err := g.listening()
		if err != nil {
			return nil, err
		}
		c, err := ln.Accept()
		if err != nil && g.serves(ln) {
			return nil, err
		}
		if err != nil {
			continue // taken away, or closed: listening tells which
		}
		if kept := g.keep(c, ln); kept != nil {
			return kept, nil
		}
		c.Close()
	}
}

func (g *gate) listening() (net.Listener, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.ln == nil && !g.closed {
		g.turned.Wait()
	}
	if g.closed {
		return nil, net.ErrClosed
	}
	return g.ln, nil
}

// keep refuses a connection that came in just before its listener went.
func (g *gate) keep(c net.Conn, from net.Listener) net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ln != from {
		return nil
	}
	g.conns[c] = true
	return &gatedConn{Conn: c, gate: g}
}

func (g *gate) serves(ln net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ln == ln && !g.closed
}

func (g *gate) forget(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// Close ends the gate for good; its connections are kfake's to close.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.turned.Broadcast()
	if g.ln == nil {
		return nil
	}
	return g.ln.Close()
}

// outage takes the broker away: its connections end and new ones are refused.
func (g *gate) outage(context.Context) (func(context.Context) error, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ln == nil {
		return nil, errors.New("embedded kafka: is stopped already")
	}
	err := g.ln.Close()
	g.ln = nil
	for c := range g.conns {
		c.Close()
	}
	return g.back, err
}

// back listens on the same port again.
func (g *gate) back(ctx context.Context) error {
	var ln net.Listener
	err := again(ctx, func() (err error) {
		ln, err = net.Listen("tcp", g.own)
		return err
	})
	if err != nil {
		return fmt.Errorf("embedded kafka: serve %s again: %w", g.own, err)
	}
	if err := g.take(ln); err != nil {
		return err
	}
	return CheckKafka(ctx, g.advertised, "heal")
}

func (g *gate) take(ln net.Listener) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.ln != nil {
		return ln.Close() // healed twice, or closed meanwhile
	}
	g.ln = ln
	g.turned.Broadcast()
	return nil
}

// gatedConn leaves its gate's books when it is closed.
type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Close() error {
	c.gate.forget(c.Conn)
	return c.Conn.Close()
}
