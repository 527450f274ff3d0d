package pipeline_test

import (
	"maps"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
)

// What a channel's consumers will refuse by its policy does not enter it: somebody else's signature, what
// the family file takes back.
func TestAChannelsOwnPolicyIsAsked(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	tags := w.fam.Trust.Signer
	tags.Ref = "refs/tags/v*"
	strict := w.pipeline(t, "ops")
	strict.Verifier = judge{signer: w.fam.Trust.Signer, of: map[string]family.Signer{"prod": tags}}
	strict.History, strict.Signer = history{w.plan(second).Source}, w.signer(second)
	denying := func(d family.Denial) *pipeline.Pipeline {
		p, fam := w.pipeline(t, "ops"), *w.fam
		fam.Channels = maps.Clone(fam.Channels)
		prod := fam.Channels["prod"]
		prod.Trust.Deny = []family.Denial{d}
		fam.Channels["prod"] = prod
		p.Family = &fam
		return p
	}
	platform := w.releases[second].Record.Images["app"].Platforms["linux/amd64"].Digest
	for name, test := range map[string]struct {
		p    *pipeline.Pipeline
		want fault.Kind
	}{
		"evidence of another signer":   {strict, fault.Unverified},
		"a commit that was taken back": {denying(family.Denial{Commit: second, Reason: "it leaks"}), fault.Refused},
		"a digest that was taken back": {denying(family.Denial{Digest: platform, Reason: "it leaks"}), fault.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			w.still(t, test.want, func() error { _, err := test.p.Promote(t.Context(), w.promotion("prod", second, "")); return err })
			w.still(t, 0, func() error {
				_, err := test.p.PlanPromotion(t.Context(), w.book.head(), w.promotion("dev", second, ""))
				return err
			})
		})
	}
	w.still(t, fault.Unverified, func() error {
		_, err := strict.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
		return err
	})
	back := denying(family.Denial{Commit: origin, Reason: "it leaks"})
	w.still(t, fault.Refused, func() error {
		_, err := back.PlanRollback(t.Context(), "prod", origin, because("it leaks"), false)
		return err
	})
	// Nor does who signs for another channel attach what prod does not believe.
	w.still(t, fault.Forged, func() error {
		_, err := strict.Release(t.Context(), w.plan(second), pipeline.Order{Channel: "prod", Until: pipeline.UntilPromote, Moved: because("")})
		return err
	})
}
