package ledger

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

const planted = "ghs_planted0123456789"

func with(t *testing.T, l *Ledger, token string) *Ledger {
	t.Helper()
	l, err := l.With(Credentials{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// guarded serves a repository to those who have the planted token alone.
func guarded(t *testing.T, dir string) string {
	t.Helper()
	return serve(t, dir, only(backend(t)(dir), func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		if len(r.Header.Values("Authorization")) == 1 && user == "x-access-token" && password == planted {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return false
	}))
}

func TestTheTokenOpensTheRemoteAndLeavesNoTrace(t *testing.T) {
	url := guarded(t, bare(t))
	dir := cloneOf(t, url)
	// What actions/checkout leaves behind, outdated: two headers at once are refused by GitHub.
	run(t, dir, "config", "http."+url+".extraHeader", "Authorization: Basic b2xkOnRva2Vu")
	log := filepath.Join(t.TempDir(), "log")
	wrap(t, `printf '%s\n' "$@" >>`+log+"\nexport GIT_TRACE="+log) // the trace has the arguments of git's own children
	l := with(t, openClone(t, dir), planted)
	grow(t, l, release.Head{}, 2)
	if got, err := generations(t, l); got != "[2 1]" || err != nil {
		t.Errorf("History() = %s, %v, want [2 1]", got, err)
	}
	secrets := []string{planted, Credentials{Token: planted}.basic()}
	content := read(t, log)
	if !strings.Contains(content, "push") || !strings.Contains(content, "remote-http") {
		t.Fatalf("the log does not hold what was run:\n%s", content)
	}
	leaks(t, log, content, secrets)
	for _, file := range filesBelow(t, filepath.Join(dir, ".git")) {
		leaks(t, file, read(t, file), secrets)
	}
}

func TestWithoutTheTokenTheRemoteStaysShut(t *testing.T) {
	url := guarded(t, bare(t))
	for _, token := range []string{"", "wrong"} {
		l := with(t, openClone(t, cloneOf(t, url)), token)
		if _, err := l.Head(t.Context()); !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "contents: read") {
			t.Errorf("Head() with token %q = %v, hint %q, want the permission that is missing", token, err, fault.HintOf(err))
		}
	}
}

func TestAServerThatEchoesTheTokenDoesNotPutItInAnError(t *testing.T) {
	url := serve(t, "", func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			http.Error(w, "\x1b]0;title\x07 got "+r.Header.Get("Authorization")+" which is "+password, http.StatusForbidden)
		})
	})
	l := with(t, openClone(t, cloneOf(t, strings.Replace(url, "http://", "http://me:hidden@", 1))), planted)
	_, err := l.Head(t.Context())
	if !errors.Is(err, fault.Environment) || !strings.Contains(err.Error(), "***") {
		t.Fatalf("Head() = %v, want what the server says with the token struck out", err)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		leaks(t, "the error", e.Error()+fault.HintOf(e), []string{planted, Credentials{Token: planted}.basic(), "hidden", "\x1b"})
	}
}

func TestSanitize(t *testing.T) {
	c := Credentials{Token: planted}
	for line, want := range map[string]string{
		"fatal: unable to access 'https://me:pw@h/r'": "fatal: unable to access 'https://h/r'",
		"Authorization: Basic " + c.basic():           "Authorization: Basic ***",
		"remote: token " + planted + " is bad":        "remote: token *** is bad",
		"remote: write to me@example.com":             "remote: write to me@example.com",
	} {
		if got := c.sanitize([]string{line}); got != want {
			t.Errorf("sanitize(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestTheTokenIsNotRedirected(t *testing.T) {
	var mu sync.Mutex
	var got []string
	elsewhere := serve(t, "", func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
			http.NotFound(w, r)
		})
	})
	url := serve(t, "", func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
		})
	})
	if _, err := with(t, openClone(t, cloneOf(t, url)), planted).Head(t.Context()); err == nil {
		t.Error("Head() of a remote that is elsewhere succeeds")
	}
	if len(got) > 0 {
		t.Errorf("elsewhere got %q, want nothing", got)
	}
}

func TestTheTokenIsForTheRemotesOwnURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://github.com/o/r":           "https://github.com/o/r",
		"https://me:pw@github.com/o/r.git": "https://github.com/o/r.git",
		"http://127.0.0.1:8080/r":          "http://127.0.0.1:8080/r",
		"http://[::1]:8080/r":              "http://[::1]:8080/r",
		"http://localhost/r":               "http://localhost/r",
		"http://github.com/o/r":            "",
		"http://127.0.0.1.example.com/r":   "",
		"git@github.com:o/r.git":           "",
		"ssh://git@github.com/o/r":         "",
		"file:///srv/r":                    "",
		"/srv/r":                           "",
		"https:///r":                       "",
	} {
		r := &remote{url: url, credentials: Credentials{Token: planted}}
		settings, _ := r.authorization()
		if got := r.scope(); got != want || (len(settings) > 0) != (want != "") {
			t.Errorf("the token for %s goes to %q with %d settings, want %q", url, got, len(settings), want)
		}
	}
}

func TestATokenIsOneWord(t *testing.T) {
	for _, token := range []string{"a b", "a\nX-Header: b", "a\x00", "ä"} {
		if _, err := openAlone(t).With(Credentials{Token: token}); !errors.Is(err, fault.Invalid) {
			t.Errorf("With(%q) = %v, want it refused", token, err)
		}
	}
}

// Somebody's configuration may say where things are, never what a command of the ledger means.
func TestAHostileConfigurationChangesNothing(t *testing.T) {
	home, work := t.TempDir(), t.TempDir()
	trap := filepath.Join(home, "trap")
	sprung := filepath.Join(home, "sprung")
	write(t, trap, "#!/bin/sh\necho \"$0 $*\" >>"+sprung+"\nexit 1\n", 0o755)
	hooks := filepath.Join(home, "hooks")
	for _, hook := range []string{"pre-push", "reference-transaction", "post-index-change", "pre-auto-gc"} {
		write(t, filepath.Join(hooks, hook), "#!/bin/sh\necho "+hook+" >>"+sprung+"\nexit 1\n", 0o755)
	}
	dir := bare(t)
	run(t, dir, "config", "core.hooksPath", "hooks") // the remote is another machine's, and has its own
	write(t, filepath.Join(home, ".gitconfig"), strings.NewReplacer("HOME", home, "TRAP", trap, "REMOTE", dir).Replace(`
[core]
	hooksPath = HOME/hooks
	fsmonitor = TRAP
	autocrlf = true
	attributesFile = HOME/attributes
	askPass = TRAP
	pager = TRAP
	logAllRefUpdates = always
	filesRefLockTimeout = 0
[init]
	templateDir = HOME
	defaultObjectFormat = sha256
[user]
	useConfigOnly = true
[commit]
	gpgSign = true
[push]
	gpgSign = true
	pushOption = surprise
	followTags = true
	default = nothing
	recurseSubmodules = on-demand
[tag]
	gpgSign = true
[gpg]
	program = TRAP
[fetch]
	prune = true
	pruneTags = true
	showForcedUpdates = false
	recurseSubmodules = true
	writeCommitGraph = true
[remote "origin"]
	mirror = true
	tagOpt = --tags
	prune = true
[log]
	showSignature = true
[color]
	ui = always
[column]
	ui = always
[i18n]
	commitEncoding = ISO-8859-1
[alias]
	push = !TRAP
	cat-file = !TRAP
[filter "evil"]
	clean = TRAP
	smudge = TRAP
[url "file://REMOTE"]
	insteadOf = shortcut:ledger
`), 0o644)
	write(t, filepath.Join(home, "attributes"), "* filter=evil text eol=crlf\n", 0o644)
	run(t, work, "init", "-q")
	write(t, filepath.Join(work, ".git", "config"), "[core]\n\trepositoryformatversion = 0\n[remote \"origin\"]\n\turl = shortcut:ledger\n", 0o644)
	run(t, work, "tag", "mine", run(t, work, "commit-tree", "-m", "m", run(t, work, "write-tree")))
	t.Setenv("HOME", home)
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_CONFIG_COUNT", "nonsense")

	local, err := OpenLocal(t.Context(), filepath.Join(t.TempDir(), "ledger.git"), ref)
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Ledger{"local": local, "remote": openClone(t, work)} {
		head := grow(t, l, release.Head{}, 2)
		if got := headOf(t, l); got.ID != head.ID {
			t.Errorf("%s: Head() = %s, want %s", name, got.ID, head.ID)
		}
		if got, err := generations(t, l); got != "[2 1]" || err != nil {
			t.Errorf("%s: History() = %s, %v, want [2 1]", name, got, err)
		}
	}
	os.Unsetenv("GIT_DIR")
	os.Unsetenv("GIT_CONFIG_COUNT")
	if exists(sprung) {
		t.Errorf("programs of the configuration ran:\n%s", read(t, sprung))
	}
	if refs := run(t, dir, "for-each-ref", "--format=%(refname)"); refs != "refs/heads/"+branch {
		t.Errorf("the remote has %q, want the ledger's branch alone", refs)
	}
	if refs := run(t, work, "for-each-ref", "--format=%(refname)"); !strings.Contains(refs, "refs/tags/mine") {
		t.Errorf("the clone has %q, its tag is gone", refs)
	}
}

func leaks(t *testing.T, where, content string, secrets []string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(content, secret) {
			t.Errorf("%s holds %q", where, secret)
		}
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal(fmt.Errorf("%d files below %s: %w", len(files), dir, err))
	}
	return files
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
		t.Fatal(err)
	}
}
