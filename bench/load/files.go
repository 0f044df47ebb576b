package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The files of one offering in its directory.
const (
	ResultFile   = "load.json"      // Result
	OutcomesFile = "outcomes.jsonl" // Outcome, one a line, in the order in which they were settled
	TimingsFile  = "latency.hlog"   // see WriteTimings
)

// Dir keeps the evidence of one offering in a directory. Outcomes go straight
// to the file, so memory does not grow with the run.
type Dir struct {
	path     string
	file     *os.File
	outcomes *bufio.Writer
	line     *json.Encoder
}

// CreateDir makes the directory at need and opens the file of outcomes. What an
// earlier offering left there is replaced; its result is removed at once, so
// that a run that dies leaves no result of another.
func CreateDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("load results: %w", err)
	}
	for _, name := range []string{ResultFile, TimingsFile} {
		if err := os.Remove(filepath.Join(path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("load results: %w", err)
		}
	}
	f, err := os.Create(filepath.Join(path, OutcomesFile))
	if err != nil {
		return nil, fmt.Errorf("load results: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<16)
	return &Dir{path: path, file: f, outcomes: w, line: json.NewEncoder(w)}, nil
}

// Observe writes one outcome; it is a Config.Observe.
func (d *Dir) Observe(o Outcome) error {
	if err := d.line.Encode(o); err != nil {
		return fmt.Errorf("load results: %s: %w", OutcomesFile, err)
	}
	return nil
}

// Close writes the rest. ev may be nil when there is none: then there is no
// result either. The result comes last, so where it is, all is.
func (d *Dir) Close(ev *Evidence) error {
	err := errors.Join(d.outcomes.Flush(), d.file.Close())
	if err == nil && ev != nil {
		err = d.write(ev)
	}
	if err != nil {
		return fmt.Errorf("load results: %w", err)
	}
	return nil
}

func (d *Dir) write(ev *Evidence) error {
	err := writeFile(filepath.Join(d.path, TimingsFile), func(w io.Writer) error {
		return WriteTimings(w, ev.Result.Started, ev.Ended, ev.Timings)
	})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.path, ResultFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(ev.Result)
	})
}

// writeFile writes path whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = errors.Join(write(w), w.Flush(), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ReadResult reads a load.json. It refuses other versions and a ledger that
// does not balance.
func ReadResult(path string) (*Result, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load result: %w", err)
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("load result %s: %w", path, err)
	}
	if r.Version != ResultVersion {
		return nil, fmt.Errorf("load result %s: version %d, want %d", path, r.Version, ResultVersion)
	}
	if err := errors.Join(r.Ledger.Check(), r.WarmUpLedger.Check()); err != nil {
		return nil, fmt.Errorf("load result %s: %w", path, err)
	}
	return &r, nil
}

// EachOutcome calls f for each line of an outcomes.jsonl, and stops at the
// first error.
func EachOutcome(path string, f func(Outcome) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("outcomes: %w", err)
	}
	defer file.Close()
	d := json.NewDecoder(bufio.NewReaderSize(file, 1<<16))
	for n := 1; ; n++ {
		var o Outcome
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(o)
		}
		if err != nil {
			return fmt.Errorf("outcomes %s, entry %d: %w", path, n, err)
		}
	}
}
