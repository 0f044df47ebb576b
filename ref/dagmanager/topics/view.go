package topics

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"qmtl.internal/plumbline/scenarios/contract"
)

// view is what a session knows of the broker's topics: by a hash of the name in
// lower case, since names that differ only in case are what it must find.
type view struct {
	byFold map[uint64][]*known
	count  int
	// stems counts how many names begin with what ends contract.LegacyStem
	// characters after an underscore, by hash.
	seed  maphash.Seed
	stems map[uint64]int32
}

type known struct {
	name     string
	shape    Shape
	exists   bool      // the broker has said so
	order    *order    // somebody asks the broker about it right now
	verified time.Time // when we made it or compared it last; zero: never
	foreign  bool      // we compared it, and it is made in another way
}

// viewOf is the view of a list of topics.
func viewOf(all map[string]Shape) view {
	v := view{byFold: make(map[uint64][]*known, len(all)), seed: maphash.MakeSeed(), stems: make(map[uint64]int32, 4*len(all))}
	for name, shape := range all {
		v.add(name, shape).exists = true
	}
	return v
}

// learn keeps what an older view knew of topics that are still there. So do
// topics on their way.
func (v *view) learn(old view) {
	for _, list := range old.byFold {
		for _, was := range list {
			k := v.find(was.name)
			if k == nil && was.order != nil {
				k = v.add(was.name, was.shape)
			}
			if k != nil {
				k.order, k.verified, k.foreign = was.order, was.verified, was.foreign
			}
		}
	}
}

func (v view) find(name string) *known {
	if v.count == 0 { // no seed either
		return nil
	}
	for _, k := range v.byFold[v.fold(name)] {
		if k.name == name {
			return k
		}
	}
	return nil
}

// fold hashes a name in lower case. Every step of every topic asks for it, so
// that names of ordinary length and letters cost no memory.
func (v view) fold(name string) uint64 {
	var room [256]byte
	lower := append(room[:0], name...)
	for i, c := range lower {
		if c >= utf8.RuneSelf {
			return maphash.String(v.seed, strings.ToLower(name))
		}
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return maphash.Bytes(v.seed, lower)
}

// begins says whether a name may begin with a stem: it may be told so in vain,
// never the other way round.
func (v view) begins(stem string) bool {
	return v.count > 0 && v.stems[maphash.String(v.seed, stem)] > 0
}

// tally counts the stems of a name, n is 1 or -1.
func (v *view) tally(name string, n int32) {
	for at := range len(name) {
		if name[at] != '_' {
			continue
		}
		end, chars := at+1, 0
		for ; chars < contract.LegacyStem && end < len(name); chars++ {
			_, size := utf8.DecodeRuneInString(name[end:])
			end += size
		}
		if chars < contract.LegacyStem {
			return
		}
		stem := maphash.String(v.seed, name[:end])
		if v.stems[stem] += n; v.stems[stem] == 0 {
			delete(v.stems, stem)
		}
	}
}

// near gives the names that equal name but for case.
func (v view) near(name string) []string {
	var out []string
	if v.count == 0 {
		return nil
	}
	for _, k := range v.byFold[v.fold(name)] {
		if k.name != name && strings.EqualFold(k.name, name) {
			out = append(out, k.name)
		}
	}
	return out
}

// add gives the entry of that name, made when there is none.
func (v *view) add(name string, shape Shape) *known {
	if v.byFold == nil {
		*v = viewOf(nil)
	}
	if k := v.find(name); k != nil {
		return k
	}
	k := &known{name: strings.Clone(name), shape: shape}
	fold := v.fold(k.name)
	v.byFold[fold] = append(v.byFold[fold], k)
	v.count++
	v.tally(k.name, 1)
	return k
}

func (v *view) remove(name string) {
	if v.count == 0 {
		return
	}
	fold := v.fold(name)
	list := v.byFold[fold]
	at := slices.IndexFunc(list, func(k *known) bool { return k.name == name })
	if at < 0 {
		return
	}
	v.count--
	v.tally(name, -1)
	if len(list) == 1 {
		delete(v.byFold, fold)
		return
	}
	v.byFold[fold] = slices.Delete(list, at, at+1)
}
