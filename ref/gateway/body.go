package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/gateway/submit"
)

// accepted takes in a submission, once there is room for its body and a place
// to work on it, and hands it on.
func (g *Gateway) accepted(w http.ResponseWriter, r *http.Request, accept func(context.Context, *submit.Request) (*submit.Ack, error)) (*submit.Ack, error) {
	in := intake{Gateway: g, doors: g.doors}
	defer in.end()
	body, err := in.take(w, r)
	if err != nil {
		return nil, err
	}
	req, err := submit.ParseRequest(r.Header.Get("Content-Type"), body)
	if err != nil {
		return nil, err
	}
	return accept(r.Context(), req)
}

// bounded takes in the body for a route that is no submission, within bounds of
// the same kind.
func (g *Gateway) bounded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next(w, r)
			return
		}
		in := intake{Gateway: g, doors: g.others}
		defer in.end()
		body, err := in.take(w, r)
		if err != nil {
			g.answerError(w, r, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next(w, r)
	}
}

// Bodies up to smallBody are read at once, before there is a place for them, so
// that who dawdles with one holds up nobody; beyond smallStart they take room as
// they come in. A larger one is read when it has room and a place.
const (
	smallBody  = 64 << 10
	smallStart = 8 << 10
)

// allRoom is how much memory one kind of room has; a body that needs more of it
// is taken alone.
const allRoom = 64 << 20

// room is how much memory a body of size bytes may come to take: its text, what
// is written of it, and, where it is as dense as it can be, its values.
func room(size int64) int64 {
	const copies, value = 8, 130 // measured; a value counts while it is parsed
	return min(copies*size+value*min(size/2, model.MaxValues), allRoom)
}

// rooms bound the memory of bodies, by kind: the text of small ones beyond
// smallStart, what is made of small ones, and large ones as a whole.
type rooms struct{ texts, small, large *semaphore.Weighted }

func newRooms() rooms {
	return rooms{semaphore.NewWeighted(allRoom), semaphore.NewWeighted(allRoom), semaphore.NewWeighted(allRoom)}
}

// intake is what one request holds while it is worked on.
type intake struct {
	*Gateway
	doors              *admission
	inside             bool
	text, small, large int64 // room
}

// end gives everything back.
func (in *intake) end() {
	in.rooms.small.Release(in.small)
	if in.inside {
		in.doors.leave()
	}
	in.rooms.texts.Release(in.text)
	in.rooms.large.Release(in.large)
}

// take reads the body, waits for a place and for room, in an order in which who
// dawdles holds up nobody but others with large bodies. The error wraps errBusy
// or is a *contract.Problem.
func (in *intake) take(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	size := r.ContentLength // below 0: unknown
	switch {
	case size > in.maxBody:
		return nil, in.tooLarge(w, r)
	case size >= 0 && size <= smallBody:
		return in.takeSmall(w, r)
	default:
		return in.takeLarge(w, r)
	}
}

func (in *intake) takeSmall(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	size := r.ContentLength
	body, err := in.readBody(w, r, func(from io.Reader) ([]byte, error) { return in.readSmall(r.Context(), from, size) })
	if err != nil {
		return nil, err
	}
	if err := in.enter(r.Context()); err != nil {
		return nil, err
	}
	return body, in.wait(r.Context(), in.rooms.small, room(size), &in.small)
}

// takeLarge counts a body of unknown length as the largest allowed.
func (in *intake) takeLarge(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	size := r.ContentLength
	if size < 0 {
		size = in.maxBody
	}
	if err := in.wait(r.Context(), in.rooms.large, room(size), &in.large); err != nil {
		return nil, err
	}
	if err := in.enter(r.Context()); err != nil {
		return nil, err
	}
	return in.readBody(w, r, func(from io.Reader) ([]byte, error) { return readAll(from, r.ContentLength) })
}

func (in *intake) enter(ctx context.Context) error {
	err := in.doors.enter(ctx)
	in.inside = err == nil
	return err
}

// wait takes n of a room and adds it to held.
func (in *intake) wait(ctx context.Context, of *semaphore.Weighted, n int64, held *int64) error {
	if !of.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(ctx, in.doors.limit)
		defer cancel()
		if of.Acquire(ctx, n) != nil {
			return in.doors.refuse(fmt.Errorf("%w: no room for a body of this size within %s", errBusy, in.doors.limit))
		}
	}
	*held += n
	return nil
}

// readSmall takes memory as the body comes in, so that a length that is only
// announced costs little.
func (in *intake) readSmall(ctx context.Context, from io.Reader, size int64) ([]byte, error) {
	body := make([]byte, min(size, smallStart))
	for have := int64(0); ; {
		n, err := io.ReadFull(from, body[have:])
		if err != nil {
			return nil, err
		}
		if have += int64(n); have == size {
			return body, nil
		}
		more := min(have, size-have)
		if err := in.wait(ctx, in.rooms.texts, more, &in.text); err != nil {
			return nil, err
		}
		body = append(body, make([]byte, more)...)
	}
}

// readBody reads the whole body by read. A client that dawdles is cut off.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request, read func(io.Reader) ([]byte, error)) ([]byte, error) {
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(g.readLimit(r.ContentLength))) // else the server's own holds
	body, err := read(http.MaxBytesReader(w, r.Body, g.maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, g.tooLarge(w, r)
	case errors.Is(err, errBusy):
		return nil, err
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

// lingering is how long a client that sends too much is listened to.
const lingering = 5 * time.Second

// tooLarge refuses a body, but first takes in as much again as is allowed: a
// client that writes before it reads would not hear the answer otherwise. One
// that waits to be asked for its body is not asked.
func (g *Gateway) tooLarge(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Expect") == "" {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingering)) // else the server's own holds
		_, _ = io.CopyN(io.Discard, r.Body, 2*g.maxBody)                             // ends early where the body does
	}
	return model.TooLarge("the request body", g.maxBody)
}
