package hub_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qmtl.internal/plumbline/ref/gateway/hub"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

const (
	benchClients = 100
	benchRate    = 1_200 // events a second
	benchBurst   = 6     // events at once
)

// BenchmarkFanOut offers 1,200 events a second to 100 clients on real sockets,
// in bursts of six: 120,000 deliveries a second. One operation is one event for
// all clients. It prints deliveries/s and how long after Publish a client has
// read the frame. In "stalled" ten more clients never read.
func BenchmarkFanOut(b *testing.B) {
	for _, c := range []struct {
		name    string
		stalled int
	}{{"reading", 0}, {"stalled", 10}} {
		b.Run(c.name, func(b *testing.B) { fanOut(b, c.stalled) })
	}
}

func fanOut(b *testing.B, stalled int) {
	h, err := hub.New(hub.Config{Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	f := &fan{published: make([]atomic.Int64, b.N+1), late: make([][]time.Duration, benchClients)}
	var reading sync.WaitGroup
	for i := range benchClients {
		conn := handshake(b, server.Listener.Addr().String())
		defer conn.Close()
		reading.Go(func() { f.read(b, conn, i) })
	}
	for range stalled {
		conn := handshake(b, server.Listener.Addr().String())
		defer conn.Close()
	}
	for h.Clients() < benchClients+stalled {
		time.Sleep(time.Millisecond)
	}
	b.ReportAllocs()
	b.ResetTimer()
	f.publish(h, b.N)
	reading.Wait()
	b.StopTimer()
	f.report(b)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // those that never read are not waited for
	_ = h.Close(ctx)
}

// fan knows when each event was published and how late each client read it.
type fan struct {
	published []atomic.Int64 // by seq_no
	late      [][]time.Duration
}

func (f *fan) publish(h *hub.Hub, n int) {
	begun := time.Now()
	for i := 1; i <= n; i++ {
		if i%benchBurst == 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / benchRate)))
		}
		f.published[i].Store(time.Now().UnixNano())
		h.Publish("queue", contract.Event{Source: contract.GatewaySource, Type: "queue_update", Data: pyjson.OfObject(
			pyjson.Member{Key: "tags", Value: pyjson.OfArray(pyjson.OfString("price"))},
			pyjson.Member{Key: "etag", Value: pyjson.OfString("q:price:60:" + strconv.Itoa(i))},
			pyjson.Member{Key: "version", Value: pyjson.OfInt(1)})})
	}
}

// read reads frames until the last event has come.
func (f *fan) read(b *testing.B, conn net.Conn, client int) {
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		text, err := frameText(in)
		if err != nil {
			b.Error(err)
			return
		}
		n, err := strconv.Atoi(string(bytes.TrimSuffix(text[bytes.LastIndexByte(text, ' ')+1:], []byte("}"))))
		if err != nil {
			b.Error(err)
			return
		}
		f.late[client] = append(f.late[client], time.Duration(time.Now().UnixNano()-f.published[n].Load()))
		if n == len(f.published)-1 {
			return
		}
	}
}

// frameText reads one unmasked text frame of less than 64 KiB.
func frameText(in *bufio.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return nil, err
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(in, head[2:]); err != nil {
			return nil, err
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	text := make([]byte, size)
	_, err := io.ReadFull(in, text)
	return text, err
}

// handshake opens a WebSocket by hand: a reader that costs little, since it
// shares the machine with what is measured.
func handshake(b *testing.B, addr string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr)
	answer := make([]byte, 0, 512)
	for one := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); answer = append(answer, one[0]) {
		if _, err := conn.Read(one); err != nil {
			b.Fatal(err)
		}
	}
	return conn
}

func (f *fan) report(b *testing.B) {
	all := slices.Concat(f.late...)
	slices.Sort(all)
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "deliveries/s")
	for _, p := range []int{50, 95, 99} {
		b.ReportMetric(float64(all[len(all)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
	if lost := b.N*benchClients - len(all); lost > 0 {
		b.ReportMetric(float64(lost), "lost")
	}
}
