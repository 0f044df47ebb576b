package submit

import (
	"errors"
	"net/http"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// The errors of what a submission depends on; each is wrapped with its cause. A
// submission that broke a rule is a *contract.Problem instead.
var (
	// ErrRegistry: Redis did not take or give a registration.
	ErrRegistry = errors.New("registration store unavailable")
	// ErrCommitLog: the commit log did not take the record; nothing is
	// registered any more and the submission may be repeated.
	ErrCommitLog = errors.New("commit log unavailable")
	// ErrPending: the same DAG is being submitted by somebody else, whose outcome
	// was not known in time.
	ErrPending = errors.New("the same submission is still being decided")
)

func member(key string, v pyjson.Value) pyjson.Member { return pyjson.Member{Key: key, Value: v} }

func text(key, s string) pyjson.Member { return member(key, pyjson.OfString(s)) }

// schemaInvalid refuses a DAG that cannot be used and says where in the
// submission the mistake is.
func schemaInvalid(message string, path ...pyjson.Value) *contract.Problem {
	return &contract.Problem{Status: http.StatusBadRequest, Detail: pyjson.OfObject(
		text("code", contract.CodeSchemaInvalid),
		member("errors", pyjson.OfArray(pyjson.OfObject(
			member("path", pyjson.OfArray(path...)), text("message", message)))),
	)}
}

func texts(all []string) pyjson.Value {
	values := make([]pyjson.Value, len(all))
	for i, s := range all {
		values[i] = pyjson.OfString(s)
	}
	return pyjson.OfArray(values...)
}
