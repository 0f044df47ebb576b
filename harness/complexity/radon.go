package complexity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// MaxRadon is the largest radon file that Radon reads, in bytes.
const MaxRadon = 256 << 20

// block is one entry of radon's list for a file. Pointers tell absent from zero.
type block struct {
	Type       string  `json:"type"` // function, method, class
	Name       string  `json:"name"`
	Line       *int    `json:"lineno"`
	EndLine    *int    `json:"endline"`
	Col        int     `json:"col_offset"`
	Complexity *int    `json:"complexity"`
	Class      string  `json:"classname"`
	Closures   []block `json:"closures"`
	Methods    []block `json:"methods"`
	Inner      []block `json:"inner_classes"`
}

// Radon reads the JSON of `radon cc -j`: an object that gives for each file a
// list of blocks. Functions, methods and closures become functions, each once,
// although radon lists methods twice (and closures too under --show-closures);
// a class's own number is an average of its methods and is left out. Ranks are
// not read: they follow from the CC.
//
// Files that radon could not parse ({"error": …}) are named in a FileErrors,
// next to the functions of all the others. Any other error says where the
// input is broken, and nothing is returned.
func Radon(r io.Reader) ([]record.Func, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxRadon+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("radon: after %d bytes: %w", len(b), err)
	case len(b) > MaxRadon:
		return nil, fmt.Errorf("radon: more than %d bytes; measure fewer folders at a time", MaxRadon)
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if err := wellFormed(b); err != nil {
		return nil, err
	}
	in := radonReader{src: b, files: map[string]bool{}}
	if err := in.read(); err != nil {
		return nil, err
	}
	slices.SortFunc(in.funcs, byPlace)
	return in.funcs, in.bad.orNil()
}

const wantRadon = "want the output of `radon cc -j`, an object with a list of blocks for each file"

// wellFormed checks the whole text first, since only this way encoding/json
// tells the true offset of a mistake.
func wellFormed(b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("radon: no content; " + wantRadon)
	}
	var any json.RawMessage
	err := json.Unmarshal(b, &any)
	var se *json.SyntaxError
	if errors.As(err, &se) {
		return fmt.Errorf("radon: %s: %w; %s", at(b, se.Offset), err, wantRadon)
	}
	return err
}

// at names a place by offset and line.
func at(b []byte, offset int64) string {
	offset = min(max(offset, 0), int64(len(b)))
	return fmt.Sprintf("offset %d (line %d)", offset, 1+bytes.Count(b[:offset], []byte("\n")))
}

type radonReader struct {
	src   []byte
	files map[string]bool // seen
	funcs []record.Func
	bad   FileErrors
}

func (in *radonReader) read() error {
	dec := json.NewDecoder(bytes.NewReader(in.src))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("radon: %s: %s", at(in.src, 0), wantRadon)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fmt.Errorf("radon: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("radon: %w", err)
		}
		start := dec.InputOffset() - int64(len(value))
		if err := in.file(key.(string), value, start); err != nil {
			return err
		}
	}
	return nil
}

// file takes what radon says about one file. start is the place of value.
func (in *radonReader) file(name string, value json.RawMessage, start int64) error {
	name = path.Clean(strings.ReplaceAll(name, `\`, "/"))
	if in.files[name] {
		return fmt.Errorf("radon: %s: file %s appears twice", at(in.src, start), name)
	}
	in.files[name] = true
	if value[0] != '[' {
		return in.fileError(name, value, start)
	}
	var blocks []block
	if err := json.Unmarshal(value, &blocks); err != nil {
		return fmt.Errorf("radon: %s: file %s: %w; %s", in.typeAt(err, start), name, err, wantRadon)
	}
	w := walker{file: name, seen: map[spot]bool{}}
	if err := w.walk(blocks, "", ""); err != nil {
		return fmt.Errorf("radon: %s: file %s: %w", at(in.src, start), name, err)
	}
	in.funcs = append(in.funcs, w.funcs...)
	return nil
}

func (in *radonReader) typeAt(err error, start int64) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		start += te.Offset
	}
	return at(in.src, start)
}

func (in *radonReader) fileError(name string, value json.RawMessage, start int64) error {
	var entry struct {
		Error *string `json:"error"`
	}
	if err := json.Unmarshal(value, &entry); err != nil || entry.Error == nil {
		return fmt.Errorf("radon: %s: file %s: neither a list of blocks nor an error entry; %s", at(in.src, start), name, wantRadon)
	}
	in.bad = append(in.bad, FileError{name, errors.New("radon: " + *entry.Error)})
	return nil
}

// spot is where a function starts; radon's second mention of it has the same.
type spot struct {
	line, col int
	leaf      string
}

type walker struct {
	file  string
	seen  map[spot]bool
	funcs []record.Func
}

// walk collects blocks that lie within class and, for closures, within outer.
func (w *walker) walk(blocks []block, class, outer string) error {
	// A closure that --show-closures has lifted to the top is met where it
	// belongs first, and is then known; so nested blocks come before siblings.
	for _, b := range blocks {
		if err := w.nested(b, class, outer); err != nil {
			return err
		}
	}
	for _, b := range blocks {
		if b.Type != "class" {
			w.add(b, className(b, class), outer)
		}
	}
	return nil
}

func (w *walker) nested(b block, class, outer string) error {
	if err := b.check(); err != nil {
		return err
	}
	if b.Type == "class" {
		return errors.Join(w.walk(b.Methods, b.Name, ""), w.walk(b.Inner, b.Name, ""))
	}
	class = className(b, class)
	return w.walk(b.Closures, class, qualified(b.Name, class, outer))
}

func (b block) check() error {
	switch {
	case b.Type != "function" && b.Type != "method" && b.Type != "class":
		return fmt.Errorf("block %q: type %q is none of function, method, class", b.Name, b.Type)
	case b.Name == "":
		return errors.New("a block has no name")
	case b.Line == nil || *b.Line < 1:
		return fmt.Errorf("block %q: lineno is absent or not positive", b.Name)
	case b.Complexity == nil || *b.Complexity < 0:
		return fmt.Errorf("block %q: complexity is absent or negative", b.Name)
	}
	return nil
}

func className(b block, class string) string {
	if b.Class != "" {
		return b.Class
	}
	return class
}

// qualified is the name as Python's __qualname__ has it.
func qualified(name, class, outer string) string {
	switch {
	case outer != "":
		return outer + locals + name
	case class != "":
		return class + "." + name
	}
	return name
}

func (w *walker) add(b block, class, outer string) {
	at := spot{*b.Line, b.Col, leaf(b.Name)}
	if w.seen[at] {
		return
	}
	w.seen[at] = true
	f := record.Func{
		Lang: lang(w.file), File: w.file, Line: *b.Line, EndLine: *b.Line, Col: b.Col,
		Name: qualified(b.Name, class, outer), Class: class, CC: *b.Complexity, Test: isTest(w.file),
	}
	if b.EndLine != nil {
		f.EndLine = max(f.Line, *b.EndLine)
	}
	w.funcs = append(w.funcs, f)
}

// leaf is the last part of a dotted name.
func leaf(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// lang follows from the file: WriteRadon writes Go in this shape too.
func lang(file string) string {
	if path.Ext(file) == ".go" {
		return "go"
	}
	return "python"
}

// isTest tells test files by the habits of go test and pytest.
func isTest(file string) bool {
	base := path.Base(file)
	return strings.HasSuffix(base, "_test.go") || strings.HasSuffix(base, "_test.py") ||
		strings.HasPrefix(base, "test_") || base == "conftest.py" || strings.Contains("/"+file, "/tests/")
}
