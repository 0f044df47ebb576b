// Package tracing is the home of OpenTelemetry: spans of a service's HTTP, gRPC,
// Kafka and own steps, sent by OTLP over HTTP, with W3C trace context between
// processes. It is off unless an endpoint is given, and costs nothing then: a
// nil *Tracer wraps nothing and starts nothing.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kotel"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// Flag is the setting that turns tracing on, and Env the environment variable
// that OpenTelemetry gives it.
const (
	Flag = "otlp-endpoint"
	Env  = "OTEL_EXPORTER_OTLP_ENDPOINT"
)

// Help is what the setting is.
const Help = "base `URL` that traces are sent to by OTLP over HTTP; also " + Env + "; empty: no traces"

// Check says what is wrong with an endpoint.
func Check(endpoint string) error {
	to, err := url.Parse(endpoint)
	if endpoint != "" && (err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https") {
		return errors.New("want http://HOST:PORT or https://HOST:PORT")
	}
	return nil
}

// Tracer makes the spans of one service. A nil *Tracer makes none.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	carrier  propagation.TextMapPropagator
	log      *slog.Logger
}

const (
	sendLimit = 2 * time.Second // of one batch of spans
	stopLimit = 3 * time.Second // of sending what is left at the end
)

// Open gives the Tracer of a service, which the caller closes; nil without an
// endpoint. A collector that is away costs spans and a log line, nothing else.
func Open(ctx context.Context, name, endpoint string, log *slog.Logger) (*Tracer, error) {
	if endpoint == "" {
		return nil, nil
	}
	to, err := url.JoinPath(endpoint, "v1", "traces")
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", Flag, err)
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to), otlptracehttp.WithTimeout(sendLimit),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}))
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&forgiving{SpanExporter: exporter, log: log}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	return &Tracer{provider: provider, tracer: provider.Tracer("qmtl.internal/plumbline/ref"), carrier: propagation.TraceContext{}, log: log}, nil
}

// Close sends what is left, as far as somebody takes it. It gives no error, so
// that it can be an undo: lost spans are only logged.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last traces are lost", "error", err)
	}
	return nil
}

// forgiving logs what cannot be sent, once a second at most.
type forgiving struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	told time.Time // used by the one goroutine that exports
}

// ExportSpans sends spans, or loses them.
func (f *forgiving) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := f.SpanExporter.ExportSpans(ctx, spans)
	if err != nil && time.Since(f.told) > time.Second {
		f.told = time.Now()
		f.log.Warn("traces are lost", "spans", len(spans), "error", err)
	}
	return nil
}

// Handler gives requests to next a span, under the caller's where there is one.
// WebSockets, which have no end, and metrics get none.
func (t *Tracer) Handler(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return otelhttp.NewHandler(next, "http",
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(t.carrier), otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithFilter(func(r *http.Request) bool { return r.Header.Get("Upgrade") == "" && r.URL.Path != "/metrics" }),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method }))
}

func (t *Tracer) grpcOptions() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithPropagators(t.carrier), otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
		otelgrpc.WithFilter(func(i *stats.RPCTagInfo) bool {
			return i.FullMethodName != "/qmtl.services.dagmanager.HealthCheck/Status"
		}),
	}
}

// Dial gives gRPC calls spans and hands their context on.
func (t *Tracer) Dial() []grpc.DialOption {
	if t == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(t.grpcOptions()...))}
}

// Serve gives the gRPC calls of clients spans, under theirs.
func (t *Tracer) Serve() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(t.grpcOptions()...))}
}

// Kafka gives records that are written spans, and the records a header
// traceparent.
func (t *Tracer) Kafka() []kgo.Opt {
	if t == nil {
		return nil
	}
	hooks := kotel.NewKotel(kotel.WithTracer(kotel.NewTracer(kotel.TracerProvider(t.provider), kotel.TracerPropagator(t.carrier)))).Hooks()
	return []kgo.Opt{kgo.WithHooks(hooks...)}
}

// A Span is one step of a trace. The zero value is none.
type Span struct{ span trace.Span }

// Start begins a step below the span of ctx, if there is one.
func (t *Tracer) Start(ctx context.Context, step string) (context.Context, Span) {
	if t == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, Span{}
	}
	ctx, span := t.tracer.Start(ctx, step)
	return ctx, Span{span}
}

// End ends the step, which failed unless err is nil.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

// Under gives ctx the span of from, so that what outlives from belongs to its
// trace all the same.
func (t *Tracer) Under(ctx, from context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, trace.SpanContextFromContext(from))
}
