package pipeline_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
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
	denying := func(d family.Denial) *pipeline.Pipeline { return w.denying(t, d) }
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

// Who can push to the ledger does not thereby move a channel: what no mover signed is not followed, and
// nothing is built on it, unless it is what an emergency may do.
func TestALedgerThatAnybodyWroteToIsNotFollowed(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	p.History = history{w.plan(third).Source}
	w.promote(t, p, "prod", second)
	honest := w.book.heads
	because := because("as the test says")
	because.At = w.now
	emergency := because
	emergency.Unsigned = true
	write := func(plan func(release.Head) (release.Document, error)) func() {
		return func() {
			document, err := plan(w.book.head())
			w.write(t, document, err)
		}
	}
	back := func(to release.State, m release.Moved) func(release.Head) (release.Document, error) {
		return func(h release.Head) (release.Document, error) { return release.PlanRollback(h, "prod", to, m, false) }
	}
	mixed := w.candidate(first).State()
	mixed.Members["app"] = w.releases[origin].Record.Members()["app"].Digest
	for name, push := range map[string]func(){
		"a rollback":            write(back(w.candidate(first).State(), because)),
		"a mixture, in a hurry": write(back(mixed, emergency)),
		"what was never served, in a hurry": write(func(h release.Head) (release.Document, error) {
			return release.PlanRollback(h, "prod", w.candidate(third).State(), emergency, false)
		}),
		"a promotion, in a hurry": write(func(h release.Head) (release.Document, error) {
			d, _, err := release.PlanPromote(h, w.fam.Name, "prod", w.candidate(third), emergency)
			return d, err
		}),
		"an emergency of long ago": func() {
			before := emergency
			before.At = w.now.Add(-24 * time.Hour)
			write(back(w.candidate(origin).State(), before))()
		},
		"a rollback under an emergency": func() {
			write(back(w.candidate(first).State(), because))()
			write(func(h release.Head) (release.Document, error) {
				d, _, err := release.PlanHold(h, "dev", emergency)
				return d, err
			})()
		},
	} {
		w.book.heads = slices.Clone(honest)
		push()
		for what, try := range map[string]func() error{
			"reconciling": func() error { _, _, err := p.Converge(t.Context()); return err },
			"releasing": func() error {
				_, err := p.Release(t.Context(), w.plan(third), pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: because})
				return err
			},
			"promoting":                func() error { _, err := p.Promote(t.Context(), w.promotion("dev", second, "")); return err },
			"planning to reconcile":    func() error { _, err := p.PlanReconcile(t.Context()); return err },
			"planning to let it go on": func() error { _, err := p.PlanHold(t.Context(), "prod", because, false); return err },
			"refreshing, as the schedule does when its time has come": func() error {
				scheduled := *p
				scheduled.Now = func() time.Time { return w.book.head().Document.Expires.Add(-time.Hour) }
				_, err := scheduled.PlanRefresh(t.Context())
				return err
			},
		} {
			t.Run(name+", "+what, func(t *testing.T) { w.still(t, fault.Forged, try) })
		}
	}
	w.book.heads = slices.Clone(honest)
	tomorrow := emergency
	tomorrow.At = w.now.Add(24 * time.Hour)
	write(back(w.candidate(origin).State(), tomorrow))()
	w.still(t, fault.Forged, func() error { _, err := p.PlanReconcile(t.Context()); return err })
	// Where a signature cannot be checked, nobody is accused.
	w.book.heads = slices.Clone(honest)
	blind := w.pipeline(t, "ops")
	blind.Verifier = rootless{blind.Verifier}
	w.still(t, fault.Environment, func() error { _, err := blind.PlanReconcile(t.Context()); return err })

	// A person who looked at it may vouch for it, and what came in a hurry and may is followed.
	w.book.heads = slices.Clone(honest)
	write(back(w.candidate(first).State(), because))()
	w.apply(t, p, func() (pipeline.Change, error) { return p.PlanReissue(t.Context()) })
	write(func(h release.Head) (release.Document, error) {
		return release.PlanRollback(h, "prod", w.candidate(origin).State(), emergency, false)
	})()
	// That the family file denies it since then does not make it forged.
	since := w.denying(t, family.Denial{Commit: origin, Reason: "it leaks"})
	if err := since.Vouched(t.Context(), w.book.head()); err != nil {
		t.Error(err)
	}
	if _, _, err := p.Converge(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

// denying is where the family file takes something back for prod.
func (w *world) denying(t *testing.T, d family.Denial) *pipeline.Pipeline {
	t.Helper()
	p, fam := w.pipeline(t, "ops"), *w.fam
	fam.Channels = maps.Clone(fam.Channels)
	prod := fam.Channels["prod"]
	prod.Trust.Deny = []family.Denial{d}
	fam.Channels["prod"] = prod
	p.Family = &fam
	return p
}

// What nobody vouches for is one ailment of many: the others are found and cured, and it says how a person
// ends it.
func TestFsckGoesOnWhereNobodyVouchesForTheLedger(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	n, _, err := p.Registry.Repository("metadata").Resolve(t.Context(), release.ChannelsTag)
	if err != nil {
		t.Fatal(err)
	}
	w.strip(t, "metadata", n)
	w.cache = t.TempDir() // another machine's
	fresh := w.pipeline(t, "ops")
	found, err := fresh.Examine(t.Context())
	if err != nil || len(found) != 1 || found[0].What != pipeline.Unvouched || !strings.Contains(found[0].Cure, "ops:refresh -early -apply") {
		t.Fatalf("%+v, %v", found, err)
	}
	w.apply(t, fresh, func() (pipeline.Change, error) { return fresh.PlanReissue(t.Context()) })
	if found, err = fresh.Examine(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("after a mover vouched for it: %+v, %v", found, err)
	}
}

// rootless verifies where the trusted root of movers is not to be had.
type rootless struct{ pipeline.Verifier }

func (rootless) VerifyMover([]byte, digest.Digest, string) (evidence.Statement, error) {
	return evidence.Statement{}, fault.New(fault.Environment, "reading", "trusted_root.json", "it is not there")
}
