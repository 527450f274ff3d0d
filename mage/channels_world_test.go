package mage_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/local"
)

// world is a family of nine repositories that was released for real, in one directory: clone/ is
// what it is released from, registry/ the state of its registry, remote.git the git remote with its
// ledger. A copy of the directory is the same world once more; what all copies share, nobody changes.
type world struct {
	dir    string
	shared *workbench
}

// workbench is what is made once, whatever the number of worlds.
type workbench struct {
	front  *front
	binary string // the compiled magefile
	key    string // file of the private key that signs
	cache  string // the user's cache directory of all commands but releases, which need the tools in the real one
}

// front is the one address under which commands see a world, whichever it is now: the address is
// part of what was released, in the payload and in plans.
type front struct {
	*httptest.Server
	shown atomic.Pointer[http.Handler]
}

func newFront(t testing.TB) *front {
	t.Helper()
	f := &front{}
	f.show(http.NotFoundHandler())
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*f.shown.Load()).ServeHTTP(w, r) }))
	t.Cleanup(f.Close)
	return f
}

func (f *front) show(h http.Handler) { f.shown.Store(&h) }

func (f *front) host() string { return strings.TrimPrefix(f.URL, "http://") }

// newWorld releases two commits. Then dev serves the second, prod and nightly the first.
func newWorld(t testing.TB) world {
	t.Helper()
	w := world{t.TempDir(), newWorkbench(t)}
	w.found(t)
	s := w.open(t)
	w.shared.front.show(s)
	w.must(t, nil, "release:dev")
	w.must(t, nil, "ops:promote", "-to=dev", "-apply")
	w.must(t, nil, "ops:promote", "-channel=nightly", "-to=dev", "-apply")
	w.commit(t, "images/app/tiny", "#!/bin/sh\n[ $# -eq 0 ] || exit 2\necho \"hello from tiny\" # again\n")
	w.must(t, nil, "release:dev")
	s.Close()
	return w
}

func newWorkbench(t testing.TB) *workbench {
	t.Helper()
	dir := t.TempDir()
	b := &workbench{front: newFront(t), binary: filepath.Join(dir, "mage"), key: filepath.Join(dir, "key.pem"), cache: filepath.Join(dir, "cache")}
	build := exec.CommandContext(t.Context(), "go", "tool", "mage", "-compile", b.binary)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compiling the magefile: %v\n%s", err, out)
	}
	return b
}

// found makes the clone of a family of nine that trusts a key of its own, and its bare remote.
func (w world) found(t testing.TB) {
	t.Helper()
	if err := cloneTiny("..", w.clone()); err != nil {
		t.Fatal(err)
	}
	public := newKey(t, w.shared.key)
	w.edit(t, "containai.yaml", func(s string) string {
		head, _, _ := strings.Cut(s, "trust:")
		head = strings.ReplaceAll(head, "refuse", "allow") // prod's gate: no vulnerability database, no pinned base here
		head = strings.Replace(head, "\nartifacts:", "  tiny-notes: {from: tiny-base}\n  tiny-extra: {from: tiny}\n\nartifacts:", 1)
		return head + "trust:\n  instance: key\n  repository: https://github.com/containai/containai\n  key: |\n    " +
			strings.ReplaceAll(strings.TrimSpace(public), "\n", "\n    ") + "\n"
	})
	w.edit(t, "images/docker-bake.hcl", func(s string) string {
		return strings.Replace(s, `"tiny-proxy"] }`, `"tiny-proxy", "tiny-notes", "tiny-extra"] }`, 1) +
			bakeTarget("tiny-notes", "base", "tiny-base") + bakeTarget("tiny-extra", "app", "tiny")
	})
	for name, from := range map[string]string{"tiny-notes": "base", "tiny-extra": "app"} {
		dir := filepath.Join(w.clone(), "images", name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		writeAll(t, filepath.Join(dir, "Dockerfile"), "FROM "+from+"\nCOPY --chmod=0644 note /etc/"+name+".txt\n")
		writeAll(t, filepath.Join(dir, "note"), "a note in "+name+"\n")
	}
	git(t, w.clone(), "add", "-A")
	git(t, w.clone(), commitArgs("nine repositories")...)
	git(t, w.dir, "init", "-q", "--bare", "remote.git")
	git(t, w.remote(), "config", "http.receivepack", "true")
	git(t, w.clone(), "remote", "add", "origin", w.shared.front.URL+"/remote.git")
}

func bakeTarget(name, alias, from string) string {
	return "\ntarget \"" + name + "\" {\n  inherits = [\"_image\"]\n  context  = \"images/" + name + "\"\n  contexts = { " + alias + " = \"target:" + from + "\" }\n}\n"
}

// newKey writes a private key as PKCS #8 and returns its public key in PEM.
func newKey(t testing.TB, file string) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

func (w world) clone() string  { return filepath.Join(w.dir, "clone") }
func (w world) remote() string { return filepath.Join(w.dir, "remote.git") }

func (w world) edit(t testing.TB, name string, change func(string) string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(w.clone(), name))
	if err != nil {
		t.Fatal(err)
	}
	changed := change(string(content))
	if changed == string(content) {
		t.Fatalf("%s is no longer what this test extends", name)
	}
	writeAll(t, filepath.Join(w.clone(), name), changed)
}

func (w world) commit(t testing.TB, name, content string) {
	t.Helper()
	writeAll(t, filepath.Join(w.clone(), name), content)
	git(t, w.clone(), append(commitArgs("change "+name), "-a")...)
}

// family reads the family file as it is committed.
func (w world) family(t testing.TB) *family.Family {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(w.clone(), "containai.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fam, err := family.Parse("containai.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	return fam
}

// command is a run of the binary in the world. A release keeps BuildKit's state beside the clone.
func (w world) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, w.shared.binary, args...)
	c.Dir = w.clone()
	c.Env = append(os.Environ(),
		"CONTAINAI_REGISTRY="+w.shared.front.host()+"/tiny", "CONTAINAI_STATE="+filepath.Join(w.dir, "state"),
		"CONTAINAI_SIGNING_KEY="+w.shared.key, "USER=operator", "NO_COLOR=1")
	if !strings.HasPrefix(args[0], "release:dev") {
		c.Env = append(c.Env, "XDG_CACHE_HOME="+w.shared.cache)
	}
	c.Env = append(c.Env, env...)
	return c
}

// run runs a command to its end and returns what it printed and its exit code, -1 for a signal.
func (w world) run(t testing.TB, env []string, args ...string) (string, int) {
	t.Helper()
	out, err := w.command(context.WithoutCancel(t.Context()), env, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// must runs a command that has to succeed.
func (w world) must(t testing.TB, env []string, args ...string) string {
	t.Helper()
	out, code := w.run(t, env, args...)
	if code != 0 {
		t.Fatalf("mage %s exited %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// copy makes the world once more. Blobs, which nobody rewrites, are shared by hard links; the state
// of BuildKit and what lies in dist/ stay behind.
func (w world) copy(t testing.TB) world {
	t.Helper()
	to := world{t.TempDir(), w.shared}
	err := filepath.WalkDir(w.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(w.dir, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to.dir, name)
		switch {
		case name == "state", name == "clone/dist":
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case strings.HasPrefix(name, "registry/registry/docker/registry/v2/blobs/"):
			return os.Link(path, target)
		}
		return duplicate(path, target)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func duplicate(path, target string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(target, content, info.Mode().Perm())
}

// stage is a world that is served: its registry below /v2/, its remote below /remote.git.
type stage struct {
	http.Handler
	world
	host  string // of the registry itself, past the front
	Close func()
}

func (w world) open(t testing.TB) stage {
	t.Helper()
	state, err := local.OpenState(filepath.Join(w.dir, "registry"))
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.Handle("/v2/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: served.Host}))
	routes.Handle("/", w.git(t))
	return stage{Handler: routes, world: w, host: served.Host, Close: func() {
		if err := errors.Join(served.Close(), state.Close()); err != nil {
			t.Error(err)
		}
	}}
}

// git serves the remote as a git host does.
func (w world) git(t testing.TB) http.Handler {
	t.Helper()
	program := filepath.Join(git(t, w.dir, "--exec-path"), "git-http-backend")
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return &cgi.Handler{Path: program, Env: []string{"GIT_PROJECT_ROOT=" + w.dir, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: t.Output()}
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func writeAll(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
