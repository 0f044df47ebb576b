package dagmanager

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The headers, of gRPC and of HTTP, that tell calls apart.
const (
	requestHeader = "x-request-id"
	traceHeader   = "traceparent" // W3C Trace Context
)

// call is what tells one call from others in logs: the ids that its client
// gave, or a request id of our own.
type call struct{ request, trace string }

type callKey struct{}

// mostID bounds what a client's id adds to the log.
const mostID = 128

// newCall takes the ids that a client gave; its request gets one of ours when it
// has none.
func (m *metrics) newCall(request, traceparent string) *call {
	c := &call{request: clean(request), trace: traceOf(traceparent)}
	if c.request == "" {
		c.request = m.calls.take()
	}
	return c
}

func clean(id string) string {
	if len(id) > mostID {
		id = id[:mostID]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, id)
}

// traceOf is the trace id of "version-traceid-parent-flags".
func traceOf(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	return clean(parts[1])
}

func (c *call) into(ctx context.Context) context.Context { return context.WithValue(ctx, callKey{}, c) }

// requestID is the id of the call that ctx belongs to, "" outside of one.
func requestID(ctx context.Context) string {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		return ""
	}
	return c.request
}

// level is what a call is worth: our own failures are told, all else is for who
// looks closely.
func (c *call) level(failed bool) slog.Level {
	if failed {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (c *call) attrs(kind, name, code string, took time.Duration) []slog.Attr {
	attrs := []slog.Attr{slog.String(kind, clip(name)), slog.String("code", code), slog.String("request_id", c.request),
		slog.Float64("ms", float64(took.Microseconds())/1000)}
	if c.trace != "" {
		attrs = append(attrs, slog.String("trace_id", c.trace))
	}
	return attrs
}

// callOf reads the ids of a gRPC call.
func (m *metrics) callOf(ctx context.Context) *call {
	return m.newCall(firstOf(metadata.ValueFromIncomingContext(ctx, requestHeader)), firstOf(metadata.ValueFromIncomingContext(ctx, traceHeader)))
}

func firstOf(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// ourFault are the codes of calls that failed for no fault of their client's.
var ourFault = map[codes.Code]bool{
	codes.Unknown: true, codes.Internal: true, codes.Unavailable: true, codes.DeadlineExceeded: true, codes.DataLoss: true,
}

// unary names, times and logs calls.
func (m *metrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	c := m.callOf(ctx)
	defer m.observe(ctx, c, info.FullMethod, &err, time.Now())
	m.tell(grpc.SetHeader(ctx, metadata.Pairs(requestHeader, c.request)))
	return next(c.into(ctx), req)
}

// stream names, times and logs streams.
func (m *metrics) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	c := m.callOf(s.Context())
	defer m.observe(s.Context(), c, info.FullMethod, &err, time.Now())
	m.tell(s.SetHeader(metadata.Pairs(requestHeader, c.request)))
	return next(srv, named{s, c.into(s.Context())})
}

// tell takes down that a client was not told the id of its call, which is no
// reason to refuse the call.
func (m *metrics) tell(err error) {
	if err != nil {
		m.log.Debug("request id not told", "error", err)
	}
}

// named is a stream whose context has the call.
type named struct {
	grpc.ServerStream
	ctx context.Context
}

func (n named) Context() context.Context { return n.ctx }

// logCall writes the log line of a call, one a second of those that fail.
func (m *metrics) logCall(ctx context.Context, c *call, method string, err error, took time.Duration) {
	code := status.Code(err)
	level := c.level(ourFault[code])
	if !m.log.Enabled(ctx, level) {
		return
	}
	attrs := c.attrs("method", method, code.String(), took)
	if err != nil {
		attrs = append(attrs, slog.String("error", clip(status.Convert(err).Message())))
	}
	if level == slog.LevelWarn {
		unsaid, ok := m.failing.Pass(time.Now())
		if !ok {
			return
		}
		attrs = append(attrs, slog.Int("more_unsaid", unsaid))
	}
	m.log.LogAttrs(ctx, level, "call", attrs...)
}
