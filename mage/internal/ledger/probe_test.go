package ledger

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

func TestWhetherTheLedgerMayBeMovedIsAskedWithoutMovingIt(t *testing.T) {
	dir := bare(t)
	first := grow(t, openClone(t, cloneOf(t, "file://"+dir)), release.Head{}, 1)
	readOnly := serve(t, dir, only(backend(t)(dir), func(w http.ResponseWriter, r *http.Request) bool {
		denied := strings.Contains(r.URL.String(), "git-receive-pack")
		if denied {
			http.Error(w, "read-only", http.StatusForbidden)
		}
		return !denied
	}))
	if err := openClone(t, cloneOf(t, serve(t, dir, backend(t)))).Writable(t.Context()); err != nil {
		t.Errorf("a remote that takes pushes: %v", err)
	}
	if err := openClone(t, cloneOf(t, readOnly)).Writable(t.Context()); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("a remote that only gives: %v, hint %q", err, fault.HintOf(err))
	}
	if err := openLocal(t).Writable(t.Context()); err != nil {
		t.Errorf("a ledger of this machine: %v", err)
	}
	if head := headOf(t, openClone(t, cloneOf(t, "file://"+dir))); head.ID != first.ID {
		t.Errorf("the ledger is at %s, it was at %s", head.ID, first.ID)
	}
}
