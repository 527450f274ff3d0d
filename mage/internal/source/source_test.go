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

// long returns a bare remote of n commits and their names, oldest first.
func long(t *testing.T, n int) (url string, commits []string) {
	t.Helper()
	dir := repository(t)
	for range n - 1 {
		git(t, dir, "commit", "-q", "--allow-empty", "-m", "more")
	}
	out, err := exec.Command("git", "-C", dir, "rev-list", "--reverse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	git(t, dir, "config", "uploadpack.allowAnySHA1InWant", "true")
	return dir, strings.Fields(string(out))
}

func TestDescendsInAShallowClone(t *testing.T) {
	origin, commits := long(t, 70)
	git(t, origin, "checkout", "-q", "-b", "hotfix", commits[10])
	git(t, origin, "commit", "-q", "--allow-empty", "-m", "hotfix")
	hotfix := read(t, origin).Commit
	git(t, origin, "checkout", "-q", "main")
	newest := commits[len(commits)-1]
	for name, tt := range map[string]struct {
		ancestor string
		want     bool
	}{
		"from the commit before":         {commits[68], true},
		"from the first commit":          {commits[0], true},
		"from a branch it does not hold": {hotfix, false},
	} {
		t.Run(name, func(t *testing.T) {
			clone := t.TempDir()
			git(t, ".", "clone", "-q", "--depth=1", "file://"+origin, clone)
			r := open(t, clone)
			if got, err := r.Descends(t.Context(), newest, tt.ancestor); got != tt.want || err != nil {
				t.Errorf("Descends() = %v, %v, want %v", got, err, tt.want)
			}
			git(t, clone, "commit", "-q", "--allow-empty", "-m", "never pushed")
			if got, err := r.Descends(t.Context(), read(t, clone).Commit, tt.ancestor); got != tt.want || err != nil {
				t.Errorf("Descends() of a commit that was never pushed = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	t.Run("a commit that was never pushed, in a fresh clone", func(t *testing.T) {
		clone := t.TempDir()
		git(t, ".", "clone", "-q", "--depth=1", "file://"+origin, clone)
		git(t, clone, "commit", "-q", "--allow-empty", "-m", "never pushed")
		if got, err := open(t, clone).Descends(t.Context(), read(t, clone).Commit, commits[0]); !got || err != nil {
			t.Errorf("Descends() = %v, %v, want true", got, err)
		}
	})
	t.Run("without its remote it says what to do", func(t *testing.T) {
		clone := t.TempDir()
		git(t, ".", "clone", "-q", "--depth=1", "file://"+origin, clone)
		git(t, clone, "remote", "set-url", "origin", "file:///nowhere")
		_, err := open(t, clone).Descends(t.Context(), newest, commits[0])
		if !errors.Is(err, fault.Environment) || fault.HintOf(err) != "git fetch --unshallow origin" {
			t.Fatalf("Descends() = %v, hint %q, want the command", err, fault.HintOf(err))
		}
		git(t, clone, "remote", "set-url", "origin", "file://"+origin)
		git(t, clone, strings.Fields(fault.HintOf(err))[1:]...)
		if got, err := open(t, clone).Descends(t.Context(), newest, commits[0]); !got || err != nil {
			t.Errorf("after the command, Descends() = %v, %v, want true", got, err)
		}
	})
}

func TestResolve(t *testing.T) {
	dir := repository(t)
	commit := read(t, dir).Commit
	git(t, dir, "tag", "-a", "v1", "-m", "annotated")
	r := open(t, dir)
	for _, rev := range []string{"HEAD", "main", "v1", commit[:8], commit, "v1^{commit}"} {
		if got, err := r.Resolve(t.Context(), rev); got != commit || err != nil {
			t.Errorf("Resolve(%q) = %q, %v, want %s", rev, got, err, commit)
		}
	}
	for _, rev := range []string{"", "-h", "--all", "nothing", "HEAD..HEAD", "^HEAD", "HEAD:a.txt", "HEAD\nmain", "HEAD\x00", strings.Repeat("0", 40)} {
		if got, err := r.Resolve(t.Context(), rev); !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("Resolve(%q) = %q, %v, want it refused", rev, got, err)
		}
	}
}

func TestAHostileConfigurationDoesNotChangeASource(t *testing.T) {
	dir := repository(t)
	write(t, dir, "a.txt", "changed")
	write(t, dir, "new.txt", "new")
	want := read(t, dir)
	home := t.TempDir()
	sprung := filepath.Join(home, "sprung")
	write(t, home, "trap", "#!/bin/sh\ntouch "+sprung+"\nexit 1\n")
	if err := os.Chmod(filepath.Join(home, "trap"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, home, "ignore", "*\n")
	write(t, home, ".gitconfig", strings.ReplaceAll("[core]\n\tfsmonitor = HOME/trap\n\texcludesFile = HOME/ignore\n\thooksPath = HOME\n\tpager = HOME/trap\n"+
		"[status]\n\tshowUntrackedFiles = no\n[log]\n\tshowSignature = true\n[color]\n\tui = always\n"+
		"[diff]\n\texternal = HOME/trap\n\tnoprefix = true\n\tcontext = 0\n\talgorithm = histogram\n\tignoreSubmodules = all\n", "HOME", home))
	t.Setenv("HOME", home)
	t.Setenv("GIT_DIR", "/nowhere")
	got := read(t, dir)
	if got != want || got.Dirty == "" {
		t.Errorf("the source reads as %+v, want %+v", got, want)
	}
	if _, err := os.Stat(sprung); err == nil {
		t.Error("a program of the configuration ran")
	}
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
