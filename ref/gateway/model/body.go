package model

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"
	"unsafe"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Body reads a request body as JSON, or as text where contentType is not JSON's.
// The error is a *contract.Problem: 422 for a body that is empty or no JSON, 400
// for one that is no text. The value keeps body's memory.
func Body(contentType string, body []byte) (pyjson.Value, error) {
	if len(body) == 0 {
		return pyjson.Value{}, Unprocessable("body", FieldError{Type: "missing"})
	}
	raw := strings.TrimPrefix(unsafe.String(&body[0], len(body)), "\ufeff") // body is never written again
	if !isJSON(contentType) {
		return pyjson.OfString(raw), nil
	}
	if !utf8.ValidString(raw) {
		return pyjson.Value{}, Unreadable()
	}
	v, err := Parse(raw)
	var syntax *pyjson.SyntaxError
	if !errors.As(err, &syntax) {
		return v, err
	}
	at := utf8.RuneCountInString(raw[:min(syntax.Offset, len(raw))])
	return pyjson.Value{}, Unprocessable("body", FieldError{
		Type:  "json_invalid",
		Loc:   []pyjson.Value{pyjson.OfInt(int64(at))},
		Input: pyjson.OfObject(),
		Ctx:   []pyjson.Member{{Key: "error", Value: pyjson.OfString(syntax.Reason)}},
	})
}

// MaxValues is how many values the JSON of a client may hold, which bounds the
// memory that they take: a DAG of 10,000 nodes has about 200,000.
const MaxValues = 500_000

// Parse reads a JSON text of a client. The error is a *pyjson.SyntaxError, or a
// *contract.Problem when it holds more than MaxValues.
func Parse(text string) (pyjson.Value, error) {
	v, err := pyjson.ParseAtMost(text, MaxValues)
	if errors.Is(err, pyjson.ErrTooMany) {
		return pyjson.Value{}, tooMuch(fmt.Sprintf("the JSON has more than %d values", MaxValues))
	}
	return v, err
}

// Unreadable is the answer to a body that was cut off or is no text.
func Unreadable() *contract.Problem {
	return &contract.Problem{Status: http.StatusBadRequest, Detail: pyjson.OfString("There was an error parsing the body")}
}

// Unread is the answer to a body that could not be read, which may be for its
// size: http.MaxBytesReader lets no more than limit bytes through.
func Unread(err error, limit int64) *contract.Problem {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return TooLarge("the request body", limit)
	}
	return Unreadable()
}

// isJSON: application/json, or application/<anything>+json.
func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	main, sub, ok := strings.Cut(strings.ToLower(strings.TrimSpace(kind)), "/")
	return ok && main == "application" && (sub == "json" || strings.HasSuffix(sub, "+json"))
}

// Read reads a body and holds it to t. The error is a *contract.Problem.
func Read(contentType string, body []byte, t Type) (pyjson.Value, error) {
	v, err := Body(contentType, body)
	if err != nil {
		return pyjson.Value{}, err
	}
	v, errs := Check(t, v)
	if errs != nil {
		return pyjson.Value{}, Unprocessable("body", errs...)
	}
	return v, nil
}

// TooLarge answers a body that exceeds a size limit.
func TooLarge(what string, limit int64) *contract.Problem {
	return tooMuch(fmt.Sprintf("%s is larger than %d bytes", what, limit))
}

func tooMuch(message string) *contract.Problem {
	return &contract.Problem{Status: http.StatusRequestEntityTooLarge, Detail: pyjson.OfObject(
		pyjson.Member{Key: "code", Value: pyjson.OfString("E_TOO_LARGE")},
		pyjson.Member{Key: "message", Value: pyjson.OfString(message)})}
}
