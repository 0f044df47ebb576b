package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleFor is how long a connection is kept unused. It stays below what
	// servers allow, so that a request seldom meets a connection on its way out.
	idleFor = 3 * time.Second
	// maxAnswer bounds what is read of one answer.
	maxAnswer = 4 << 20
	// keptBuffer is the largest buffer worth keeping for the next request.
	keptBuffer = 1 << 20
)

// Tune sets up t to carry up to inFlight requests to one host at once. A k6
// module brings a transport of its own with k6's dialer.
func Tune(t *http.Transport, inFlight int) *http.Transport {
	t.MaxIdleConns, t.MaxIdleConnsPerHost = inFlight, inFlight
	t.IdleConnTimeout = idleFor
	t.DisableCompression = true
	t.ForceAttemptHTTP2 = false
	return t
}

// Poster sends POST requests with a JSON body and reuses its buffers.
type Poster struct {
	url   string
	rt    http.RoundTripper
	pool  sync.Pool // of *Post
	plain http.Header
}

// NewPoster posts to url through rt. It follows no redirect: a 3xx is an
// answer as any other.
func NewPoster(url string, rt http.RoundTripper) (*Poster, error) {
	if _, err := http.NewRequest(http.MethodPost, url, nil); err != nil {
		return nil, fmt.Errorf("poster: %w", err)
	}
	return &Poster{url: url, rt: rt, plain: http.Header{"Content-Type": {"application/json"}}}, nil
}

// Post is one exchange: fill Body, Send, read Status and Answer, Free. A Post
// that is never sent may be left to the garbage collector.
type Post struct {
	Body   bytes.Buffer // of the request
	Status int
	Answer bytes.Buffer // body of the answer, cut at 4 MiB

	from  *Poster
	users atomic.Int32 // the owner and every reader of Body
}

// New returns an empty Post.
func (p *Poster) New() *Post {
	x, ok := p.pool.Get().(*Post)
	if !ok {
		x = &Post{from: p}
	}
	x.Body.Reset()
	x.Answer.Reset()
	x.Status = 0
	x.users.Store(1)
	return x
}

// Send returns when the whole answer has been read, or with an error when none
// came.
func (x *Post) Send(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.from.url, nil)
	if err != nil {
		return err
	}
	req.Header = x.from.plain
	req.ContentLength = int64(x.Body.Len())
	req.Body = x.reader()
	req.GetBody = func() (io.ReadCloser, error) { return x.reader(), nil }
	resp, err := x.from.rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	x.Status = resp.StatusCode
	_, err = x.Answer.ReadFrom(io.LimitReader(resp.Body, maxAnswer))
	return err
}

// Free gives the buffers back. The transport may still be reading Body when an
// answer came early; they are reused when it is through.
func (x *Post) Free() {
	if x.users.Add(-1) == 0 && x.Body.Cap() <= keptBuffer && x.Answer.Cap() <= keptBuffer {
		x.from.pool.Put(x)
	}
}

func (x *Post) reader() io.ReadCloser {
	x.users.Add(1)
	return &bodyReader{Reader: bytes.NewReader(x.Body.Bytes()), x: x}
}

// bodyReader is one pass over a Post's body; the transport closes it.
type bodyReader struct {
	*bytes.Reader
	x    *Post
	once sync.Once
}

func (b *bodyReader) Close() error {
	b.once.Do(b.x.Free)
	return nil
}
