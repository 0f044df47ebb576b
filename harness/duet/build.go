package duet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// ErrUsage is in the chain of every error that a person mends by asking for
// something else.
var ErrUsage = errors.New("usage")

// ErrBuild is in the chain of the error of a side that does not build.
var ErrBuild = errors.New("build failed")

// buildError keeps the text free of the sentinel's.
type buildError struct{ error }

func (e buildError) Is(target error) bool { return target == ErrBuild }
func (e buildError) Unwrap() error        { return e.error }

// usageError keeps the text free of the sentinel's.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == ErrUsage }
func (e usageError) Unwrap() error        { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// Source is one side as it was asked for, found but not built.
type Source struct {
	Given    string
	Revision string // commit; "": Dir is not at one, or not under git
	Tree     string // git's hash of everything that would be built; "": not under git
	Dirty    bool   // Dir holds what is not committed
	Dir      string // folder of the tree; "": it must be checked out
	repo     string // folder within the repository that holds Revision
}

// Build is a built side.
type Build struct {
	Bin string // folder of its programs
}

// builtWithin bounds a build; the first of a machine compiles every dependency.
const builtWithin = 15 * time.Minute

// command builds the reference; it runs in the root of its tree. Paths are
// trimmed and no revision is stamped, so equal trees give equal programs.
func command(bin string) []string {
	return []string{"go", "build", "-trimpath", "-buildvcs=false", "-o", bin + string(filepath.Separator), "./ref/cmd/gateway", "./ref/cmd/dagmanager"}
}

// Revision finds a revision in the repository that holds root.
func Revision(ctx context.Context, root, rev string) (Source, error) {
	if _, err := git(ctx, root, nil, "rev-parse", "--git-dir"); err != nil {
		return Source{}, usagef("%s: %s is not under git, so it has no revision of that name; give a folder, or a record", rev, root)
	}
	commit, err := git(ctx, root, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		return Source{}, usagef("%s: git knows no such revision, and there is no folder or record of that name", rev)
	}
	prefix, err := git(ctx, root, nil, "rev-parse", "--show-prefix")
	if err != nil {
		return Source{}, fmt.Errorf("%s: git rev-parse: %w", rev, err)
	}
	tree, err := git(ctx, root, nil, "rev-parse", "--verify", "--quiet", commit+":"+prefix)
	if err != nil {
		return Source{}, usagef("%s: that revision has no folder %s", rev, prefix)
	}
	return Source{Given: rev, Revision: commit, Tree: tree, repo: root}, nil
}

// Tree finds what is in a folder now, committed or not.
func Tree(ctx context.Context, dir string) (Source, error) {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return Source{}, usagef("%s: there is no such folder", dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Source{}, fmt.Errorf("%s: %w", dir, err)
	}
	s := Source{Given: dir, Dir: abs}
	if s.Revision, err = git(ctx, abs, nil, "rev-parse", "--verify", "--quiet", "HEAD"); err != nil {
		s.Revision = ""
		return s, nil // not under git, or nothing committed yet
	}
	if s.Tree, err = workTree(ctx, abs); err != nil {
		return Source{}, fmt.Errorf("%s: what is in it cannot be named: %w", dir, err)
	}
	prefix, err := git(ctx, abs, nil, "rev-parse", "--show-prefix")
	if err != nil {
		return Source{}, fmt.Errorf("%s: git rev-parse: %w", dir, err)
	}
	committed, err := git(ctx, abs, nil, "rev-parse", "--verify", "--quiet", "HEAD:"+prefix)
	s.Dirty = err != nil || committed != s.Tree
	return s, nil
}

// workTree is the hash that git would give the folder as it is now. The index
// and the objects are made elsewhere: the repository stays as it was.
func workTree(ctx context.Context, dir string) (string, error) {
	scratch, err := os.MkdirTemp("", "plumbline-tree-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	objects, err := git(ctx, dir, nil, "rev-parse", "--path-format=absolute", "--git-path", "objects")
	if err != nil {
		return "", err
	}
	own := filepath.Join(scratch, "objects")
	if err := os.Mkdir(own, 0o755); err != nil {
		return "", err
	}
	env := []string{
		"GIT_INDEX_FILE=" + filepath.Join(scratch, "index"), "GIT_OBJECT_DIRECTORY=" + own,
		"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + objects,
	}
	if _, err := git(ctx, dir, env, "read-tree", "HEAD"); err != nil {
		return "", err
	}
	if _, err := git(ctx, dir, env, "add", "--all", "."); err != nil {
		return "", err
	}
	prefix, err := git(ctx, dir, nil, "rev-parse", "--show-prefix")
	if err != nil {
		return "", err
	}
	return git(ctx, dir, env, "write-tree", "--prefix="+prefix)
}

// Make builds s, or finds it built: what has the same tree is built once, in
// the folder cache. What is not under git is built anew into scratch. name says
// in errors which side it is.
func Make(ctx context.Context, name string, s Source, cache, scratch string) (Build, error) {
	ctx, stop := context.WithTimeout(ctx, builtWithin)
	defer stop()
	if s.Tree == "" {
		b := Build{filepath.Join(scratch, "bin-"+name)}
		return b, compile(ctx, name, s, s.Dir, b.Bin)
	}
	b := Build{filepath.Join(cache, key(s.Tree))}
	if _, err := os.Stat(b.Bin); err == nil {
		return b, os.Chtimes(b.Bin, time.Now(), time.Now()) // it is in use
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return b, fmt.Errorf("builds: %w; make it writable or name another folder with --artifacts", err)
	}
	half, err := os.MkdirTemp(cache, ".half-")
	if err != nil {
		return b, fmt.Errorf("builds: %w", err)
	}
	defer os.RemoveAll(half)
	if err := s.compileAt(ctx, name, half); err != nil {
		return b, err
	}
	err = os.Rename(filepath.Join(half, "bin"), b.Bin)
	if errors.Is(err, fs.ErrExist) {
		err = nil // somebody else was faster
	}
	return b, errors.Join(err, forget(cache))
}

// kept is how many builds the cache holds: some 40 MB each.
const kept = 12

// forget removes the builds that were not used for the longest time.
func forget(cache string) error {
	dirs, err := os.ReadDir(cache)
	if err != nil {
		return fmt.Errorf("builds: %w", err)
	}
	used := map[string]time.Time{}
	for _, d := range dirs {
		if info, err := d.Info(); err == nil && !strings.HasPrefix(d.Name(), ".") {
			used[d.Name()] = info.ModTime()
		}
	}
	oldest := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return used[a].Compare(used[b]) })
	for _, name := range oldest[:max(0, len(oldest)-kept)] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(cache, name)))
	}
	return err
}

// key names a build: the same tree built by another compiler or another command
// is another one.
func key(tree string) string {
	sum := sha256.Sum256([]byte(tree + "\x00" + runtime.Version() + "\x00" + runtime.GOARCH + "\x00" + strings.Join(command(""), "\x00")))
	return tree[:min(12, len(tree))] + "-" + hex.EncodeToString(sum[:6])
}

// Identical tells whether both builds hold the same files, byte by byte.
func Identical(b [2]Build) (bool, error) {
	if b[0] == b[1] {
		return true, nil
	}
	var sums [2]map[string][sha256.Size]byte
	for i := range b {
		sums[i] = map[string][sha256.Size]byte{}
		files, err := os.ReadDir(b[i].Bin)
		if err != nil {
			return false, fmt.Errorf("builds: %w", err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(b[i].Bin, f.Name()))
			if err != nil {
				return false, fmt.Errorf("builds: %w", err)
			}
			sums[i][f.Name()] = sha256.Sum256(text)
		}
	}
	return maps.Equal(sums[0], sums[1]), nil
}

// compileAt builds into half/bin, out of a work tree that lies in half where
// the source is a revision.
func (s Source) compileAt(ctx context.Context, name, half string) (err error) {
	bin := filepath.Join(half, "bin")
	if s.Dir != "" {
		return compile(ctx, name, s, s.Dir, bin)
	}
	tree := filepath.Join(half, "tree")
	defer func() {
		last := context.WithoutCancel(ctx)
		_, gone := git(last, s.repo, nil, "worktree", "remove", "--force", tree)
		if err == nil {
			err = gone
		}
	}()
	if _, err := git(ctx, s.repo, nil, "worktree", "add", "--detach", "--force", tree, s.Revision); err != nil {
		return fmt.Errorf("%s %s: git worktree: %w", name, s.Given, err)
	}
	prefix, err := git(ctx, s.repo, nil, "rev-parse", "--show-prefix")
	if err != nil {
		return fmt.Errorf("%s %s: git: %w", name, s.Given, err)
	}
	return compile(ctx, name, s, filepath.Join(tree, prefix), bin)
}

func compile(ctx context.Context, name string, s Source, dir, bin string) error {
	abs, err := filepath.Abs(bin)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return fmt.Errorf("builds: %w", err)
	}
	argv := command(abs)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = dir
	cmd.Env = append(plainEnv(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return buildError{fmt.Errorf("%s %s does not build, so nothing can be measured: %s (%s: %w)", name, s.Given, complaint(out), strings.Join(argv[:2], " "), err)}
	}
	return nil
}

// complaint is the first thing that a compiler had to say.
func complaint(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "go: downloading") {
			return line
		}
	}
	return "it said nothing"
}

// plainEnv is this process's environment without what git sets for its hooks,
// which would lead its children to another repository.
func plainEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}

// git runs a short command in dir and gives its output. Its error holds what it
// complained of.
func git(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, append(plainEnv(), env...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	b, err := cmd.Output()
	if text, _, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\n"); err != nil && text != "" {
		err = fmt.Errorf("%s", text)
	}
	return strings.TrimSpace(string(b)), err
}
