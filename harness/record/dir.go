package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Names of the parts of a run directory.
const (
	RunFile     = "run.json"
	JudgedFile  = "judged.json"
	SummaryFile = "summary.json"
	LatestLink  = "latest"
)

// Dir is the directory of one run, <artifacts>/<run-id>.
type Dir struct {
	Root string // the artifacts folder
	ID   string
}

// NewID names a run by the time it began, so that names sort by age. Times
// within one second need a different salt.
func NewID(at time.Time, salt string) string {
	return at.UTC().Format("20060102T150405Z") + "-" + salt
}

// Create makes the directory of a new run with its folders load, logs and
// profiles, and proves that it can be written to. An id that is taken is an
// error.
func Create(root, id string) (Dir, error) {
	d := Dir{Root: root, ID: id}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return d, unwritable(root, err)
	}
	if err := os.Mkdir(d.Path(), 0o755); err != nil {
		return d, unwritable(root, err)
	}
	for _, sub := range []string{"load", "logs", "profiles"} {
		if err := os.Mkdir(d.Path(sub), 0o755); err != nil {
			return d, unwritable(root, err)
		}
	}
	return d, nil
}

func unwritable(root string, err error) error {
	return fmt.Errorf("artifacts folder %s: %w; make it writable or name another with --artifacts", root, err)
}

// Path joins parts to the directory.
func (d Dir) Path(parts ...string) string {
	return filepath.Join(append([]string{d.Root, d.ID}, parts...)...)
}

// WriteRun writes run.json, whole or not at all. A record that holds a number
// JSON has no word for (NaN, an infinity) is refused with its place.
func (d Dir) WriteRun(r *Run) error {
	b, err := Encode(r)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path(RunFile), err)
	}
	return WriteFile(d.Path(RunFile), b)
}

// WriteJSON writes v, indented, whole or not at all.
func (d Dir) WriteJSON(name string, v any) error {
	b, err := indent(v)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path(name), err)
	}
	return WriteFile(d.Path(name), b)
}

// PointLatest makes <artifacts>/latest a relative link to the run, in one step:
// at no moment is there no link.
func (d Dir) PointLatest() error {
	tmp := filepath.Join(d.Root, "."+LatestLink+"-"+d.ID)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(d.ID, tmp); err != nil {
		return unwritable(d.Root, err)
	}
	if err := os.Rename(tmp, filepath.Join(d.Root, LatestLink)); err != nil {
		return errors.Join(unwritable(d.Root, err), os.Remove(tmp))
	}
	return nil
}

// WriteFile writes a file so that a reader sees the old bytes or the new ones,
// never a part: into a temporary file beside it, synced, then renamed.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Encode gives the bytes of run.json: indented, absent lists empty rather than
// null. The same record gives the same bytes.
func Encode(r *Run) ([]byte, error) {
	r.Schema = SchemaVersion
	if err := settle(r); err != nil {
		return nil, err
	}
	return indent(r)
}

func indent(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
