package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// clients submit one strategy after the other, each over its own connection,
// until one of them gets no answer.
type clients struct {
	t    *testing.T
	url  string
	http *http.Client
	all  sync.WaitGroup

	mu    sync.Mutex
	acked map[string]bool // strategy ids; guarded by mu
	other []string        // answers that are no 202; guarded by mu
	none  []error         // why there was no answer; guarded by mu
}

const crowd = 64

func load(t *testing.T, addr string) *clients {
	c := &clients{t: t, url: "http://" + addr + "/strategies", acked: map[string]bool{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: crowd}, Timeout: time.Minute}}
	for i := range crowd {
		c.all.Go(func() {
			for k := 0; c.submit(fmt.Sprintf("%d of client %d", k, i)); k++ {
			}
		})
	}
	return c
}

func (c *clients) submit(name string) (answered bool) {
	resp, err := c.http.Post(c.url, "application/json", bytes.NewReader(submission(c.t, name)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.none = append(c.none, err)
		return false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var ack struct {
		ID string `json:"strategy_id"`
	}
	if err != nil || resp.StatusCode != http.StatusAccepted || json.Unmarshal(text, &ack) != nil {
		c.other = append(c.other, fmt.Sprintf("%d %s (%v)", resp.StatusCode, text, err))
		return true
	}
	c.acked[ack.ID] = true
	return true
}

func (c *clients) acknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acked)
}

// hold keeps every record from being stored until let is called.
func (s servers) hold() (let func()) {
	free := make(chan struct{})
	s.kafka.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.kafka.KeepControl()
		s.kafka.SleepControl(func() { <-free })
		return nil, nil, false
	})
	return sync.OnceFunc(func() { close(free) })
}

// pending counts registrations that are neither confirmed nor taken back.
func (s servers) pending() (n int) {
	for _, key := range s.redis.Keys() {
		if strings.HasPrefix(key, "strategy:") && s.redis.HGet(key, "state") == "" {
			n++
		}
	}
	return n
}

// wait asks again until ok, for half a minute at most.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// A gateway that is asked to stop in the middle of its work finishes what it
// took in: who is inside is answered, what was acknowledged is stored once,
// what was not is not stored, and the process ends well.
func TestStopUnderLoad(t *testing.T) {
	s := newServers(t)
	g := s.gateway(t, s.dagManager(t).ready.Addresses["grpc"])
	c := load(t, g.ready.Addresses["http"])
	defer c.http.CloseIdleConnections()
	wait(t, "a steady load", func() bool { return c.acknowledged() > 10*crowd })

	let := s.hold()
	defer let()
	wait(t, "every client is inside", func() bool { return s.pending() == crowd })
	before := c.acknowledged()
	g.terminate()
	wait(t, "the stop began", func() bool { return strings.Contains(g.log.String(), `"stopping"`) })
	let()
	c.all.Wait() // each client ends at its first request that finds nobody
	g.stop()     // wants exit code 0

	if len(c.other) > 0 {
		t.Errorf("%d answers are no 202, the first %s", len(c.other), c.other[0])
	}
	if got := len(c.acked); got < before+crowd {
		t.Errorf("%d acknowledged, %d before the stop; want the %d that were inside too", got, before, crowd)
	}
	s.holdsExactly(t, c.acked)
}

// holdsExactly compares what was acknowledged with what is stored.
func (s servers) holdsExactly(t *testing.T, acked map[string]bool) {
	t.Helper()
	if n := s.pending(); n > 0 {
		t.Errorf("%d registrations are half done", n)
	}
	registered := 0
	for _, key := range s.redis.Keys() {
		id, is := strings.CutPrefix(key, "strategy:")
		if is {
			registered++
		}
		if is && !acked[id] {
			t.Errorf("strategy %s is registered, but was not acknowledged", id)
		}
	}
	records := s.records(t)
	for id := range acked {
		if records[id] != 1 {
			t.Errorf("strategy %s has %d records", id, records[id])
		}
	}
	if registered != len(acked) || len(records) != len(acked) {
		t.Errorf("%d acknowledged, %d registered, %d in the commit log", len(acked), registered, len(records))
	}
}

// records counts the records of the commit log by strategy.
func (s servers) records(t *testing.T) map[string]int {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ConsumeTopics("gateway.ingest"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	found := map[string]int{}
	for have, want := int64(0), s.kafka.PartitionInfo("gateway.ingest", 0).HighWatermark; have < want; {
		all := cl.PollFetches(t.Context())
		if err := all.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range all.Records() {
			found[strings.TrimPrefix(string(r.Key), "ingest:")]++
			have = r.Offset + 1
		}
	}
	return found
}
