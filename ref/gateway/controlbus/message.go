package controlbus

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// A message is one record, parsed (controlbus.md 1.5).
type message struct {
	record *kgo.Record
	topic  string
	key    string
	data   pyjson.Value // an object, empty when the value is unusable
	etag   pyjson.Value // of the data, else of the headers, else ""
	runID  pyjson.Value // likewise
	flaw   error        // why the value is unusable, nil when it is not

	frame    pyjson.Value // what a check made of data, for effects that need one
	sequence *big.Int     // of an activation that asks for an acknowledgement
}

// parse reads a record. The error means that key or headers are not text: such
// a record counts for nothing. A value that is no JSON object is no error here;
// it becomes an empty message with a flaw.
func parse(r *kgo.Record) (*message, error) {
	headers := map[string]string{}
	for _, h := range r.Headers {
		if !utf8.Valid(h.Value) {
			return nil, fmt.Errorf("header %q is not UTF-8", h.Key)
		}
		headers[h.Key] = string(h.Value)
	}
	if !utf8.Valid(r.Key) {
		return nil, errors.New("key is not UTF-8")
	}
	m := &message{record: r, topic: r.Topic, key: string(r.Key)}
	var event pyjson.Value
	event, m.flaw = object(r.Value)
	m.data = event
	if inner := event.Member("data"); inner.Kind() == pyjson.Object {
		m.data = inner
	}
	m.etag = m.data.Member("etag").Or(pyjson.OfString(headers["etag"]))
	m.runID = m.data.Member("run_id").Or(pyjson.OfString(headers["run_id"]))
	return m, nil
}

// object reads a value; anything but an object becomes an empty one and an
// error.
func object(b []byte) (pyjson.Value, error) {
	empty := pyjson.OfObject()
	if b == nil {
		return empty, errors.New("no value")
	}
	if !utf8.Valid(b) {
		return empty, errors.New("value is not UTF-8")
	}
	v, err := pyjson.Parse(b)
	if err != nil {
		return empty, err
	}
	if v.Kind() != pyjson.Object {
		return empty, fmt.Errorf("value is a JSON %s, not an object", v.Kind())
	}
	return v, nil
}

// first gives the text of data's member, else of other when the member is
// falsy.
func (m *message) first(member string, other pyjson.Value) string {
	return m.data.Member(member).Or(other).Text()
}

// world and run name the series that a sequenced activation belongs to.
func (m *message) world() string { return m.first("world_id", pyjson.OfString(m.key)) }
func (m *message) run() string   { return m.first("run_id", m.runID) }
func (m *message) phase() string { return m.first("phase", pyjson.OfString("unknown")) }

// acked says whether the sender wants an acknowledgement.
func (m *message) acked() bool { return m.data.Member("requires_ack").Truthy() }

// current says whether the message has the one version that is relayed; 1.0 and
// true pass for 1.
func (m *message) current() bool {
	v := m.data.Member("version")
	f, isFloat := v.Float64()
	n, isInt := v.Int64()
	return v.IsTrue() || isFloat && f == 1 || isInt && n == 1
}

// sent gives the time that an activation carries, else that of its record. A
// truthy ts that is no text is an error.
func (m *message) sent() (time.Time, error) {
	ts := m.data.Member("ts")
	s, ok := ts.Str()
	if !ok && ts.Truthy() {
		return time.Time{}, fmt.Errorf("ts is a JSON %s, not a string", ts.Kind())
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return m.record.Timestamp, nil
}

// marker joins values so that two markers are equal exactly when Python calls
// the tuples equal: 1, 1.0 and true are one value.
func marker(values ...pyjson.Value) string {
	return string(pyjson.Append(nil, plain(pyjson.OfArray(values...)), pyjson.Sorted|pyjson.ASCII))
}

// plain writes whole numbers one way, at every depth.
func plain(v pyjson.Value) pyjson.Value {
	switch v.Kind() {
	case pyjson.Bool, pyjson.Float:
		if f, _ := v.Float64(); math.Trunc(f) == f && !math.IsInf(f, 0) {
			v, _ = pyjson.ToInteger(v) // whole by now
		}
		return v
	case pyjson.Array:
		elems := make([]pyjson.Value, len(v.Elems()))
		for i, e := range v.Elems() {
			elems[i] = plain(e)
		}
		return pyjson.OfArray(elems...)
	case pyjson.Object:
		members := make([]pyjson.Member, len(v.Members()))
		for i, m := range v.Members() {
			members[i] = member(m.Key, plain(m.Value))
		}
		return pyjson.OfObject(members...)
	default:
		return v
	}
}
