package submit

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// decodeDAG reads dag_json: base64 of JSON text, or the JSON text itself. It
// gives the DAG, an object, and its text (gateway.md 2.2).
func decodeDAG(sent string) (dag pyjson.Value, plain string, err error) {
	if beginsJSON(sent) {
		if decoded, ok := decodeBase64(sent); ok {
			if dag, err = model.Parse(decoded); !isSyntax(err) {
				return checkObject(dag, decoded, err)
			}
		}
	}
	if dag, err = model.Parse(sent); isSyntax(err) {
		err = schemaInvalid("dag_json is neither base64 of a JSON text nor a JSON text: "+reason(err), pyjson.OfString("dag_json"))
	}
	return checkObject(dag, sent, err)
}

func isSyntax(err error) bool {
	var syntax *pyjson.SyntaxError
	return errors.As(err, &syntax)
}

func reason(err error) string {
	var syntax *pyjson.SyntaxError
	if errors.As(err, &syntax) {
		return syntax.Reason
	}
	return err.Error()
}

// checkObject passes on what decoding gave, if it is an object.
func checkObject(dag pyjson.Value, plain string, err error) (pyjson.Value, string, error) {
	if err != nil {
		return pyjson.Value{}, "", err
	}
	if dag.Kind() != pyjson.Object {
		return pyjson.Value{}, "", schemaInvalid(
			"the DAG must be a JSON object, not "+dag.Kind().String(), pyjson.OfString("dag_json"))
	}
	return dag, plain, nil
}

// decodeBase64 decodes as leniently as Python: characters outside the alphabet
// are skipped, text after the padding is ignored, wrong padding is a failure.
// Not even one byte outside ASCII is allowed, and the result must be UTF-8.
func decodeBase64(s string) (string, bool) {
	out := make([]byte, len(s)/4*3+3) // room for an unfinished group too
	n, err := base64.StdEncoding.Decode(out, unsafe.Slice(unsafe.StringData(s), len(s)))
	ok := err == nil
	if !ok {
		n, ok = decodeLenient(out, s)
	}
	if !ok || !utf8.Valid(out[:n]) {
		return "", false
	}
	return unsafe.String(unsafe.SliceData(out), n), true // out is never written again
}

// beginsJSON says whether the first byte of what s decodes to can begin a JSON
// text, so that a DAG that was sent as plain JSON is not decoded for nothing.
func beginsJSON(s string) bool {
	first, found := uint32(0), 0
	for i := 0; i < len(s) && found < 2; i++ {
		if v, in := sextet(s[i]); in {
			first = first<<6 | v
			found++
		}
	}
	return found == 2 && strings.IndexByte(" \t\n\r{[\"-0123456789tfnNI", byte(first>>4)) >= 0
}

func decodeLenient(out []byte, s string) (n int, ok bool) {
	var acc uint32
	quad, pads := 0, 0
	if strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return 0, false
	}
	for i := range len(s) {
		c := s[i]
		if c == '=' {
			if quad >= 2 {
				pads++
			}
			if quad >= 2 && quad+pads >= 4 {
				return n, true
			}
			continue
		}
		v, in := sextet(c)
		if !in {
			continue
		}
		pads = 0
		acc = acc<<6 | v
		if quad = (quad + 1) % 4; quad != 1 {
			out[n] = byte(acc >> (6 - 2*uint((quad+3)%4)))
			n++
		}
	}
	return n, quad == 0
}

func sextet(c byte) (uint32, bool) {
	switch {
	case c >= 'A' && c <= 'Z':
		return uint32(c - 'A'), true
	case c >= 'a' && c <= 'z':
		return uint32(c-'a') + 26, true
	case c >= '0' && c <= '9':
		return uint32(c-'0') + 52, true
	case c == '+':
		return 62, true
	case c == '/':
		return 63, true
	default:
		return 0, false
	}
}

// checkSchema finds the schema version, at the root or in the first node that
// has one, and refuses what is not supported.
func checkSchema(dag pyjson.Value, nodes []pyjson.Value) error {
	version := schemaVersion(dag, nodes)
	if version == "" {
		return contract.SchemaRequired()
	}
	if !slices.Contains(contract.SchemaVersions(), version) {
		return contract.SchemaUnsupported(version)
	}
	return nil
}

func schemaVersion(dag pyjson.Value, nodes []pyjson.Value) string {
	if s, _ := dag.Member("schema_version").Str(); s != "" {
		return s
	}
	for _, n := range nodes {
		if s, _ := n.Member("schema_version").Str(); s != "" {
			return s
		}
	}
	return ""
}

// nodesOf gives the entries of nodes: none when it is absent. What cannot be
// walked is refused.
func nodesOf(dag pyjson.Value) ([]pyjson.Value, error) {
	v, ok := dag.Get("nodes")
	if !ok {
		return nil, nil
	}
	nodes, err := contract.Iterate(v)
	if err != nil {
		return nil, schemaInvalid("nodes must be an array, not "+v.Kind().String(), pyjson.OfString("nodes"))
	}
	return nodes, nil
}
