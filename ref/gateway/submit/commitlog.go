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

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
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

// errUnsettled: the producer still has the record, which may yet arrive.
var errUnsettled = errors.New("not acknowledged in time")

// Publish writes value for a strategy as Write does, within the limit of ctx
// only.
func (c *CommitLog) Publish(ctx context.Context, strategyID string, value []byte) error {
	return c.produce(ctx, recordKey(strategyID), value)
}

// Write writes a record and returns when it is stored. The error wraps
// ErrCommitLog; with errUnsettled value still belongs to the producer.
func (c *CommitLog) Write(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	return c.produce(ctx, key, value)
}

func (c *CommitLog) produce(ctx context.Context, key string, value []byte) error {
	done := make(chan error, 1)
	c.client.TryProduce(ctx, &kgo.Record{
		Topic:   c.topic,
		Key:     []byte(key),
		Value:   value,
		Headers: []kgo.RecordHeader{{Key: "rfp", Value: c.fingerprint}},
	}, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return c.explain(err, len(value))
	case <-ctx.Done():
		return c.explain(fmt.Errorf("%w: %w", errUnsettled, context.Cause(ctx)), len(value))
	}
}

// recordKey makes all records of a strategy go to one partition.
func recordKey(strategyID string) string { return "ingest:" + strategyID }

func (c *CommitLog) explain(err error, size int) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge):
		return model.TooLarge("the commit-log record of this DAG", int64(size))
	default:
		return fmt.Errorf("%w: topic %s: %w", ErrCommitLog, c.topic, err)
	}
}

// entry is what a commit-log record says.
type entry struct {
	ID          string
	Hash        string
	DAG         pyjson.Value // as stored
	CRC32       string       // as sent
	Sentinel    bool         // the stored DAG has a version sentinel
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
// It also gives the part of it that is the base64 of the stored DAG.
func appendRecord(dst []byte, e *entry) (record, dag64 []byte) {
	const style = pyjson.Spaced | pyjson.ASCII
	dst = append(dst, `["`+commitEvent+`", `...)
	dst = strconv.AppendInt(dst, e.At.UnixMilli(), 10)
	dst = append(append(dst, `, "`...), e.ID...)
	dst = append(append(dst, `", {"event": "`+commitEvent+`", "version": 1, "strategy_id": "`...), e.ID...)
	dst = append(append(dst, `", "dag_hash": "`...), e.Hash...)
	dst = append(dst, `", "dag": `...)
	from := len(dst)
	dst = pyjson.Append(dst, e.DAG, style)
	to := len(dst)
	dst = append(dst, `, "dag_base64": "`...)
	from64 := len(dst)
	dst = base64.StdEncoding.AppendEncode(dst, dst[from:to])
	to64 := len(dst)
	dst = append(append(dst, `", "node_ids_crc32": `...), e.CRC32...)
	dst = append(dst, `, "insert_sentinel": `...)
	dst = strconv.AppendBool(dst, e.Sentinel)
	dst = append(dst, `, "compute_context": `...)
	dst = pyjson.Append(dst, e.Context, style)
	dst = append(dst, `, "world_ids": `...)
	dst = pyjson.Append(dst, texts(e.Worlds), style)
	dst = append(dst, `, "submitted_at": "`...)
	dst = append(dst, contract.ISOTime(e.SubmittedAt, "+00:00")...)
	dst = append(dst, '"')
	if len(e.Meta.Members()) > 0 {
		dst = append(dst, `, "meta": `...)
		dst = pyjson.Append(dst, e.Meta, style)
	}
	dst = append(dst, "}]"...)
	return dst, dst[from64:to64]
}
