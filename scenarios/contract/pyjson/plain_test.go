package pyjson

import (
	"strings"
	"testing"
)

// Each byte at each place of a word, among others that are plain.
func TestEveryByteOfAWordIsLookedAt(t *testing.T) {
	for at := range 8 {
		for c := range 256 {
			for _, other := range []string{" ", "a", "~", "\x7f"} {
				word := strings.Repeat(other, at) + string([]byte{byte(c)}) + strings.Repeat(other, 7-at)
				plain := c >= 0x20 && c < 0x80 && c != '"' && c != '\\'
				if got := allPlain(word); got != plain {
					t.Errorf("%q: plain %v", word, got)
				}
			}
		}
	}
}

func TestStringsOfEachLength(t *testing.T) {
	for n := range 40 {
		for _, last := range []string{"", `\"`, "é", `\u00e9`} {
			want := strings.Repeat("x", n)
			v, err := ParseString(`"` + want + last + `"`)
			got, _ := v.Str()
			if rest, ok := strings.CutPrefix(got, want); err != nil || !ok || len([]rune(rest)) != min(1, len(last)) {
				t.Errorf("%d, %q: %q, %v", n, last, got, err)
			}
		}
		if _, err := ParseString(`"` + strings.Repeat("x", n)); err == nil {
			t.Errorf("%d: no end, and no error", n)
		}
		if _, err := ParseString(`"` + strings.Repeat("x", n) + "\x1f" + `aaaaaaaaaa"`); err == nil {
			t.Errorf("%d: a control character, and no error", n)
		}
	}
}
