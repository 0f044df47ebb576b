package duet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree makes a repository with two programs where the reference has its own,
// and commits it.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "go.mod", "module example.org/tree\n\ngo 1.26\n")
	program(t, dir, "one")
	sh(t, dir, "git", "init", "-q")
	commit(t, dir)
	return dir
}

func program(t *testing.T, dir, says string) {
	t.Helper()
	for _, name := range []string{"gateway", "dagmanager"} {
		write(t, dir, "ref/cmd/"+name+"/main.go", "package main\n\nfunc main() { println(\""+name+" "+says+"\") }\n")
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// revision, now and made are Revision, Tree and Make that must not fail.
func revision(t *testing.T, dir, rev string) Source {
	t.Helper()
	s, err := Revision(t.Context(), dir, rev)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func now(t *testing.T, dir string) Source {
	t.Helper()
	s, err := Tree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func made(t *testing.T, s Source, cache string) Build {
	t.Helper()
	b, err := Make(t.Context(), "base", s, cache, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// noWorkTrees asks that git knows of none but the repository's own.
func noWorkTrees(t *testing.T, dir string) {
	t.Helper()
	if out := sh(t, dir, "git", "worktree", "list"); strings.Count(out, "\n") != 1 {
		t.Errorf("work trees are left:\n%s", out)
	}
}

func sh(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, plainEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

func commit(t *testing.T, dir string) {
	t.Helper()
	sh(t, dir, "git", "add", "-A")
	sh(t, dir, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "step")
}

func TestRevisionIsBuiltInAWorkTreeOfItsOwn(t *testing.T) {
	dir, cache := tree(t), t.TempDir()
	program(t, dir, "two") // not committed
	was, is := revision(t, dir, "HEAD"), now(t, dir)
	if !is.Dirty || is.Tree == was.Tree || is.Tree == "" || is.Revision != was.Revision {
		t.Errorf("Tree = %+v, Revision = %+v; want another tree at the same commit", is, was)
	}
	for says, s := range map[string]Source{"one": was, "two": is} {
		if out := sh(t, dir, filepath.Join(made(t, s, cache).Bin, "gateway")); out != "gateway "+says+"\n" {
			t.Errorf("%+v says %q; want %s", s, out, says)
		}
	}
	noWorkTrees(t, dir)
	if out := sh(t, dir, "git", "status", "--porcelain"); !strings.HasPrefix(out, " M") {
		t.Errorf("the repository's own index was touched:\n%s", out)
	}
}

func TestSameTreeIsBuiltOnce(t *testing.T) {
	dir, cache := tree(t), t.TempDir()
	builds := [2]Build{made(t, now(t, dir), cache), made(t, now(t, dir), cache)}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) != 1 || builds[0] != builds[1] {
		t.Errorf("builds %v, cache %v, %v; want one", builds, entries, err)
	}
	write(t, dir, "README.md", "words\n") // another tree, the same programs
	builds[1] = made(t, now(t, dir), cache)
	if same, err := Identical(builds); err != nil || !same || builds[0] == builds[1] {
		t.Errorf("Identical(%v) = %v, %v; want the same programs of two builds", builds, same, err)
	}
}

func TestCacheForgetsWhatWasNotUsed(t *testing.T) {
	cache := t.TempDir()
	for i := range kept + 3 {
		dir := filepath.Join(cache, fmt.Sprintf("b%02d", i))
		at := time.Now().Add(time.Duration(i-100) * time.Hour)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := forget(cache); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(cache)
	if err != nil || len(left) != kept || left[0].Name() != "b03" {
		t.Errorf("%v are left, %v; want the %d that were used last", left, err, kept)
	}
}

func TestFolderWithoutGitIsBuiltIntoTheScratch(t *testing.T) {
	dir, cache, scratch := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, dir, "go.mod", "module example.org/tree\n\ngo 1.26\n")
	program(t, dir, "three")
	s, err := Tree(t.Context(), dir)
	if err != nil || s.Tree != "" {
		t.Fatalf("Tree = %+v, %v; want no hash", s, err)
	}
	b, err := Make(t.Context(), "candidate", s, cache, scratch)
	if err != nil || filepath.Dir(b.Bin) != scratch {
		t.Fatalf("Make = %v, %v; want a build in %s", b, err, scratch)
	}
	if _, err := Revision(t.Context(), dir, "HEAD"); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "not under git") {
		t.Errorf("Revision without git: %v; want a mistake of the person", err)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	dir := tree(t)
	for _, rev := range []string{"no-such-branch", "--help", ""} {
		if _, err := Revision(t.Context(), dir, rev); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), rev) {
			t.Errorf("Revision(%q): %v; want a mistake of the person", rev, err)
		}
	}
	if _, err := Tree(t.Context(), filepath.Join(dir, "nowhere")); !errors.Is(err, ErrUsage) {
		t.Errorf("Tree(nowhere): %v; want a mistake of the person", err)
	}
}

func TestWhatDoesNotBuild(t *testing.T) {
	dir, cache := tree(t), t.TempDir()
	write(t, dir, "ref/cmd/gateway/main.go", "package main\n\nfunc main() { 1 }\n")
	commit(t, dir)
	_, err := Make(t.Context(), "base", revision(t, dir, "HEAD"), cache, t.TempDir())
	if !errors.Is(err, ErrBuild) || !strings.Contains(err.Error(), "main.go:3") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Make: %v; want one line with the compiler's first word", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 0 {
		t.Errorf("%v are left in the cache, %v", left, err)
	}
	noWorkTrees(t, dir)
}
