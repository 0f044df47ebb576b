package service

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// configCommand is "SERVICE config check": it prints the configuration that
// would be in force, as a file that could be given, or every mistake on a line
// of its own.
func configCommand(w IO, spec Spec) int {
	if len(w.Args) < 2 || w.Args[1] != "check" {
		fmt.Fprintf(w.Err, "%s: want \"%s config check [--config FILE]\"\n", spec.Name, spec.Name)
		return ExitUsage
	}
	w.Args = w.Args[2:]
	s, err := parse(w, spec)
	if errors.Is(err, errHelp) {
		return ExitOK
	}
	if err != nil {
		fmt.Fprintln(w.Err, err)
		return ExitUsage
	}
	s.print(w.Out)
	return ExitOK
}

// print writes every setting, in the order of the names, and where it comes from.
func (s *settings) print(out io.Writer) {
	fmt.Fprintf(out, "%s:\n", s.spec.Name)
	s.fs.VisitAll(func(f *flag.Flag) {
		if f.Name == configFlag {
			return
		}
		line := fmt.Sprintf("  %s: %s", keyOf(f.Name), literal(f))
		from := s.from[f.Name]
		if from == "" {
			from = "default"
		}
		fmt.Fprintf(out, "%s%s # %s\n", line, strings.Repeat(" ", max(0, 60-len(line))), from)
	})
}

// literal writes a flag's value as YAML reads it.
func literal(f *flag.Flag) string {
	switch v := valueOf(f).(type) {
	case bool, int, int64, uint, uint64, float64:
		return fmt.Sprint(v)
	case time.Duration:
		return v.String()
	}
	quoted, err := json.Marshal(mask(f.Value.String()))
	if err != nil {
		return `""` // a string can always be marshalled
	}
	return string(quoted)
}
