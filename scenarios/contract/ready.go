// Package contract holds what every control plane and every judge of one must
// agree on: wire bodies, error codes, node identity, topic and event shapes and
// the ready line. It takes values and gives values; it opens nothing.
package contract

import (
	"encoding/json"
	"fmt"
	"io"
)

// ReadyVersion is the version of the ready line's shape.
const ReadyVersion = 1

// Ready is the one JSON line that a process of a control plane prints to its
// standard output when it accepts traffic. Addresses are host:port pairs that
// the process chose itself, by role: a gateway gives "http" and "admin", a DAG
// Manager "grpc", "http" and "admin". The admin address serves /metrics and
// /debug/pprof.
type Ready struct {
	Version   int               `json:"plumbline_ready"`
	Service   string            `json:"service"`
	PID       int               `json:"pid"`
	Addresses map[string]string `json:"addresses"`
}

// WriteReady prints r as one line.
func WriteReady(w io.Writer, r Ready) error {
	r.Version = ReadyVersion
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ready line: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// ParseReady reads one ready line. A line of another shape or version is an
// error that quotes it.
func ParseReady(line []byte) (Ready, error) {
	var r Ready
	if err := json.Unmarshal(line, &r); err != nil {
		return Ready{}, fmt.Errorf("ready line %.200q: %w", line, err)
	}
	if r.Version != ReadyVersion {
		return Ready{}, fmt.Errorf("ready line %.200q: version %d, want %d", line, r.Version, ReadyVersion)
	}
	if len(r.Addresses) == 0 {
		return Ready{}, fmt.Errorf("ready line %.200q: no addresses", line)
	}
	return r, nil
}
