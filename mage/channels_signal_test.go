package mage_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
)

// patience is how long a target may take to end after a signal: mage itself gives it five seconds.
const patience = 4 * time.Second

// signals sends a signal to a promotion whose registry has stopped answering: before its first write,
// and when some of its tags have moved. The family's release is in the registry.
func (f familyClone) signals(t *testing.T) {
	wall := f.wall(t)
	commit := git(t, f.dir, "rev-parse", "HEAD")
	git(t, f.dir, "fetch", "-q", ".containai/ledger.git", "+refs/tiny/channels:refs/tiny/channels") // a registry at an address has its ledger in the clone
	ledger := git(t, f.dir, "rev-parse", "refs/tiny/channels")
	promote := []string{"ops:promote", "-channel=nightly", "-to=" + commit, "-apply"}

	t.Run("A2 Ctrl-C before anything is written", func(t *testing.T) {
		wall.from = func(req *http.Request) bool { return req.Method != http.MethodGet && req.Method != http.MethodHead }
		f.signalled(t, wall, syscall.SIGINT, fault.Interrupted, "", promote...)
		if now := git(t, f.dir, "rev-parse", "refs/tiny/channels"); now != ledger {
			t.Errorf("the ledger moved from %s to %s", ledger, now)
		}
	})
	t.Run("A2 SIGTERM while tags move", func(t *testing.T) {
		tags := 0
		wall.from = func(req *http.Request) bool {
			if req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, "/manifests/nightly") {
				tags++
			}
			return tags == 3
		}
		f.signalled(t, wall, syscall.SIGTERM, fault.Partial, "mage ops:reconcile -apply", promote...)
		wall.from = nil
		for _, want := range []string{"done: ", "nothing to do"} {
			c := exec.CommandContext(t.Context(), f.binary, "ops:reconcile", "-apply")
			c.Dir, c.Env = f.dir, append(os.Environ(), wall.env())
			if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(want)) {
				t.Errorf("ops:reconcile: %v, want %q in\n%s", err, want, out)
			}
		}
	})
}

// signalled starts a target, sends it a signal when the wall is up, and demands how it ends.
func (f familyClone) signalled(t *testing.T, wall *wall, signal syscall.Signal, want fault.Kind, says string, args ...string) {
	t.Helper()
	wall.hit = make(chan struct{}, 1000)
	c := exec.Command(f.binary, args...)
	c.Dir, c.Env = f.dir, append(os.Environ(), wall.env())
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-wall.hit:
	case err := <-ended:
		t.Fatalf("it ended before the wall: %v\n%s", err, out.String())
	}
	if err := c.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != int(want) || !strings.Contains(out.String(), says) {
			t.Errorf("it ended with %v, want %d and %q in\n%s", err, want, says, out.String())
		}
	case <-time.After(patience):
		_ = c.Process.Kill()
		<-ended
		t.Errorf("it did not end within %s\n%s", patience, out.String())
	}
}

// wall stands before the family's registry and lets everything pass but what it is told to keep.
type wall struct {
	*httptest.Server
	from func(*http.Request) bool // from this request on nothing is answered; nil: everything is
	hit  chan struct{}
}

func (f familyClone) wall(t *testing.T) *wall {
	t.Helper()
	state, err := local.OpenState(filepath.Join(f.dir, ".containai"))
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(served.Close(), state.Close()); err != nil {
			t.Error(err)
		}
	})
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: served.Host})
	w := &wall{}
	one := make(chan struct{}, 1) // requests are looked at one at a time
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		one <- struct{}{}
		kept := w.from != nil && w.from(req)
		<-one
		if !kept {
			proxy.ServeHTTP(rw, req)
			return
		}
		_, _ = io.Copy(io.Discard, req.Body) // only then does the server see that the client has gone
		w.hit <- struct{}{}
		<-req.Context().Done()
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *wall) env() string {
	return "CONTAINAI_REGISTRY=" + strings.TrimPrefix(w.URL, "http://") + "/tiny"
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
