package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"qmtl.internal/plumbline/ref/gateway/fills"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

type surfaceRequest struct {
	Method, Path string
	Body         string
	BodyB64      string `json:"body_b64"`
	Headers      map[string]string
}

type surfaceResponse struct {
	Status       int
	ContentType  *string           `json:"content_type"`
	BodyText     *string           `json:"body_text"`
	Errors       []json.RawMessage `json:"errors"`
	LocationPath string            `json:"location_path"`
}

// echoManager answers no diff and echoes tag lookups, as the recording's stub.
func echoManager() *manager {
	return &manager{
		chunks: refuse[*pb.DiffRequest, []*pb.DiffChunk](codes.InvalidArgument),
		queues: func(_ context.Context, q *pb.TagQueryRequest) ([]*pb.QueueDescriptor, error) {
			echo := fmt.Sprintf("%s|%d|%s", strings.Join(q.GetTags(), ","), q.GetInterval(), q.GetMatchMode())
			return []*pb.QueueDescriptor{{Queue: echo}}, nil
		},
	}
}

func TestHTTPSurfaceVectors(t *testing.T) {
	vectors.Run(t, "http_surface", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct{ Requests []surfaceRequest }](t, v.Input)
		out := vectors.Decode[struct{ Responses []surfaceResponse }](t, v.Output)
		who := newCredentials(t)
		s := newStand(t, withManager(echoManager()), withArgs(who.args()...), withArgs("--fill-secret", "fsecret"))
		last := ""
		for i, req := range in.Requests {
			if auth := req.Headers["Authorization"]; auth != "" {
				req.Headers["Authorization"] = who.bearer(auth, fills.Audience, out.Responses[i].Status == http.StatusUnauthorized)
			}
			got := s.replay(req, last)
			if id := uuids.FindString(got.body); id != "" {
				last = id
			}
			compareSurface(t, fmt.Sprintf("%s %s", req.Method, req.Path), got, out.Responses[i])
		}
	})
}

var uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

func (s *stand) replay(r surfaceRequest, last string) answer {
	s.t.Helper()
	body := r.Body
	if r.BodyB64 != "" {
		b, err := base64.StdEncoding.DecodeString(r.BodyB64)
		if err != nil {
			s.t.Fatal(err)
		}
		body = string(b)
	}
	req, err := http.NewRequest(r.Method, s.url+strings.ReplaceAll(r.Path, "<last_strategy>", last), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range r.Headers {
		req.Header.Set(k, v)
	}
	return s.send(req)
}

func compareSurface(t *testing.T, what string, got answer, want surfaceResponse) {
	t.Helper()
	if want.Status == http.StatusInternalServerError {
		wantRefused(t, what, got)
		return
	}
	if strings.HasSuffix(what, " /events/jwks") {
		wantPublicKeys(t, got)
		return
	}
	if got.status != want.Status {
		t.Errorf("%s: %d %s, want %d", what, got.status, got.body, want.Status)
	}
	if want.ContentType != nil && got.header.Get("Content-Type") != *want.ContentType {
		t.Errorf("%s: content type %q, want %q", what, got.header.Get("Content-Type"), *want.ContentType)
	}
	if want.LocationPath != "" {
		wantLocation(t, what, got, want.LocationPath)
	}
	if want.Errors != nil {
		wantErrors(t, what, got, want.Errors)
		return
	}
	if masked := uuids.ReplaceAllString(got.body, "<uuid>"); want.BodyText != nil && masked != onTheWire(*want.BodyText) {
		t.Errorf("%s: body %s\nwant %s", what, masked, onTheWire(*want.BodyText))
	}
}

// wantRefused: what crashed the original is refused with a reason (design
// section 9.8): a DAG by 400, a fill that is no envelope too, a parameter by 422.
func wantRefused(t *testing.T, what string, got answer) {
	t.Helper()
	v, err := pyjson.ParseString(got.body)
	detail := v.Member("detail")
	code, _ := detail.Member("code").Str()
	dag := got.status == 400 && code == "E_SCHEMA_INVALID" && len(detail.Member("errors").Elems()) == 1
	fill := got.status == 400 && code == "E_CE_REQUIRED"
	parameter := got.status == 422 && len(detail.Elems()) > 0
	if err != nil || !dag && !fill && !parameter {
		t.Errorf("%s: %d %s, want 400 E_SCHEMA_INVALID or 422, with a reason", what, got.status, got.body)
	}
}

// wantPublicKeys: the original publishes its signing secret; what is published
// here verifies tokens only (design section 9.7).
func wantPublicKeys(t *testing.T, got answer) {
	t.Helper()
	v, err := pyjson.ParseString(got.body)
	keys := v.Member("keys").Elems()
	if err != nil || got.status != http.StatusOK || got.header.Get("Content-Type") != "application/json" || len(keys) == 0 {
		t.Fatalf("jwks %d %s", got.status, got.body)
	}
	for _, key := range keys {
		_, private := key.Get("d")
		_, secret := key.Get("k")
		if kty, _ := key.Member("kty").Str(); kty != "OKP" || private || secret {
			t.Errorf("key %s", got.body)
		}
	}
	if kid, _ := keys[0].Member("kid").Str(); kid != "default" {
		t.Errorf("key %s", got.body)
	}
}

func wantLocation(t *testing.T, what string, got answer, path string) {
	t.Helper()
	to, err := url.Parse(got.header.Get("Location"))
	if err != nil || to.Host == "" || to.Path != path {
		t.Errorf("%s: location %q, want an absolute one to %s", what, got.header.Get("Location"), path)
	}
}

func wantErrors(t *testing.T, what string, got answer, want []json.RawMessage) {
	t.Helper()
	v, err := pyjson.ParseString(got.body)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var items []pyjson.Value
	detail := v.Member("detail")
	if detail.Kind() == pyjson.Object {
		detail = detail.Member("errors")
	}
	for _, e := range detail.Elems() {
		items = append(items, pyjson.OfArray(e.Member("loc"), e.Member("type")))
	}
	wanted, _ := json.Marshal(want)
	w, _ := pyjson.Parse(wanted)
	if g := pyjson.OfArray(items...); string(pyjson.Append(nil, g, 0)) != string(pyjson.Append(nil, w, 0)) {
		t.Errorf("%s: errors %s\nwant %s", what, pyjson.Append(nil, g, 0), wanted)
	}
}

// The recording's stub stands in the place of the client and so saw world and
// domain, which never go over the wire: "tags|interval|mode|world|domain" is
// "world.domain.tags|interval|mode" here.
var stubQueue = regexp.MustCompile(`"queue":"([^"|]*\|[^"|]*\|[^"|]*)\|([^"|]*)\|([^"|]*)"`)

func onTheWire(body string) string {
	return stubQueue.ReplaceAllStringFunc(body, func(q string) string {
		m := stubQueue.FindStringSubmatch(q)
		if m[2] == "None" {
			return `"queue":"` + m[1] + `"`
		}
		return `"queue":"` + m[2] + "." + m[3] + "." + m[1] + `"`
	})
}
