package ledger

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

const (
	ref    = "refs/containai/channels"
	branch = "containai-channels"
)

// open returns ledgers of each kind.
func open(t *testing.T) map[string]*Ledger {
	t.Helper()
	ledgers := map[string]*Ledger{
		"a bare repository":                         openLocal(t),
		"a clone without a remote":                  openAlone(t),
		"a remote over file://":                     openClone(t, cloneOf(t, "file://"+bare(t))),
		"a remote over smart http":                  openClone(t, cloneOf(t, serve(t, bare(t), backend(t)))),
		"a remote of which the URL differs to push": openClone(t, withPushURL(t, "file://"+bare(t))),
	}
	if url := daemon(t, bare(t), "--enable=receive-pack"); url != "" {
		ledgers["a remote over git://"] = openClone(t, cloneOf(t, url))
	}
	return ledgers
}

func openLocal(t testing.TB) *Ledger {
	t.Helper()
	l, err := OpenLocal(t.Context(), filepath.Join(t.TempDir(), "ledger.git"), ref)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func openAlone(t *testing.T) *Ledger {
	t.Helper()
	dir := t.TempDir()
	run(t, dir, "init", "-q")
	return openClone(t, dir)
}

func openClone(t *testing.T, dir string) *Ledger {
	t.Helper()
	l, err := OpenClone(t.Context(), dir, branch, ref)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// bare returns an empty repository, as a git host keeps it.
func bare(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo.git")
	run(t, ".", "init", "-q", "--bare", dir)
	run(t, dir, "config", "http.receivepack", "true")
	return dir
}

// cloneOf returns a work tree whose remote is url, which it never talked to.
func cloneOf(t *testing.T, url string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, dir, "init", "-q")
	run(t, dir, "remote", "add", "origin", url)
	return dir
}

func withPushURL(t *testing.T, url string) string {
	t.Helper()
	dir := cloneOf(t, "file:///nowhere")
	run(t, dir, "remote", "set-url", "--push", "origin", url)
	return dir
}

// backend is git's own server for smart HTTP, below net/http.
func backend(t *testing.T) func(dir string) http.Handler {
	t.Helper()
	program := filepath.Join(run(t, ".", "--exec-path"), "git-http-backend")
	need(t, program)
	return func(dir string) http.Handler {
		return &cgi.Handler{Path: program, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: t.Output()}
	}
}

// serve returns the URL of a repository that a handler serves on this machine.
func serve(t *testing.T, dir string, handler func(dir string) http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler(dir))
	t.Cleanup(server.Close)
	return server.URL + "/"
}

// daemon returns the git:// URL of a repository, each connection of which git daemon serves.
func daemon(t *testing.T, dir string, options ...string) string {
	t.Helper()
	if program := filepath.Join(run(t, ".", "--exec-path"), "git-daemon"); !exists(program) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", program)
		}
		t.Logf("without git://: %s is not installed", program)
		return ""
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				f, err := conn.(*net.TCPConn).File()
				if err != nil {
					return
				}
				defer f.Close()
				args := append([]string{"daemon", "--inetd", "--export-all", "--base-path=" + filepath.Dir(dir)}, options...)
				cmd := exec.Command("git", args...)
				cmd.Stdin, cmd.Stdout = f, f
				_ = cmd.Run() // what went wrong is the client's to tell
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return fmt.Sprintf("git://%s/%s", listener.Addr(), filepath.Base(dir))
}

// need skips a test on a laptop without a program; in CI everything must be there.
func need(t *testing.T, program string) {
	t.Helper()
	if exists(program) {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("%s is not installed", program)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// grow appends n generations after head and returns the newest.
func grow(t *testing.T, l *Ledger, head release.Head, n int) release.Head {
	t.Helper()
	for range n {
		var err error
		if head, err = l.Append(t.Context(), head, next(t, head), "dev moves"); err != nil {
			t.Fatal(err)
		}
	}
	return head
}

func headOf(t *testing.T, l *Ledger) release.Head {
	t.Helper()
	head, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// next returns the document after head.
func next(t testing.TB, head release.Head) []byte {
	t.Helper()
	return nextAt(t, head, time.Unix(1700000000, 0))
}

func nextAt(t testing.TB, head release.Head, at time.Time) []byte {
	t.Helper()
	record := release.Record{
		Source:    release.Source{Commit: strings.Repeat("a", 40)},
		Artifacts: map[string]graph.Node{"payload": {Digest: digest.FromString("payload")}},
	}
	c := release.Candidate{Record: record, Digest: digest.FromString(fmt.Sprint(head.Document.Generation))}
	d, _, err := release.PlanPromote(head, "tiny", "dev", c, release.Moved{By: "test", At: at})
	if err != nil {
		t.Fatal(err)
	}
	content, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// generations reads the whole history: what it yields, and the error that ends it.
func generations(t *testing.T, l *Ledger) (string, error) {
	t.Helper()
	var seen []uint64
	for h, err := range l.History(t.Context()) {
		if err != nil {
			return fmt.Sprint(seen), err
		}
		seen = append(seen, h.Document.Generation)
	}
	return fmt.Sprint(seen), nil
}

// run runs git as a person does, and returns what it prints.
func run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	all := append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)
	out, err := exec.Command("git", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// wrap puts a script before git in PATH, for the code under test and nobody else: it sees git's
// arguments in "$@", and the real git as "$git".
func wrap(t *testing.T, script string) {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	content := "#!/bin/sh\ngit=" + program + "\n" + script + "\nexec \"$git\" \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}
