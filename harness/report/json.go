package report

import (
	"encoding/json"
	"io"
)

// asJSON writes the judged result as it is in judged.json.
func asJSON(w io.Writer, in *Input) error { return writeJSON(w, in.Judged) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
