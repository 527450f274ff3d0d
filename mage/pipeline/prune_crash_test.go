package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/containai/containai/mage/fault"
)

// Wherever a kill strikes, before a deletion or after it and before its answer, the next run ends in
// the registry that an undisturbed one leaves, and every release that stays is whole in between, too.
func TestAKillAtEveryDeletionEndsInTheSameRegistry(t *testing.T) {
	t.Parallel()
	undisturbed := newYard(t, "GHCR")
	entries, err := undisturbed.prune(undisturbed.keeper())
	if err != nil {
		t.Fatal(err)
	}
	want := undisturbed.github.Snapshot()
	for n := range entries {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("deletion %d, done %v", n+1, after), func(t *testing.T) {
				y := newYard(t, "GHCR")
				killAt(t, y, n+1, after)
				for _, i := range []int{1, 2, 3} {
					y.whole(i)
				}
				if _, err := y.prune(y.keeper()); err != nil {
					t.Fatal(err)
				}
				if got := y.github.Snapshot(); !bytes.Equal(got, want) {
					t.Errorf("the registry is\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}

// killOn kills at the nth request of a sort, before the registry has it or after.
func (y *yard) killOn(kill func(), counts func(*http.Request) bool, n int, after bool) {
	var count atomic.Int32
	y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if !counts(req) || int(count.Add(1)) != n {
			next.ServeHTTP(w, req)
			return
		}
		if after {
			next.ServeHTTP(httptest.NewRecorder(), req.Clone(context.WithoutCancel(req.Context())))
		}
		kill()
		panic(http.ErrAbortHandler)
	})
}

// killAt prunes and is killed at a deletion.
func killAt(t *testing.T, y *yard, n int, after bool) {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	y.killOn(kill, isDelete, n, after)
	defer y.guard(nil)
	k := y.keeper()
	f, p := y.plan(k)
	if _, err := k.Prune(ctx, f, p); !errors.Is(err, fault.Interrupted) && !errors.Is(err, fault.Partial) {
		t.Fatalf("the killed run: %v", err)
	}
}
