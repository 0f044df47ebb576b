package report

import (
	"fmt"
	"io"
	"strings"

	"qmtl.internal/plumbline/harness/verdict"
)

// github writes workflow commands: the verdict first, then an annotation for
// each check that did not pass, worst first (GitHub shows ten of a kind).
func github(w io.Writer, in *Input) error {
	j := in.Judged
	level := "notice"
	if j.ExitCode != verdict.ExitPass {
		level = "error"
	}
	fmt.Fprintln(w, command(level, "plumbline: "+j.Verdict.String(), "", 0, j.Summary))
	for _, c := range worstFirst(j.Checks) {
		if c.Verdict == verdict.Pass && c.Waived == "" {
			continue
		}
		fmt.Fprintln(w, command(annotationLevel(c), "plumbline: "+c.Name, c.File, c.Line, annotationText(c)))
	}
	return nil
}

func annotationLevel(c verdict.Check) string {
	switch c.Verdict {
	case verdict.Pass: // waived
		return "notice"
	case verdict.Inconclusive, verdict.NoBaseline:
		return "warning"
	}
	return "error"
}

func annotationText(c verdict.Check) string {
	s := c.Verdict.String() + ": " + c.Reason
	if c.Waived != "" {
		s = "waived: " + c.Waived + ": " + c.Reason
	}
	if len(c.Details) > 0 {
		s += "\n" + strings.Join(c.Details, "\n")
	}
	return s
}

func command(level, title, file string, line int, message string) string {
	var props []string
	if file != "" {
		props = append(props, "file="+escapeProperty(file))
		if line > 0 {
			props = append(props, fmt.Sprintf("line=%d", line))
		}
	}
	props = append(props, "title="+escapeProperty(title))
	return fmt.Sprintf("::%s %s::%s", level, strings.Join(props, ","), escapeData(message))
}

// The escapes of the workflow command syntax.
func escapeData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func escapeProperty(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(escapeData(s))
}
