package submit

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// sampleBody is a submission of n nodes, each the input of the next.
func sampleBody(tb testing.TB, n int) []byte {
	tb.Helper()
	var nodes, ids []string
	input := ""
	for i := range n {
		members := fmt.Sprintf(`"node_type":"IndicatorNode","interval":60,"period":%d,"params":{"window":%d,"alpha":0.5,"name":"n%d"},"inputs":[%s],`+
			`"dependencies":[%s],"schema_compat_id":"ind-major","schema_hash":"sch-ind","code_hash":"code-%d","config_hash":"cfg-ind","tags":["btc","price"]`,
			i+1, i, i, input, input, i)
		v, err := pyjson.ParseString("{" + members + "}")
		if err != nil {
			tb.Fatal(err)
		}
		id, err := contract.NodeID(v)
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, id)
		input = `"` + id + `"`
		nodes = append(nodes, `{"node_id":"`+id+`",`+members+`}`)
	}
	dag := `{"schema_version":"v1","nodes":[` + strings.Join(nodes, ",") + `]}`
	b, err := json.Marshal(contract.StrategySubmit{
		DAGJSON: base64.StdEncoding.EncodeToString([]byte(dag)), Meta: json.RawMessage(`{"execution_domain":"backtest","as_of":"2025-01-01"}`),
		WorldIDs: []string{"alpha"}, NodeIDsCRC32: contract.CRC32(ids),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// prepare runs all stages of a submission that touch nothing outside.
func prepare(tb testing.TB, p *Pipeline, body []byte) {
	req, err := ParseRequest("application/json", body)
	if err != nil {
		tb.Fatal(err)
	}
	s := &submission{req: req, record: p.buffers.get()}
	err = p.run(tb.Context(), s, []stage{{"normalise", (*Pipeline).normalise}, {"context", (*Pipeline).context}, {"seal", (*Pipeline).seal}})
	if err != nil {
		tb.Fatal(err)
	}
	p.buffers.put(s.record)
}

func BenchmarkPrepareTwelveNodes(b *testing.B) {
	p, body := newPipeline(), sampleBody(b, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		prepare(b, p, body)
	}
}
