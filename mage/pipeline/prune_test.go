package pipeline_test

import (
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

func TestPruneDeletesWhatNoRootReachesAndLeavesEveryReleaseWhole(t *testing.T) {
	test := func(t *testing.T, y *yard, least int) {
		entries, err := y.prune(y.keeper())
		if err != nil {
			t.Fatal(err)
		}
		// Release 0: two indexes, two platforms, four bundles and four lists of them, a record with its
		// bundle and list. What gathered besides: an index of referrers that was replaced.
		if len(entries) < least {
			t.Errorf("%d deletions", len(entries))
		}
		for _, e := range entries {
			if e.Outcome != retention.Deleted {
				t.Errorf("%s was %s: %s", e.At, e.Outcome, e.Why)
			}
		}
		for _, i := range []int{1, 2, 3} {
			y.whole(i)
		}
		if y.has("metadata", "sha-"+commitOf(0)) || y.has("app", "sha-"+commitOf(0)) {
			t.Error("release 0 is still there")
		}
		if _, p := y.plan(y.keeper()); !p.Empty() {
			t.Errorf("a second run would delete %d", len(p.Deletes))
		}
	}
	onBoth(t, func(t *testing.T, y *yard) { test(t, y, 15) })
	t.Run("a registry with the referrers API, without a list and without ages", func(t *testing.T) {
		t.Parallel()
		test(t, newYard(t, "another"), 9) // the API needs no lists of referrers
	})
}

// One name brings a release back with everything that makes it one: what it names, and its evidence.
func TestARestoredReleaseHasItsEvidence(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		if _, err := y.prune(y.keeper()); err != nil {
			t.Fatal(err)
		}
		lost, err := y.keeper().Restorable("sha-" + commitOf(0))
		y.must(err)
		y.must(y.keeper().Undelete(t.Context(), lost))
		y.whole(0)
		record, _, err := y.shelf("metadata").Resolve(t.Context(), "sha-"+commitOf(0))
		y.must(err)
		if list, err := y.newClientRepo("metadata").Referrers(t.Context(), record); err != nil || len(list) != 1 || list[0].Missing {
			t.Errorf("the record has the evidence %+v, %v", list, err)
		}
	})
}

// What nobody who may move channels wrote says what may go: then nothing goes. Also not when it comes while
// a prune runs.
func TestAPruneFollowsNoLedgerThatNobodyVouchesFor(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		k, vouched := y.keeper(), true
		k.Vouched = func(context.Context, release.Head) error {
			if vouched {
				return nil
			}
			return fault.New(fault.Forged, "following", "the ledger", "nobody signed it")
		}
		facts, plan, err := k.PlanPrune(t.Context(), retention.Allow{Share: true})
		y.must(err)
		if len(plan.Deletes) == 0 {
			t.Fatal("there is nothing to delete")
		}
		vouched = false
		if _, _, err := k.PlanPrune(t.Context(), retention.Allow{Share: true}); !errors.Is(err, fault.Forged) {
			t.Errorf("it plans by it: %v", err)
		}
		before := y.requests()
		facts.Head = digest.FromString("what it was before somebody pushed")
		if done, err := k.Prune(t.Context(), facts, plan); !errors.Is(err, fault.Forged) || len(done) > 0 || len(y.writes(before)) > 0 {
			t.Errorf("it deletes by it: %v, %v", done, err)
		}
	})
}
