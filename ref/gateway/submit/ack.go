package submit

import (
	"strconv"

	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// Ack answers a submission (gateway.md 1.3); contract.StrategyAck is the same
// as a client sees it, without the order of the queue map.
type Ack struct {
	StrategyID      string
	QueueMap        QueueMap
	SentinelID      string
	CRC32           uint32
	Downgraded      bool
	DowngradeReason string // "" for none
	SafeMode        bool
}

func (s *submission) newAck(id, sentinel string) Ack {
	return Ack{
		StrategyID: id, SentinelID: sentinel, CRC32: s.crc,
		Downgraded: s.context.Downgraded, DowngradeReason: s.context.DowngradeReason, SafeMode: s.context.SafeMode,
	}
}

// AppendJSON writes the response body behind dst.
func (a *Ack) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"strategy_id":"`+a.StrategyID+`","queue_map":`...)
	dst = a.QueueMap.appendJSON(dst)
	dst = append(dst, `,"sentinel_id":`...)
	dst = pyjson.Append(dst, pyjson.OfString(a.SentinelID), pyjson.Compact)
	dst = append(dst, `,"node_ids_crc32":`...)
	dst = strconv.AppendUint(dst, uint64(a.CRC32), 10)
	dst = append(dst, `,"downgraded":`...)
	dst = strconv.AppendBool(dst, a.Downgraded)
	dst = append(dst, `,"downgrade_reason":`...)
	reason := pyjson.Value{}
	if a.DowngradeReason != "" {
		reason = pyjson.OfString(a.DowngradeReason)
	}
	dst = pyjson.Append(dst, reason, pyjson.Compact)
	dst = append(dst, `,"safe_mode":`...)
	return append(strconv.AppendBool(dst, a.SafeMode), '}')
}
