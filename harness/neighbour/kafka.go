package neighbour

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A Topic is one that a Kafka begins with.
type Topic struct {
	Name       string
	Partitions int32             // 0: one
	Age        *time.Duration    // told as its entry qmtl.created_at (contract/dagmanager.md 6.1); nil: nothing tells it
	Config     map[string]string // its other entries, any names
}

// Kafka is a broker in this process, in memory, that nobody else uses. A real
// one tells no topic's age and refuses entries that it does not know; what a
// DAG Manager makes of old topics can be seen on this one only.
type Kafka struct{ cluster *kfake.Cluster }

// StartKafka serves the topics on loopback until Close.
func StartKafka(topics []Topic) (*Kafka, error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"}))
	if err != nil {
		return nil, fmt.Errorf("neighbour kafka: %w", err)
	}
	var errs []error
	for _, t := range topics {
		if err := cluster.CreateTopic(t.Name, max(1, t.Partitions), t.entries(time.Now())); err != nil {
			errs = append(errs, fmt.Errorf("neighbour kafka: topic %q: %w", t.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		cluster.Close()
		return nil, err
	}
	return &Kafka{cluster}, nil
}

func (t Topic) entries(now time.Time) map[string]string {
	all := map[string]string{}
	if t.Age != nil {
		all["qmtl.created_at"] = strconv.FormatInt(now.Add(-*t.Age).Unix(), 10)
	}
	maps.Copy(all, t.Config)
	return all
}

// Address is host:port.
func (k *Kafka) Address() string { return k.cluster.ListenAddrs()[0] }

// Close ends the broker and all that it holds.
func (k *Kafka) Close() { k.cluster.Close() }
