package hub

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
)

// pipeBytes bounds what a pipe gathers.
const pipeBytes = 64 << 10

// A pipe is a client's connection that can be held: what is written meanwhile
// goes out in one piece when it is released, since the call to the system costs
// more than the frame.
type pipe struct {
	net.Conn

	mu   sync.Mutex
	held bool
	buf  []byte
}

func (p *pipe) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = true
}

// release writes what was gathered.
func (p *pipe) release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	return p.flush()
}

// Write gathers b while the pipe is held and has room for it.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held && len(p.buf) == 0 {
		return p.Conn.Write(b)
	}
	if len(p.buf)+len(b) > pipeBytes {
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	if len(b) > pipeBytes {
		return p.Conn.Write(b)
	}
	p.buf = append(p.buf, b...)
	if p.held {
		return len(b), nil
	}
	return len(b), p.flush()
}

func (p *pipe) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.Conn.Write(p.buf)
	if p.buf = p.buf[:0]; cap(p.buf) > pipeBytes/4 {
		p.buf = nil // a burst is over; most clients never need so much
	}
	return err
}

// abort ends writes that are under way and all later ones.
func (p *pipe) abort() { _ = p.Close() }

// A socketWriter gives the WebSocket library a pipe for the connection.
type socketWriter struct {
	http.ResponseWriter
	pipe *pipe // once the handshake is done
}

// Hijack takes the connection over.
func (s *socketWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := rw.Writer.Buffered(); n > 0 {
		_ = conn.Close()
		return nil, nil, errors.New("the answer to the handshake was not sent")
	}
	s.pipe = &pipe{Conn: conn}
	return s.pipe, bufio.NewReadWriter(rw.Reader, bufio.NewWriterSize(s.pipe, 4<<10)), nil
}
