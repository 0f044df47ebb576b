package backend

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode"
)

// CheckNeo4j writes and deletes a node of its own at url (bolt://host:port,
// without authentication) by one Bolt transaction. It gives up when ctx ends.
//
// It speaks just enough Bolt 5 (neo4j.com/docs/bolt) for that; the driver
// stays in the one package that stores a graph.
func CheckNeo4j(ctx context.Context, url, runID string) (err error) {
	defer func() { err = explain(ctx, "neo4j "+url, err) }()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "bolt://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	b := &bolt{rw: bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))}
	if err := b.handshake(); err != nil {
		return err
	}
	for _, m := range []struct {
		what string
		body []byte
	}{
		{"HELLO", message(0x01, hello())},
		{"LOGON", message(0x6A, packMap("scheme", "none"))},
		{"RUN", message(0x10,
			packString("MERGE (n:PlumblineCheck {run: $run}) DETACH DELETE n"),
			packMap("run", nameOr(runID, "run")), packMap())},
		{"PULL", message(0x3F, append([]byte{0xA1}, append(packString("n"), 0xFF)...))}, // n: -1, all
	} {
		if err := b.ask(m.body); err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
	}
	return nil
}

// hello names the client twice, as 5.1 and as 5.3 want it.
func hello() []byte {
	agent := append(packString("bolt_agent"), packMap("product", "plumbline/1")...)
	return append(append([]byte{0xA2}, packMap("user_agent", "plumbline/1")[1:]...), agent...)
}

// bolt is one connection, used by one goroutine.
type bolt struct{ rw *bufio.ReadWriter }

// handshake offers Bolt 5.4 down to 5.1.
func (b *bolt) handshake() error {
	offer := []byte{0x60, 0x60, 0xB0, 0x17, 0, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if _, err := b.rw.Write(offer); err != nil {
		return fmt.Errorf("bolt handshake: %w", err)
	}
	if err := b.rw.Flush(); err != nil {
		return fmt.Errorf("bolt handshake: %w", err)
	}
	var chosen [4]byte
	if _, err := io.ReadFull(b.rw, chosen[:]); err != nil {
		return fmt.Errorf("bolt handshake: %w", err)
	}
	if chosen[3] != 5 {
		return fmt.Errorf("bolt handshake: the server answers % x, which is no Bolt 5.1 to 5.4", chosen)
	}
	return nil
}

// Signatures of answers.
const (
	boltSuccess = 0x70
	boltRecord  = 0x71
)

// ask sends one message and reads answers up to its summary.
func (b *bolt) ask(body []byte) error {
	chunk := binary.BigEndian.AppendUint16(nil, uint16(len(body)))
	chunk = append(append(chunk, body...), 0, 0)
	if _, err := b.rw.Write(chunk); err != nil {
		return err
	}
	if err := b.rw.Flush(); err != nil {
		return err
	}
	for {
		answer, err := b.read()
		if err != nil {
			return err
		}
		switch {
		case len(answer) < 2:
			return fmt.Errorf("an answer of %d bytes", len(answer))
		case answer[1] == boltSuccess:
			return nil
		case answer[1] != boltRecord:
			return fmt.Errorf("refused: %s", readable(answer[2:]))
		}
	}
}

// read joins the chunks of one message; an empty message is a keep-alive.
func (b *bolt) read() ([]byte, error) {
	var whole []byte
	for {
		var size uint16
		if err := binary.Read(b.rw, binary.BigEndian, &size); err != nil {
			return nil, err
		}
		if size == 0 && len(whole) > 0 {
			return whole, nil
		}
		part := make([]byte, size)
		if _, err := io.ReadFull(b.rw, part); err != nil {
			return nil, err
		}
		whole = append(whole, part...)
	}
}

// message is a PackStream structure.
func message(signature byte, fields ...[]byte) []byte {
	out := []byte{0xB0 | byte(len(fields)), signature}
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}

// packMap packs up to 7 pairs of text.
func packMap(pairs ...string) []byte {
	out := []byte{0xA0 | byte(len(pairs)/2)}
	for _, s := range pairs {
		out = append(out, packString(s)...)
	}
	return out
}

// packString packs up to 255 bytes; longer text is cut.
func packString(s string) []byte {
	s = s[:min(len(s), 255)]
	return append([]byte{0xD0, byte(len(s))}, s...)
}

// readable keeps what a person can read of a packed map.
func readable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, string(b))
}
