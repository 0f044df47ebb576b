package neighbour

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestKafkaHasTheTopicsThatItIsGivenAndNoOther(t *testing.T) {
	age := time.Hour
	k, err := StartKafka([]Topic{{Name: "a", Partitions: 3, Age: &age, Config: map[string]string{"qmtl.tag": "raw"}}, {Name: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Address()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, one := range topics {
		got[one.Topic] = len(one.Partitions)
	}
	if d := cmp.Diff(map[string]int{"a": 3, "b": 1}, got); d != "" {
		t.Errorf("topics (-want +got):\n%s", d)
	}
}

func TestAnAgeIsToldInSeconds(t *testing.T) {
	now, age, none := time.Unix(2_000_000, 0), time.Hour, time.Duration(0)
	for _, c := range []struct {
		topic Topic
		want  map[string]string
	}{
		{Topic{}, map[string]string{}},
		{Topic{Age: &none}, map[string]string{"qmtl.created_at": "2000000"}},
		{Topic{Age: &age, Config: map[string]string{"x": "y"}}, map[string]string{"qmtl.created_at": "1996400", "x": "y"}},
		{Topic{Age: &age, Config: map[string]string{"qmtl.created_at": "2020-01-01"}}, map[string]string{"qmtl.created_at": "2020-01-01"}},
	} {
		if d := cmp.Diff(c.want, c.topic.entries(now)); d != "" {
			t.Errorf("%+v (-want +got):\n%s", c.topic, d)
		}
	}
}

func TestATopicThatCannotBeMadeIsNamed(t *testing.T) {
	if k, err := StartKafka([]Topic{{Name: "a"}, {Name: "a"}}); err == nil {
		k.Close()
		t.Error("two topics of one name")
	}
}
