package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"qmtl.internal/plumbline/harness/backend"
)

func TestMain(m *testing.M) {
	if os.Getenv("CONTAINERS_TEST_ABANDON") != "" {
		abandon()
	}
	goleak.VerifyTestMain(m)
}

// needDocker skips where the containers cannot be run. It is the one helper by
// which tests of this package skip; the reason begins with "allowed:".
func needDocker(t *testing.T) {
	t.Helper()
	if _, err := (Provider{}).Available(t.Context()); err != nil {
		t.Skip("allowed: no containers here: ", err)
	}
}

func started(t *testing.T, p Provider, o backend.Options) *backend.Set {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	s, err := p.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ours lists the containers that this process has started and not removed.
func ours(t *testing.T) []summary {
	t.Helper()
	d, err := connect(t.Context(), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	labels := ownLabels("")
	labels[labelRun] = ""
	found, err := d.list(t.Context(), labels)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRealServersServeAndGo(t *testing.T) {
	needDocker(t)
	s := started(t, Provider{}, backend.Options{RunID: "serve"})
	for _, addr := range []string{s.Kafka, s.Redis, strings.TrimPrefix(s.Neo4j, "bolt://")} {
		if host, _, err := net.SplitHostPort(addr); err != nil || host != "127.0.0.1" {
			t.Errorf("address %q is not on 127.0.0.1", addr)
		}
	}
	if s.Kind != backend.KindContainers || len(s.Versions) != 3 {
		t.Errorf("set = %+v", s)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := slices.Sorted(slices.Values(backend.ControlTopics())); !slices.Equal(topics.Names(), want) {
		t.Errorf("topics = %q; want %q", topics.Names(), want)
	}
}

func TestCloseKeepsLogsAndLeavesNothing(t *testing.T) {
	needDocker(t)
	logs := filepath.Join(t.TempDir(), "logs")
	s := started(t, Provider{}, backend.Options{RunID: "close", LogDir: logs})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := ours(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, name := range []string{"kafka", "redis", "neo4j"} {
		if b, err := os.ReadFile(filepath.Join(logs, name+".log")); err != nil || len(b) == 0 {
			t.Errorf("log of %s: %d bytes, %v", name, len(b), err)
		}
	}
}

func TestFaultsHarmHealAndKeepWhatWasAcknowledged(t *testing.T) {
	needDocker(t)
	s := started(t, Provider{}, backend.Options{RunID: "faults"})
	red := redis.NewClient(&redis.Options{Addr: s.Redis})
	defer red.Close()
	if err := red.Set(t.Context(), "kept", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "queue", Value: []byte("kept")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	checks := map[string]func(context.Context) error{
		"kafka": func(ctx context.Context) error { return backend.CheckKafka(ctx, s.Kafka, "t") },
		"redis": func(ctx context.Context) error { return backend.CheckRedis(ctx, s.Redis, "t") },
		"neo4j": func(ctx context.Context) error { return backend.CheckNeo4j(ctx, s.Neo4j, "t") },
	}
	for _, server := range []string{"redis", "kafka", "neo4j"} {
		for _, name := range []string{backend.FaultPause, backend.FaultKill, backend.FaultStop} {
			harm(t, s, server, name, checks[server])
		}
	}
	if got := red.Get(t.Context(), "kept").Val(); got != "1" {
		t.Errorf("GET kept = %q after all faults; want 1", got)
	}
	ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), "queue")
	if end, _ := ends.Lookup("queue", 0); err != nil || end.Offset != 1 {
		t.Errorf("topic queue ends at %d (%v) after all faults; want 1", end.Offset, err)
	}
}

func harm(t *testing.T, s *backend.Set, server, name string, check func(context.Context) error) {
	t.Helper()
	f, err := s.Faults().Get(server, name)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	heal, err := f.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	if check(ctx) == nil {
		t.Errorf("%s serves during %s", server, name)
	}
	applied := time.Since(began)
	if err := heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s %s: applied in %s, healed after %s more", server, name, applied.Round(time.Millisecond), (time.Since(began) - applied).Round(time.Millisecond))
	if err := check(t.Context()); err != nil {
		t.Errorf("%s after %s: %v", server, name, err)
	}
}

func TestAServerThatDiesIsToldWithItsLog(t *testing.T) {
	needDocker(t)
	// Redis's image as Kafka's: whatever it does, it is no broker for long.
	redisImage := chosen(t, "redis")
	_, err := Provider{Images: Images{"kafka": redisImage}, Within: 10 * time.Second}.Start(t.Context(), backend.Options{RunID: "dies"})
	if err == nil || !strings.Contains(err.Error(), "kafka: ") || !strings.Contains(err.Error(), "last lines") {
		t.Errorf("Start = %v; want kafka, with its last lines", err)
	}
	if left := ours(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func chosen(t *testing.T, server string) string {
	t.Helper()
	d, err := connect(t.Context(), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	i, err := d.choose(t.Context(), server, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i.name
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	needDocker(t)
	for _, after := range []time.Duration{50 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := Provider{}.Start(ctx, backend.Options{RunID: "cancelled"})
		cancel()
		if err == nil {
			t.Error("Start succeeded in no time")
		}
		if left := ours(t); len(left) > 0 {
			t.Errorf("left after %s: %v", after, left)
		}
	}
}

// abandon is what a test process does that is then killed.
func abandon() {
	if _, err := (Provider{}).Start(context.Background(), backend.Options{RunID: "abandoned"}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func TestSweepRemovesWhatAKilledHarnessLeft(t *testing.T) {
	needDocker(t)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "CONTAINERS_TEST_ABANDON=1")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	var text string
	if _, err := fmt.Fscan(out, &text); err != nil || text != "started" {
		t.Fatalf("%q, %v", text, err)
	}
	pid := other.Process.Pid
	d, err := connect(t.Context(), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.sweep(t.Context(), backend.Options{}.Logger()); err != nil {
		t.Fatal(err)
	}
	if n := len(ownedBy(t, d, pid)); n != 3 {
		t.Errorf("%d containers of a living owner after a sweep; want 3", n)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	if err := d.sweep(t.Context(), backend.Options{}.Logger()); err != nil {
		t.Fatal(err)
	}
	if left := ownedBy(t, d, pid); len(left) > 0 {
		t.Errorf("left by a dead owner after a sweep: %v", left)
	}
}

func ownedBy(t *testing.T, d *docker, pid int) (found []summary) {
	t.Helper()
	all, err := d.list(t.Context(), map[string]string{labelHost: hostMark(), labelOwner: ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if strings.HasPrefix(c.labels[labelOwner], fmt.Sprintf("%d-", pid)) {
			found = append(found, c)
		}
	}
	return found
}

func TestMissingImageIsTold(t *testing.T) {
	needDocker(t)
	p := Provider{Images: Images{"redis": "127.0.0.1:1/no/such:1"}}
	for what, err := range map[string]error{
		"Available": second(p.Available(t.Context())),
		"Start":     second(p.Start(t.Context(), backend.Options{RunID: "missing"})),
	} {
		if err == nil || !strings.Contains(err.Error(), "redis: image 127.0.0.1:1/no/such:1 is not here and cannot be pulled") ||
			!strings.Contains(err.Error(), "PLUMBLINE_IMAGE_REDIS names another") {
			t.Errorf("%s = %v", what, err)
		}
	}
	if left := ours(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func second[T any](_ T, err error) error { return err }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestNoDockerIsTold(t *testing.T) {
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for _, c := range []struct {
		host  string
		usage bool
		want  string
	}{
		{"unix:///no/such/socket", false, "no Docker at unix:///no/such/socket (file does not exist); install and start it"},
		{"unix://" + silent.Addr().String(), false, "no answer of Docker at unix://"},
		{"tcp://10.1.2.3:2375", true, "is not on this machine"},
		{"ssh://host", true, "is not on this machine"},
	} {
		_, err := Provider{Getenv: env("DOCKER_HOST", c.host)}.Available(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, backend.ErrUsage) != c.usage || strings.Contains(err.Error(), "\n") {
			t.Errorf("DOCKER_HOST=%s: %v; want one line with %q, usage %v", c.host, err, c.want, c.usage)
		}
	}
}

func TestDeniedSocketIsTold(t *testing.T) {
	err := explainPing("unix:///", fmt.Errorf("dial unix /: connect: permission denied"))
	if !strings.Contains(err.Error(), "add this user to the group docker") {
		t.Error(err)
	}
}

func TestNamesOfImages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "images.yaml")
	if err := os.WriteFile(file, []byte("kafka: file/kafka:1\nredis: file/redis:1\nneo4j: file/neo4j:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := Provider{
		Images: Images{"kafka": "flag/kafka:3", "redis": ""}, ImageFile: file,
		Getenv: env("PLUMBLINE_IMAGE_KAFKA", "env/kafka:2", "PLUMBLINE_IMAGE_REDIS", "env/redis:2"),
	}
	got, err := p.names()
	if err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]string{"kafka": "flag/kafka:3", "redis": "env/redis:2", "neo4j": "file/neo4j:1"} {
		if got[server] != want {
			t.Errorf("%s = %q; want %q", server, got[server], want)
		}
	}
}

func TestNamesOfImagesRefuse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "images.yaml")
	if err := os.WriteFile(file, []byte("kafka: a\nmongo: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    Provider
		want string
	}{
		{Provider{ImageFile: file}, "images.yaml:2:1: "},
		{Provider{ImageFile: file + "x"}, "file of images"},
		{Provider{Images: Images{"mongo": "x"}}, `image of "mongo": no such server; want kafka, redis or neo4j`},
	} {
		c.p.Getenv = env()
		_, err := c.p.names()
		if !errors.Is(err, backend.ErrUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("names() = %v; want %q", err, c.want)
		}
	}
}

// TestTableFollowsTheRecipe: the local names are those that build.sh makes.
func TestTableFollowsTheRecipe(t *testing.T) {
	out, err := exec.Command("images/build.sh", "--names").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	built := strings.Fields(string(out))
	for _, row := range table() {
		if !slices.Contains(built, row.local) {
			t.Errorf("%s is not among those that images/build.sh makes: %q", row.local, built)
		}
		if strings.HasSuffix(row.public, ":latest") || !strings.Contains(row.public, ":") {
			t.Errorf("%s is not pinned", row.public)
		}
	}
}

func TestOwnerLives(t *testing.T) {
	me := ownLabels("x")[labelOwner]
	for owner, want := range map[string]bool{
		me: true, fmt.Sprintf("%d-1", os.Getpid()): false, fmt.Sprintf("%d-1", 1<<29): false,
		"": true, "what": true, "-5-1": true,
	} {
		if got := ownerLives(owner); got != want {
			t.Errorf("ownerLives(%q) = %v; want %v", owner, got, want)
		}
	}
}

func TestPublicImagesGetWhatTheyNeed(t *testing.T) {
	if got := kafkaEnv(false, "127.0.0.1:7")["KAFKA_ADVERTISED_LISTENERS"]; got != "CLIENT://127.0.0.1:7" {
		t.Errorf("advertised = %q", got)
	}
	if got := neo4jEnv(false, "127.0.0.1:7")["NEO4J_server_bolt_advertised__address"]; got != "127.0.0.1:7" {
		t.Errorf("advertised = %q", got)
	}
}
