package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
)

// run is one batch.
type run struct {
	*Collector
	report Report
}

func (r *run) skip(o orphan, reason string, archive *string) {
	r.report.Actions.Skip++
	r.report.Skipped = append(r.report.Skipped, Item{o.name, o.tag, o.interval, ActionSkip, reason, archive})
}

// choose gives the orphans that are old enough.
func (r *run) choose(orphans []orphan) (chosen []orphan) {
	now := r.opts.Now()
	for _, o := range orphans {
		r.report.ByTag[o.tag]++
		policy := r.opts.Policies[o.tag]
		switch {
		case policy == nil:
			r.skip(o, ReasonUnknownPolicy, nil)
		case !policy.due(o, now):
			r.skip(o, ReasonWithinGrace, nil)
		case r.opts.Keep != "":
			r.report.Candidates++
			r.skip(o, r.opts.Keep, nil)
		default:
			r.report.Candidates++
			chosen = append(chosen, o)
		}
	}
	return chosen
}

func (p *Policy) due(o orphan, now time.Time) bool {
	if o.created.IsZero() {
		return !o.idle.IsZero() && now.Sub(o.idle) >= p.Grace
	}
	return now.Sub(o.created) >= p.TTL+p.Grace
}

func (r *run) done(o orphan, archive *string) {
	item := Item{o.name, o.tag, o.interval, ActionDrop, ReasonEligible, archive}
	r.report.Actions.Drop++
	if r.opts.Policies[o.tag].Archive {
		item.Action = ActionArchive
		r.report.Actions.Drop--
		r.report.Actions.Archive++
	}
	r.report.Processed = append(r.report.Processed, o.name)
	r.report.Items = append(r.report.Items, item)
}

// pretend reports what take would do.
func (r *run) pretend(chosen []orphan) {
	for _, o := range chosen {
		r.done(o, r.archiveStatus(o))
	}
}

func (r *run) archiveStatus(o orphan) *string {
	status := Archived
	switch {
	case !r.opts.Policies[o.tag].Archive:
		return nil
	case r.opts.Archive == nil:
		status = MissingClient
	}
	return &status
}

// taking is an orphan whose name is ours.
type taking struct {
	orphan
	claim   diff.Claimed
	archive *string
}

// take archives and drops the chosen ones.
func (r *run) take(ctx context.Context, chosen []orphan) error {
	var going []taking
	for _, o := range chosen {
		t, ready, err := r.ready(ctx, o)
		if err != nil {
			return errors.Join(err, r.giveBack(ctx, going))
		}
		if ready {
			going = append(going, t)
		}
	}
	if len(going) == 0 {
		return nil
	}
	names := make([]string, len(going))
	for i, t := range going {
		names[i] = t.name
	}
	errs, err := r.broker.Delete(ctx, names)
	if err != nil {
		// What of it the broker did is not known: the names stay held for a while.
		return fmt.Errorf("delete %d topics: %w", len(names), err)
	}
	var kept []taking
	for i, t := range going {
		if errs[i] != nil {
			r.opts.Log.Warn("orphan not deleted", "topic", t.name, "error", errs[i])
			r.skip(t.orphan, ReasonDeleteFailed, t.archive)
			kept = append(kept, t)
			continue
		}
		r.opts.Log.Info("orphan dropped", "topic", t.name, "tag", t.tag)
		delete(r.idle, t.name)
		r.done(t.orphan, t.archive)
	}
	return r.giveBack(ctx, kept)
}

var errTaken = errors.New("the topic belongs to a node")

// ready claims the name of an orphan and archives what it holds.
func (r *run) ready(ctx context.Context, o orphan) (t taking, ready bool, err error) {
	claims, err := r.graph.Claim(ctx, []diff.Claim{{
		Node: diff.Node{ID: condemned + o.name}, ComputeKey: condemned,
		Choose: func(owned func(string) bool) (string, error) {
			if owned(o.name) {
				return "", errTaken
			}
			return o.name, nil
		},
	}})
	switch {
	case err != nil && !errors.Is(err, errTaken):
		return t, false, fmt.Errorf("claim topic %s: %w", o.name, err)
	case err != nil || !claims[0].Won: // not won: another collector is at it
		r.skip(o, ReasonTaken, nil)
		return t, false, nil
	}
	t = taking{o, claims[0], r.archiveStatus(o)}
	r.claims[t.claim.NodeID+"\x00"+o.name] = r.opts.Now()
	if t.archive == nil || r.opts.Archive == nil {
		return t, true, nil
	}
	now := r.opts.Now()
	if err := r.opts.Archive.Archive(ctx, o.name, o.name+"-"+now.UTC().Format("20060102T150405")); err != nil {
		r.opts.Log.Warn("orphan not archived", "topic", o.name, "error", err)
		failed := ArchiveFailed
		r.skip(o, ReasonArchiveFailed, &failed)
		return t, false, r.giveBack(ctx, []taking{t})
	}
	return t, true, nil
}

// giveBack releases names that were claimed for nothing.
func (r *run) giveBack(ctx context.Context, list []taking) error {
	if len(list) == 0 {
		return nil
	}
	queues := make([]diff.Claimed, len(list))
	for i, t := range list {
		queues[i] = t.claim
	}
	if err := r.graph.Release(context.WithoutCancel(ctx), queues); err != nil {
		return fmt.Errorf("release %d claims: %w", len(queues), err)
	}
	return nil
}
