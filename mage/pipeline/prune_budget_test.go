package pipeline_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/retention"
)

// An hour of GitHub's has so many calls. A sweep leaves a part of them to the repository's other
// jobs, stops, and goes on in the next hour.
func TestASweepStopsWhenTheHoursCallsAreNearlySpentAndGoesOn(t *testing.T) {
	y := newYardOf(t, "GHCR", rehearsal.Options{RateLimit: 40})
	var runs int
	for deleted := 0; ; runs++ {
		if runs > 20 {
			t.Fatal("it does not come to an end")
		}
		f, p, err := y.keeper().PlanPrune(t.Context(), retention.Allow{})
		if err == nil && p.Empty() {
			if deleted == 0 {
				t.Error("nothing was deleted")
			}
			break
		}
		if err == nil {
			var entries []retention.Entry
			entries, err = y.keeper().Prune(t.Context(), f, p)
			deleted += len(entries)
		}
		t.Logf("run %d: %d of %d deleted, %v", runs, deleted, len(p.Deletes), err)
		if err != nil && !errors.Is(err, ghcr.ErrBudget) {
			t.Fatal(err)
		}
		if kind, _ := fault.KindOf(err); err != nil && kind != fault.Partial && kind != fault.Unavailable {
			t.Errorf("the run ended with %v", err)
		}
		y.age(time.Hour)
	}
	if runs < 2 {
		t.Errorf("%d runs: the budget was never spent", runs)
	}
	for _, i := range []int{1, 2, 3} {
		y.whole(i)
	}
}

// A secondary limit passes: it is waited for, and the call is sent again.
func TestASecondaryLimitIsWaitedFor(t *testing.T) {
	y := newYard(t, "GHCR")
	var limited atomic.Int32
	y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isDelete(req) && limited.Add(1) <= 2 {
			f := rehearsal.SecondaryLimited()
			w.WriteHeader(f.Status)
			w.Write([]byte(f.Body))
			return
		}
		next.ServeHTTP(w, req)
	})
	entries, err := y.prune(y.keeper())
	if err != nil || limited.Load() < 3 || len(entries) == 0 || entries[0].Outcome != retention.Deleted {
		t.Errorf("%d deletions, %v, %v", limited.Load(), entries, err)
	}
}
