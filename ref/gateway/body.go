package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/gateway/submit"
)

// accepted takes in a submission, once there is room for its body and a place
// to work on it, and hands it on.
func (g *Gateway) accepted(w http.ResponseWriter, r *http.Request, accept func(context.Context, *submit.Request) (*submit.Ack, error)) (*submit.Ack, error) {
	release, err := g.reserve(r)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := g.doors.enter(r.Context()); err != nil {
		return nil, err
	}
	defer g.doors.leave()
	body, err := g.readBody(w, r)
	if err != nil {
		return nil, err
	}
	req, err := submit.ParseRequest(r.Header.Get("Content-Type"), body)
	if err != nil {
		return nil, err
	}
	return accept(r.Context(), req)
}

// reserve waits until there is room for a large body; release gives it back. A
// body of unknown length counts as the largest allowed. Ordinary bodies need no
// room: they never wait for large ones.
func (g *Gateway) reserve(r *http.Request) (release func(), err error) {
	if r.ContentLength > g.maxBody {
		return nil, g.tooLarge(r.Body)
	}
	room := g.room(r.ContentLength)
	if room == 0 {
		return func() {}, nil
	}
	if err := g.bodies.Acquire(r.Context(), room); err != nil {
		return nil, fmt.Errorf("wait for room for a body: %w", err)
	}
	return func() { g.bodies.Release(room) }, nil
}

// smallBody is the size up to which a body needs no room of its own.
const smallBody = 64 << 10

// allRoom is how much memory large submissions may take together; one that
// needs more is taken alone.
const allRoom = 64 << 20

// room is how much memory a submission with a body of size bytes will take: the
// body, its values, and the texts that are made of them.
func (g *Gateway) room(size int64) int64 {
	const copies = 8 // measured
	switch {
	case size < 0:
		return min(copies*g.maxBody, allRoom)
	case size <= smallBody:
		return 0
	default:
		return min(copies*size, allRoom)
	}
}

// readBody reads the whole body. A client that dawdles is cut off: it holds a
// place that others wait for.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(g.readLimit(r.ContentLength))) // else the server's own holds
	body, err := readAll(http.MaxBytesReader(w, r.Body, g.maxBody), r.ContentLength)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, g.tooLarge(r.Body)
	case err != nil: // cut off
		return nil, model.Unreadable()
	}
	_ = deadline.SetReadDeadline(time.Time{})
	return body, nil
}

// readLimit is how long a body may take: a second for each megabyte, and five.
func (g *Gateway) readLimit(size int64) time.Duration {
	if size < 0 {
		size = g.maxBody
	}
	return 5*time.Second + time.Duration(size>>20)*time.Second
}

func readAll(from io.Reader, length int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(from)
	}
	body := make([]byte, length)
	_, err := io.ReadFull(from, body)
	return body, err
}

// tooLarge refuses a body, but first takes in as much again as is allowed: a
// client that writes before it reads would not hear the answer otherwise.
func (g *Gateway) tooLarge(rest io.Reader) error {
	_, _ = io.CopyN(io.Discard, rest, 2*g.maxBody) // ends early where the body does
	return model.TooLarge("the request body", g.maxBody)
}
