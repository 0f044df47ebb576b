package workload

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Judge says what the answer to s means (gateway.md 1.3). Accepted is a 202
// with the seven members, each as it must be; Rejected a 409 that names the
// first submission of the DAG, for a DAG that was sent more than once; the rest
// is Unexpected, and Why says in which way.
func (w *Workload) Judge(s Submission, status int, answer []byte) load.Reply {
	r := load.Reply{Status: status}
	var wrong string
	switch status {
	case http.StatusAccepted:
		r.Fate = load.Accepted
		if r.ID, wrong = readAck(s, answer); wrong == "" {
			wrong = w.keys.accept(s.Original, r.ID)
		}
	case http.StatusConflict:
		r.Fate = load.Rejected
		if r.ID, wrong = readRefusal(answer); wrong == "" {
			wrong = w.keys.refuse(s.Original, r.ID)
		}
	default:
		wrong = "status"
	}
	if wrong != "" {
		r.Fate, r.Body, r.Why = load.Unexpected, answer, why(status, wrong)
	}
	return r
}

// why names a class of unexpected answers, by the status alone where that says
// all.
func why(status int, wrong string) string {
	if wrong == "status" {
		return strconv.Itoa(status)
	}
	return strconv.Itoa(status) + ": " + wrong
}

// ackMembers are the members of an acknowledgement, each with its check.
var ackMembers = map[string]func(s Submission, v json.RawMessage) bool{
	"strategy_id":      func(_ Submission, v json.RawMessage) bool { return isUUID4(text(v)) },
	"queue_map":        func(s Submission, v json.RawMessage) bool { return isQueueMap(v, s.Queries) },
	"sentinel_id":      func(_ Submission, v json.RawMessage) bool { return text(v) != "" },
	"node_ids_crc32":   func(s Submission, v json.RawMessage) bool { return string(v) == strconv.FormatUint(uint64(s.CRC), 10) },
	"downgraded":       isBool,
	"downgrade_reason": func(_ Submission, v json.RawMessage) bool { return string(v) == "null" || text(v) != "" },
	"safe_mode":        isBool,
}

// ackNames is the order in which members are looked at.
var ackNames = slices.Sorted(maps.Keys(ackMembers))

// readAck returns the strategy_id of an acknowledgement, and what is wrong with
// it.
func readAck(s Submission, answer []byte) (id, wrong string) {
	members, wrong := object(answer)
	if wrong != "" {
		return "", wrong
	}
	id = text(members["strategy_id"])
	for _, name := range ackNames {
		v, ok := members[name]
		if !ok {
			return id, "no " + name
		}
		if !ackMembers[name](s, v) {
			return id, "bad " + name
		}
	}
	if len(members) > len(ackNames) {
		return id, "more than the seven members"
	}
	return id, ""
}

// readRefusal returns the strategy_id that a refusal names, and what is wrong
// with it.
func readRefusal(answer []byte) (id, wrong string) {
	members, wrong := object(answer)
	if wrong != "" {
		return "", wrong
	}
	detail, wrong := object(members["detail"])
	if wrong != "" || len(members) != 1 {
		return "", "no detail"
	}
	id = text(detail["strategy_id"])
	switch {
	case text(detail["code"]) != contract.CodeDuplicate:
		return id, "code is not " + contract.CodeDuplicate
	case !isUUID4(id):
		return id, "bad strategy_id"
	case len(detail) != 2:
		return id, "more than code and strategy_id"
	}
	return id, ""
}

func object(b []byte) (members map[string]json.RawMessage, wrong string) {
	if err := json.Unmarshal(b, &members); err != nil || members == nil {
		return nil, "not a JSON object"
	}
	return members, ""
}

// text returns the string that v is, or "".
func text(v json.RawMessage) (s string) {
	if !bytes.HasPrefix(v, []byte(`"`)) || json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

func isBool(_ Submission, v json.RawMessage) bool { return string(v) == "true" || string(v) == "false" }

func isUUID4(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.Version() == 4 && id.String() == s
}

// isQueueMap says whether v has exactly the TagQuery nodes of the DAG, each
// with its queues.
func isQueueMap(v json.RawMessage, queries []string) bool {
	var m map[string][]queueRef
	if json.Unmarshal(v, &m) != nil || m == nil || len(m) != len(queries) {
		return false
	}
	for _, id := range queries {
		if queues, ok := m[id]; !ok || queues == nil || slices.ContainsFunc(queues, queueRef.incomplete) {
			return false
		}
	}
	return true
}

// queueRef is one queue of a queue map; both members must be there.
type queueRef struct {
	Queue  *string `json:"queue"`
	Global *bool   `json:"global"`
}

func (q queueRef) incomplete() bool { return q.Queue == nil || *q.Queue == "" || q.Global == nil }
