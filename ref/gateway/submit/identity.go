package submit

import (
	"errors"
	"slices"
	"strconv"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// findings are all that is wrong with the identity of a DAG's nodes, by kind
// and in node order, up to model.MaxNamed of each.
type findings struct {
	ids        []string // the CRC goes over these
	missing    []contract.MissingFields
	conflicts  []contract.SchemaConflictAt
	mismatches []contract.IDMismatch
	room       []byte // for pre-images
}

// identify checks the identity of every node against the contract and the sent
// CRC (gateway.md 2.3). All findings are counted; the error is the one that
// comes first by rank. What room holds is overwritten.
func identify(nodes []pyjson.Value, sentCRC string, m *Metrics, room []byte) (crc uint32, err error) {
	f := findings{ids: make([]string, 0, len(nodes)), room: room}
	for i, n := range nodes {
		if n.Kind() != pyjson.Object {
			continue
		}
		if err := f.node(i, n, m); err != nil {
			return 0, schemaInvalid(err.Error(), pyjson.OfString("nodes"), pyjson.OfInt(int64(i)))
		}
	}
	crc = contract.CRC32(f.ids)
	var digits [10]byte
	same := sentCRC == string(strconv.AppendUint(digits[:0], uint64(crc), 10))
	if !same {
		m.ChecksumMismatch.Inc()
	}
	return crc, f.first(same)
}

// first gives the error that is answered: fields before conflict before
// checksum before mismatch.
func (f *findings) first(sameCRC bool) error {
	switch {
	case f.missing != nil:
		return contract.NodeIDFields(f.missing)
	case f.conflicts != nil:
		return contract.SchemaCompatMismatch(f.conflicts)
	case !sameCRC:
		return contract.ChecksumMismatch()
	case f.mismatches != nil:
		return contract.NodeIDMismatch(f.mismatches)
	default:
		return nil
	}
}

// node files what is wrong with one node; the first rule that it breaks ends
// it. An error means that a value cannot be used at all.
func (f *findings) node(i int, n pyjson.Value, m *Metrics) error {
	id, _ := n.Member("node_id").Str()
	if id == "" {
		f.ids = append(f.ids, textOrEmpty(n.Member("node_id")))
		f.lacks(i, n, "", []string{"node_id"}, m)
		return nil
	}
	f.ids = append(f.ids, id)
	if _, err := contract.SchemaCompatID(n); err != nil {
		return f.conflict(i, n, id, err, m)
	}
	missing, err := missingFields(n)
	if err != nil {
		return err
	}
	if missing != nil {
		f.lacks(i, n, id, missing, m)
		return nil
	}
	return f.compare(i, n, id, m)
}

func (f *findings) conflict(i int, n pyjson.Value, id string, err error, m *Metrics) error {
	var conflict *contract.SchemaConflict
	if !errors.As(err, &conflict) {
		return err
	}
	m.SchemaConflict.With(nodeType(n)).Inc()
	if len(f.conflicts) < model.MaxNamed {
		f.conflicts = append(f.conflicts, contract.SchemaConflictAt{Index: i, NodeID: id, SchemaConflict: *conflict})
	}
	return nil
}

func textOrEmpty(v pyjson.Value) string {
	if !v.Truthy() {
		return ""
	}
	return v.Text()
}

func (f *findings) lacks(i int, n pyjson.Value, id string, missing []string, m *Metrics) {
	if len(f.missing) < model.MaxNamed {
		f.missing = append(f.missing, contract.MissingFields{Index: i, Missing: missing, NodeID: id})
	}
	for _, field := range missing {
		m.MissingFields.With(field, nodeType(n)).Inc()
	}
}

// missingFields names, in order, what a node needs for its id and lacks.
func missingFields(n pyjson.Value) ([]string, error) {
	var missing []string
	for _, key := range [...]string{"node_type", "code_hash", "config_hash", "schema_hash"} {
		if !n.Member(key).Truthy() {
			missing = append(missing, key)
		}
	}
	if !n.Member("schema_compat_id").Or(n.Member("schema_id")).Truthy() {
		missing = append(missing, "schema_compat_id")
	}
	if kind, _ := n.Member("node_type").Str(); kind != contract.TagQueryType {
		return missing, nil
	}
	q, err := contract.TagQueryOf(n)
	if err != nil {
		if _, unnamable := contract.NodeID(n); unnamable != nil {
			return nil, err
		}
		return missing, nil // an interval beyond 64 bits has an id, though no queues
	}
	for _, key := range q.Missing() {
		if !slices.Contains(missing, key) {
			missing = append(missing, key)
		}
	}
	return missing, nil
}

func (f *findings) compare(i int, n pyjson.Value, id string, m *Metrics) error {
	preimage, err := contract.AppendNodePreimage(f.room[:0], n)
	if err != nil {
		return err
	}
	f.room = preimage
	if contract.IsHashID(id, preimage) {
		return nil
	}
	want := contract.HashID(preimage)
	kind := nodeType(n)
	m.IDMismatch.With(kind).Inc()
	if kind == contract.TagQueryType {
		m.TagQueryMismatch.Inc()
	}
	if len(f.mismatches) < model.MaxNamed {
		f.mismatches = append(f.mismatches, contract.IDMismatch{Index: i, NodeID: id, Expected: want})
	}
	return nil
}

// nodeType is the label of a node in metrics.
func nodeType(n pyjson.Value) string {
	if t := n.Member("node_type"); t.Truthy() {
		return t.Text()
	}
	return "unknown"
}
