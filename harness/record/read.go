package record

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed run.schema.json
var schemaJSON []byte

// Schema is the published JSON Schema (draft 2020-12) of run.json.
func Schema() []byte { return slices.Clone(schemaJSON) }

// ErrBroken is in the chain of every error about a record that exists but cannot
// be trusted: truncated, of another schema, with unknown or missing parts, with
// a number that is none, or with a ledger that does not balance.
var ErrBroken = errors.New("the record is broken, nothing may be concluded from it")

// maxRecord bounds what Read takes into memory.
const maxRecord = 256 << 20

// Read reads the record at path: a run.json, or a run directory that holds one.
// A path that does not exist gives fs.ErrNotExist; everything else that is wrong
// gives ErrBroken.
func Read(path string) (*Run, error) {
	file, err := runFile(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", file, err)
	}
	if info.Size() > maxRecord {
		return nil, fmt.Errorf("record %s: %d bytes are more than a record may have (%d): %w", file, info.Size(), maxRecord, ErrBroken)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", file, err)
	}
	r, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", file, err)
	}
	return r, nil
}

func runFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("record %s: %w", path, err)
	}
	if !info.IsDir() {
		return path, nil
	}
	file := filepath.Join(path, RunFile)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("run directory %s has no %s, so its run never finished: %w", path, RunFile, ErrBroken)
	}
	return file, nil
}

// Decode reads run.json strictly. Every error has ErrBroken in its chain.
func Decode(b []byte) (*Run, error) {
	r, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrBroken)
	}
	return r, nil
}

func decode(b []byte) (*Run, error) {
	if err := syntax(b); err != nil {
		return nil, err
	}
	if err := version(b); err != nil {
		return nil, err
	}
	if err := conforms(b); err != nil {
		return nil, err
	}
	var r Run
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, err
	}
	return &r, check(&r)
}

// notANumber finds the words that some writers use where JSON has none.
var notANumber = regexp.MustCompile(`[:\[,]\s*(-?(?:NaN|nan|Infinity|inf|Inf))\b`)

// syntax checks that b is one JSON text and says where it is not.
func syntax(b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("the file is empty")
	}
	var any json.RawMessage
	err := json.Unmarshal(b, &any)
	if err == nil {
		return nil
	}
	var se *json.SyntaxError
	if !errors.As(err, &se) {
		return err
	}
	at := int(min(se.Offset, int64(len(b))))
	if at == len(b) && strings.Contains(se.Error(), "unexpected end") {
		return fmt.Errorf("%s: the file ends too early, it was cut off", position(b, at))
	}
	if m := notANumber.FindSubmatchIndex(b); m != nil && m[2] < at+16 {
		return fmt.Errorf("%s: %s is not a number", position(b, m[2]), b[m[2]:m[3]])
	}
	return fmt.Errorf("%s: %w", position(b, at), err)
}

func position(b []byte, at int) string {
	line := 1 + bytes.Count(b[:at], []byte("\n"))
	col := at - bytes.LastIndexByte(b[:at], '\n')
	return fmt.Sprintf("line %d column %d", line, col)
}

// version refuses another schema before anything is said about its keys.
func version(b []byte) error {
	var v struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	switch {
	case v.Schema == nil:
		return errors.New("there is no schema version; is this a run.json?")
	case *v.Schema != SchemaVersion:
		return fmt.Errorf("schema version %d, but this plumbline reads %d; judge it with the plumbline that wrote it", *v.Schema, SchemaVersion)
	}
	return nil
}

// conforms holds b against the published schema and gives every mistake, one a line.
func conforms(b []byte) error {
	s, err := compileSchema()
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	err = s.Validate(doc)
	var ve *jsonschema.ValidationError
	if !errors.As(err, &ve) {
		return err
	}
	var errs []error
	for _, leaf := range leaves(ve) {
		errs = append(errs, errors.New(leaf))
	}
	return errors.Join(errs...)
}

func compileSchema() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return nil, fmt.Errorf("run.schema.json: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("run.schema.json", doc); err != nil {
		return nil, fmt.Errorf("run.schema.json: %w", err)
	}
	return c.Compile("run.schema.json")
}

// leaves lists the mistakes themselves, without the rules that lead to them.
func leaves(e *jsonschema.ValidationError) []string {
	if len(e.Causes) == 0 {
		where := strings.Join(e.InstanceLocation, ".")
		if where == "" {
			where = "the record"
		}
		return []string{where + ": " + e.ErrorKind.LocalizedString(message.NewPrinter(language.English))}
	}
	var out []string
	for _, c := range e.Causes {
		out = append(out, leaves(c)...)
	}
	return out
}

// check holds the record against what no schema can say.
func check(r *Run) error {
	var errs []error
	if r.Ended.Before(r.Started) {
		errs = append(errs, fmt.Errorf("ended %v is before started %v", r.Ended, r.Started))
	}
	if r.Partial && r.PartialReason == "" {
		errs = append(errs, errors.New("partial_reason: a partial record must say why"))
	}
	seen := map[string]bool{}
	for i, o := range r.Contract {
		if seen[o.ID] {
			errs = append(errs, fmt.Errorf("contract[%d]: scenario %s is there twice", i, o.ID))
		}
		seen[o.ID] = true
	}
	return errors.Join(append(errs, checkLoad(r), r.Fidelity.check(r))...)
}

func checkLoad(r *Run) error {
	if r.Load == nil {
		return nil
	}
	var errs []error
	if err := r.Load.Ledger.Check(); err != nil {
		errs = append(errs, fmt.Errorf("load.ledger: %w", err))
	}
	if err := r.Load.WarmUpLedger.Check(); err != nil {
		errs = append(errs, fmt.Errorf("load.warm_up_ledger: %w", err))
	}
	return errors.Join(errs...)
}
