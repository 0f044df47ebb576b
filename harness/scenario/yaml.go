package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// place is where something stands in a file.
type place struct{ line, column int }

// document is one parsed file: its value in JSON's types (numbers are
// json.Number and keep int and float apart) and the place of everything in it,
// by JSON pointer. A key's own place is under pointer + "\x00key".
type document struct {
	file   string
	value  any
	places map[string]place
	found  Mistakes
	holes  bool // something unsupported has no value: what a schema says of it would only confuse
}

const keyMark = "\x00key"

// readYAML parses one file. The mistakes that it finds are in the document; a
// document whose value is nil could not be read at all.
func readYAML(file string, src []byte) *document {
	d := &document{file: file, places: map[string]place{}}
	tree, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.found = append(d.found, syntaxMistake(file, err))
		return d
	}
	body, ok := d.body(tree)
	if !ok {
		return d
	}
	d.value = d.convert(body, "")
	return d
}

// body picks the one document of the file.
func (d *document) body(tree *ast.File) (ast.Node, bool) {
	var bodies []ast.Node
	for _, doc := range tree.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.found = append(d.found, Mistake{File: d.file, What: "the file is empty", Mend: "write one scenario into it, or remove it"})
		return nil, false
	case 1:
		return bodies[0], true
	}
	d.mistake(lastStart(tree), "a second document", "put each scenario into a file of its own")
	return nil, false
}

// lastStart is where the last document begins.
func lastStart(tree *ast.File) place {
	last := tree.Docs[len(tree.Docs)-1]
	if last.Start != nil {
		return placeOfToken(last.Start)
	}
	return placeOf(last.Body)
}

func syntaxMistake(file string, err error) Mistake {
	var se *yaml.SyntaxError
	if errors.As(err, &se) && se.Token != nil && se.Token.Position != nil {
		p := se.Token.Position
		return Mistake{File: file, Line: p.Line, Column: p.Column, What: "not YAML: " + se.Message, Mend: "mend the syntax"}
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return Mistake{File: file, What: "not YAML: " + first, Mend: "mend the syntax"}
}

func (d *document) mistake(at place, what, mend string) {
	d.found = append(d.found, Mistake{File: d.file, Line: at.line, Column: at.column, What: what, Mend: mend})
}

// at gives the place of a pointer, or of its nearest ancestor that has one.
func (d *document) at(pointer string) place {
	for {
		if p, ok := d.places[pointer]; ok {
			return p
		}
		cut := strings.LastIndexByte(pointer, '/')
		if cut < 0 {
			return place{1, 1}
		}
		pointer = pointer[:cut]
	}
}

// atKey gives the place of the key that a pointer ends in.
func (d *document) atKey(pointer string) place {
	if p, ok := d.places[pointer+keyMark]; ok {
		return p
	}
	return d.at(pointer)
}

// convert turns a node into a JSON value and notes the places below pointer.
func (d *document) convert(n ast.Node, pointer string) any {
	d.places[pointer] = placeOf(n)
	switch n := n.(type) {
	case *ast.MappingNode:
		return d.convertMap(n.Values, pointer)
	case *ast.MappingValueNode:
		return d.convertMap([]*ast.MappingValueNode{n}, pointer)
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, item := range n.Values {
			list[i] = d.convert(item, pointer+"/"+strconv.Itoa(i))
		}
		return list
	default:
		return d.convertScalar(n)
	}
}

func (d *document) convertMap(pairs []*ast.MappingValueNode, pointer string) any {
	m := make(map[string]any, len(pairs))
	for _, pair := range pairs {
		key := keyText(pair.Key)
		child := pointer + "/" + escapePointer(key)
		at := placeOfToken(pair.Key.GetToken())
		if _, again := m[key]; again {
			first := d.places[child+keyMark]
			d.mistake(at, fmt.Sprintf("key %q appears twice, first in line %d", key, first.line), "keep one of them")
			continue
		}
		if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
			d.mistake(at, "merge keys are not supported", "write the values out")
			continue
		}
		d.places[child+keyMark] = at
		m[key] = d.convert(pair.Value, child)
	}
	return m
}

func (d *document) convertScalar(n ast.Node) any {
	switch n := n.(type) {
	case *ast.NullNode, nil:
		return nil
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode:
		return integer(n)
	case *ast.FloatNode:
		return float(n)
	case *ast.StringNode:
		return plainText(n)
	case *ast.LiteralNode:
		return n.Value.Value
	}
	d.mistake(placeOf(n), fmt.Sprintf("%s is not supported here", strings.ToLower(n.Type().String())), "write a plain value, map or list")
	d.holes = true
	return nil
}

// plainText is text, or the number that YAML 1.2 sees in an unquoted 1e16 or in
// very many digits: there the YAML library sees text.
func plainText(n *ast.StringNode) any {
	quoted := n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
	if !quoted && strings.Trim(n.Value, "0123456789+-.eE") == "" && json.Valid([]byte(n.Value)) {
		return json.Number(n.Value)
	}
	return n.Value
}

// integer keeps big numbers exact and gives hex and octal their decimal text.
func integer(n *ast.IntegerNode) any {
	text := strings.ReplaceAll(n.Token.Value, "_", "")
	if v, ok := new(big.Int).SetString(text, 0); ok {
		return json.Number(v.String())
	}
	return json.Number(fmt.Sprint(n.Value))
}

// float keeps the text where JSON can read it, so that 1.0 stays a float.
func float(n *ast.FloatNode) any {
	text := n.Token.Value
	if json.Valid([]byte(text)) {
		return json.Number(text)
	}
	if v := n.Value; v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return json.Number(strconv.FormatFloat(v, 'f', 1, 64))
	}
	return json.Number(strconv.FormatFloat(n.Value, 'g', -1, 64))
}

func keyText(k ast.MapKeyNode) string {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value
	case *ast.MappingKeyNode:
		if s, ok := k.Value.(*ast.StringNode); ok {
			return s.Value
		}
	}
	return k.GetToken().Value
}

func placeOf(n ast.Node) place {
	if n == nil {
		return place{}
	}
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return placeOfToken(m.Values[0].Key.GetToken())
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return placeOfToken(m.Key.GetToken())
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{t.Position.Line, t.Position.Column}
}

func escapePointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}
