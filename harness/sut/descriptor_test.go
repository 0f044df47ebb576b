package sut

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestEmbeddedDescriptorsLoad(t *testing.T) {
	if got := Names(); !slices.Equal(got, []string{"original", "reference"}) {
		t.Fatalf("Names() = %q", got)
	}
	for _, name := range Names() {
		d, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		capped := ""
		for _, p := range d.Processes {
			names = append(names, p.Name)
			if p.HeapCap {
				capped += p.Name
			}
		}
		if d.Name != name || !slices.Equal(names, []string{"dagmanager", "gateway"}) || capped != "gateway" {
			t.Errorf("%s: processes %q, capped %q", d.Name, names, capped)
		}
	}
}

const whole = `name: mine
processes:
  - name: gateway
    argv: ["${descriptor.dir}/run.sh"]
    dir: ${run.dir}
    env: {A: "${env.HOME:-x}"}
    ready: {url: "http://127.0.0.1:8000/health", within: 1m30s}
    addresses: {http: "127.0.0.1:8000"}
    stop_within: 500ms
    heap_cap: true
endpoints:
  gateway: http://${process.gateway.http}
`

func TestLoadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	p := d.Processes[0]
	if d.dir != filepath.Dir(file) || p.readyWithin().String() != "1m30s" || p.stopWithin().String() != "500ms" || p.Env["A"] == "" {
		t.Errorf("Load = %+v", d)
	}
	_, err = Load(filepath.Join(t.TempDir(), "no.yaml"))
	if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "give a file, or one of original, reference") {
		t.Errorf("Load of no file = %v", err)
	}
}

func TestClassesThatADescriptorPromises(t *testing.T) {
	for text, want := range map[string]string{
		"": "strict lenient", "classes: [strict]\n": "strict", "classes: [reference, strict, lenient]\n": "reference strict lenient",
	} {
		d, err := parse("d.yaml", "", []byte(text+"parallel: 2\n"+whole))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(Promised(d.Classes), " "); got != want || d.Parallel != 2 {
			t.Errorf("%q promises %q and stands %d; want %q and 2", text, got, d.Parallel, want)
		}
	}
	for _, text := range []string{"classes: [lenient]", "classes: []", "classes: [strict, strict]", "classes: [strict, easy]", "parallel: 0"} {
		if _, err := parse("d.yaml", "", []byte(text+"\n"+whole)); err == nil || !strings.Contains(err.Error(), "d.yaml:1:") {
			t.Errorf("%s: %v; want an error on line 1", text, err)
		}
	}
}

func TestLoadTellsEveryMistakeWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"shape", `nam: x
processes:
  - name: Gate way
    argv: []
    ready: {line: true, url: "http://x", until: 3s}
    heap_cap: maybe
  - argv: [1]
    ready: {within: soon}
endpoints: {}
`, []string{
			`d.yaml:1:1: missing property 'name'`,
			`d.yaml:1:1: unknown key "nam"`,
			`d.yaml:3:5: processes[0].name: 'Gate way' does not match pattern '^[a-z][a-z0-9-]*$'`,
			`d.yaml:4:5: processes[0].argv: minItems: got 0, want 1`,
			`d.yaml:5:5: processes[0].ready: want exactly one of line and url`,
			`d.yaml:5:42: processes[0].ready: unknown key "until"`,
			`d.yaml:6:5: processes[0].heap_cap: got string, want boolean`,
			`d.yaml:7:5: processes[1]: missing property 'name'`,
			`d.yaml:7:12: processes[1].argv[0]: got number, want string`,
			`d.yaml:8:5: processes[1].ready: want exactly one of line and url`,
			`d.yaml:8:13: processes[1].ready.within: 'soon' does not match pattern '^([0-9]+(\\.[0-9]+)?(ms|s|m))+$'`,
			`d.yaml:9:1: endpoints: missing property 'gateway'`,
		}},
		{"sense", `name: x
files:
  - name: a.yml
    content: ${process.a.http}
processes:
  - name: a
    argv: ["${bin}/a", "${self.x:-}", "${process.b.http}", "${backend.mongo}", "${oops"]
    ready: {line: true}
    addresses: {http: "${process.a}"}
    heap_cap: true
  - name: a
    argv: [b]
    env: {X: "${env.}"}
    ready: {line: true}
    heap_cap: true
endpoints:
  gateway: ${self.http}
`, []string{
			`d.yaml:4:5: files[0].content: ${process.a.http}: no process "a" further up`,
			`d.yaml:7:39: processes[0].argv[2]: ${process.b.http}: no process "b" further up`,
			`d.yaml:7:60: processes[0].argv[3]: ${backend.mongo}: no such name; there are bin, run.id`,
			`d.yaml:7:80: processes[0].argv[4]: ${oops: the closing } is missing`,
			`d.yaml:9:5: processes[0].addresses: a ready line tells the addresses; delete this`,
			`d.yaml:9:17: processes[0].addresses.http: ${process.a}: want process.NAME.ROLE`,
			`d.yaml:11:5: processes[1].name: a second process "a"`,
			`d.yaml:13:11: processes[1].env.X: ${env.}: no such name`,
			`d.yaml:15:5: processes[1].heap_cap: process a bears the heap cap already`,
			`d.yaml:17:3: endpoints.gateway: ${self.http}: only a process has addresses of its own`,
		}},
		{"empty", "# nothing\n", []string{"d.yaml:1:1: the file is empty; want a descriptor"}},
		{"list", "- a\n", []string{"d.yaml:1:1: got array, want object"}},
		{"two documents", whole + "---\nname: y\n", []string{"d.yaml:14:1: a second document"}},
		{"syntax", "name: {a\n", []string{"d.yaml:1:"}},
		{"key twice", "name: a\nname: b\n", []string{`d.yaml:2:1: mapping key "name" already defined`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse("d.yaml", "", []byte(c.text))
			var ps Problems
			if !errors.As(err, &ps) || !errors.Is(err, ErrUsage) {
				t.Fatalf("parse = %v; want Problems", err)
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(c.want) {
				t.Errorf("%d problems; want %d", len(got), len(c.want))
			}
			for i, w := range c.want {
				if i < len(got) && !strings.HasPrefix(got[i], w) {
					t.Errorf("problem %d:\n got %s\nwant %s", i, got[i], w)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: &x {<<: *x}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := parse("f.yaml", "", b); err == nil && len(d.Processes) == 0 {
			t.Errorf("parse(%q) = no processes and no error", b)
		}
	})
}

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"a": "1", "empty": ""}[name]
		return v, ok
	}
	for _, c := range []struct{ in, want, err string }{
		{"", "", ""},
		{"x${a}y${a}", "x1y1", ""},
		{"${no:-d}${empty:-e}${a:-f}", "de1", ""},
		{"${no:-}", "", ""},
		{"$a $${a} ${a}", "$a ${a} 1", ""},
		{"${no}", "", "${no}: has no value here"},
		{"${a", "", "the closing } is missing"},
	} {
		got, err := expand(c.in, lookup)
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("expand(%q) = %q, %v; want %q, %q", c.in, got, err, c.want, c.err)
		}
	}
}

// TestSchemaAndTypesHaveTheSameKeys: the published schema is the very shape
// that is read.
func TestSchemaAndTypesHaveTheSameKeys(t *testing.T) {
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Defs       map[string]struct {
			Properties map[string]json.RawMessage `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	process := schema.Defs["process"].Properties
	sameKeys(t, Descriptor{}, schema.Properties)
	sameKeys(t, Spec{}, process)
	sameKeys(t, Ready{}, propertiesOf(t, process["ready"]))
	sameKeys(t, Endpoints{}, propertiesOf(t, schema.Properties["endpoints"]))
	var files struct {
		Items json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(schema.Properties["files"], &files); err != nil {
		t.Fatal(err)
	}
	sameKeys(t, File{}, propertiesOf(t, files.Items))
}

func propertiesOf(t *testing.T, schema json.RawMessage) map[string]json.RawMessage {
	t.Helper()
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(schema, &s); err != nil {
		t.Fatal(err)
	}
	return s.Properties
}

func sameKeys(t *testing.T, v any, properties map[string]json.RawMessage) {
	t.Helper()
	var tags []string
	for f := range reflect.TypeOf(v).Fields() {
		if tag := f.Tag.Get("yaml"); tag != "" {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	if keys := slices.Sorted(maps.Keys(properties)); !slices.Equal(keys, tags) {
		t.Errorf("%T has %q; the schema has %q", v, tags, keys)
	}
}
