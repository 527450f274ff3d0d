package source_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/source"
)

func TestReadNamesTheCommitAndTheDifference(t *testing.T) {
	dir := repository(t)
	clean := read(t, dir)
	if clean.Dirty != "" || clean.Ref != "refs/heads/main" || len(clean.Commit) != 40 {
		t.Errorf("a clean work tree reads as %+v", clean)
	}
	seen := map[string]string{"": "the commit"}
	for _, change := range []struct {
		name string
		make func()
	}{
		{"a changed file", func() { write(t, dir, "a.txt", "changed") }},
		{"another change of the same length", func() { write(t, dir, "a.txt", "CHANGED") }},
		{"a new file", func() { write(t, dir, "new.txt", "new") }},
		{"a new file with other content", func() { write(t, dir, "new.txt", "neW") }},
		{"a removed file", func() { os.Remove(filepath.Join(dir, "a.txt")) }},
	} {
		change.make()
		got := read(t, dir)
		if before, ok := seen[got.Dirty]; ok {
			t.Errorf("%s has the difference %q, as %s", change.name, got.Dirty, before)
		}
		seen[got.Dirty] = change.name
		if again := read(t, dir); again != got {
			t.Errorf("%s reads as %+v and then as %+v", change.name, got, again)
		}
	}
}

func TestWhatIsIgnoredIsNotPartOfASource(t *testing.T) {
	dir := repository(t)
	write(t, dir, ".gitignore", "*.log\n")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "ignore")
	before := read(t, dir)
	write(t, dir, "build.log", "noise")
	if after := read(t, dir); after != before {
		t.Errorf("an ignored file changed the source from %+v to %+v", before, after)
	}
}

func TestDescends(t *testing.T) {
	dir := repository(t)
	first := read(t, dir).Commit
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "second")
	second := read(t, dir).Commit
	r := open(t, dir)
	for name, tt := range map[string]struct {
		commit, ancestor string
		want             bool
	}{
		"a child from its parent": {second, first, true},
		"a commit from itself":    {first, first, true},
		"a parent from its child": {first, second, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := r.Descends(t.Context(), tt.commit, tt.ancestor); got != tt.want || err != nil {
				t.Errorf("Descends() = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	t.Run("an unknown ancestor is not a no", func(t *testing.T) {
		if _, err := r.Descends(t.Context(), second, strings.Repeat("0", 40)); !errors.Is(err, fault.Environment) {
			t.Errorf("Descends() = %v, want an error with the way to fetch it", err)
		}
	})
}

func TestOpenRefusesWhatIsNoWorkTree(t *testing.T) {
	if _, err := source.Open(t.Context(), t.TempDir()); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("Open() = %v, want an environment fault with a hint", err)
	}
	empty := t.TempDir()
	git(t, empty, "init", "-q")
	if _, err := open(t, empty).Read(t.Context()); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("Read() of a repository without a commit = %v", err)
	}
}

func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "a.txt", "content")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "first")
	return dir
}

func open(t *testing.T, dir string) *source.Repository {
	t.Helper()
	r, err := source.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t *testing.T, dir string) (s struct {
	Commit, Ref, Dirty string
}) {
	t.Helper()
	src, err := open(t, dir).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Commit, s.Ref, s.Dirty = src.Commit, src.Ref, src.Dirty
	return s
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	all := append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)
	if out, err := exec.Command("git", all...).CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
