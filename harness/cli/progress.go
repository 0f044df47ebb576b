package cli

import (
	"fmt"
	"io"
	"time"

	"qmtl.internal/plumbline/harness"
)

// plainEvery is how often a long stage says something where no terminal shows
// a moving line.
const plainEvery = 10 * time.Second

// progress shows what a run does: one line that moves on a terminal, a line a
// stage elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	moving   bool // a line without its end is on the terminal
	last     string
	spoke    time.Duration // Gone of the last plain line
}

func newProgress(w io.Writer, terminal bool) *progress { return &progress{w: w, terminal: terminal} }

func (p *progress) show(e harness.Event) {
	line := fmt.Sprintf("%-10s  %s", e.Stage, e.Text)
	if e.Total > 0 {
		line += fmt.Sprintf(", %s of %s, %s left", seconds(e.Gone), seconds(e.Total), seconds(e.Total-e.Gone))
	}
	if p.terminal {
		p.move(e, line)
		return
	}
	if e.Stage == p.last && e.Gone-p.spoke < plainEvery {
		return
	}
	p.last, p.spoke = e.Stage, e.Gone
	fmt.Fprintln(p.w, line)
}

// move rewrites the line of a stage that goes on, and ends that of another.
func (p *progress) move(e harness.Event, line string) {
	if p.moving && e.Stage != p.last {
		fmt.Fprintln(p.w)
	}
	p.last, p.moving = e.Stage, e.Total > 0
	if !p.moving {
		fmt.Fprintln(p.w, line)
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
}

func seconds(d time.Duration) string { return d.Round(time.Second).String() }
