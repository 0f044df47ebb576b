package submit

import (
	"context"
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
	err = p.run(tb.Context(), s, []stage{
		{name: "normalise", run: (*Pipeline).normalise}, {name: "context", run: (*Pipeline).context}, {name: "seal", run: (*Pipeline).seal}})
	if err != nil {
		tb.Fatal(err)
	}
	p.buffers.put(s.record)
}

// sevenKB is a DAG of twelve nodes as a client sends it, 7 KB before base64.
func sevenKB(tb testing.TB) (req *Request, size int) {
	tb.Helper()
	body := sampleBody(tb, 12)
	req, err := ParseRequest("application/json", body)
	if err != nil {
		tb.Fatal(err)
	}
	_, plain, err := decodeDAG(req.DAGJSON)
	if err != nil {
		tb.Fatal(err)
	}
	const filled = 7 << 10
	plain = strings.Replace(plain, `{"schema_version"`, `{"about":"`+strings.Repeat("x", max(0, filled-len(plain)))+`","schema_version"`, 1)
	req.DAGJSON = base64.StdEncoding.EncodeToString([]byte(plain))
	return req, len(plain)
}

// The figure of the project's plan: at most 100 µs.
func BenchmarkDecodeAndIdentifyTwelveNodes(b *testing.B) {
	p := newPipeline()
	req, size := sevenKB(b)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	s := &submission{req: req, record: p.buffers.get()}
	for b.Loop() {
		if err := p.normalise(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}

// Without traces and limits a stage costs nothing but its clock.
func TestAStageAllocatesNothingOfItsOwn(t *testing.T) {
	p, s, nothing := newPipeline(), &submission{}, func(*Pipeline, context.Context, *submission) error { return nil }
	ctx := t.Context()
	stages := []stage{{name: "normalise", run: nothing}, {name: "seal", run: nothing, again: claimAgain()}}
	if err := p.run(ctx, s, stages); err != nil { // makes the series
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = p.run(ctx, s, stages) }); n != 0 {
		t.Errorf("%g allocations for two stages", n)
	}
}

func BenchmarkPrepareTwelveNodes(b *testing.B) {
	p, body := newPipeline(), sampleBody(b, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		prepare(b, p, body)
	}
}
