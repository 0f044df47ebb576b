package submit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// CommitLog writes one record for each accepted submission (gateway.md 2.7).
// Delivery is acknowledged by all replicas and idempotent.
type CommitLog struct {
	client      *kgo.Client
	topic       string
	fingerprint []byte // value of the header rfp
	limit       time.Duration
	maxBytes    int
}

// NewCommitLog writes to topic by client, which the caller owns. Publish gives
// up after limit and refuses values of more than maxBytes.
func NewCommitLog(client *kgo.Client, topic, fingerprint string, limit time.Duration, maxBytes int) *CommitLog {
	return &CommitLog{client: client, topic: topic, fingerprint: []byte(fingerprint), limit: limit, maxBytes: maxBytes}
}

// recordOverhead is more than a batch header, a key and the headers take.
const recordOverhead = 512

// Fits says whether a value can be written at all.
func (c *CommitLog) Fits(value []byte) bool { return len(value)+recordOverhead <= c.maxBytes }

// Publish writes value for a strategy and returns when it is stored. The error
// wraps ErrCommitLog; a record that was already on its way when the limit
// passed may still arrive.
func (c *CommitLog) Publish(ctx context.Context, strategyID string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	done := make(chan error, 1)
	c.client.TryProduce(ctx, &kgo.Record{
		Topic:   c.topic,
		Key:     []byte(recordKey(strategyID)),
		Value:   value,
		Headers: []kgo.RecordHeader{{Key: "rfp", Value: c.fingerprint}},
	}, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return c.explain(err, len(value))
	case <-ctx.Done():
		return c.explain(ctx.Err(), len(value))
	}
}

// recordKey makes all records of a strategy go to one partition.
func recordKey(strategyID string) string { return "ingest:" + strategyID }

func (c *CommitLog) explain(err error, size int) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge):
		return TooLarge("the commit-log record of this DAG", int64(size))
	default:
		return fmt.Errorf("%w: topic %s: %w", ErrCommitLog, c.topic, err)
	}
}

// entry is what a commit-log record says.
type entry struct {
	ID          string
	Hash        string
	Stored      []byte // JSON text of the stored DAG
	Base64      string // the same, as Redis has it
	CRC32       string // as sent
	Sentinel    bool   // the stored DAG has a version sentinel
	Context     pyjson.Value
	Worlds      []string
	Meta        pyjson.Value
	At          time.Time // the record's timestamp
	SubmittedAt time.Time
}

// commitEvent is the type of a submission's record and of its payload.
const commitEvent = "gateway.ingest"

// appendRecord writes the record's value: a JSON array of type, epoch
// milliseconds, id and payload, spaced and in ASCII as the original writes it.
func appendRecord(dst []byte, e *entry) []byte {
	const style = pyjson.Spaced | pyjson.ASCII
	dst = append(dst, `["`+commitEvent+`", `...)
	dst = strconv.AppendInt(dst, e.At.UnixMilli(), 10)
	dst = append(dst, `, "`+e.ID+`", {"event": "`+commitEvent+`", "version": 1, "strategy_id": "`+e.ID+
		`", "dag_hash": "`+e.Hash+`", "dag": `...)
	dst = append(dst, e.Stored...)
	dst = append(dst, `, "dag_base64": "`+e.Base64+`", "node_ids_crc32": `+e.CRC32+
		`, "insert_sentinel": `...)
	dst = strconv.AppendBool(dst, e.Sentinel)
	dst = append(dst, `, "compute_context": `...)
	dst = pyjson.Append(dst, e.Context, style)
	dst = append(dst, `, "world_ids": `...)
	dst = pyjson.Append(dst, texts(e.Worlds), style)
	dst = append(dst, `, "submitted_at": "`...)
	dst = e.SubmittedAt.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000+00:00")
	dst = append(dst, '"')
	if len(e.Meta.Members()) > 0 {
		dst = append(dst, `, "meta": `...)
		dst = pyjson.Append(dst, e.Meta, style)
	}
	return append(dst, "}]"...)
}

// recordSize is about what appendRecord will need.
func recordSize(e *entry) int {
	return len(e.Stored) + base64.StdEncoding.EncodedLen(len(e.Stored)) + 2<<10
}
