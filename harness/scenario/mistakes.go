package scenario

import (
	"fmt"
	"slices"
	"strings"
)

// A Mistake is one thing wrong in a scenario file.
type Mistake struct {
	File   string
	Line   int // from 1; 0 when the mistake is about the file as a whole
	Column int // from 1
	What   string
	Mend   string // what to do about it
}

func (m Mistake) String() string {
	place := m.File
	if m.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d", m.File, m.Line, m.Column)
	}
	if m.Mend == "" {
		return place + ": " + m.What
	}
	return place + ": " + m.What + "; " + m.Mend
}

// Mistakes is the error of Load: every mistake of every file, in the order of
// the files and lines.
type Mistakes []Mistake

func (ms Mistakes) Error() string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

func (ms Mistakes) sorted() Mistakes {
	slices.SortStableFunc(ms, func(a, b Mistake) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return slices.Compact(ms)
}

// nearest gives the candidate that a person probably meant, or "".
func nearest(word string, candidates []string) string {
	best, least := "", len(word)/2+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// hint says which words are possible, the likely one first.
func hint(word string, known []string) string {
	sorted := slices.Sorted(slices.Values(known))
	if best := nearest(word, sorted); best != "" {
		return fmt.Sprintf("did you mean %q? known: %s", best, strings.Join(sorted, ", "))
	}
	return "known: " + strings.Join(sorted, ", ")
}
