// Command helper is a process for the tests of package sut: it behaves, or
// misbehaves, as its first argument says.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"qmtl.internal/plumbline/scenarios/contract"
)

func main() {
	what, args := os.Args[1], os.Args[2:]
	acts := map[string]func([]string){
		"serve": serve, "die": die, "silent": silent, "stubborn": stubborn,
		"hog": hog, "fork": fork, "badline": badLine, "dirty": dirty, "later": later,
	}
	acts[what](args)
}

func listen(addr string) net.Listener {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return ln
}

func ready(ln net.Listener) {
	fmt.Println("a banner before the ready line")
	_ = contract.WriteReady(os.Stdout, contract.Ready{
		Service: "helper", PID: os.Getpid(), Addresses: map[string]string{"http": ln.Addr().String(), "admin": ln.Addr().String()},
	})
	fmt.Println("after the ready line")
}

func term() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	return c
}

// serve answers /env, /args and anything else, until SIGTERM.
func serve(args []string) {
	c := term()
	addr := "127.0.0.1:0"
	if len(args) > 0 {
		addr = args[0]
	}
	ln := listen(addr)
	mux := http.NewServeMux()
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv(r.URL.RawQuery)) })
	mux.HandleFunc("/args", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Join(args, "\n")) })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { fmt.Fprintln(os.Stderr, "last words"); os.Exit(7) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{}") })
	go func() { _ = http.Serve(ln, mux) }()
	ready(ln)
	<-c
}

// die writes and leaves at once.
func die([]string) {
	fmt.Fprintln(os.Stderr, "redis 127.0.0.1:1: connection refused")
	os.Exit(3)
}

// silent lives and never says that it is ready.
func silent([]string) { fmt.Println("thinking"); <-term() }

// stubborn ignores SIGTERM.
func stubborn([]string) {
	signal.Ignore(syscall.SIGTERM)
	ready(listen("127.0.0.1:0"))
	select {}
}

// hog gets ready and then takes memory without end.
func hog([]string) {
	ready(listen("127.0.0.1:0"))
	var held [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		held = append(held, b)
		time.Sleep(time.Millisecond * time.Duration(len(held)/1000+1))
	}
}

// fork starts a child that outlives it and holds its output, tells its pid in
// the log, and serves.
func fork(args []string) {
	child := exec.Command("sleep", "600")
	child.Stdout = os.Stdout
	if err := child.Start(); err != nil {
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "child", child.Process.Pid)
	serve(args)
}

// badLine prints a ready line of another version.
func badLine([]string) {
	fmt.Println(`{"plumbline_ready":99,"addresses":{"http":"x"}}`)
	<-term()
}

// dirty leaves with an error when asked to leave.
func dirty([]string) {
	c := term()
	ready(listen("127.0.0.1:0"))
	<-c
	fmt.Println("flush lost")
	os.Exit(5)
}

// later serves the address of its first argument, without a ready line, and
// answers 503 for a while.
func later(args []string) {
	c := term()
	since := time.Now()
	ln := listen(args[0])
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if time.Since(since) < 200*time.Millisecond {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
	}()
	<-c
}
