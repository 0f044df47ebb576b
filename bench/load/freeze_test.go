package load

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// serverMark makes the test binary a server of its own process, so that it can
// be stopped as a whole.
const serverMark = "PLUMBLINE_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverMark) != "" {
		os.Exit(serveForEver())
	}
	goleak.VerifyTestMain(m)
}

// serveForEver answers every request with 202 until standard input ends.
func serveForEver() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(l.Addr())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	err = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startServer starts it and returns its URL and process.
func startServer(t testing.TB) (string, *os.Process) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverMark+"=1")
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if errIn != nil || errOut != nil {
		t.Fatal(errIn, errOut)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends it
		_ = cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + strings.TrimSpace(addr), cmd.Process
}

// The standing self-check of the instrument: a server that is stopped for 1.4 s
// in a run of 20 s at 1,000/s must show in the p99 from due. What a generator
// that counts from sending would have said stands beside it.
func TestFreezeOfARealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	url, server := startServer(t)
	transport := Tune(&http.Transport{}, 50)
	defer transport.CloseIdleConnections()
	poster, err := NewPoster(url, transport)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		time.Sleep(8 * time.Second)
		err := server.Signal(syscall.SIGSTOP)
		time.Sleep(1400 * time.Millisecond)
		if err == nil {
			err = server.Signal(syscall.SIGCONT)
		}
		stopped <- err
	}()
	ev, err := Offer(t.Context(), Config{Schedule: Constant{1000, 20 * time.Second}, Window: 20 * time.Second,
		MaxInFlight: 50, Backlog: 4000, Drain: 10 * time.Second}, posting{poster, make([]byte, 7000)})
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkFrozen(t, ev.Result)
}

func checkFrozen(t *testing.T, r Result) {
	t.Helper()
	all, l := r.Classes[All], r.Ledger
	t.Logf("1.4 s freeze in 20 s at 1,000/s: p99 from due %.0f ms, from sent %.2f ms (the largest %.0f and %.0f ms)",
		all.Latency.P99, all.Service.P99, all.Latency.Max, all.Service.Max)
	if all.Latency.P99 < 1000 || all.Service.P99 >= all.Latency.P99 {
		t.Errorf("p99 from due %.1f ms, from sent %.1f ms; want at least 1000 ms, and less uncorrected", all.Latency.P99, all.Service.P99)
	}
	if l.Offered != 20000 || l.Dropped+l.Lost != 0 || l.Check() != nil {
		t.Errorf("ledger %+v; want 20000 offered and answered", l)
	}
}
