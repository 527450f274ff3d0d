package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Channel operations one after the other, in the world of world_test.go: what each refuses, and
// that a refusal has written nothing.

// still fails the test if f writes anything to the registry or the ledger, or does not fail with
// the kind; no kind means that it must succeed.
func (w *world) still(t *testing.T, want fault.Kind, f func() error) error {
	t.Helper()
	writes, head := w.writes.Load(), w.book.head().ID
	err := f()
	if kind, _ := fault.KindOf(err); kind != want || (err == nil) != (want == 0) {
		t.Errorf("it ended with %v, want %v", err, want)
	}
	if n := w.writes.Load() - writes; n != 0 || w.book.head().ID != head {
		t.Errorf("it sent %d writes, and the ledger moved: %v", n, w.book.head().ID != head)
	}
	return err
}

// apply plans, sends the plan through a file, and applies it.
func (w *world) apply(t *testing.T, p *pipeline.Pipeline, plan func() (pipeline.Change, error)) release.Head {
	t.Helper()
	head, _, err := p.Apply(t.Context(), saved(t, w.plans(t, plan)))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.settled(t); err != nil {
		t.Fatal(err)
	}
	return head
}

// plans makes a plan, which writes nothing.
func (w *world) plans(t *testing.T, plan func() (pipeline.Change, error)) pipeline.Change {
	t.Helper()
	var change pipeline.Change
	err := w.still(t, 0, func() (err error) {
		change, err = plan()
		return err
	})
	if err != nil {
		t.FailNow()
	}
	return change
}

// saved is a plan that was kept in a file.
func saved(t *testing.T, c pipeline.Change) pipeline.Change {
	t.Helper()
	content, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var again pipeline.Change
	if err := json.Unmarshal(content, &again); err != nil {
		t.Fatal(err)
	}
	return again
}

func because(reason string) release.Moved {
	return release.Moved{By: "ops", Run: "7", Reason: reason}
}

func (w *world) promotion(channel, commit, version string) pipeline.Promotion {
	return pipeline.Promotion{Published: w.releases[commit], Channel: channel, Version: version, Moved: because("")}
}

// Rows A4, D7: a plan is good for the state that it was made for, and for no other.
func TestASavedPlanIsRefusedOnceAnythingMoved(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	plan := func() (pipeline.Change, error) {
		return p.PlanPromotion(t.Context(), w.book.head(), w.promotion("prod", second, ""))
	}
	apply := func(c pipeline.Change) func() error {
		return func() error { _, _, err := p.Apply(t.Context(), c); return err }
	}

	old := saved(t, w.plans(t, plan))
	was, vandal := w.releases[first].Record.Members()["app"], w.releases[origin].Record.Members()["app"]
	w.put(t, "app", "prod", vandal)
	err := w.still(t, fault.Conflict, apply(old))
	if !strings.Contains(err.Error(), was.Digest.String()) || !strings.Contains(err.Error(), vandal.Digest.String()) {
		t.Errorf("A4: the refusal does not show what was expected, %s, and what is there, %s: %v", was.Digest, vandal.Digest, err)
	}

	w.put(t, "app", "prod", was)
	if _, _, err := p.Apply(t.Context(), old); err != nil {
		t.Fatalf("the plan as it was made: %v", err)
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
	if err := w.still(t, 0, apply(old)); err != nil {
		t.Errorf("the same plan again, which is done: %v", err)
	}
	w.promote(t, p, "dev", second)
	err = w.still(t, fault.Conflict, apply(old))
	if head := w.book.head(); !strings.Contains(err.Error(), old.Expects) || !strings.Contains(err.Error(), head.ID) {
		t.Errorf("D7: the refusal does not show the ledger's heads, %s and %s: %v", old.Expects, head.ID, err)
	}

	forged := old
	forged.Tags, forged.Expects, forged.Generation = nil, w.book.head().ID, w.book.head().Document.Generation
	w.still(t, fault.Invalid, apply(forged))
}

// Row A5, and everything else that a promotion refuses.
func TestAPromotionIsRefusedBeforeItWritesAnything(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "dev", third)
	for name, test := range map[string]struct {
		promotion pipeline.Promotion
		want      fault.Kind
	}{
		"A5 an older run behind a newer one":          {w.promotion("dev", second, ""), fault.Conflict},
		"A5 a commit beside the served one":           {w.promotion("dev", fork, ""), fault.Conflict},
		"a channel that the family does not have":     {w.promotion("stable", third, ""), fault.Invalid},
		"a version that is none":                      {w.promotion("prod", second, "1.2"), fault.Invalid},
		"the release that is served: nothing to move": {w.promotion("dev", third, ""), 0},
	} {
		t.Run(name, func(t *testing.T) {
			w.still(t, test.want, func() error { _, err := p.Promote(t.Context(), test.promotion); return err })
			w.still(t, test.want, func() error { _, err := p.PlanPromotion(t.Context(), w.book.head(), test.promotion); return err })
		})
	}
}

func TestAChannelWithAnExplicitOrderTakesAHotfixAndSaysSo(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "hotfix", third)
	w.promote(t, p, "hotfix", fork)
	if s := w.book.head().Document.Channels["hotfix"]; s.Commit != fork || !s.Moved.Explicit {
		t.Errorf("the history says %+v, want the fork, explicitly", s)
	}
}

// Row C11: what cannot be served any more is no way back.
func TestARollbackGoesWhereEverythingIsStillThere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		harm func(*testing.T, *world)
		want fault.Kind
	}{
		"C11 a platform manifest was pruned": {func(t *testing.T, w *world) {
			w.vanish(t, "app", w.releases[second].Record.Images["app"].Platforms["linux/amd64"].Digest)
		}, fault.Refused},
		"C11 the record was pruned": {func(t *testing.T, w *world) {
			w.vanish(t, "metadata", w.releases[second].Node.Digest)
		}, fault.Unverified},
		"C11 the evidence of an index is gone": {func(t *testing.T, w *world) {
			w.vanish(t, "app", w.shown("app", fallbackTag(w.releases[second].Record.Images["app"].Index)))
		}, fault.Unverified},
		"C11 somebody marked it bad": {func(t *testing.T, w *world) {
			p := w.pipeline(t, "ops")
			w.promote(t, p, "dev", second)
			w.apply(t, p, func() (pipeline.Change, error) {
				return p.PlanRollback(t.Context(), "dev", "", because("it leaks"), true)
			})
		}, fault.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newStage(t)
			p := w.pipeline(t, "ops")
			w.promote(t, p, "prod", second)
			w.promote(t, p, "prod", third)
			test.harm(t, w)
			for _, to := range []string{second, "sha-" + second, w.releases[second].Node.Digest.String()} {
				w.still(t, test.want, func() error {
					_, err := p.PlanRollback(t.Context(), "prod", to, because("C11"), false)
					return err
				})
			}
			head := w.apply(t, p, func() (pipeline.Change, error) { return p.PlanRollback(t.Context(), "prod", "", because("C11"), false) })
			if got := head.Document.Channels["prod"]; got.Commit != first || got.Hold == "" {
				t.Errorf("without a name it went to %.4s, held by %q; want %.4s, held", got.Commit, got.Hold, first)
			}
		})
	}
}

// fallbackTag is where a registry without a referrers API lists them: distribution specification
// v1.1.1, "Referrers Tag Schema".
func fallbackTag(n graph.Node) string { return strings.Replace(n.Digest.String(), ":", "-", 1) }

// People copy what a table shows, which is the beginning of a commit.
func TestTheBeginningOfACommitNamesARelease(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	for _, name := range []string{third[:7], "sha-" + third[:12], third} {
		if pub, _, err := p.Find(t.Context(), w.book.head(), name); err != nil || pub.Record.Source.Commit != third {
			t.Errorf("%s is %.4s, %v", name, pub.Record.Source.Commit, err)
		}
	}
	for name, want := range map[string]fault.Kind{third[:6]: fault.Invalid, "abcdef1": fault.Invalid, unbuilt[:8]: fault.Unverified} {
		if _, _, err := p.Find(t.Context(), w.book.head(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	for to, want := range map[string]fault.Kind{origin[:7]: 0, "sha-" + first[:12]: 0, second[:7]: fault.Conflict, third[:7]: fault.Unverified} {
		err := w.still(t, want, func() error { _, err := p.PlanRollback(t.Context(), "prod", to, because("C11"), false); return err })
		if want == 0 && err != nil {
			t.Errorf("back to %s: %v", to, err)
		}
	}
	alike := w.candidate(third)
	alike.Record.Source.Commit = first[:7] + third[:33]
	m := because("alike")
	m.At = w.now
	document, _, err := release.PlanPromote(w.book.head(), w.fam.Name, "prod", alike, m)
	w.write(t, document, err)
	err = w.still(t, fault.Invalid, func() error {
		_, err := p.PlanRollback(t.Context(), "prod", first[:7], because("C11"), false)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), first) {
		t.Errorf("what may be two is answered with %v", err)
	}
}

func TestARollbackSticksUntilTheHoldEnds(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	w.still(t, fault.Invalid, func() error { _, err := p.PlanRollback(t.Context(), "prod", "", because(""), true); return err })
	for to, want := range map[string]fault.Kind{second: fault.Conflict, third: fault.Unverified} { // it is served; it never was
		w.still(t, want, func() error { _, err := p.PlanRollback(t.Context(), "prod", to, because("C11"), false); return err })
	}
	w.apply(t, p, func() (pipeline.Change, error) {
		return p.PlanRollback(t.Context(), "prod", "", because("it leaks"), true)
	})

	promote := func(commit string) func() error {
		return func() error { _, err := p.Promote(t.Context(), w.promotion("prod", commit, "")); return err }
	}
	w.still(t, fault.Conflict, promote(third))
	w.apply(t, p, func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "prod", because("mended"), false) })
	w.still(t, fault.Refused, promote(second))
	w.still(t, fault.Refused, func() error { _, err := p.Promote(t.Context(), w.promotion("dev", second, "")); return err })
	if err := promote(third)(); err != nil {
		t.Errorf("after the hold, a release that nobody denied: %v", err)
	}
	w.apply(t, p, func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "prod", because("Friday"), true) })
	w.still(t, 0, promote(third)) // it is served
	again := w.plans(t, func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "prod", because("Friday"), true) })
	if !again.Empty() {
		t.Errorf("holding a held channel for the same reason plans %v", again)
	}
}

// Nobody can sign: the channel moves all the same, consumers who verify stay where they were, and
// whoever can sign next brings them after.
func TestABreakglassChangeIsSignedLater(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	broken := w.pipeline(t, "ops")
	broken.Signer = func(context.Context) (pipeline.Signer, error) {
		return nil, fault.New(fault.Environment, "signing", "anything", "the service is down")
	}
	signed := w.plans(t, func() (pipeline.Change, error) {
		return broken.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
	})
	if _, _, err := broken.Apply(t.Context(), signed); !errors.Is(err, fault.Environment) {
		t.Errorf("without -breakglass it ended with %v", err)
	}
	if err := w.settled(t); err != nil || w.book.head().ID != signed.Expects {
		t.Errorf("what could not be signed has changed something: %v", err)
	}

	emergency := because("the site is down")
	emergency.Unsigned = true
	was := w.shown("metadata", release.ChannelsTag)
	change := w.plans(t, func() (pipeline.Change, error) { return broken.PlanRollback(t.Context(), "prod", "", emergency, false) })
	head, _, err := broken.Apply(t.Context(), change)
	if err != nil {
		t.Fatal(err)
	}
	if !head.Document.Unsigned() || head.Document.Channels["prod"].Commit != origin {
		t.Errorf("the ledger says %+v, want origin, unsigned", head.Document.Channels["prod"])
	}
	for member, want := range head.Document.Channels["prod"].Members {
		if got := w.shown(member, "prod"); got != want {
			t.Errorf("%s:prod shows %s, want %s", member, got, want)
		}
	}
	for _, tag := range []string{release.ChannelsTag, "prod", "dev"} {
		if got := w.shown("metadata", tag); got != was {
			t.Errorf("metadata:%s shows %s before anybody signed it, want %s", tag, got, was)
		}
	}
	if _, moved, err := broken.Converge(t.Context()); err != nil || len(moved) > 0 {
		t.Errorf("reconciling without a signer moved %v, %v", moved, err)
	}

	waiting := w.plans(t, func() (pipeline.Change, error) { return broken.PlanReconcile(t.Context()) })
	if steps := waiting.Steps(); len(waiting.Tags) != 5 || !strings.HasPrefix(steps[0], "sign the channels document") {
		t.Errorf("while nobody has signed it plans %q", steps)
	}
	for _, m := range waiting.Tags {
		if !strings.HasPrefix(m.Drift, "nobody has signed") {
			t.Errorf("while nobody has signed, %s", m)
		}
	}
	reconcile := func() error { _, _, err := broken.Apply(t.Context(), waiting); return err }
	if err := w.still(t, fault.Environment, reconcile); !errors.Is(err, pipeline.ErrNotMover) {
		t.Errorf("who may not sign is told %v", err)
	}
	w.put(t, "base", "prod", w.releases[third].Record.Members()["base"])
	if err := reconcile(); !errors.Is(err, fault.Partial) || !errors.Is(err, pipeline.ErrNotMover) || !strings.Contains(err.Error(), "1 tags moved") {
		t.Errorf("who may not sign and has put another tag right is told %v", err)
	}

	p := w.pipeline(t, "ops")
	late := w.plans(t, func() (pipeline.Change, error) { return p.PlanReconcile(t.Context()) })
	if _, moved, err := p.Apply(t.Context(), late); err != nil || len(moved) != 5 || len(late.Tags) != 5 { // dev, nightly, prod, gen-N, channels
		t.Errorf("reconciling with a signer moved %v, %v", moved, err)
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

func TestAVersionNamesOneReleaseForEver(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	promote := func(channel, commit, version string) func() error {
		return func() error { _, err := p.Promote(t.Context(), w.promotion(channel, commit, version)); return err }
	}
	if err := promote("prod", second, "v1.0.0")(); err != nil {
		t.Fatal(err)
	}
	for member, n := range w.releases[second].Record.Members() {
		if got := w.shown(member, "v1.0.0"); got != n.Digest {
			t.Errorf("%s:v1.0.0 shows %s, want %s", member, got, n.Digest)
		}
	}
	if got := w.shown("metadata", "v1.0.0"); got != w.releases[second].Node.Digest {
		t.Errorf("metadata:v1.0.0 shows %s, want the record", got)
	}
	w.still(t, 0, promote("prod", second, "v1.0.0"))
	w.still(t, fault.Immutable, promote("prod", third, "v1.0.0"))
	w.still(t, fault.Immutable, promote("dev", third, "v1.0.0"))
	w.put(t, "payload", "v2.0.0", w.releases[first].Record.Members()["payload"])
	w.still(t, fault.Immutable, promote("prod", third, "v2.0.0"))

	// Somebody committed v3.0.0 and died before any tag was written.
	m := because("")
	m.At = w.now
	document, _, err := release.PlanPromote(w.book.head(), w.fam.Name, "nightly", release.Candidate{
		Record: w.releases[second].Record, Digest: w.releases[second].Node.Digest, Version: "v3.0.0",
	}, m)
	if err != nil {
		t.Fatal(err)
	}
	w.dies(t, document)
	w.still(t, fault.Immutable, promote("prod", third, "v3.0.0"))
}

// dies signs a document and commits it, and does nothing more.
func (w *world) dies(t *testing.T, document release.Document) {
	t.Helper()
	p := w.pipeline(t, "ops")
	content, err := document.Encode()
	if err != nil {
		t.Fatal(err)
	}
	p.Ledger = deadly{ledgerPort{w, "ops"}}
	head := w.book.head()
	_, _, err = p.Apply(t.Context(), pipeline.Change{Family: w.fam.Name, Expects: head.ID, Generation: head.Document.Generation, Document: content})
	if !errors.Is(err, errDied) {
		t.Fatalf("it ended with %v", err)
	}
}

// deadly is a ledger whose user dies as soon as the commit is made.
type deadly struct{ ledgerPort }

var errDied = errors.New("killed")

func (d deadly) Append(ctx context.Context, after release.Head, content []byte, message string) (release.Head, error) {
	if _, err := d.ledgerPort.Append(ctx, after, content, message); err != nil {
		return release.Head{}, err
	}
	return release.Head{}, errDied
}

func TestARetagGivesTheFamilyAFreeNameAndNoOther(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	for name, to := range map[string]string{
		"a channel": "prod", "a channel that serves nothing": "hotfix", "a version": "v1.2.3", "a commit": "sha-" + first,
		"the document": release.ChannelsTag, "a generation": "gen-3", "no tag": "a/b", "evidence": "sha256-" + strings.Repeat("0", 64),
	} {
		t.Run(name, func(t *testing.T) {
			w.still(t, fault.Invalid, func() error { _, err := p.PlanRetag(t.Context(), "prod", to); return err })
		})
	}
	w.still(t, fault.Unverified, func() error { _, err := p.PlanRetag(t.Context(), "nobody", "demo"); return err })

	plan := func() (pipeline.Change, error) { return p.PlanRetag(t.Context(), "prod", "demo") }
	change := saved(t, w.plans(t, plan))
	for name, edit := range map[string]func(*pipeline.Change, *pipeline.TagMove){
		"another release": func(_ *pipeline.Change, m *pipeline.TagMove) { m.To = w.releases[fork].Record.Members()[m.Member] },
		"another name":    func(_ *pipeline.Change, m *pipeline.TagMove) { m.Tag.Tag = "latest" },
		"another source":  func(c *pipeline.Change, _ *pipeline.TagMove) { c.From = "dev" },
		"no source":       func(c *pipeline.Change, _ *pipeline.TagMove) { c.From = "" },
	} {
		t.Run("a saved plan with "+name, func(t *testing.T) {
			edited := saved(t, change)
			edit(&edited, &edited.Tags[0])
			want := fault.Conflict
			if edited.From == "" {
				want = fault.Invalid
			}
			w.still(t, want, func() error { _, _, err := p.ApplySaved(t.Context(), edited); return err })
		})
	}
	if _, done, err := p.ApplySaved(t.Context(), change); err != nil || len(done) != len(w.releases[first].Record.Members()) {
		t.Fatalf("Retag = %v, %v", done, err)
	}
	for member, n := range w.releases[first].Record.Members() {
		if got := w.shown(member, "demo"); got != n.Digest {
			t.Errorf("%s:demo shows %s, want %s", member, got, n.Digest)
		}
	}
	if again := w.plans(t, plan); !again.Empty() {
		t.Errorf("the same again plans %v", again)
	}
	w.promote(t, p, "prod", second)
	change = w.plans(t, plan)
	w.put(t, "base", "demo", w.releases[origin].Record.Members()["base"])
	w.still(t, fault.Conflict, func() error { _, _, err := p.ApplySaved(t.Context(), change); return err })
}

func TestARegistryWithHistoryIsAdoptedFromItsTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.pipeline(t, "ops")
	w.still(t, fault.Unverified, func() error { _, err := p.PlanAdopt(t.Context(), because("")); return err })
	for member, n := range w.releases[second].Record.Members() {
		w.put(t, member, "prod", n)
		w.put(t, member, "nightly", n)
	}
	w.put(t, "app", "nightly", w.releases[first].Record.Members()["app"]) // half of another release
	var adoption pipeline.Adoption
	head := w.apply(t, p, func() (c pipeline.Change, err error) {
		adoption, err = p.PlanAdopt(t.Context(), because("we begin"))
		return adoption.Change, err
	})
	if got := head.Document; got.Generation != 1 || len(got.Channels) != 1 || got.Channels["prod"].Record != w.releases[second].Node.Digest {
		t.Errorf("generation 1 is %+v, want prod at the second release", got)
	}
	if len(adoption.Unproved) != 3 || adoption.Unproved["nightly"] == "" {
		t.Errorf("not proved are %v, want dev, hotfix and nightly", adoption.Unproved)
	}
	w.still(t, fault.Conflict, func() error { _, err := p.PlanAdopt(t.Context(), because("")); return err })
	w.promote(t, p, "prod", third)
}

// A record that this login may not read is no reason to take another: it may be the right one.
func TestWhatMayNotBeReadIsNotPassedOver(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	w.promote(t, p, "prod", third)
	p.Registry = closed{p.Registry, w.releases[second].Node.Digest}
	w.still(t, fault.Environment, func() error {
		_, err := p.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
		return err
	})
	w.book.heads = nil
	w.still(t, fault.Environment, func() error { _, err := p.PlanAdopt(t.Context(), because("")); return err })
}

// closed is a registry that does not let this login read one manifest.
type closed struct {
	pipeline.Registry
	digest digest.Digest
}

func (c closed) Repository(name string) pipeline.Repository {
	return closedRepository{c.Registry.Repository(name), c.digest}
}

type closedRepository struct {
	pipeline.Repository
	digest digest.Digest
}

func (c closedRepository) ByDigest(ctx context.Context, d digest.Digest) (graph.Node, bool, error) {
	if d == c.digest {
		return graph.Node{}, false, fault.New(fault.Environment, "reading", d.String(), "this login may not")
	}
	return c.Repository.ByDigest(ctx, d)
}

func TestARefreshIssuesTheSameDocumentAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.pipeline(t, "ops")
	w.still(t, fault.Conflict, func() error { _, err := p.PlanRefresh(t.Context()); return err })
	w.promote(t, p, "prod", first)
	before := w.book.head().Document
	w.now = before.Expires.Add(-31 * 24 * time.Hour)
	if early := w.plans(t, func() (pipeline.Change, error) { return p.PlanRefresh(t.Context()) }); !early.Empty() || !strings.Contains(early.Summary, "not needed until "+before.RefreshAt().Format(time.DateOnly)) {
		t.Errorf("31 days before its end a refresh plans %v", early)
	}
	if early := w.plans(t, func() (pipeline.Change, error) { return p.PlanReissue(t.Context()) }); len(early.Document) == 0 {
		t.Errorf("asked for all the same, it plans %v", early)
	}
	w.now = w.now.Add(24 * time.Hour)
	head := w.apply(t, p, func() (pipeline.Change, error) { return p.PlanRefresh(t.Context()) })
	if got := head.Document; !got.Expires.Equal(w.now.Add(90*24*time.Hour)) || got.Generation != before.Generation+1 || len(got.Changed()) != 0 {
		t.Errorf("the document is %d, expires %s and changed %v", got.Generation, got.Expires, got.Changed())
	}
}
