package cli

import (
	"bytes"
	"testing"
	"time"

	"qmtl.internal/plumbline/harness"
)

func TestProgressSpeaksPlainlyWhereNoTerminalIs(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, false)
	p.show(harness.Event{Stage: "sut", Text: "starting reference"})
	for s := range 12 {
		p.show(harness.Event{Stage: "load", Text: "1000 requests/s", Gone: time.Duration(s) * time.Second, Total: 35 * time.Second})
	}
	p.show(harness.Event{Stage: "audit", Text: "comparing"})
	const want = "sut         starting reference\n" +
		"load        1000 requests/s, 0s of 35s, 35s left\n" +
		"load        1000 requests/s, 10s of 35s, 25s left\n" +
		"audit       comparing\n"
	if b.String() != want {
		t.Errorf("progress said:\n%swant:\n%s", b.String(), want)
	}
}

func TestProgressMovesOnATerminal(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, true)
	for s := range 2 {
		p.show(harness.Event{Stage: "load", Text: "x", Gone: time.Duration(s) * time.Second, Total: 2 * time.Second})
	}
	p.show(harness.Event{Stage: "audit", Text: "y"})
	const want = "\r\x1b[Kload        x, 0s of 2s, 2s left\r\x1b[Kload        x, 1s of 2s, 1s left\naudit       y\n"
	if b.String() != want {
		t.Errorf("progress said %q, want %q", b.String(), want)
	}
}
