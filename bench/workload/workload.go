// Package workload makes the submissions that a load run sends to a gateway and
// reads the answers. Seed, tag and index fix every byte of a submission, so any
// generator can make any of them, in any order, again and again.
//
// Every submission is unique by a key in its DAG, but for deliberate
// duplicates, which repeat the DAG of an earlier one in another dress and must
// be refused.
package workload

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/scenarios/contract"
)

// Path is where submissions go.
const Path = "/strategies"

// The classes of submissions.
const (
	Single    = "single"    // sample of gateway.md 6.1: one world, one node
	Worlds    = "worlds"    // sample of gateway.md 6.2: two worlds, a TagQuery node
	Catalogue = "catalogue" // 5 to 20 nodes, nearly all shared between strategies
	Duplicate = "duplicate" // the DAG of an earlier submission in another dress
)

const (
	// duplicateAfter is how much earlier than its duplicate an original is due.
	duplicateAfter = time.Second
	// lookBack is from how many candidates an original is drawn.
	lookBack = 2048
)

// Purposes of draws; each has numbers of its own.
const (
	forClass uint64 = iota + 1
	forTemplate
	forStrategy
	forDress
	forOriginal
	forFallback
)

// Options of a workload.
type Options struct {
	Profile load.Profile
	Seed    uint64
	// Tag names the run, so that no two runs against one gateway share a key:
	// up to 64 letters, digits, dots, dashes and underscores.
	Tag string
	// Shared says that other generators offer parts of the same schedule, so a
	// duplicate's original may be known to another process only.
	Shared bool
}

// Workload makes submissions. Its methods may be called by many goroutines.
type Workload struct {
	seed      uint64
	prefix    string // of keys
	schedule  load.Schedule
	private   float64
	classes   []classShare
	catalogue *catalogue
	single    sample
	worlds    sample
	keys      *keys
	scratch   sync.Pool // of *[]byte: the text of a DAG before it is encoded
}

// classShare is a class with its share of the mix, the duplicates last.
type classShare struct {
	class string
	share float64
}

var tagForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New prepares the catalogue, which costs some milliseconds.
func New(o Options) (*Workload, error) {
	if !tagForm.MatchString(o.Tag) {
		return nil, fmt.Errorf("workload: tag %q: want 1 to 64 letters, digits, dots, dashes or underscores", o.Tag)
	}
	m := o.Profile.Mix
	w := &Workload{
		seed: o.Seed, prefix: o.Tag + "-" + strconv.FormatUint(o.Seed, 10) + "-", schedule: o.Profile.Schedule(),
		private: o.Profile.PrivateNode, keys: newKeys(o.Shared),
		classes: []classShare{{Single, m.Single}, {Worlds, m.Worlds}, {Catalogue, m.Catalogue}, {Duplicate, m.Duplicate}},
	}
	var errs [3]error
	w.catalogue, errs[0] = newCatalogue(o.Seed)
	w.single, errs[1] = newSample(sampleSingle)
	w.worlds, errs[2] = newSample(sampleWorlds)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	return w, nil
}

// Submission says what one index submits.
type Submission struct {
	Index    int64
	Class    string
	Original int64  // of a duplicate: the index whose DAG it repeats; else Index
	Key      string // in the DAG, of Original
	CRC      uint32 // over the node ids
	Queries  []string
}

// key is the key of the DAG that index i is the first to submit.
func (w *Workload) key(i int64) string { return w.prefix + strconv.FormatInt(i, 10) }

// drawn is the class that the mix gives index i. An early duplicate has nothing
// to repeat yet; see plan.
func (w *Workload) drawn(i int64) string {
	d := drawFor(w.seed, i, forClass)
	return pickClass(w.classes, d.share())
}

// pickClass returns the class at which the running sum passes u.
func pickClass(classes []classShare, u float64) string {
	last := ""
	for _, c := range classes {
		if c.share <= 0 {
			continue
		}
		if last = c.class; u < c.share {
			break
		}
		u -= c.share
	}
	return last
}

// plan returns the class of index i and the index whose DAG it submits.
func (w *Workload) plan(i int64) (class string, original int64) {
	class = w.drawn(i)
	if class != Duplicate {
		return class, i
	}
	if j, ok := w.originalOf(i); ok {
		return Duplicate, j
	}
	others := w.classes[:len(w.classes)-1]
	total := 0.0
	for _, c := range others {
		total += c.share
	}
	d := drawFor(w.seed, i, forFallback)
	return pickClass(others, d.share()*total), i
}

// originalOf draws the index that duplicate i repeats: due a second earlier at
// least, and no duplicate itself.
func (w *Workload) originalOf(i int64) (int64, bool) {
	latest := w.schedule.Due(i) - duplicateAfter
	n := int64(sort.Search(int(i), func(j int) bool { return w.schedule.Due(int64(j)) > latest }))
	if n == 0 {
		return 0, false
	}
	span := min(n, lookBack)
	d := drawFor(w.seed, i, forOriginal)
	at := int64(d.below(int(span)))
	for k := range span {
		j := n - span + (at+k)%span
		if w.drawn(j) != Duplicate {
			return j, true
		}
	}
	return 0, false
}

// Append writes the request body of index i to dst.
func (w *Workload) Append(dst []byte, i int64) ([]byte, Submission, error) {
	class, original := w.plan(i)
	s := Submission{Index: i, Class: class, Original: original, Key: w.key(original)}
	of := class
	if class == Duplicate {
		of = w.drawn(original)
	}
	nodes, err := w.nodesOf(original, of)
	if err != nil {
		return dst, s, fmt.Errorf("submission %d: %w", i, err)
	}
	if of == Worlds {
		s.Queries = w.worlds.queries
	}
	ids := make([]string, len(nodes))
	for k, n := range nodes {
		ids[k] = n.id
	}
	s.CRC = contract.CRC32(ids)
	return w.appendBody(dst, s, of, nodes), s, nil
}

// appendBody writes the envelope. Every other original carries its DAG in
// base64, a duplicate in the way in which its original did not.
func (w *Workload) appendBody(dst []byte, s Submission, of string, nodes []*node) []byte {
	d := drawFor(w.seed, s.Original, forDress)
	other := s.Class == Duplicate
	encode := appendText
	if (d.next()&1 == 0) != other {
		encode = appendBase64
	}
	text, _ := w.scratch.Get().(*[]byte)
	if text == nil {
		text = new([]byte)
	}
	defer w.scratch.Put(text)
	dag := appendDAG((*text)[:0], s.Key, nodes, other)
	*text = dag
	crc := strconv.FormatUint(uint64(s.CRC), 10)
	if other {
		dst = append(dst, `{"node_ids_crc32": `+crc+`, "world_ids": ["`+duplicateWorlds[d.below(len(duplicateWorlds))]...)
		dst = append(dst, `", "delta"], "meta": {"user": "other", "execution_domain": "live"}, "dag_json": `...)
		return append(encode(dst, dag), '}')
	}
	dst = append(dst, `{"dag_json":`...)
	dst = encode(dst, dag)
	dst = append(dst, `,"meta":{"execution_domain":"backtest","as_of":"2025-01-01T00:00:00Z"`+metaOf[of]...)
	dst = append(dst, `},"world_ids":`+worldsOf[of]+`,"node_ids_crc32":`...)
	return append(append(dst, crc...), '}')
}

var (
	metaOf          = map[string]string{Single: `,"version":" 1.2.3 "`, Catalogue: `,"strategy_version":"v1"`}
	worldsOf        = map[string]string{Single: `["alpha"]`, Worlds: `[" alpha ","beta","alpha"]`, Catalogue: `["alpha"]`}
	duplicateWorlds = [...]string{"gamma", "beta", " alpha "}
)

// Source sends the submissions through p.
func (w *Workload) Source(p *load.Poster) load.Source { return &source{w: w, post: p} }

type source struct {
	w    *Workload
	post *load.Poster
	body []byte
}

// Request implements load.Source. It is called by one goroutine at a time.
func (s *source) Request(i int64) load.Request {
	body, sub, err := s.w.Append(s.body[:0], i)
	s.body = body
	x := s.post.New()
	x.Body.Write(body)
	return &request{w: s.w, s: sub, x: x, err: err}
}

// request is one submission on its way.
type request struct {
	w   *Workload
	s   Submission
	x   *load.Post
	err error // the body could not be made
}

func (r *request) Class() string { return r.s.Class }
func (r *request) Key() string   { return r.s.Key }

func (r *request) Send(ctx context.Context) error {
	if r.err != nil {
		return r.err
	}
	r.w.keys.leaves(r.s.Original)
	err := r.x.Send(ctx)
	if err != nil {
		r.x.Free()
	}
	return err
}

func (r *request) Reply() load.Reply {
	reply := r.w.Judge(r.s, r.x.Status, r.x.Answer.Bytes())
	reply.Body = slices.Clone(reply.Body)
	r.x.Free()
	return reply
}
