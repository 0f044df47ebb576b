package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"qmtl.internal/plumbline/bench/load"
)

// maxLine bounds one line of outcomes.jsonl.
const maxLine = 1 << 20

// readOutcomes takes in what the workload was told.
func (b *book) readOutcomes(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	for line := 1; s.Scan(); line++ {
		var o load.Outcome
		if err := json.Unmarshal(s.Bytes(), &o); err != nil {
			return fmt.Errorf("outcomes.jsonl line %d: %w", line, err)
		}
		if err := b.outcome(o); err != nil {
			return fmt.Errorf("outcomes.jsonl line %d: %w", line, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("outcomes.jsonl: %w", err)
	}
	return nil
}

func (b *book) outcome(o load.Outcome) error {
	if o.Key == "" {
		return fmt.Errorf("request %d has no key", o.Index)
	}
	r := b.requestOf(o.Key)
	r.window = r.window || o.Window
	switch {
	case acknowledged(o):
		return b.acknowledge(o, r)
	case o.Fate == load.Rejected && o.ID != "":
		b.refused = append(b.refused, o)
	case o.Fate == load.Lost || o.Fate == load.Unexpected:
		r.excused = true
		b.excused++
	case o.Fate != load.Rejected && o.Fate != load.Dropped:
		return fmt.Errorf("request %d has the fate %q, which is none", o.Index, o.Fate)
	}
	return nil
}

func (b *book) requestOf(key string) *request {
	r := b.keys[key]
	if r == nil {
		r = &request{}
		b.keys[key] = r
	}
	return r
}

// acknowledged tells whether the SUT took the submission over. An answer that
// came where a refusal was due binds it all the same.
func acknowledged(o load.Outcome) bool {
	return o.Fate == load.Accepted || o.Fate == load.Unexpected && o.Status == http.StatusAccepted && o.ID != ""
}

func (b *book) acknowledge(o load.Outcome, r *request) error {
	if o.ID == "" {
		return fmt.Errorf("request %d was accepted without a strategy id", o.Index)
	}
	if o.Fate == load.Accepted {
		b.accepted++
	}
	r.acked = append(r.acked, o.ID)
	if s := b.ids[o.ID]; s != nil {
		b.duplicates = append(b.duplicates, finding(o.ID, "given to two submissions: %s and %s", s.key, o.Key))
		return nil
	}
	b.ids[o.ID] = &submission{id: o.ID, key: o.Key, acked: true, warm: !o.Window}
	return nil
}

// submissionOf finds or opens the account of an id seen in a store.
func (b *book) submissionOf(id, key string) *submission {
	s := b.ids[id]
	if s == nil {
		s = &submission{id: id, key: key}
		b.ids[id] = s
	}
	return s
}
