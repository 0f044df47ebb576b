package complexity

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"qmtl.internal/plumbline/harness/record"
)

// Status says what became of one function between two snapshots.
type Status string

// The statuses. A changed CC outranks a changed place or name; Change.Moved and
// Change.Renamed tell those in any case.
const (
	New     Status = "new"     // only the candidate has it
	Removed Status = "removed" // only the base has it
	Worse   Status = "worse"   // CC rose
	Better  Status = "better"  // CC fell
	Renamed Status = "renamed" // other name or class, same CC
	Moved   Status = "moved"   // other file, same name, same CC
	Same    Status = "same"    // nothing that is measured changed, perhaps its line
)

// Change is one function of the base, the candidate or both.
type Change struct {
	Status    Status       `json:"status"`
	Moved     bool         `json:"moved,omitempty"`   // lies in another file
	Renamed   bool         `json:"renamed,omitempty"` // has another name
	Base      *record.Func `json:"base,omitempty"`    // nil: new
	Candidate *record.Func `json:"candidate,omitempty"`
	Delta     int          `json:"delta"` // CC of candidate − base; 0 when one is missing
}

// Func is the candidate's side, or the base's when the function is gone.
func (c Change) Func() record.Func {
	if c.Candidate != nil {
		return *c.Candidate
	}
	return *c.Base
}

// String tells the change in one line, as a report shows it.
func (c Change) String() string {
	f := c.Func()
	place := fmt.Sprintf("%s:%d %s", f.File, f.Line, f.Name)
	switch {
	case c.Base == nil:
		return fmt.Sprintf("%s: new, CC %d (%s)", place, f.CC, Rank(f.CC))
	case c.Candidate == nil:
		return fmt.Sprintf("%s: removed, CC was %d (%s)", place, f.CC, Rank(f.CC))
	}
	s := fmt.Sprintf("%s: %s, CC %d → %d (%s → %s)", place, c.Status, c.Base.CC, f.CC, Rank(c.Base.CC), Rank(f.CC))
	if c.Moved || c.Renamed {
		s += fmt.Sprintf("; was %s in %s", c.Base.Name, c.Base.File)
	}
	return s
}

// Compare follows every function from base to candidate, through moves between
// files and renames, and returns all of them in the order of Func: by file and
// line. A function is known again by the strongest likeness that is left:
// name and file; name and shape, or name and file name, in another file; then
// shape under another name. Without shapes (radon knows no bodies) a rename is
// seen when file, length and CC agree and leave no choice, when only the class
// around a name changed, or when a function of about the same size starts on the
// same line. What cannot be told apart counts as new and removed.
func Compare(base, candidate []record.Func) []Change {
	m := matcher{
		base: slices.SortedFunc(slices.Values(base), byPlace),
		cand: slices.SortedFunc(slices.Values(candidate), byPlace),
	}
	m.partner = make([]int, len(m.cand))
	for i := range m.partner {
		m.partner[i] = -1
	}
	m.taken = make([]bool, len(m.base))
	for _, r := range ladder() {
		m.climb(r)
	}
	return m.changes()
}

// Count tells how many changes have each status.
func Count(cs []Change) map[Status]int {
	n := map[Status]int{}
	for _, c := range cs {
		n[c.Status]++
	}
	return n
}

type matcher struct {
	base, cand []record.Func
	partner    []int // of cand: index into base, −1 for none
	taken      []bool
}

// rung is one kind of likeness: functions with the same key are one. An empty
// key takes no part. With only, a key counts when each side has it once; with
// alike, the two must also be of about one size.
type rung struct {
	key         func(record.Func) string
	only, alike bool
}

// ladder is ordered from certain to likely. Each rung sees only what no rung
// before it has matched; the order within equal keys is that of the file.
func ladder() []rung {
	return []rung{
		{key: func(f record.Func) string { return key(f.File, f.Name, f.Shape, ccLen(f)) }},
		{key: func(f record.Func) string { return shaped(f, f.File, f.Name) }},
		{key: func(f record.Func) string { return key(f.File, f.Name, strconv.Itoa(f.CC)) }},
		{key: func(f record.Func) string { return key(f.File, f.Name) }},
		// moved
		{key: func(f record.Func) string { return shaped(f, path.Base(f.File), f.Name) }},
		{key: func(f record.Func) string { return shaped(f, f.Name) }},
		{key: func(f record.Func) string { return key(path.Base(f.File), f.Name, strconv.Itoa(f.CC)) }},
		{key: func(f record.Func) string { return key(path.Base(f.File), f.Name) }, only: true},
		{key: func(f record.Func) string { return shapeless(f, f.Name, ccLen(f)) }},
		{key: func(f record.Func) string { return key(home(f), f.Name) }, only: true},
		// renamed
		{key: func(f record.Func) string { return shaped(f, f.File, f.Class) }},
		{key: func(f record.Func) string { return shaped(f, f.File) }},
		{key: func(f record.Func) string { return long(f, shaped(f)) }, only: true},
		{key: func(f record.Func) string { return shapeless(f, f.File, strconv.Itoa(f.Line), ccLen(f)) }},
		{key: func(f record.Func) string { return shapeless(f, f.File, leaf(f.Name), ccLen(f)) }},
		{key: func(f record.Func) string { return long(f, shapeless(f, f.File, f.Class, ccLen(f))) }, only: true},
		{key: func(f record.Func) string { return key(f.File, leaf(f.Name)) }, only: true},
		{key: func(f record.Func) string { return long(f, key(f.File, f.Class, strconv.Itoa(f.Line))) }, only: true, alike: true},
		{key: func(f record.Func) string { return branchy(f, shapeless(f, f.File, f.Class, strconv.Itoa(f.CC))) }, only: true, alike: true},
	}
}

func key(parts ...string) string { return strings.Join(parts, "\x00") }

func ccLen(f record.Func) string {
	return strconv.Itoa(f.CC) + "/" + strconv.Itoa(f.EndLine-f.Line)
}

// shaped takes part only with functions of known shape.
func shaped(f record.Func, parts ...string) string {
	if f.Shape == "" {
		return ""
	}
	return key(append(parts, f.Shape)...)
}

// shapeless takes part only with functions of unknown shape.
func shapeless(f record.Func, parts ...string) string {
	if f.Shape != "" {
		return ""
	}
	return key(append(parts, "")...)
}

// long keeps getters and the like out: too many of them look alike.
func long(f record.Func, k string) string {
	if f.EndLine-f.Line < 3 {
		return ""
	}
	return k
}

// branchy keeps functions out whose CC says little about them.
func branchy(f record.Func, k string) string {
	if f.CC < 5 {
		return ""
	}
	return k
}

// alike tells functions of about one size and CC: one may be the other, edited.
func alike(a, b record.Func) bool {
	near := func(x, y int) bool { return max(x, y) <= min(x, y)+1+min(x, y)/4 }
	return near(a.EndLine-a.Line, b.EndLine-b.Line) && near(a.CC, b.CC)
}

// home is where a name has one meaning: for Go its package, as names like New
// recur in each; for Python the whole tree.
func home(f record.Func) string {
	if f.Lang == "go" {
		return path.Dir(f.File)
	}
	return ""
}

func (m *matcher) climb(r rung) {
	left := map[string][]int{}
	for i, f := range m.base {
		if k := r.key(f); k != "" && !m.taken[i] {
			left[f.Lang+k] = append(left[f.Lang+k], i)
		}
	}
	right := map[string][]int{}
	for i, f := range m.cand {
		if k := r.key(f); k != "" && m.partner[i] < 0 {
			right[f.Lang+k] = append(right[f.Lang+k], i)
		}
	}
	for k, cs := range right { // keys share no function: order does not matter
		m.pair(left[k], cs, r)
	}
}

func (m *matcher) pair(bs, cs []int, r rung) {
	if r.only && (len(bs) != 1 || len(cs) != 1) {
		return
	}
	if r.alike && !alike(m.base[bs[0]], m.cand[cs[0]]) {
		return
	}
	for i := range min(len(bs), len(cs)) {
		m.partner[cs[i]], m.taken[bs[i]] = bs[i], true
	}
}

func (m *matcher) changes() []Change {
	out := make([]Change, 0, len(m.cand))
	for i := range m.cand {
		c := Change{Status: New, Candidate: &m.cand[i]}
		if b := m.partner[i]; b >= 0 {
			c = change(&m.base[b], &m.cand[i])
		}
		out = append(out, c)
	}
	for i := range m.base {
		if !m.taken[i] {
			out = append(out, Change{Status: Removed, Base: &m.base[i]})
		}
	}
	slices.SortStableFunc(out, func(a, b Change) int { return byPlace(a.Func(), b.Func()) })
	return out
}

func change(b, c *record.Func) Change {
	ch := Change{
		Status: Same, Base: b, Candidate: c, Delta: c.CC - b.CC,
		Moved: b.File != c.File, Renamed: b.Name != c.Name,
	}
	switch {
	case ch.Delta > 0:
		ch.Status = Worse
	case ch.Delta < 0:
		ch.Status = Better
	case ch.Renamed:
		ch.Status = Renamed
	case ch.Moved:
		ch.Status = Moved
	}
	return ch
}
