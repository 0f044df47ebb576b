package submit

import (
	"errors"
	"testing"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Whatever the body, the answer is either a submission that can be sealed or a
// problem that can be said in JSON.
func FuzzBody(f *testing.F) {
	f.Add(sampleBody(f, 2))
	for _, s := range []string{
		``, `{}`, `[]`, `{"dag_json":"%%%","node_ids_crc32":0,"world_ids":["w"]}`,
		`{"dag_json":"{\"schema_version\":\"v1\",\"nodes\":[{\"node_type\":\"TagQueryNode\",\"node_id\":\"x\",\"tags\":5}]}","node_ids_crc32":"1_0.0","world_ids":["w"]}`,
		`{"dag_json":"{\"schema_version\":\"v1\",\"nodes\":\"abc\"}","node_ids_crc32":1e400,"world_ids":["\ud800"],"meta":{"a":NaN}}`,
	} {
		f.Add([]byte(s))
	}
	p := newPipeline()
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := ParseRequest("application/json", body)
		if err == nil {
			s := &submission{req: req}
			err = p.run(t.Context(), s, []stage{{name: "normalise", run: (*Pipeline).normalise}, {name: "context", run: (*Pipeline).context}, {name: "seal", run: (*Pipeline).seal}})
		}
		var problem *contract.Problem
		switch {
		case err == nil:
		case !errors.As(err, &problem):
			t.Fatalf("error %v", err)
		default:
			wantSayable(t, problem)
		}
	})
}

func wantSayable(t *testing.T, p *contract.Problem) {
	t.Helper()
	b := p.Body()
	if _, err := pyjson.Parse(b); err != nil || !utf8.Valid(b) || p.Status < 400 || p.Status >= 500 {
		t.Errorf("problem %d %q: %v", p.Status, b, err)
	}
}

// What can be told from the first byte changes nothing of what a text decodes to.
func FuzzDAGText(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `e30=`, ` {"nodes":[]}`, `eyJub2RlcyI6W119`, `=e30=`, `-e30`, `W10=`, `bnVsbA==`, `{"nodes":["YWJj"]}`, `IHt9`, `e`, `{"e30=":1}`, `MQ==`, "e30=é", `/ve{}30=`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		got, _, err := decodeDAG(sent)
		want, wrong := contract.DecodeDAG(sent)
		if (err == nil) != (wrong == nil) {
			t.Fatalf("%q: %v, want %v", sent, err, wrong)
		}
		if a, b := pyjson.Append(nil, got, 0), pyjson.Append(nil, want, 0); string(a) != string(b) {
			t.Errorf("%q: %s, want %s", sent, a, b)
		}
	})
}

// Recorded with Python's base64.b64decode.
func TestBase64IsLenientLikePython(t *testing.T) {
	for sent, want := range map[string]string{
		"YWJj": "abc", "YWI=": "ab", "YQ==": "a", "Y W\nJ\tj": "abc", "YWJj!!": "abc", "%Y%W%I%=": "ab", "YWI=YWI=": "ab",
		"YQ=x=": "a\x0c", "=YWJj": "abc", "": "", "-_": "", "YQ==garbage": "a", "YWI=c": "ab",
	} {
		if got, ok := decodeBase64(sent); !ok || got != want {
			t.Errorf("decodeBase64(%q) = %q, %v; want %q", sent, got, ok, want)
		}
	}
	for _, sent := range []string{"YWJ", "Y", "YWI", "YQ=", "Y===", "YWJjé", "YWI=é", "//57fQ=="} {
		if got, ok := decodeBase64(sent); ok {
			t.Errorf("decodeBase64(%q) = %q, want a failure", sent, got)
		}
	}
}
