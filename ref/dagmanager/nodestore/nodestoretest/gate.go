package nodestoretest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Gate stands before a server on loopback and can be shut: the server is gone
// for whoever comes through it, in one of two ways.
type Gate struct {
	t        testing.TB
	upstream string
	address  string

	mu       sync.Mutex
	listener net.Listener // nil while the gate is shut
	conns    map[net.Conn]bool
	mute     chan struct{} // nil, or open while nothing passes
	work     sync.WaitGroup
}

// NewGate opens a gate before the server of a bolt URL, until the test ends.
func NewGate(t testing.TB, server string) *Gate {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{t: t, upstream: u.Host, address: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	g.Open()
	t.Cleanup(func() {
		g.Speak()
		g.Shut()
		g.work.Wait()
	})
	return g
}

// URL is the bolt URL of the gate.
func (g *Gate) URL() string { return "bolt://" + g.address }

// Open lets connections through, on the same address each time.
func (g *Gate) Open() {
	g.t.Helper()
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.listener, g.address = l, l.Addr().String()
	g.mu.Unlock()
	g.work.Go(func() { g.accept(l) })
}

// Shut refuses new connections and breaks those there are.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for c := range g.conns {
		c.Close()
	}
}

// Mute takes connections and lets nothing pass on any.
func (g *Gate) Mute() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mute == nil {
		g.mute = make(chan struct{})
	}
}

// Speak ends Mute.
func (g *Gate) Speak() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mute != nil {
		close(g.mute)
		g.mute = nil
	}
}

func (g *Gate) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", g.upstream)
		if err != nil {
			client.Close()
			continue
		}
		if !g.hold(client, server) {
			continue
		}
		g.work.Go(func() { g.pump(client, server) })
		g.work.Go(func() { g.pump(server, client) })
	}
}

// hold remembers a pair of connections; false means that the gate was shut.
func (g *Gate) hold(pair ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range pair {
		if g.listener == nil {
			c.Close()
			continue
		}
		g.conns[c] = true
	}
	return g.listener != nil
}

func (g *Gate) pump(to, from net.Conn) {
	defer func() {
		to.Close()
		from.Close()
		g.mu.Lock()
		delete(g.conns, from)
		g.mu.Unlock()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		mute := g.mute
		g.mu.Unlock()
		if mute != nil {
			<-mute
		}
		if _, broken := to.Write(buffer[:n]); err != nil || broken != nil {
			return
		}
	}
}
