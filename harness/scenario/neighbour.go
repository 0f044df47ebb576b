package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"qmtl.internal/plumbline/harness/neighbour"
	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// worldRule is a rule for a scripted WorldService as it is written.
type worldRule struct {
	On      string            `json:"on"`
	Where   *any              `json:"where"`
	Times   int               `json:"times"`
	Delay   duration          `json:"delay"`
	Fail    string            `json:"fail"`
	Status  any               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    *any              `json:"body"`
	Text    *string           `json:"text"`

	name string // the whole rule as ${name}, until that is replaced
}

// UnmarshalJSON reads a rule, or the name of one.
func (w *worldRule) UnmarshalJSON(b []byte) error {
	type plain worldRule
	return ruleOrName(b, &w.name, (*plain)(w))
}

func ruleOrName(b []byte, name *string, rule any) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, name)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	d.DisallowUnknownFields()
	return d.Decode(rule)
}

// unnamed refuses text that is no name where a rule should be.
func unnamed(name string) error {
	if strings.Contains(name, "${") {
		return nil
	}
	return &wrong{what: fmt.Sprintf("%q is no rule", name), mend: "write a rule, or ${name} of one"}
}

// worldRules reads a script; pointer is where it stands, for its mistakes.
func worldRules(written []worldRule, pointer string) ([]neighbour.Rule, error) {
	out := make([]neighbour.Rule, len(written))
	var errs []error
	for i, w := range written {
		var err error
		if out[i], err = w.checked(); err != nil {
			errs = append(errs, under(err, pointer+"/"+strconv.Itoa(i)))
		}
	}
	return out, errors.Join(errs...)
}

// under makes err a mistake at pointer, or below it where it is one already.
func under(err error, pointer string) error {
	var w *wrong
	if errors.As(err, &w) {
		return &wrong{key: pointer + w.key, what: w.what, mend: w.mend}
	}
	return &wrong{key: pointer, what: err.Error(), mend: "see scenarios/README.md"}
}

func (w worldRule) checked() (neighbour.Rule, error) {
	if w.name != "" {
		return neighbour.Rule{}, unnamed(w.name)
	}
	r, err := w.rule()
	if err == nil {
		err = r.Check()
	}
	return r, err
}

func (w worldRule) rule() (neighbour.Rule, error) {
	r := neighbour.Rule{On: w.On, Times: w.Times, Delay: time.Duration(w.Delay), Fail: w.Fail, Headers: w.Headers}
	if err := atMostOne(map[string]bool{"body": w.Body != nil, "text": w.Text != nil}, "body", "text"); err != nil {
		return r, err
	}
	switch {
	case w.Body != nil:
		r.Body = appendJSON(nil, *w.Body, dressing{}, 0)
	case w.Text != nil:
		r.Body = []byte(*w.Text)
	}
	var err error
	if r.Status, err = w.status(); err != nil {
		return r, err
	}
	fits, err := where(w.Where)
	if fits != nil {
		r.Where = func(c neighbour.Call) bool { return matches(fits, asked(c)) }
	}
	return r, err
}

// status is a number, or at load a name that will have become one.
func (w worldRule) status() (int, error) {
	text := written(w.Status)
	if w.Status == nil || strings.Contains(text, "${") {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 200 || n > 599 {
		return 0, &wrong{key: "/status", what: "status is " + text, mend: "write one from 200 to 599"}
	}
	return n, nil
}

// where reads a pattern that narrows calls down; nil: it does not.
func where(v *any) (pattern, error) {
	if v == nil {
		return nil, nil
	}
	var err error
	p := compile(*v, "/where", func(pointer, what, mend string) { err = &wrong{key: pointer, what: what, mend: mend} })
	return p, err
}

// asked is a call to the WorldService as patterns see it.
func asked(c neighbour.Call) map[string]any {
	query := map[string]any{}
	for k, all := range c.Query {
		query[k] = strings.Join(all, ",")
	}
	out := map[string]any{"method": c.Method, "path": c.Path, "query": query, "headers": headers(c.Headers), "text": string(c.Body)}
	if v, err := parseJSON(c.Body); err == nil {
		out["body"] = v
	}
	return out
}

// worldServiceAction looks at a scripted WorldService, then changes it.
type worldServiceAction struct {
	Calls  string       `json:"calls"`
	Where  *any         `json:"where"`
	Forget bool         `json:"forget"`
	Script *[]worldRule `json:"script"`
}

func (a worldServiceAction) validate() error {
	if a.Calls != "" {
		if err := (neighbour.Rule{On: a.Calls}).Check(); err != nil {
			return &wrong{key: "/calls", what: err.Error(), mend: "write it like on"}
		}
	}
	if _, err := where(a.Where); err != nil || a.Script == nil {
		return err
	}
	_, err := worldRules(*a.Script, "/script")
	return err
}

func (a worldServiceAction) do(_ context.Context, x *execution, _ *Step) (observation, error) {
	w := x.near.world
	narrow, err := where(a.Where)
	if err != nil {
		return nil, err
	}
	found := []any{}
	for _, c := range w.Calls() {
		if a.means(c) && fits(narrow, asked(c)) {
			found = append(found, asked(c))
		}
	}
	if a.Forget {
		w.Forget()
	}
	if a.Script != nil {
		rules, err := worldRules(*a.Script, "/script")
		if err == nil {
			err = w.Script(rules)
		}
		if err != nil {
			return nil, err
		}
	}
	return observation{"calls": found, "count": count(len(found))}, nil
}

func (a worldServiceAction) means(c neighbour.Call) bool {
	if a.Calls == "" {
		return !c.Is(neighbour.Health)
	}
	return c.Is(a.Calls)
}

func fits(p pattern, v any) bool { return p == nil || matches(p, v) }

// dagRule is a rule for a scripted DAG Manager as it is written.
type dagRule struct {
	On     string         `json:"on"`
	Where  *any           `json:"where"`
	Times  int            `json:"times"`
	Delay  duration       `json:"delay"`
	Hang   bool           `json:"hang"`
	Code   string         `json:"code"`
	Chunks *[]dagChunk    `json:"chunks"`
	Reply  map[string]any `json:"reply"`

	name string // the whole rule as ${name}, until that is replaced
}

// UnmarshalJSON reads a rule, or the name of one.
func (w *dagRule) UnmarshalJSON(b []byte) error {
	type plain dagRule
	return ruleOrName(b, &w.name, (*plain)(w))
}

type dagChunk struct {
	CRC      string            `json:"crc"`
	Sentinel *string           `json:"sentinel_id"`
	Version  string            `json:"version"`
	QueueMap map[string]string `json:"queue_map"`
}

// dagRules reads a script; pointer is where it stands, for its mistakes.
func dagRules(written []dagRule, pointer string) ([]neighbour.DagRule, error) {
	out := make([]neighbour.DagRule, len(written))
	var errs []error
	for i, w := range written {
		var err error
		if out[i], err = w.checked(); err != nil {
			errs = append(errs, under(err, pointer+"/"+strconv.Itoa(i)))
		}
	}
	return out, errors.Join(errs...)
}

func (w dagRule) checked() (neighbour.DagRule, error) {
	if w.name != "" {
		return neighbour.DagRule{}, unnamed(w.name)
	}
	r, err := w.rule()
	if err == nil {
		err = r.Check()
	}
	return r, err
}

func (w dagRule) rule() (neighbour.DagRule, error) {
	r := neighbour.DagRule{On: w.On, Times: w.Times, Delay: time.Duration(w.Delay), Hang: w.Hang, Message: "as the script says"}
	if w.Chunks != nil {
		r.Chunks = []neighbour.Chunk{}
		for _, c := range *w.Chunks {
			r.Chunks = append(r.Chunks, neighbour.Chunk{CRC: c.CRC, Sentinel: c.Sentinel, Version: c.Version, QueueMap: c.QueueMap})
		}
	}
	fit, err := where(w.Where)
	if fit != nil {
		r.Where = func(c neighbour.DagCall) bool { return matches(fit, askedOf(c)["request"]) }
	}
	return r, errors.Join(err, w.code(&r), w.reply(&r))
}

func (w dagRule) code(r *neighbour.DagRule) error {
	if w.Code == "" {
		return nil
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if codeName(c) == w.Code {
			r.Code = c
			return nil
		}
	}
	return &wrong{key: "/code", what: fmt.Sprintf("unknown code %q", w.Code), mend: "write a gRPC status name, such as UNAVAILABLE"}
}

func (w dagRule) reply(r *neighbour.DagRule) error {
	if w.Reply == nil {
		return nil
	}
	var into proto.Message
	switch w.On {
	case neighbour.CallGetQueues:
		r.Queues = &pb.TagQueryReply{}
		into = r.Queues
	case neighbour.CallStatus:
		r.State = &pb.StatusReply{}
		into = r.State
	default:
		return &wrong{key: "/reply", what: w.On + " takes no reply", mend: "give it to GetQueues or Status; Diff takes chunks"}
	}
	fields, err := json.Marshal(w.Reply)
	if err == nil {
		err = protojson.Unmarshal(fields, into)
	}
	if err != nil {
		what := strings.Join(strings.Fields(err.Error()), " ") // protobuf varies its spaces
		return &wrong{key: "/reply", what: what, mend: "name the message's fields as in its proto"}
	}
	return nil
}

// askedOf is a call to the DAG Manager as patterns see it: its request, and of
// a diff the DAG, read.
func askedOf(c neighbour.DagCall) map[string]any {
	request := shown(c.Request.ProtoReflect())
	if text, ok := request["dag_json"].(string); ok {
		if v, err := parseJSON(bytes.TrimSpace([]byte(text))); err == nil {
			request["dag"] = v
		}
	}
	return map[string]any{"method": c.Method, "request": request}
}

// dagManagerAction looks at a scripted DAG Manager, then changes it.
type dagManagerAction struct {
	Calls  string     `json:"calls"`
	Where  *any       `json:"where"`
	Forget bool       `json:"forget"`
	Script *[]dagRule `json:"script"`
}

func (a dagManagerAction) validate() error {
	if _, err := where(a.Where); err != nil || a.Script == nil {
		return err
	}
	_, err := dagRules(*a.Script, "/script")
	return err
}

func (a dagManagerAction) do(_ context.Context, x *execution, _ *Step) (observation, error) {
	d := x.near.dag
	narrow, err := where(a.Where)
	if err != nil {
		return nil, err
	}
	found := []any{}
	for _, c := range d.Calls() {
		if a.means(c) && fits(narrow, askedOf(c)["request"]) {
			found = append(found, askedOf(c))
		}
	}
	if a.Forget {
		d.Forget()
	}
	if a.Script != nil {
		rules, err := dagRules(*a.Script, "/script")
		if err == nil {
			err = d.Script(rules)
		}
		if err != nil {
			return nil, err
		}
	}
	return observation{"calls": found, "count": count(len(found))}, nil
}

func (a dagManagerAction) means(c neighbour.DagCall) bool {
	if a.Calls == "" {
		return c.Method != neighbour.CallStatus
	}
	return c.Method == a.Calls
}
