package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"qmtl.internal/plumbline/ref/gateway/degrade"
	"qmtl.internal/plumbline/ref/gateway/fills"
	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/ref/gateway/openapi"
	"qmtl.internal/plumbline/ref/gateway/rebalance"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/ref/gateway/world"
)

// description is the document, ready to hold answers to.
type description struct {
	operations []openapi.Operation
	document   map[string]any
	models     map[string]*jsonschema.Schema
}

// described reads the document as a client would: whatever is true of an answer
// must be written there.
var described = sync.OnceValues(func() (*description, error) {
	text, err := openapi.Document()
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("openapi.json", doc); err != nil {
		return nil, err
	}
	d := &description{operations: openapi.Operations(), document: doc.(map[string]any), models: map[string]*jsonschema.Schema{}}
	names, err := openapi.Schemas()
	if err != nil {
		return nil, err
	}
	for name := range names {
		if d.models[name], err = c.Compile("openapi.json#/components/schemas/" + name); err != nil {
			return nil, err
		}
	}
	return d, nil
})

// operation finds what a request is for, nil when it is for nothing.
func (d *description) operation(method, path string) *openapi.Operation {
	segments := strings.Split(path, "/")
	for i, op := range d.operations {
		one := route{segments: strings.Split(op.Path, "/")}
		if op.Method == method && one.match(segments, &http.Request{}) {
			return &d.operations[i]
		}
	}
	return nil
}

// everywhere: an answer that any route may give, which the document says once.
func everywhere(a answer) bool {
	return a.status == http.StatusNoContent && a.header.Get("Retry-After") == "30" || a.status == http.StatusInternalServerError && a.body == problem500
}

// judge says which of the described bodies an answer has, or what is wrong with
// it.
func (d *description) judge(op *openapi.Operation, a answer) (body string, err error) {
	bodies, refusable := bodiesOf(op, a.status)
	if len(bodies) == 0 && !refusable {
		return "", fmt.Errorf("status %d is not in the document", a.status)
	}
	var wrong []string
	for _, name := range bodies {
		err := d.holds(name, a)
		if err == nil {
			return name, nil
		}
		wrong = append(wrong, fmt.Sprintf("%s: %v", name, err))
	}
	if refusable && !d.coded(a) && (a.body == "" || d.holds("Refusal", a) == nil) {
		return "Refusal", nil
	}
	return "", fmt.Errorf("the body fits nothing that the document allows: %s", strings.Join(wrong, "\n"))
}

// bodiesOf gives the bodies that an operation's answers of a status may have, and
// whether it may also be a refusal of the WorldService.
func bodiesOf(op *openapi.Operation, status int) (names []string, refusable bool) {
	for _, one := range op.Answers {
		refusable = refusable || one.Status == 0
		if one.Status == status {
			names = append(names, one.Body)
		}
	}
	return names, refusable
}

// coded: an answer with a code of ours is no refusal of somebody else.
func (d *description) coded(a answer) bool {
	var problem struct{ Detail struct{ Code string } }
	_ = json.Unmarshal([]byte(a.body), &problem)
	return d.models[problem.Detail.Code] != nil
}

// holds says why an answer does not have a body of that name.
func (d *description) holds(name string, a answer) error {
	kind := a.header.Get("Content-Type")
	switch name {
	case "":
		if a.body != "" {
			return fmt.Errorf("a body where there should be none: %.200s", a.body)
		}
		return nil
	case openapi.Text:
		if !strings.HasPrefix(kind, "text/plain") {
			return fmt.Errorf("content type %q", kind)
		}
		return nil
	}
	if kind != "application/json" {
		return fmt.Errorf("content type %q", kind)
	}
	return d.valid(name, a.body)
}

func (d *description) valid(name, text string) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("%.200s: %w", text, err)
	}
	if name == openapi.Any {
		return nil
	}
	return d.models[name].Validate(v)
}

// wantDescribed holds an exchange to the document. Every request of every test
// here comes by.
func (s *stand) wantDescribed(req *http.Request, a answer) {
	s.t.Helper()
	d, err := described()
	if err != nil {
		s.t.Fatal(err)
	}
	what := req.Method + " " + req.URL.Path
	op := d.operation(req.Method, req.URL.Path)
	if op == nil {
		if !slices.Contains([]int{204, 307, 404, 405}, a.status) {
			s.t.Errorf("%s: answer %d of a route that the document does not have", what, a.status)
		}
		return
	}
	if everywhere(a) {
		return
	}
	body, err := d.judge(op, a)
	if err != nil {
		s.t.Errorf("%s: answer %d %.300s: %v", what, a.status, a.body, err)
	}
	s.given.note(op, a.status, body)
	if op.Body != "" && a.status < 300 {
		d.wantTaken(s.t, req, op)
	}
}

// wantTaken: a request that was taken is one that the document allows.
func (d *description) wantTaken(t *testing.T, req *http.Request, op *openapi.Operation) {
	t.Helper()
	if req.GetBody == nil {
		return // a stream: it is gone
	}
	from, err := req.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := io.ReadAll(from)
	if !json.Valid(sent) {
		return // more than JSON is taken, but nobody is told
	}
	if err := d.valid(op.Body, string(sent)); err != nil {
		t.Errorf("%s %s took what the document forbids: %v", op.Method, op.Path, err)
	}
}

// givenAnswers are the described answers that were seen.
type givenAnswers struct {
	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

func answerName(op *openapi.Operation, status int, body string) string {
	return fmt.Sprintf("%s %s: %d %s", op.Method, op.Path, status, body)
}

func (g *givenAnswers) note(op *openapi.Operation, status int, body string) {
	if g == nil {
		return
	}
	if body == "Refusal" {
		status = 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		g.seen = map[string]bool{}
	}
	g.seen[answerName(op, status, body)] = true
}

// wantAll: an answer that is described but never given would be a promise that
// nobody has looked at.
func (g *givenAnswers) wantAll(t *testing.T) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, op := range openapi.Operations() {
		for _, a := range op.Answers {
			if name := answerName(&op, a.Status, a.Body); !g.seen[name] {
				t.Errorf("%s (%s) is described, and no test is answered so", name, a.When)
			}
		}
	}
}

func TestTheDocumentHasEveryRouteAndNoOther(t *testing.T) {
	g := &Gateway{
		pipeline: &submit.Pipeline{}, proxy: &world.Proxy{}, fills: &fills.Handler{}, orders: &rebalance.Handler{},
		level: &degrade.Driver{}, events: &hub.Hub{}, stream: &hub.Stream{},
	}
	var routed, documented []string
	for _, one := range g.routes().routes {
		routed = append(routed, one.method+" "+strings.Join(one.segments, "/"))
	}
	for _, op := range openapi.Operations() {
		documented = append(documented, op.Method+" "+op.Path)
	}
	if !slices.Equal(routed, documented) {
		t.Errorf("routes, in the order in which they are tried:\n%s\ndocumented:\n%s", strings.Join(routed, "\n"), strings.Join(documented, "\n"))
	}
}

func TestTheDocumentIsServedAndWhole(t *testing.T) {
	s := newStand(t)
	a := s.get("/openapi.json")
	text, err := openapi.Document()
	if err != nil || a.status != 200 || a.body != string(text) {
		t.Fatalf("%d %.200s, %v", a.status, a.body, err)
	}
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	if d.document["openapi"] != "3.1.0" {
		t.Errorf("openapi %v", d.document["openapi"])
	}
	ids := map[string]bool{}
	for _, op := range d.operations {
		if ids[op.ID] || op.ID == "" || op.Summary == "" {
			t.Errorf("%s %s: id %q, summary %q", op.Method, op.Path, op.ID, op.Summary)
		}
		ids[op.ID] = true
	}
}

func TestEveryModelOfTheDocumentIsUsed(t *testing.T) {
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	references(d.document, used)
	if got, have := slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(d.models)); !slices.Equal(got, have) {
		t.Errorf("the document speaks of %v\nand has %v", got, have)
	}
}

// references gathers the models that a part of the document names.
func references(part any, into map[string]bool) {
	switch v := part.(type) {
	case map[string]any:
		if to, ok := v["$ref"].(string); ok {
			into[strings.TrimPrefix(to, "#/components/schemas/")] = true
		}
		for _, below := range v {
			references(below, into)
		}
	case []any:
		for _, below := range v {
			references(below, into)
		}
	}
}
