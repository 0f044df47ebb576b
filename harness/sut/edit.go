package sut

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// editJSON drops and rewrites fields at any depth, and keeps the order of
// members and every untouched number and text as it is, but for white space.
func editJSON(doc []byte, edits []Rule) ([]byte, error) {
	e := editor{dec: json.NewDecoder(bytes.NewReader(doc)), edits: edits}
	e.dec.UseNumber()
	if err := e.value(); err != nil {
		return nil, err
	}
	if _, err := e.dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("JSON goes on at byte %d", e.dec.InputOffset())
	}
	return e.out.Bytes(), nil
}

type editor struct {
	dec   *json.Decoder
	out   bytes.Buffer
	edits []Rule
}

// value copies the next value.
func (e *editor) value() error {
	t, err := e.dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		return e.object()
	case json.Delim('['):
		return e.array()
	}
	return e.write(t)
}

func (e *editor) write(v any) error {
	enc := json.NewEncoder(&e.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	e.out.Truncate(e.out.Len() - 1) // the encoder's line end
	return nil
}

func (e *editor) object() error {
	e.out.WriteByte('{')
	written := 0
	for e.dec.More() {
		key, err := e.dec.Token()
		if err != nil {
			return err
		}
		edit, found := e.rule(key)
		if found && edit.Kind == TamperDropField {
			if err := e.skip(); err != nil {
				return err
			}
			continue
		}
		if written++; written > 1 {
			e.out.WriteByte(',')
		}
		if err := e.member(key, edit, found); err != nil {
			return err
		}
	}
	e.out.WriteByte('}')
	_, err := e.dec.Token()
	return err
}

func (e *editor) rule(key json.Token) (Rule, bool) {
	for _, r := range e.edits {
		if r.Field == key {
			return r, true
		}
	}
	return Rule{}, false
}

func (e *editor) member(key json.Token, edit Rule, found bool) error {
	if err := e.write(key); err != nil {
		return err
	}
	e.out.WriteByte(':')
	if !found {
		return e.value()
	}
	e.out.WriteString(edit.Value)
	return e.skip()
}

func (e *editor) skip() error {
	var ignored json.RawMessage
	return e.dec.Decode(&ignored)
}

func (e *editor) array() error {
	e.out.WriteByte('[')
	for i := 0; e.dec.More(); i++ {
		if i > 0 {
			e.out.WriteByte(',')
		}
		if err := e.value(); err != nil {
			return err
		}
	}
	e.out.WriteByte(']')
	_, err := e.dec.Token()
	return err
}
