package contract_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
	"qmtl.internal/plumbline/scenarios/contract/vectors"
)

// raw reads a vector's JSON keeping what encoding/json would lose.
func raw(t *testing.T, b json.RawMessage) pyjson.Value {
	t.Helper()
	v, err := pyjson.Parse(b)
	if err != nil {
		t.Fatalf("%v in %.200s", err, b)
	}
	return v
}

func text(v pyjson.Value, key string) string {
	s, _ := v.Member(key).Str()
	return s
}

// refused checks that err is there exactly when the vector names an exception.
func refused(t *testing.T, want pyjson.Value, err error) bool {
	t.Helper()
	exception, expected := want.Get("error")
	if expected != (err != nil) {
		t.Fatalf("error %v, the original raised %q", err, exception.Text())
	}
	return expected
}

func TestNodeIDVectors(t *testing.T) {
	vectors.Run(t, "node_id", func(t *testing.T, v vectors.Vector) {
		in, want := raw(t, v.Input), raw(t, v.Output)
		node, err := pyjson.ParseString(text(in, "node_json"))
		var preimage []byte
		if err == nil {
			preimage, err = contract.NodePreimage(node)
		}
		if refused(t, want, err) {
			return
		}
		if got := string(preimage); got != text(want, "preimage") {
			t.Errorf("pre-image\n got %q\nwant %q", got, text(want, "preimage"))
		}
		if got, err := contract.NodeID(node); err != nil || got != text(want, "node_id") {
			t.Errorf("id %s, %v, want %s", got, err, text(want, "node_id"))
		}
	})
}

func TestNodeIDCollisionVectors(t *testing.T) {
	vectors.Run(t, "node_id_collision", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct {
			Data     string
			Existing []string
		}](t, v.Input)
		taken := map[string]bool{}
		for _, id := range in.Existing {
			taken[id] = true
		}
		got := contract.NodeIDAvoiding([]byte(in.Data), func(id string) bool { return taken[id] })
		if want := text(raw(t, v.Output), "id"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestNodeIDsCRC32Vectors(t *testing.T) {
	vectors.Run(t, "node_ids_crc32", func(t *testing.T, v vectors.Vector) {
		in := vectors.Decode[struct {
			IDs       []string             `json:"ids"`
			Generated *struct{ Count int } `json:"ids_generated"`
		}](t, v.Input)
		if in.Generated != nil {
			for i := range in.Generated.Count {
				in.IDs = append(in.IDs, contract.HashID(fmt.Appendf(nil, "n%d", i)))
			}
		}
		want := vectors.Decode[struct {
			CRC uint32 `json:"crc32"`
			Hex string
		}](t, v.Output)
		got := contract.CRC32(in.IDs)
		if got != want.CRC || fmt.Sprintf("%08x", got) != want.Hex {
			t.Errorf("got %d (%08x), want %d (%s)", got, got, want.CRC, want.Hex)
		}
	})
}

func TestDryRunSentinelVectors(t *testing.T) {
	vectors.Run(t, "dryrun_sentinel", func(t *testing.T, v vectors.Vector) {
		in, want := raw(t, v.Input), raw(t, v.Output)
		ids, err := contract.NodeIDsOf(in.Member("dag"))
		if refused(t, want, err) {
			return
		}
		if got := contract.DryRunSentinel(contract.CRC32(ids)); got != text(want, "sentinel_id") {
			t.Errorf("got %s, want %s", got, text(want, "sentinel_id"))
		}
	})
}
