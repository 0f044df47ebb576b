package dagmanager

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/nodestore"
	"qmtl.internal/plumbline/ref/dagmanager/stream"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// errorDomain names the service in the reason detail of its errors.
const errorDomain = "dagmanager.qmtl"

// answer is how a kind of error is told to a client.
type answer struct {
	is     func(error) bool
	code   codes.Code
	reason string
}

// answers is the table of errors, most special first.
var answers = []answer{
	{as[*diff.InputError], codes.InvalidArgument, ""}, // its own reason
	{as[*diff.ContextError], codes.FailedPrecondition, "CROSS_CONTEXT_TOPIC_REUSE"},
	{as[*topics.CollisionError], codes.FailedPrecondition, "TOPIC_NAME_COLLISION"},
	{as[*topics.MismatchError], codes.FailedPrecondition, "TOPIC_CONFIG_MISMATCH"},
	{as[*topics.NameError], codes.InvalidArgument, "TOPIC_NAME_INVALID"},
	{as[*topics.RefusedError], codes.FailedPrecondition, "BROKER_REFUSED"},
	{is(topics.ErrOpen), codes.Unavailable, "BROKER_CIRCUIT_OPEN"},
	{is(topics.ErrLogin), codes.Unavailable, "BROKER_LOGIN_REFUSED"},
	{is(topics.ErrTimeout), codes.DeadlineExceeded, "BROKER_TIMEOUT"},
	{is(topics.ErrUnavailable), codes.Unavailable, "BROKER_UNAVAILABLE"},
	{is(nodestore.ErrRefused), codes.Unavailable, "GRAPH_REFUSED"},
	{is(nodestore.ErrUnavailable), codes.Unavailable, "GRAPH_UNAVAILABLE"},
	{is(stream.ErrNeverAcked), codes.DeadlineExceeded, "CLIENT_NEVER_ACKED"},
	{is(stream.ErrTooMany), codes.ResourceExhausted, "TOO_MANY_STREAMS"},
	{is(diff.ErrGone), codes.Aborted, "CONCURRENT_CHANGE"},
	{is(context.Canceled), codes.Canceled, "CANCELLED"},
	{is(context.DeadlineExceeded), codes.DeadlineExceeded, "DEADLINE"},
	{func(error) bool { return true }, codes.Internal, "INTERNAL"},
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// longest is the most bytes of a message or detail: they travel in headers,
// whose size clients limit.
const longest = 1024

// statusOf turns an error into a gRPC status with a reason detail; nil stays nil
// and a status stays itself.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, already := status.FromError(err); already {
		return err
	}
	a := find(err)
	info := &errdetails.ErrorInfo{Reason: a.reason, Domain: errorDomain, Metadata: map[string]string{}}
	var input *diff.InputError
	if errors.As(err, &input) {
		info.Reason = input.Reason
		addNode(info, input.NodeID)
	}
	var foreign *diff.ContextError
	if errors.As(err, &foreign) {
		addNode(info, foreign.NodeID)
	}
	st := status.New(a.code, clip(err.Error()))
	if detailed, err := st.WithDetails(protoadapt.MessageV1Of(info)); err == nil {
		st = detailed
	}
	return st.Err()
}

func find(err error) answer {
	for _, a := range answers {
		if a.is(err) {
			return a
		}
	}
	return answer{code: codes.Internal}
}

func addNode(info *errdetails.ErrorInfo, id string) {
	if id != "" {
		info.Metadata["node_id"] = clip(id)
	}
}

// clip keeps text short and valid for a header.
func clip(s string) string {
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
