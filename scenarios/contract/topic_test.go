package contract_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

func TestTopicNamesVectors(t *testing.T) {
	type input struct {
		Asset    string          `json:"asset"`
		NodeType string          `json:"node_type"`
		NodeID   string          `json:"node_id"`
		Version  string          `json:"version"`
		CodeHash string          `json:"legacy_code_hash"` // null reads as ""
		DryRun   bool            `json:"dry_run"`
		Existing []string        `json:"existing"`
		NS       json.RawMessage `json:"namespace"`
	}
	vectors.Run(t, "topic_names", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[input](t, v.Input)
		want := vectors.Decode[struct{ Topic, Error string }](t, v.Output)
		got, err := contract.TopicName(contract.TopicSpec{
			Asset: in.Asset, NodeType: in.NodeType, NodeID: in.NodeID, Version: in.Version,
			CodeHash: in.CodeHash, DryRun: in.DryRun, Namespace: contract.NamespaceOf(raw(t, in.NS)),
		}, func(name string) bool { return slices.Contains(in.Existing, name) })
		if got != want.Topic || (err != nil) != (want.Error != "") {
			t.Errorf("topic %q, %v; want %q, error %q", got, err, want.Topic, want.Error)
		}
	})
}

func TestTopicNamesRunOut(t *testing.T) {
	spec := contract.TopicSpec{Asset: "a", NodeType: "N", NodeID: "blake3:0123456789", Version: "v1"}
	asked := 0
	_, err := contract.TopicName(spec, func(string) bool { asked++; return true })
	if !errors.Is(err, contract.ErrNoTopicName) {
		t.Fatalf("error %v, want %v", err, contract.ErrNoTopicName)
	}
	if want := 2 + 9999; asked != want {
		t.Errorf("%d names were tried, want %d", asked, want)
	}
}

func TestCheckTopicName(t *testing.T) {
	for _, name := range []string{"a", "w.live.btc_N_0123_v1", strings.Repeat("x", 249), "..."} {
		if err := contract.CheckTopicName(name); err != nil {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", strings.Repeat("x", 250), "a b", "노드", "a/b", "a:b"} {
		if contract.CheckTopicName(name) == nil {
			t.Errorf("%.20q was accepted", name)
		}
	}
}

func FuzzTopicName(f *testing.F) {
	f.Add("blake3:abcdef1234567890", "ffeeddcc", "w.live", "N")
	f.Add("", "", "", "")
	f.Add("노드:노드", "é", "-a-._b_", "\xff")
	f.Add("n", "코드코드코드코드", "a_n.b_c0ffee.x", "n.b")
	f.Add("n", "c0ffee00", "a_x", "x.y")
	f.Fuzz(func(t *testing.T, id, code, ns, typ string) {
		spec := contract.TopicSpec{
			Asset: "a", NodeType: typ, NodeID: id, Version: "v1", CodeHash: code,
			Namespace: contract.NamespaceOf(pyjson.OfString(ns)),
		}
		checkStems(t, spec)
		taken := map[string]bool{}
		for range 5 { // what is taken is never given again
			name, err := contract.TopicName(spec, func(n string) bool { return taken[n] })
			if err != nil {
				t.Fatal(err)
			}
			if code != "" && len(taken) > 0 {
				return // a topic named after the code is found again
			}
			if taken[name] || !contract.InNamespace(name, spec.Namespace) {
				t.Fatalf("name %q: taken %v, namespace %q", name, taken[name], spec.Namespace)
			}
			taken[name] = true
		}
	})
}

// checkStems wants every legacy name to begin with a stem that ends LegacyStem
// characters after an underscore.
func checkStems(t *testing.T, spec contract.TopicSpec) {
	t.Helper()
	namespaced, plain, ok := spec.LegacyStems()
	if !ok {
		return
	}
	for name := range spec.LegacyNames() {
		if !strings.HasPrefix(name, namespaced) && !strings.HasPrefix(name, plain) {
			t.Errorf("%q begins neither with %q nor with %q", name, namespaced, plain)
		}
	}
	for _, stem := range []string{namespaced, plain} {
		runes := []rune(stem)
		if at := len(runes) - contract.LegacyStem - 1; at < 0 || runes[at] != '_' {
			t.Errorf("stem %q does not end %d characters after an underscore", stem, contract.LegacyStem)
		}
	}
}

func FuzzPartitionKey(f *testing.F) {
	f.Add("blake3:ab", int64(60), "K")
	f.Add("a:b:c", int64(-1), "")
	f.Fuzz(func(t *testing.T, id string, interval int64, key string) {
		if id == "" || strings.Contains(id, "#") {
			return // such an id cannot be told from a key
		}
		full := contract.PartitionKey(id, pyjson.OfInt(interval), pyjson.Value{}, key)
		if got := contract.NodeIDOfPartitionKey(full); got != id {
			t.Errorf("%q gives %q, want %q", full, got, id)
		}
	})
}
