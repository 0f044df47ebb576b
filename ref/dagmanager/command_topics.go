package dagmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/gc"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
	"qmtl.internal/plumbline/ref/internal/service"
)

func topicFlags(in *invocation, fs *service.FlagSet) {
	in.kafka.Flags(fs, "kafka", "Kafka, or a comma list")
	in.kafka.PatienceFlags(fs, "kafka")
	formatFlag(in, fs)
}

func ensureFlags(in *invocation, fs *service.FlagSet) {
	topicFlags(in, fs)
	fs.StringVar(&in.kind, "kind", string(diff.Indicator), "`kind` of the topics: raw, indicator or trade_exec")
	fs.IntVar(&in.replicas, "replication", 0, "replication `factor`; 0: as the kind wants; a single broker needs 1")
}

// withTopics talks to the broker.
func (in *invocation) withTopics(ctx context.Context, do func(*topics.Session) error) error {
	kafka, end, err := in.kafka.Open()
	if err != nil {
		return err
	}
	defer end()
	session := topics.NewSession(kafka, topics.Options{Timeout: in.kafka.Timeout, Replication: in.replicas})
	if err := session.Refresh(ctx); err != nil {
		return err
	}
	return do(session)
}

// topicRow is a topic as the commands print it.
type topicRow struct {
	Topic       string `json:"topic"`
	Partitions  int    `json:"partitions,omitempty"`
	Replication int    `json:"replication,omitempty"`
	Held        *int64 `json:"held,omitempty"`    // records
	Written     *int64 `json:"written,omitempty"` // records ever
}

func runTopicsList(ctx context.Context, in *invocation) error {
	return in.withTopics(ctx, func(s *topics.Session) error {
		all, err := s.List(ctx)
		if err != nil {
			return err
		}
		rows := []topicRow{}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			rows = append(rows, topicRow{Topic: name, Partitions: all[name].Partitions, Replication: all[name].Replication})
		}
		return in.printRows(rows, []string{"TOPIC", "PARTITIONS", "REPLICATION"}, func(r topicRow) []string {
			return []string{r.Topic, strconv.Itoa(r.Partitions), strconv.Itoa(r.Replication)}
		})
	})
}

func runTopicsStats(ctx context.Context, in *invocation) error {
	return in.withTopics(ctx, func(s *topics.Session) error {
		extents, err := s.Extents(ctx, in.args...)
		if err != nil {
			return err
		}
		rows := []topicRow{}
		for _, name := range slices.Sorted(maps.Keys(extents)) {
			e := extents[name]
			rows = append(rows, topicRow{Topic: name, Held: &e.Held, Written: &e.Written})
		}
		for _, name := range in.args {
			if _, there := extents[name]; !there {
				err = errors.Join(err, fmt.Errorf("topic %s: there is none", name))
			}
		}
		return errors.Join(err, in.printRows(rows, []string{"TOPIC", "HELD", "WRITTEN"}, func(r topicRow) []string {
			return []string{r.Topic, strconv.FormatInt(*r.Held, 10), strconv.FormatInt(*r.Written, 10)}
		}))
	})
}

func runTopicsEnsure(ctx context.Context, in *invocation) error {
	return in.withTopics(ctx, func(s *topics.Session) error {
		wanted := make([]diff.Topic, len(in.args))
		for i, name := range in.args {
			wanted[i] = diff.Topic{Name: name, Kind: diff.Kind(in.kind)}
		}
		if err := s.Ensure(ctx, wanted); err != nil {
			return err
		}
		_, err := fmt.Fprintf(in.Out, "topics ensure: %d there\n", len(wanted))
		return err
	})
}

// printRows prints a table, or a JSON array.
func (in *invocation) printRows(rows []topicRow, head []string, cells func(topicRow) []string) error {
	if in.format == "json" {
		return printJSON(in.Out, rows)
	}
	lines := make([][]string, len(rows))
	for i, r := range rows {
		lines[i] = cells(r)
	}
	return table(in.Out, head, lines)
}

func gcFlags(in *invocation, fs *service.FlagSet) {
	fs.StringVar(&in.target, "target", "127.0.0.1:8001", "`HOST:PORT` of a DAG Manager's HTTP interface")
	fs.BoolVar(&in.dryRun, "dry-run", false, "only say what would be done")
	formatFlag(in, fs)
}

// runGC asks a DAG Manager that runs: it knows for how long it has seen what.
func runGC(ctx context.Context, in *invocation) error {
	address := "http://" + in.target + "/admin/gc-trigger"
	if in.dryRun {
		address += "?dry_run=true"
	}
	body, err := postJSON(ctx, address, `{"id": "dagmanager gc"}`)
	if err != nil {
		return err
	}
	var answer struct{ Report gc.Report }
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("answer of %s: %w", in.target, err)
	}
	if in.format == "json" {
		return printJSON(in.Out, answer.Report)
	}
	r := answer.Report
	rows := make([][]string, len(r.Items))
	for i, item := range r.Items {
		rows[i] = []string{item.Queue, item.Tag, item.Action, item.Reason}
	}
	fmt.Fprintf(in.Out, "%d orphans, %d old enough, %d taken\n", r.Observed, r.Candidates, len(r.Processed))
	if len(rows) == 0 {
		return nil
	}
	return table(in.Out, []string{"QUEUE", "TAG", "ACTION", "REASON"}, rows)
}

func postJSON(ctx context.Context, address, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("%s answered %s: %s", address, resp.Status, clip(string(bytes.TrimSpace(answer))))
	}
	return answer, nil
}
