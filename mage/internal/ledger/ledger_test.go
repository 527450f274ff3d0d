package ledger

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// open returns ledgers of each kind: a bare repository of its own, a clone without a remote,
// and a clone whose remote is a bare repository over file://.
func open(t *testing.T) map[string]*Ledger {
	t.Helper()
	const ref, branch = "refs/containai/channels", "containai-channels"
	local, err := OpenLocal(t.Context(), filepath.Join(t.TempDir(), "ledger.git"), ref)
	if err != nil {
		t.Fatal(err)
	}
	alone, remote, clone := t.TempDir(), t.TempDir(), t.TempDir()
	run(t, alone, "init", "-q")
	run(t, remote, "init", "-q", "--bare")
	run(t, clone, "init", "-q")
	run(t, clone, "remote", "add", "origin", "file://"+remote)
	without, err := OpenClone(t.Context(), alone, branch, ref)
	if err != nil {
		t.Fatal(err)
	}
	with, err := OpenClone(t.Context(), clone, branch, ref)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*Ledger{"a bare repository": local, "a clone without a remote": without, "a clone with a remote": with}
}

func TestLedgerAppendsGenerations(t *testing.T) {
	for name, l := range open(t) {
		t.Run(name, func(t *testing.T) {
			head, err := l.Head(t.Context())
			if err != nil || head.ID != "" {
				t.Fatalf("Head() of an empty ledger = %q, %v", head.ID, err)
			}
			for range 3 {
				if head, err = l.Append(t.Context(), head, next(t, head), "dev moves"); err != nil {
					t.Fatal(err)
				}
			}
			var generations []uint64
			for h, err := range l.History(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				generations = append(generations, h.Document.Generation)
			}
			if got, want := fmt.Sprint(generations), "[3 2 1]"; got != want {
				t.Errorf("History() = %s, want %s", got, want)
			}
		})
	}
}

func TestA3OfTwoMoversWhoSawTheSameHeadOneWins(t *testing.T) {
	for name, l := range open(t) {
		t.Run(name, func(t *testing.T) {
			base, err := l.Append(t.Context(), release.Head{}, next(t, release.Head{}), "first")
			if err != nil {
				t.Fatal(err)
			}
			const movers = 4
			results := make([]error, movers)
			var wg sync.WaitGroup
			for i := range movers {
				wg.Go(func() {
					_, results[i] = l.Append(t.Context(), base, next(t, base), fmt.Sprintf("mover %d", i))
				})
			}
			wg.Wait()
			won := 0
			for _, err := range results {
				switch {
				case err == nil:
					won++
				case !errors.Is(err, fault.Conflict):
					t.Errorf("a loser got %v, want a conflict", err)
				}
			}
			if won != 1 {
				t.Errorf("%d movers won, want 1", won)
			}
		})
	}
}

func next(t *testing.T, head release.Head) []byte {
	t.Helper()
	var previous digest.Digest
	if head.ID != "" {
		previous = digest.FromBytes(head.Content)
	}
	record := release.Record{Source: release.Source{Commit: strings.Repeat("a", 40)}}
	c := release.Candidate{Record: record, Digest: digest.FromString(fmt.Sprint(head.Document.Generation))}
	d, _, err := release.PlanMove(head.Document, previous, "tiny", "dev", c, release.Moved{By: "test", At: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	content, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
