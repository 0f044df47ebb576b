package submit

import (
	"unicode/utf8"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Request is the body of POST /strategies and its dry run (gateway.md 1.3).
type Request struct {
	DAGJSON  string
	Meta     pyjson.Value // an object or null
	WorldID  *string      // must not be given; kept to say so
	WorldIDs []string     // as sent: neither trimmed nor deduplicated
	CRC32    string       // node_ids_crc32 as decimal digits of any length
}

// ParseRequest reads a body. The error is a *contract.Problem: 422 with every mistake,
// or 400 when the body is no text. The request keeps body's memory.
func ParseRequest(contentType string, body []byte) (*Request, error) {
	v, err := model.Body(contentType, body)
	if err != nil {
		return nil, err
	}
	if v.Kind() != pyjson.Object {
		return nil, model.Unprocessable("body", model.FieldError{Type: "model_attributes_type", Input: v})
	}
	return readModel(v)
}

// fields gathers field errors while it reads, so that all are reported.
type fields struct {
	body pyjson.Value
	errs []model.FieldError
}

func readModel(body pyjson.Value) (*Request, error) {
	m := fields{body: body}
	r := &Request{
		DAGJSON:  m.requiredText("dag_json"),
		Meta:     m.optional("meta", pyjson.Object, "dict_type"),
		WorldID:  m.optionalText("world_id"),
		WorldIDs: m.optionalTexts("world_ids"),
		CRC32:    m.requiredInt("node_ids_crc32"),
	}
	if m.errs != nil {
		return nil, model.Unprocessable("body", m.errs...)
	}
	return r, nil
}

func (m *fields) fail(errType string, input pyjson.Value, loc ...pyjson.Value) {
	m.errs = model.AppendError(m.errs, model.FieldError{Type: errType, Loc: loc, Input: input})
}

func (m *fields) required(key string) (pyjson.Value, bool) {
	v, ok := m.body.Get(key)
	if !ok {
		m.fail("missing", m.body, pyjson.OfString(key))
	}
	return v, ok
}

func (m *fields) optional(key string, kind pyjson.Kind, errType string) pyjson.Value {
	v := m.body.Member(key)
	if !v.IsNull() && v.Kind() != kind {
		m.fail(errType, v, pyjson.OfString(key))
	}
	return v
}

func (m *fields) requiredText(key string) string {
	v, ok := m.required(key)
	if !ok {
		return ""
	}
	return m.text(v, key, -1)
}

// text is the member of a key, or the element i of that; -1: none.
func (m *fields) text(v pyjson.Value, key string, i int) string {
	s, ok := v.Str()
	if ok && utf8.ValidString(s) {
		return s
	}
	mistake := "string_type"
	if ok {
		mistake = "string_unicode"
	}
	loc := []pyjson.Value{pyjson.OfString(key)}
	if i >= 0 {
		loc = append(loc, pyjson.OfInt(int64(i)))
	}
	m.fail(mistake, v, loc...)
	return s
}

func (m *fields) optionalText(key string) *string {
	v := m.body.Member(key)
	if v.IsNull() {
		return nil
	}
	s := m.text(v, key, -1)
	return &s
}

func (m *fields) optionalTexts(key string) []string {
	v := m.optional(key, pyjson.Array, "list_type")
	if v.Kind() != pyjson.Array {
		return nil
	}
	all := make([]string, len(v.Elems()))
	for i, e := range v.Elems() {
		all[i] = m.text(e, key, i)
	}
	return all
}

func (m *fields) requiredInt(key string) string {
	v, ok := m.required(key)
	if !ok {
		return ""
	}
	digits, errType := model.LaxInt(v)
	if errType != "" {
		m.fail(errType, v, pyjson.OfString(key))
	}
	return digits
}

// checkWorlds refuses the old single world and a list without a usable entry,
// and gives the worlds trimmed, without blanks, each once, in order.
func (r *Request) checkWorlds() ([]string, error) {
	if r.WorldID != nil {
		return nil, contract.WorldIDDeprecated()
	}
	worlds := normalizeWorlds(r.WorldIDs)
	if len(worlds) == 0 {
		return nil, contract.WorldIDsRequired()
	}
	return worlds, nil
}

func normalizeWorlds(sent []string) []string {
	worlds := make([]string, 0, len(sent))
	seen := make(map[string]struct{}, len(sent))
	for _, w := range sent {
		w = pyjson.Strip(w)
		if _, again := seen[w]; again || w == "" {
			continue
		}
		seen[w] = struct{}{}
		worlds = append(worlds, w)
	}
	return worlds
}
