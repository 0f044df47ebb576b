package contract

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// ErrDAG is wrapped by errors that say why a submitted DAG cannot be used.
var ErrDAG = errors.New("dag")

// DecodeDAG reads the dag_json of a submission (gateway.md 2.2): base64 of
// UTF-8 JSON, else JSON text. Of base64, characters outside the standard
// alphabet are passed over, as Python does; bad padding is not. Anything but an
// object is an error, which wraps ErrDAG.
func DecodeDAG(text string) (pyjson.Value, error) {
	dag, err := decodeBase64JSON(text)
	if err != nil {
		dag, err = pyjson.ParseString(text)
	}
	if err != nil {
		return pyjson.Value{}, fmt.Errorf("%w: neither base64 of JSON nor JSON: %w", ErrDAG, err)
	}
	if dag.Kind() != pyjson.Object {
		return pyjson.Value{}, fmt.Errorf("%w: %s, not an object", ErrDAG, dag.Kind())
	}
	return dag, nil
}

var errBase64 = errors.New("not base64")

func decodeBase64JSON(text string) (pyjson.Value, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		if b, err = lenientBase64(text); err != nil {
			return pyjson.Value{}, err
		}
	}
	if !utf8.Valid(b) {
		return pyjson.Value{}, errBase64
	}
	return pyjson.Parse(b)
}

// lenientBase64 decodes as Python's base64.b64decode: it skips what is not in
// the alphabet, stops at the padding that completes a group, and refuses a last
// group without it.
func lenientBase64(text string) ([]byte, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return nil, errBase64
	}
	kept := make([]byte, 0, len(text))
	pads := 0
	for _, c := range []byte(text) {
		switch at := len(kept) % 4; {
		case c == '=' && at >= 2:
			if pads++; at+pads == 4 {
				return decodeKept(kept)
			}
		case isBase64(c):
			kept, pads = append(kept, c), 0
		}
	}
	if len(kept)%4 != 0 {
		return nil, errBase64
	}
	return decodeKept(kept)
}

func isBase64(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}

func decodeKept(kept []byte) ([]byte, error) {
	b, err := base64.RawStdEncoding.AppendDecode(make([]byte, 0, len(kept)), kept)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBase64, err)
	}
	return b, nil
}
