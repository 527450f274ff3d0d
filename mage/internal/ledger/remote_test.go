package ledger

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

func TestTheSwapHoldsInAClone(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, url string) *Ledger{
		"that is stale": func(t *testing.T, url string) *Ledger {
			l := openClone(t, cloneOf(t, url))
			headOf(t, l)
			return l
		},
		"that never fetched the branch": func(t *testing.T, url string) *Ledger { return openClone(t, cloneOf(t, url)) },
		"that is shallow": func(t *testing.T, url string) *Ledger {
			dir := t.TempDir()
			run(t, ".", "clone", "-q", "--depth=1", "--no-single-branch", url, dir)
			return openClone(t, dir)
		},
		"that is partial": func(t *testing.T, url string) *Ledger {
			dir := t.TempDir()
			run(t, ".", "clone", "-q", "--filter=blob:none", "--no-checkout", url, dir)
			return openClone(t, dir)
		},
	} {
		t.Run("a clone "+name, func(t *testing.T) {
			dir := bare(t)
			run(t, dir, "config", "uploadpack.allowFilter", "true")
			url := "file://" + dir
			other := openClone(t, cloneOf(t, url))
			second := grow(t, other, release.Head{}, 2)
			l := prepare(t, url)
			third := grow(t, other, second, 1)
			if _, err := l.Append(t.Context(), second, next(t, second), "late"); !errors.Is(err, fault.Conflict) {
				t.Errorf("Append() after a head that is gone = %v, want a conflict", err)
			}
			if _, err := l.Append(t.Context(), release.Head{}, next(t, release.Head{}), "first"); !errors.Is(err, fault.Conflict) {
				t.Errorf("Append() of a first generation = %v, want a conflict", err)
			}
			grow(t, l, third, 1)
			if got, err := generations(t, l); got != "[4 3 2 1]" || err != nil {
				t.Errorf("History() = %s, %v, want all four", got, err)
			}
		})
	}
}

// A head may come from a report or another clone; its commit need not be here.
func TestAppendFetchesTheHeadItFollows(t *testing.T) {
	url := "file://" + bare(t)
	head := grow(t, openClone(t, cloneOf(t, url)), release.Head{}, 2)
	grow(t, openClone(t, cloneOf(t, url)), head, 1)
}

func TestALostAnswerIsRecognizedAsDone(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, dir string){
		"and nobody else moved": func(*testing.T, string) {},
		"and somebody appended to it": func(t *testing.T, dir string) {
			other := openClone(t, cloneOf(t, "file://"+dir))
			grow(t, other, headOf(t, other), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := bare(t)
			git := backend(t)(dir)
			var cut atomic.Bool
			url := serve(t, dir, func(string) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/git-receive-pack" || !cut.Load() {
						git.ServeHTTP(w, r)
						return
					}
					git.ServeHTTP(httptest.NewRecorder(), r)
					meanwhile(t, dir)
					panic(http.ErrAbortHandler)
				})
			})
			l := openClone(t, cloneOf(t, url))
			first := grow(t, l, release.Head{}, 1)
			cut.Store(true)
			second, err := l.Append(t.Context(), first, next(t, first), "moved, unheard")
			if err != nil || second.Document.Generation != 2 {
				t.Fatalf("Append() = generation %d, %v, want it done", second.Document.Generation, err)
			}
		})
	}
}

func TestAMissingPermissionIsNamedAndNoConflict(t *testing.T) {
	for name, deny := range map[string]func(t *testing.T, dir string) (url string){
		"HTTP 403": func(t *testing.T, dir string) string {
			return serve(t, dir, only(backend(t)(dir), func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.String(), "git-receive-pack") {
					http.Error(w, "read-only", http.StatusForbidden)
					return false
				}
				return true
			}))
		},
		"HTTP 401": func(t *testing.T, dir string) string {
			return serve(t, dir, only(backend(t)(dir), func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.String(), "git-receive-pack") {
					w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
					http.Error(w, "who are you", http.StatusUnauthorized)
					return false
				}
				return true
			}))
		},
		"a hook that declines": func(t *testing.T, dir string) string {
			hook := "#!/bin/sh\nprintf '\\033[31mGH006: Protected branch update failed\\n' >&2\nexit 1\n"
			if err := os.WriteFile(filepath.Join(dir, "hooks", "pre-receive"), []byte(hook), 0o755); err != nil {
				t.Fatal(err)
			}
			return "file://" + dir
		},
		"git daemon without receive-pack": func(t *testing.T, dir string) string { return daemon(t, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := bare(t)
			first := grow(t, openClone(t, cloneOf(t, "file://"+dir)), release.Head{}, 1)
			other := openClone(t, cloneOf(t, "file://"+dir))
			url := deny(t, dir)
			if url == "" {
				t.Skip("git daemon is not installed")
			}
			l := openClone(t, cloneOf(t, url))
			if head := headOf(t, l); head.ID != first.ID {
				t.Fatalf("Head() = %s, want %s", head.ID, first.ID)
			}
			mustDeny := func(after release.Head) {
				t.Helper()
				_, err := l.Append(t.Context(), after, next(t, after), "denied")
				if !errors.Is(err, fault.Environment) || errors.Is(err, fault.Conflict) || !strings.Contains(fault.HintOf(err), "contents: write") {
					t.Errorf("Append() = %v, hint %q, want the permission that is missing", err, fault.HintOf(err))
				}
				if strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("Append() = %q, which a terminal obeys", err)
				}
			}
			mustDeny(first)
			if name != "a hook that declines" {
				grow(t, other, first, 1)
				mustDeny(first)
			}
		})
	}
}

// only serves what a guard lets through.
func only(h http.Handler, guard func(http.ResponseWriter, *http.Request) bool) func(string) http.Handler {
	return func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if guard(w, r) {
				h.ServeHTTP(w, r)
			}
		})
	}
}

func TestANetworkThatFailsIsUnavailable(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter){
		"a connection that is cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"HTTP 502":                 func(w http.ResponseWriter) { http.Error(w, "bad gateway", http.StatusBadGateway) },
		"HTTP 429":                 func(w http.ResponseWriter) { http.Error(w, "slow down", http.StatusTooManyRequests) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := bare(t)
			var down, deaf atomic.Bool
			l := openClone(t, cloneOf(t, serve(t, dir, only(backend(t)(dir), func(w http.ResponseWriter, r *http.Request) bool {
				if down.Load() || deaf.Load() && strings.Contains(r.URL.String(), "git-receive-pack") {
					fail(w)
				}
				return !down.Load() && !deaf.Load()
			}))))
			first := grow(t, l, release.Head{}, 1)
			deaf.Store(true)
			if _, err := l.Append(t.Context(), first, next(t, first), "unheard"); !errors.Is(err, fault.Unavailable) {
				t.Errorf("Append() = %v, want it unavailable", err)
			}
			down.Store(true)
			if _, err := l.Head(t.Context()); !errors.Is(err, fault.Unavailable) {
				t.Errorf("Head() = %v, want it unavailable", err)
			}
			if _, err := l.Append(t.Context(), first, next(t, first), "unheard"); !errors.Is(err, fault.Unavailable) {
				t.Errorf("Append() = %v, want it unavailable", err)
			}
		})
	}
}

func TestACancelledAppendIsInterrupted(t *testing.T) {
	dir := bare(t)
	git := backend(t)(dir)
	ctx, cancel := context.WithCancel(t.Context())
	l := openClone(t, cloneOf(t, serve(t, dir, only(git, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/git-receive-pack" {
			io.Copy(io.Discard, r.Body) // only then the server listens for a client that leaves
			cancel()
			<-r.Context().Done()
			return false
		}
		return true
	}))))
	if _, err := l.Append(ctx, release.Head{}, next(t, release.Head{}), "cancelled"); !errors.Is(err, fault.Interrupted) {
		t.Errorf("Append() = %v, want it interrupted", err)
	}
}

func TestRoundTripsOfHead(t *testing.T) {
	dir := bare(t)
	var requests atomic.Int32
	url := serve(t, dir, only(backend(t)(dir), func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return true }))
	other := openClone(t, cloneOf(t, "file://"+dir))
	l := openClone(t, cloneOf(t, url))
	first := grow(t, other, release.Head{}, 1)
	for _, step := range []struct {
		name string
		make func()
		want int32
	}{
		{"a ledger that is new here", func() {}, 2}, // refs, objects
		{"an unchanged ledger", func() {}, 1},
		{"a ledger that somebody moved", func() { grow(t, other, first, 1) }, 2},
	} {
		step.make()
		requests.Store(0)
		headOf(t, l)
		if got := requests.Load(); got != step.want {
			t.Errorf("Head() of %s took %d requests, want %d", step.name, got, step.want)
		}
	}
}

func TestARewrittenLedgerIsRefused(t *testing.T) {
	for name, rewrite := range map[string]func(t *testing.T, dir string, first release.Head){
		"taken back": func(t *testing.T, dir string, first release.Head) {
			run(t, dir, "update-ref", "refs/heads/"+branch, first.ID)
		},
		"deleted": func(t *testing.T, dir string, _ release.Head) {
			run(t, dir, "update-ref", "-d", "refs/heads/"+branch)
		},
		"begun anew": func(t *testing.T, dir string, _ release.Head) {
			run(t, dir, "update-ref", "-d", "refs/heads/"+branch)
			other := openClone(t, cloneOf(t, "file://"+dir))
			if _, err := other.Append(t.Context(), release.Head{}, next(t, release.Head{}), "another first"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("a ledger that was "+name, func(t *testing.T) {
			dir := bare(t)
			l := openClone(t, cloneOf(t, "file://"+dir))
			first := grow(t, l, release.Head{}, 1)
			grow(t, l, first, 1)
			rewrite(t, dir, first)
			if head, err := l.Head(t.Context()); !errors.Is(err, fault.Forged) || fault.HintOf(err) == "" {
				t.Errorf("Head() = generation %d, %v, want it refused", head.Document.Generation, err)
			}
			if got, err := generations(t, l.Offline()); got != "[2 1]" || err != nil {
				t.Errorf("the history that was seen = %s, %v, want [2 1]", got, err)
			}
		})
	}
}

func TestOfflineReadsWhatWasSeen(t *testing.T) {
	dir := bare(t)
	work := cloneOf(t, "file://"+dir)
	l := openClone(t, work)
	if _, err := l.Offline().Head(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Head() of what was never read = %v, want it unavailable and not empty", err)
	}
	head := grow(t, l, release.Head{}, 2)
	fresh := t.TempDir()
	run(t, ".", "clone", "-q", "file://"+dir, fresh)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	for name, clone := range map[string]string{"the clone that appended": work, "a fresh clone that never opened it": fresh} {
		t.Run(name, func(t *testing.T) {
			offline := openClone(t, clone).Offline()
			if got := headOf(t, offline); got.ID != head.ID {
				t.Errorf("Head() = %s, want %s", got.ID, head.ID)
			}
			if got, err := generations(t, offline); got != "[2 1]" || err != nil {
				t.Errorf("History() = %s, %v, want [2 1]", got, err)
			}
			if _, err := offline.Append(t.Context(), head, next(t, head), "offline"); !errors.Is(err, fault.Unavailable) {
				t.Errorf("Append() = %v, want it refused", err)
			}
		})
	}
	grow(t, openLocal(t).Offline(), release.Head{}, 1) // a ledger without a remote is always here
}

// A partial clone would fetch each document when it is read, without a network and credentials.
func TestAPartialCloneHoldsTheWholeLedger(t *testing.T) {
	dir, clone := bare(t), t.TempDir()
	run(t, dir, "config", "uploadpack.allowFilter", "true")
	run(t, ".", "clone", "-q", "--filter=blob:none", "file://"+dir, clone)
	grow(t, openClone(t, cloneOf(t, "file://"+dir)), release.Head{}, 2)
	l := openClone(t, clone)
	headOf(t, l)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if got, err := generations(t, l.Offline()); got != "[2 1]" || err != nil {
		t.Errorf("History() = %s, %v, want [2 1]", got, err)
	}
}

func TestOfflineInAShallowCloneSaysWhatIsMissing(t *testing.T) {
	url := "file://" + bare(t)
	grow(t, openClone(t, cloneOf(t, url)), release.Head{}, 3)
	dir := t.TempDir()
	run(t, ".", "clone", "-q", "--depth=1", "--no-single-branch", url, dir)
	got, err := generations(t, openClone(t, dir).Offline())
	if got != "[3]" || !errors.Is(err, fault.Environment) || !strings.HasPrefix(fault.HintOf(err), "git fetch ") {
		t.Fatalf("History() = %s, %v, hint %q, want [3] and the command that brings the rest", got, err, fault.HintOf(err))
	}
	run(t, dir, strings.Fields(fault.HintOf(err))[1:]...)
	if got, err := generations(t, openClone(t, dir).Offline()); got != "[3 2 1]" || err != nil {
		t.Errorf("after the command, History() = %s, %v, want [3 2 1]", got, err)
	}
}

func TestChooseRemote(t *testing.T) {
	for name, tt := range map[string]struct {
		listing, target, url string
		refused              bool
	}{
		"none":                    {listing: ""},
		"the only one":            {listing: "up\thttps://h/r (fetch)\nup\thttps://h/r (push)\n", target: "up", url: "https://h/r"},
		"origin of two":           {listing: "a\tx (fetch)\na\tx (push)\norigin\ty (fetch)\norigin\ty (push)\n", target: "origin", url: "y"},
		"two and no origin":       {listing: "a\tx (fetch)\na\tx (push)\nb\ty (fetch)\nb\ty (push)\n", refused: true},
		"two places to push to":   {listing: "origin\tx (fetch)\norigin\tx (push)\norigin\ty (push)\n", refused: true},
		"another place to push":   {listing: "origin\tx (fetch)\norigin\ty (push)\n", target: "y", url: "y"},
		"the filter of a partial": {listing: "origin\tx (fetch) [blob:none]\norigin\tx (push)\n", target: "origin", url: "x"},
		"a path with spaces":      {listing: "origin\t/a (fetch) b (fetch)\norigin\t/a (fetch) b (push)\n", target: "origin", url: "/a (fetch) b"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := chooseRemote(tt.listing, branch)
			if (err != nil) != tt.refused || err != nil && fault.HintOf(err) == "" {
				t.Fatalf("chooseRemote() = %v", err)
			}
			if r == nil {
				r = &remote{}
			}
			if r.target != tt.target || r.url != tt.url {
				t.Errorf("chooseRemote() = %q at %q, want %q at %q", r.target, r.url, tt.target, tt.url)
			}
		})
	}
}

func FuzzChooseRemote(f *testing.F) {
	f.Add("origin\tx (fetch) [blob:none]\norigin\tx (push)\n")
	f.Add("origin\t (fetch)\norigin\t (push)\n")
	f.Fuzz(func(t *testing.T, listing string) {
		r, err := chooseRemote(listing, branch)
		if err == nil && r != nil && (r.name == "" && !strings.Contains("\n"+listing, "\n\t") || !strings.Contains(listing, r.url)) {
			t.Errorf("chooseRemote(%q) = %+v", listing, r)
		}
	})
}
