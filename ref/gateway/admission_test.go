package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "qmtl.internal/plumbline/scenarios/contract/dagmanagerpb"
)

// crowd lets n clients submit at once, each over a connection of its own, and
// gives how often each status was answered.
func (s *stand) crowd(n int) map[int]int {
	s.t.Helper()
	var mu sync.Mutex
	answered := map[int]int{}
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			status := s.alone(body(oneNode(fmt.Sprint("crowd", i)), "w"))
			mu.Lock()
			defer mu.Unlock()
			answered[status]++
		})
	}
	clients.Wait()
	return answered
}

// alone submits over a new connection; 0 when there is no answer.
func (s *stand) alone(body string) int {
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Error(err)
		return 0
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /strategies HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestACrowdIsServedByFewPlaces(t *testing.T) {
	var now, most atomic.Int32
	s := newStand(t, withArgs("--max-in-work", "4", "--diff-limit", "10s"), withManager(&manager{
		chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			return goodChunk(ctx, r)
		}}))
	if got := s.crowd(500); got[http.StatusAccepted] != 500 {
		t.Errorf("answers %v, want 202 for all", got)
	}
	if n := most.Load(); n > 4 {
		t.Errorf("%d diffs at once", n)
	}
}

// occupied is a stand with one place, which a submission holds until let is
// called; waiting others wait for it.
func occupied(t *testing.T, waiting int, args ...string) (s *stand, let func()) {
	t.Helper()
	held, free := make(chan struct{}, 1), make(chan struct{})
	s = newStand(t, withArgs(append(args, "--max-in-work", "1", "--diff-limit", "30s")...), withManager(&manager{
		chunks: func(ctx context.Context, r *pb.DiffRequest) ([]*pb.DiffChunk, error) {
			select {
			case held <- struct{}{}:
			default:
			}
			<-free
			return goodChunk(ctx, r)
		}}))
	var clients sync.WaitGroup
	hold := func(name string) {
		clients.Go(func() {
			if status := s.alone(body(oneNode(name), "w")); status != http.StatusAccepted {
				t.Errorf("%s: %d", name, status)
			}
		})
	}
	hold("first")
	<-held
	for i := range waiting {
		hold(fmt.Sprint("waiting", i))
	}
	s.eventually("they wait", func() bool { return s.metric("gateway_waiting_submissions") == fmt.Sprint(waiting) })
	return s, sync.OnceFunc(func() { close(free); clients.Wait() })
}

func TestWhoFindsNoPlaceToWaitIsTold(t *testing.T) {
	s, let := occupied(t, 2, "--max-waiting", "2")
	defer let()
	a := s.post("/strategies", body(oneNode("one too many"), "w"))
	want := `{"detail":{"code":"E_BUSY","message":"too many submissions at once"}}`
	if a.status != http.StatusServiceUnavailable || a.body != want || a.header.Get("Retry-After") != "1" {
		t.Errorf("answer %d %s %v", a.status, a.body, a.header)
	}
	if got := s.metric("gateway_busy_total"); got != "1" {
		t.Errorf("gateway_busy_total = %s", got)
	}
	if a := s.get("/health"); a.status != http.StatusOK {
		t.Errorf("health %d", a.status)
	}
	let()
	s.accepted(body(oneNode("one too many"), "w"))
}

func TestWaitingEnds(t *testing.T) {
	s, let := occupied(t, 0, "--wait-limit", "20ms")
	defer let()
	s.refused("/strategies", body(oneNode("impatient"), "w"), http.StatusServiceUnavailable, "E_BUSY")
}

func TestLargeBodiesThatWaitHoldUpNoOrdinaryOne(t *testing.T) {
	s := newStand(t)
	for range 4 { // two fill all room, two wait for it
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /strategies HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", 4<<20)
	}
	time.Sleep(50 * time.Millisecond) // they are there; too early cannot make the test fail
	s.client.Timeout = 4 * time.Second
	s.accepted(body(oneNode("small"), "w"))
}

func TestClientThatDawdlesLosesItsPlace(t *testing.T) {
	s := newStand(t, withArgs("--max-in-work", "1"))
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /strategies HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	time.Sleep(50 * time.Millisecond) // it has the place; too early cannot make the test fail
	s.accepted(body(oneNode("patient"), "w"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("answer %v (%v)", resp, err)
	}
}
