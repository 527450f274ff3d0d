package rehearsal_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containai/containai/mage/rehearsal"
)

// A user who runs the command again until it succeeds ends where an undisturbed user ends, wherever
// the one fault struck.
func TestAPushIsHealedByRunningItAgain(t *testing.T) {
	for name, concurrent := range map[string]bool{"one call after the other": false, "images side by side": true} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			faults := []rehearsal.Fault{rehearsal.Answer(503), rehearsal.HangUp(), rehearsal.LoseAnswer(), rehearsal.CutUpload(1), rehearsal.CutAnswer(1), rehearsal.Outdated()}
			rehearsal.EveryCall(t, faults, func(t *testing.T, inject func(http.Handler) http.Handler) []byte {
				runs.Add(1)
				w := serve(t, rehearsal.New(rehearsal.Options{}), inject)
				w.pushFamily(concurrent)
				return w.github.Snapshot()
			})
			if n := runs.Load(); n < 60 {
				t.Errorf("only %d runs", n)
			}
		})
	}
}

// pushFamily pushes three images, each until it succeeds.
func (w *world) pushFamily(concurrent bool) {
	w.t.Helper()
	var group sync.WaitGroup
	for _, image := range []string{"base", "codex", "proxy"} {
		r := w.repository("acme/" + image)
		one := func() {
			for range 3 {
				if _, err := push(w.t.Context(), r, "dev", image); err == nil {
					return
				}
			}
			w.t.Errorf("%s is not pushed after three attempts", image)
		}
		if concurrent {
			group.Go(one)
		} else {
			one()
		}
	}
	group.Wait()
}

// What EveryCall must find wrong it finds wrong: each of these tests fails, in a process of its own.
func TestEveryCallFindsWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		run       func(*testing.T, func(http.Handler) http.Handler) []byte
		complaint string
	}{
		"a client that gives up":      {givesUp, "want line"},
		"a call that does not return": {neverComesAgain(), "never came"},
		"an operation without a call": {func(*testing.T, func(http.Handler) http.Handler) []byte { return nil }, "nothing to disturb"},
	} {
		if os.Getenv("REHEARSAL_CHILD") == name {
			rehearsal.EveryCall(t, []rehearsal.Fault{rehearsal.Answer(503)}, test.run)
			return
		}
		t.Run(name, func(t *testing.T) {
			if os.Getenv("REHEARSAL_CHILD") != "" {
				return // another child's
			}
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEveryCallFindsWhatIsWrong$")
			child.Env = append(os.Environ(), "REHEARSAL_CHILD="+name)
			out, err := child.CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.complaint) {
				t.Errorf("error %v, want a failure that says %q:\n%s", err, test.complaint, out)
			}
		})
	}
}

func givesUp(t *testing.T, inject func(http.Handler) http.Handler) []byte {
	w := serve(t, rehearsal.New(rehearsal.Options{}), inject)
	push(t.Context(), w.repository("acme/base"), "dev", "a") // once, whatever becomes of it
	return w.github.Snapshot()
}

func neverComesAgain() func(*testing.T, func(http.Handler) http.Handler) []byte {
	first := true
	return func(t *testing.T, inject func(http.Handler) http.Handler) []byte {
		server := httptest.NewServer(inject(&counter{}))
		t.Cleanup(server.Close)
		w := &world{t: t, url: server.URL}
		if first {
			w.request("GET", "/", "")
		}
		first = false
		return []byte("the same")
	}
}

func TestEqualWorldsHaveEqualSnapshotsAndOthersDoNot(t *testing.T) {
	one, other := newWorld(t, rehearsal.Options{}), newWorld(t, rehearsal.Options{})
	one.push("acme/base", "dev", "a")
	one.push("acme/codex", "dev", "b")
	other.push("acme/codex", "dev", "b")
	other.push("acme/base", "dev", "a")
	if !bytes.Equal(one.github.Snapshot(), other.github.Snapshot()) {
		t.Errorf("%s\ndiffers from\n%s", one.github.Snapshot(), other.github.Snapshot())
	}
	before := string(one.github.Snapshot())
	if err := one.repository("acme/base").Tag(context.Background(), one.push("acme/base", "", "a"), "prod"); err != nil {
		t.Fatal(err)
	}
	if string(one.github.Snapshot()) == before {
		t.Error("a new tag does not show")
	}
}
