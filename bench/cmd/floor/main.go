// Command floor is the least a gateway can do, for plumbline floor: it prints a
// ready line and serves until SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"qmtl.internal/plumbline/bench/floor"
	"qmtl.internal/plumbline/scenarios/contract"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "floor: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var a floor.Addresses
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT to serve on; port 0 chooses one")
	flag.StringVar(&a.Redis, "redis", "", "HOST:PORT of Redis")
	flag.StringVar(&a.Kafka, "kafka", "", "HOST:PORT of Kafka")
	flag.StringVar(&a.DagManager, "dagmanager", "", "HOST:PORT of the DAG Manager's gRPC")
	flag.StringVar(&a.Topic, "commitlog-topic", "gateway.ingest", "topic of the commit log")
	flag.Parse()
	g, err := floor.New(a)
	if err != nil {
		return err
	}
	defer g.Close()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	ready := contract.Ready{Service: "floor", PID: os.Getpid(), Addresses: map[string]string{"http": l.Addr().String()}}
	if err := contract.WriteReady(os.Stdout, ready); err != nil {
		return err
	}
	return floor.Serve(ctx, l, g)
}
