package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

func TestLedgerAppendsGenerations(t *testing.T) {
	for name, l := range open(t) {
		t.Run(name, func(t *testing.T) {
			if head := headOf(t, l); head.ID != "" {
				t.Fatalf("Head() of an empty ledger = %q", head.ID)
			}
			if got, err := generations(t, l); got != "[]" || err != nil {
				t.Errorf("History() of an empty ledger = %s, %v", got, err)
			}
			last := grow(t, l, release.Head{}, 3)
			if head := headOf(t, l); head.ID != last.ID || string(head.Content) != string(last.Content) {
				t.Errorf("Head() = %s, want what was appended, %s", head.ID, last.ID)
			}
			if got, err := generations(t, l); got != "[3 2 1]" || err != nil {
				t.Errorf("History() = %s, %v, want [3 2 1]", got, err)
			}
		})
	}
}

func TestA3OfTwoMoversWhoSawTheSameHeadOneWins(t *testing.T) {
	for name, l := range open(t) {
		t.Run(name, func(t *testing.T) {
			base := grow(t, l, release.Head{}, 1)
			movers := []*Ledger{l, l, l, l}
			raceFrom(t, base, movers)
			if got, err := generations(t, l); got != "[2 1]" || err != nil {
				t.Errorf("History() = %s, %v, want [2 1]", got, err)
			}
		})
	}
}

func TestA3MoversOfDifferentClonesRaceForTheFirstGenerationToo(t *testing.T) {
	url := "file://" + bare(t)
	raceFrom(t, release.Head{}, []*Ledger{openClone(t, cloneOf(t, url)), openClone(t, cloneOf(t, url)), openClone(t, cloneOf(t, url))})
}

// raceFrom lets every mover append after the same head, and wants one to win.
func raceFrom(t *testing.T, base release.Head, movers []*Ledger) {
	t.Helper()
	results := make([]error, len(movers))
	var wg sync.WaitGroup
	for i, l := range movers {
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
}

func TestALedgerThatLeapsIsNotWritten(t *testing.T) {
	l := openLocal(t)
	first := grow(t, l, release.Head{}, 1)
	later := first
	later.Document.Generation = 7
	if _, err := l.Append(t.Context(), first, next(t, later), "leap"); !errors.Is(err, fault.Invalid) {
		t.Errorf("Append() of generation 8 after 1 = %v, want it refused", err)
	}
	if _, err := l.Append(t.Context(), first, []byte("{}"), "nothing"); !errors.Is(err, fault.Forged) {
		t.Errorf("Append() of no document = %v, want it refused", err)
	}
}

func TestAnInterruptedInitIsCompleted(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLocal(t.Context(), dir, ref)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, l, release.Head{}, 1)
}

// An empty file is what a power cut left of a ref before git flushed them.
func TestABrokenRefIsNotAnEmptyLedger(t *testing.T) {
	l := openLocal(t)
	grow(t, l, release.Head{}, 1)
	if err := os.WriteFile(filepath.Join(l.dir, ref), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if head, err := l.Head(t.Context()); !errors.Is(err, fault.Environment) {
		t.Errorf("Head() = %q, %v, want an error", head.ID, err)
	}
}
