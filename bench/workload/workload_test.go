package workload

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

func profile() load.Profile {
	return load.Profile{Name: "t", Rate: 1000, WarmUp: time.Second, Window: 9 * time.Second, PrivateNode: 0.05,
		Mix: load.Mix{Single: 0.1, Worlds: 0.1, Catalogue: 0.75, Duplicate: 0.05}}
}

func newWorkload(t testing.TB, seed uint64, change ...func(*load.Profile)) *Workload {
	t.Helper()
	p := profile()
	for _, f := range change {
		f(&p)
	}
	w, err := New(Options{Profile: p, Seed: seed, Tag: "run-1"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// submitted is a body taken apart by the rules of the contract alone.
type submitted struct {
	Submission
	body []byte
	dag  pyjson.Value
}

func submit(t testing.TB, w *Workload, i int64) submitted {
	t.Helper()
	body, s, err := w.Append(nil, i)
	if err != nil {
		t.Fatal(err)
	}
	got := submitted{Submission: s, body: body}
	v, err := pyjson.Parse(body)
	if err != nil {
		t.Fatalf("submission %d: %v: %s", i, err, body)
	}
	text, _ := v.Get("dag_json")
	if got.dag, err = contract.DecodeDAG(text.Text()); err != nil {
		t.Fatalf("submission %d: %v", i, err)
	}
	return got
}

// checkNodes holds every node against the contract, and the CRC.
func (s submitted) checkNodes(t *testing.T) (ids []string) {
	t.Helper()
	nodes, _ := s.dag.Get("nodes")
	for k, n := range nodes.Elems() {
		id, _ := n.Get("node_id")
		want, err := contract.NodeID(n)
		if err != nil || id.Text() != want {
			t.Errorf("submission %d, node %d: id %s; want %s, %v", s.Index, k, id.Text(), want, err)
		}
		for _, field := range []string{"node_type", "code_hash", "config_hash", "schema_hash", "schema_compat_id"} {
			if v, ok := n.Get(field); !ok || !v.Truthy() {
				t.Errorf("submission %d, node %d: no %s", s.Index, k, field)
			}
		}
		ids = append(ids, want)
	}
	v, _ := pyjson.Parse(s.body)
	crc, _ := v.Get("node_ids_crc32")
	if n, err := pyjson.ToInt(crc); err != nil || n != int64(contract.CRC32(ids)) || n != int64(s.CRC) {
		t.Errorf("submission %d: node_ids_crc32 %d, %v; want %d", s.Index, n, err, contract.CRC32(ids))
	}
	return ids
}

// checkOrder holds the order of the nodes against the one of a DAG Manager,
// worked out on the parsed DAG.
func (s submitted) checkOrder(t *testing.T, ids []string) {
	t.Helper()
	nodes, _ := s.dag.Get("nodes")
	need := map[string]map[string]bool{}
	var walked []string
	for k, n := range nodes.Elems() {
		need[ids[k]] = map[string]bool{}
		inputs, _ := n.Get("inputs")
		for _, in := range inputs.Elems() {
			need[ids[k]][in.Text()] = true
		}
		if len(need[ids[k]]) == 0 {
			walked = append(walked, ids[k])
		}
	}
	for at := 0; at < len(walked); at++ {
		for _, id := range ids {
			if need[id][walked[at]] {
				delete(need[id], walked[at])
				if len(need[id]) == 0 {
					walked = append(walked, id)
				}
			}
		}
	}
	if !slices.Equal(walked, ids) {
		t.Errorf("submission %d: order %v; a DAG Manager walks %v", s.Index, ids, walked)
	}
}

func TestEverySubmissionKeepsTheContract(t *testing.T) {
	w := newWorkload(t, 7)
	seen := map[string]int{}
	for i := range int64(1500) {
		s := submit(t, w, i)
		ids := s.checkNodes(t)
		s.checkOrder(t, ids)
		if key, _ := s.dag.Get(load.KeyField); key.Text() != s.Key {
			t.Errorf("submission %d: key %q in the DAG; want %q", i, key.Text(), s.Key)
		}
		distinct := slices.Compact(slices.Sorted(slices.Values(ids)))
		if len(distinct) != len(ids) || s.Class == Catalogue && (len(ids) < fewestNodes || len(ids) > mostNodes) {
			t.Errorf("submission %d (%s): %d nodes, %d distinct", i, s.Class, len(ids), len(distinct))
		}
		seen[s.Class]++
	}
	for _, class := range []string{Single, Worlds, Catalogue, Duplicate} {
		if seen[class] == 0 {
			t.Errorf("no %s among %v", class, seen)
		}
	}
}

func TestSamplesAreThoseOfTheContract(t *testing.T) {
	w := newWorkload(t, 1, func(p *load.Profile) { p.Mix = load.Mix{Single: 0.5, Worlds: 0.5} })
	crc := map[string]uint32{Single: 1023661098, Worlds: 3362672896}
	meta := map[string]string{
		Single: `{"execution_domain":"backtest","as_of":"2025-01-01T00:00:00Z","version":" 1.2.3 "}`,
		Worlds: `{"execution_domain":"backtest","as_of":"2025-01-01T00:00:00Z"}`,
	}
	worlds := map[string]string{Single: `["alpha"]`, Worlds: `[" alpha ","beta","alpha"]`}
	for i := range int64(20) {
		s := submit(t, w, i)
		var body map[string]json.RawMessage
		if err := json.Unmarshal(s.body, &body); err != nil {
			t.Fatal(err)
		}
		if s.CRC != crc[s.Class] || string(body["meta"]) != meta[s.Class] || string(body["world_ids"]) != worlds[s.Class] || len(body) != 4 {
			t.Errorf("%s: crc %d, body %s", s.Class, s.CRC, s.body)
		}
	}
}

func TestSubmissionsAreDeterministic(t *testing.T) {
	a, b, c := newWorkload(t, 7), newWorkload(t, 7), newWorkload(t, 8)
	differ := 0
	for i := range int64(300) {
		at := 299 - i // in any order
		x, y, z := submit(t, a, at), submit(t, b, at), submit(t, c, at)
		_ = submit(t, b, i)
		if !bytes.Equal(x.body, y.body) {
			t.Fatalf("submission %d differs between two makers", at)
		}
		if !bytes.Equal(x.body, z.body) {
			differ++
		}
	}
	if differ != 300 {
		t.Errorf("%d of 300 submissions differ under another seed", differ)
	}
}

func TestDuplicatesRepeatAnEarlierDAGInAnotherDress(t *testing.T) {
	w := newWorkload(t, 3, func(p *load.Profile) { p.Mix.Catalogue, p.Mix.Duplicate = 0.5, 0.3 })
	n := 0
	for i := range int64(3000) {
		class, original := w.plan(i)
		if class != Duplicate {
			continue
		}
		n++
		if gap := w.schedule.Due(i) - w.schedule.Due(original); gap < duplicateAfter {
			t.Errorf("duplicate %d repeats %d, due %v earlier; want a second", i, original, gap)
		}
		if first, _ := w.plan(original); first == Duplicate {
			t.Errorf("duplicate %d repeats the duplicate %d", i, original)
		}
		if n%20 == 0 {
			checkDress(t, submit(t, w, original), submit(t, w, i))
		}
	}
	if n < 640 || n > 830 {
		t.Errorf("%d duplicates in 3000, of which 2450 are due later than a second; want about 735", n)
	}
}

func checkDress(t *testing.T, first, second submitted) {
	t.Helper()
	if first.Key != second.Key || contract.DAGHash(first.dag) != contract.DAGHash(second.dag) {
		t.Errorf("duplicate %d is another DAG than %d: %s\n%s", second.Index, first.Index, first.body, second.body)
	}
	a, b := map[string]any{}, map[string]any{}
	if json.Unmarshal(first.body, &a) != nil || json.Unmarshal(second.body, &b) != nil {
		t.Fatal("not JSON")
	}
	_, firstPlain := base64.StdEncoding.DecodeString(a["dag_json"].(string))
	_, secondPlain := base64.StdEncoding.DecodeString(b["dag_json"].(string))
	if (firstPlain == nil) == (secondPlain == nil) {
		t.Errorf("duplicate %d is encoded like %d", second.Index, first.Index)
	}
	if slices.Equal(a["world_ids"].([]any), b["world_ids"].([]any)) {
		t.Errorf("duplicate %d names the worlds of %d", second.Index, first.Index)
	}
}

func TestSubmissionsAreUniqueButForDuplicates(t *testing.T) {
	w := newWorkload(t, 3)
	hashes := map[string]int64{}
	for i := range int64(2000) {
		s := submit(t, w, i)
		h := contract.DAGHash(s.dag)
		if first, ok := hashes[h]; ok != (s.Class == Duplicate) || ok && first != s.Original {
			t.Errorf("submission %d (%s of %d) has the DAG of %d, %v", i, s.Class, s.Original, first, ok)
		}
		if s.Class != Duplicate {
			hashes[h] = i
		}
	}
}

// The shape of the load: shares of the mix, size, how much is shared.
func TestShapeOfTheCatalogue(t *testing.T) {
	w := newWorkload(t, 42, func(p *load.Profile) { p.PrivateNode = 0.01 })
	const n = 4000
	sh := shape{classes: map[string]int{}, ids: map[string]bool{}}
	for i := range int64(n) {
		sh.add(submit(t, w, i))
	}
	catalogued := sh.classes[Catalogue]
	within := func(what string, got, lo, hi int) {
		if got < lo || got > hi {
			t.Errorf("%s: %d; want %d to %d", what, got, lo, hi)
		}
	}
	within("nodes of a catalogue submission, times ten", 10*sh.nodes/catalogued, 115, 135)
	within("bytes of its DAG", sh.dag/catalogued, 6000, 8000)
	within("bytes of its body", sh.body/catalogued, 7000, 9500)
	within("distinct nodes: the catalogue and a few private ones", len(sh.ids), templates*9/10, templates+catalogued*2/100)
	within("submissions in base64", sh.base64, n*4/10, n*6/10)
	within("share of the catalogue", catalogued, n*72/100, n*80/100)
	within("duplicates, of nine seconds in ten", sh.classes[Duplicate], n*2/100, n*5/100)
	t.Logf("%+v, %d distinct nodes", sh.classes, len(sh.ids))
}

// shape sums up submissions.
type shape struct {
	classes                  map[string]int
	nodes, dag, body, base64 int
	ids                      map[string]bool
}

func (sh *shape) add(s submitted) {
	sh.classes[s.Class]++
	if bytes.Contains(s.body, []byte(`"dag_json":"ey`)) {
		sh.base64++
	}
	if s.Class != Catalogue {
		return
	}
	list, _ := s.dag.Get("nodes")
	sh.nodes += len(list.Elems())
	sh.body += len(s.body)
	sh.dag += len(pyjson.Append(nil, s.dag, pyjson.Compact))
	for _, e := range list.Elems() {
		id, _ := e.Get("node_id")
		sh.ids[id.Text()] = true
	}
}

func TestBadTag(t *testing.T) {
	for _, tag := range []string{"", `a"b`, strings.Repeat("x", 65), "a b"} {
		if _, err := New(Options{Profile: profile(), Tag: tag}); err == nil || !strings.Contains(err.Error(), "tag") {
			t.Errorf("New with tag %q = %v; want a refusal", tag, err)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	w := newWorkload(b, 1)
	var body []byte
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		body, _, _ = w.Append(body[:0], i%10000)
	}
}
