package sut

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/neighbour"
)

// besides is a SUT whose gateway tells its arguments.
func besides(t *testing.T, o Options) *Instance {
	t.Helper()
	gateway := spec("gateway", "serve", "127.0.0.1:0", "dm=${process.dm.http}", "kafka=${backend.kafka:-none}", "redis=${backend.redis}")
	gateway.Beside = []string{"world=${neighbour.worldservice:-none}", "name=${beside.name}", "version=${setting.version:-1}"}
	d := descriptor(spec("dm", "serve"), gateway)
	d.Endpoints.DagManager = "${process.dm.http}"
	o.Backends = &backend.Set{Kafka: "k:1", Redis: "r:1"}
	return launched(t, d, o)
}

func TestAGatewayBesideIsTheSameButForWhatItIsTold(t *testing.T) {
	logs := t.TempDir()
	in := besides(t, Options{LogDir: logs})
	s := in.Beside()
	if want := []string{"dagmanager", "setting.version", "without.kafka", "worldservice"}; !slices.Equal(s.Offers, want) {
		t.Fatalf("offers %v, want %v", s.Offers, want)
	}
	dm := "dm=" + in.Endpoints().DagManager
	for _, c := range []struct {
		wish neighbour.Wish
		want string
	}{
		{neighbour.Wish{Name: "plain"}, dm + "\nkafka=k:1\nredis=r:1\nworld=none\nname=plain\nversion=1"},
		{neighbour.Wish{Name: "told", WorldService: "http://w", DagManager: "d:1", Without: []string{"kafka"}, Settings: map[string]string{"version": "2"}},
			"dm=d:1\nkafka=none\nredis=r:1\nworld=http://w\nname=told\nversion=2"},
	} {
		g, err := s.Start(t.Context(), c.wish)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimPrefix(get(t, g.Gateway+"/args"), "127.0.0.1:0\n"); got != c.want {
			t.Errorf("%s: arguments\n%s\nwant\n%s", c.wish.Name, got, c.want)
		}
		if g.Gateway == in.Endpoints().Gateway {
			t.Error("it listens where the SUT's own gateway does")
		}
		if err := g.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if _, err := os.Stat(filepath.Join(logs, "beside", c.wish.Name, "gateway.log")); err != nil {
			t.Error(err)
		}
	}
	if got := strings.TrimPrefix(get(t, in.Endpoints().Gateway+"/args"), "127.0.0.1:0\n"); got != dm+"\nkafka=k:1\nredis=r:1" {
		t.Errorf("the SUT's own gateway was told %s", got)
	}
}

func TestAGatewayBesideCannotBeToldMoreThanItCanHear(t *testing.T) {
	_, err := besides(t, Options{}).Beside().Start(t.Context(), neighbour.Wish{Name: "n", Without: []string{"redis"}, Settings: map[string]string{"speed": "9"}})
	for _, want := range []string{"without.redis", "setting.speed", "setting.version"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestTheDeathOfAGatewayBesideIsItsOwn(t *testing.T) {
	in := besides(t, Options{})
	g, err := in.Beside().Start(t.Context(), neighbour.Wish{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := client.Get(g.Gateway + "/exit"); err == nil {
		t.Errorf("it answered %s instead of ending", resp.Status)
		resp.Body.Close()
	}
	<-g.Dead
	if g.Err() == nil || in.Err() != nil {
		t.Errorf("death of the one beside: %v; of the SUT: %v", g.Err(), in.Err())
	}
	_ = g.Stop(t.Context()) // what died is told by Err
}

func TestDescriptorsOfThisPackageOfferGatewaysBeside(t *testing.T) {
	for name, want := range map[string][]string{
		"reference": {"worldservice", "dagmanager", "without.kafka", "setting.rebalance_schema_version", "setting.degrade_every"},
		"original":  {"worldservice", "setting.rebalance_schema_version", "setting.alpha_metrics_capable", "setting.worldservice_retries"},
	} {
		d, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		offers := d.gatewayAlone().offers(d.Endpoints.DagManager)
		for _, w := range want {
			if !slices.Contains(offers, w) {
				t.Errorf("%s offers %v, not %s", name, offers, w)
			}
		}
	}
	if got := (&Instance{}).Beside(); got.Start != nil || got.Offers != nil {
		t.Errorf("an attached SUT offers %v", got)
	}
}

// managers is a SUT whose DAG Manager tells its arguments.
func managers(t *testing.T, o Options, beside ...string) *Instance {
	t.Helper()
	dm := spec("dm", "serve", "127.0.0.1:0", "kafka=${backend.kafka}", "bus=${backend.kafka}", "graph=${backend.neo4j:-none}")
	dm.Beside = beside
	d := descriptor(dm, spec("gateway", "serve"))
	d.Endpoints.DagManager, d.Endpoints.DagManagerHTTP = "${process.dm.http}", "http://${process.dm.http}"
	o.Backends = &backend.Set{Kafka: "k:1", Neo4j: "bolt://n:1"}
	return launched(t, d, o)
}

func TestADagManagerBesideHasTheBrokerThatItIsGiven(t *testing.T) {
	rules, err := ParseRules("delay=1ms")
	if err != nil {
		t.Fatal(err)
	}
	in := managers(t, Options{Tamper: rules}, "kafka=${neighbour.kafka:-}", "graph=", "name=${beside.name}")
	s := in.BesideDagManager()
	if !slices.Contains(s.Offers, "kafka") {
		t.Fatalf("offers %v", s.Offers)
	}
	for _, c := range []struct {
		wish neighbour.Wish
		want string
	}{
		{neighbour.Wish{Name: "told", Kafka: "own:1"}, "kafka=own:1"},
		{neighbour.Wish{Name: "plain"}, "kafka="},
	} {
		m, err := s.Start(t.Context(), c.wish)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Join([]string{"kafka=k:1", "bus=k:1", "graph=bolt://n:1", c.want, "graph=", "name=" + c.wish.Name}, "\n")
		if got := strings.TrimPrefix(get(t, m.DagManagerHTTP+"/args"), "127.0.0.1:0\n"); got != want {
			t.Errorf("%s: arguments\n%s\nwant\n%s", c.wish.Name, got, want)
		}
		if m.DagManagerHTTP != "http://"+m.DagManager || m.DagManager == in.Endpoints().DagManager || m.Gateway != "" {
			t.Errorf("it listens at %+v; the SUT's own at %+v", m, in.Endpoints())
		}
		if err := m.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
}

// Without arguments of its own it would share the broker, and collect there.
func TestNoDagManagerBesideThatSharesTheBroker(t *testing.T) {
	if got := managers(t, Options{}).BesideDagManager(); got.Start != nil {
		t.Errorf("it is offered with %v", got.Offers)
	}
	for name, offered := range map[string]bool{"reference": true, "original": false} {
		d, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.dagManagerAlone().offers(d.Endpoints.DagManager); slices.Contains(got, "kafka") != offered {
			t.Errorf("%s offers %v", name, got)
		}
	}
	d, err := Load("reference")
	if err != nil {
		t.Fatal(err)
	}
	argv := d.dagManagerAlone().Processes[0].Argv
	last := map[string]string{}
	for _, arg := range argv {
		name, value, _ := strings.Cut(arg, "=")
		last[name] = value
	}
	if last["--kafka"] != "${neighbour.kafka:-}" || last["--neo4j"] != "" {
		t.Errorf("the reference's one beside has the broker %q and the graph %q", last["--kafka"], last["--neo4j"])
	}
}
