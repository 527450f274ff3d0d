package mage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/tool"
)

// TestAStrangersProjectIsReleasedAsTheAdoptionPageSays: in a directory with two Dockerfiles and nothing else,
// the commands of docs/adoption.md, and those that they print, lead to a channel that verifies. The library
// is fetched as a module, by Go, from a proxy that serves this work tree.
func TestAStrangersProjectIsReleasedAsTheAdoptionPageSays(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	if testing.Short() {
		t.Skip("-short: it compiles the tools of another version of the library")
	}
	library, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	s := newStranger(t, newModuleProxy(t, library))
	for name, content := range map[string]string{
		"api/Dockerfile":    "FROM debian:bookworm-slim\nCOPY --chmod=0755 hello /usr/local/bin/\nUSER 1000:1000\nCMD [\"hello\"]\n",
		"api/hello":         "#!/bin/sh\necho hello\n",
		"worker/Dockerfile": "FROM api\nCOPY --chmod=0644 jobs /etc/jobs\n",
		"worker/jobs":       "nightly\n",
	} {
		write(t, filepath.Join(s.dir, name), content)
	}
	page := read(t, filepath.Join(library, "docs", "adoption.md"))
	begin := firstCommand(t, page, "go run ")
	printed := s.run(t, strings.Replace(begin, "@latest", "@"+s.version, 1))
	_, next, found := strings.Cut(printed, "\nnext\n")
	if !found {
		t.Fatalf("it printed no next command:\n%s", printed)
	}
	if on := unindented(next); !strings.Contains(page, on) {
		t.Errorf("docs/adoption.md does not have what is printed:\n%s", on)
	}
	s.run(t, next)
	wantShown(t, "docs/adoption.md", "go tool mage verify:channel edge", []byte(s.run(t, "go tool mage verify:channel edge")))
	if got := s.run(t, "go tool mage release:to edge"); !strings.Contains(got, "nothing to do, nothing written") || !strings.Contains(got, " 0 writes") {
		t.Errorf("the second release printed:\n%s", got)
	}
	wantShown(t, "docs/adoption.md", "go tool mage release:status", []byte(s.run(t, "go tool mage release:status")))
	s.run(t, "go tool mage family:check")
}

// firstCommand is the first command of a page's shell blocks that begins so, without its remark.
func firstCommand(t *testing.T, page, prefix string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(prefix) + `[^#\n]*`).FindString(page)
	if m == "" {
		t.Fatalf("the page has no command that begins with %q", prefix)
	}
	return strings.TrimSpace(m)
}

func unindented(s string) string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(s)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}

// stranger is somebody with a machine, and an empty directory named shop.
type stranger struct {
	dir     string
	version string // of the library that their Go finds
	env     []string
}

func newStranger(t *testing.T, p moduleProxy) stranger {
	t.Helper()
	s := stranger{dir: filepath.Join(t.TempDir(), "shop"), version: p.version}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	env := goEnvironment()
	env["GOPROXY"] = "file://" + p.dir + "," + env["GOPROXY"]
	env["GONOSUMDB"] = strings.Join(p.modules(), ",")
	env["XDG_CACHE_HOME"] = sharedCache(t, env["XDG_CACHE_HOME"])
	env["HOME"], env["PATH"], env["GIT_CONFIG_GLOBAL"] = t.TempDir(), os.Getenv("PATH"), filepath.Join(t.TempDir(), "gitconfig")
	write(t, env["GIT_CONFIG_GLOBAL"], "[user]\n\tname = Somebody\n\temail = somebody@example.com\n")
	for name, value := range env {
		s.env = append(s.env, name+"="+value)
	}
	t.Cleanup(func() { p.forget(t, env["GOMODCACHE"]) })
	return s
}

// run runs commands in a shell, which ends at the first that fails.
func (s stranger) run(t *testing.T, commands string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-ec", commands)
	c.Dir, c.Env = s.dir, s.env
	began := time.Now()
	out, err := c.CombinedOutput()
	t.Logf("%s: %.0f s", commands, time.Since(began).Seconds())
	if err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	return string(out)
}

// sharedCache is a user's cache directory that has what this machine built of fixed versions, and keeps
// for itself what is built of a version of the library that only this test knows.
func sharedCache(t *testing.T, cache string) string {
	t.Helper()
	own, mine := filepath.Join(cache, "containai"), filepath.Join(t.TempDir(), "containai")
	programs := filepath.Join(own, "programs")
	for _, p := range []tool.Program{buildkit.Daemon(), buildkit.Buildx()} {
		binary, err := p.Build(t.Context(), programs, func(line string) { t.Log(line) })
		if err != nil {
			t.Fatal(err)
		}
		share(t, filepath.Dir(binary), filepath.Join(mine, "programs", filepath.Base(filepath.Dir(binary))))
	}
	entries, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "programs" {
			share(t, filepath.Join(own, e.Name()), filepath.Join(mine, e.Name()))
		}
	}
	return filepath.Dir(mine)
}

func share(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(from, to); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
