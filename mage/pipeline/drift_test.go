package pipeline_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Plans and what becomes of them: tags that drifted, files that somebody changed, signatures of
// somebody else.

// What is foreseen, and planned for tags that drifted, is what then happens.
func TestWhatIsForeseenIsWhatHappens(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	foresee := func(commit string) (steps []string) {
		w.still(t, 0, func() (err error) {
			steps, err = p.Foresee(t.Context(), w.plan(commit), pipeline.Order{Channel: "prod"})
			return err
		})
		return steps
	}
	if steps := foresee(first); len(steps) != 0 {
		t.Errorf("of what is served it foresees %v", steps)
	}
	if steps := foresee(unbuilt); len(steps) != 4 {
		t.Errorf("of what was never built it foresees %v", steps)
	}
	w.still(t, fault.Invalid, func() error {
		_, err := p.Foresee(t.Context(), w.plan(unbuilt), pipeline.Order{Channel: "stable"})
		return err
	})
	steps := foresee(second)
	out := w.promote(t, p, "prod", second)
	if want := len(out.Moves) + 2; len(steps) != want { // the document, the ledger, the tags
		t.Errorf("it foresaw %d steps and took %d:\n%s", len(steps), want, strings.Join(steps, "\n"))
	}
	drifted := map[string]digest.Digest{}
	for _, member := range []string{"base", "payload"} {
		n := w.releases[origin].Record.Members()[member]
		drifted[member] = n.Digest
		w.put(t, member, "dev", n)
	}
	change := w.plans(t, func() (pipeline.Change, error) { return p.PlanReconcile(t.Context()) })
	for _, m := range change.Tags {
		if m.Tag.Tag != "dev" || m.From != drifted[m.Member] {
			t.Errorf("it plans %s", m)
		}
	}
	writes := w.writes.Load()
	if _, moved, err := p.Apply(t.Context(), change); err != nil || len(moved) != 2 || w.writes.Load()-writes != 2 {
		t.Errorf("reconciling moved %v with %d writes, %v; want exactly what drifted", moved, w.writes.Load()-writes, err)
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

// told is progress that is kept.
type told struct {
	silence
	mu    sync.Mutex
	notes []string
}

func (p *told) Note(stage, subject, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, stage+" "+subject+": "+detail)
}

func TestDriftIsExplained(t *testing.T) {
	t.Parallel()
	w := newStage(t) // its channels served origin, and now first
	p := w.pipeline(t, "ops")
	w.promote(t, p, "dev", second)
	for tag, commit := range map[string]string{"base:dev": first, "app:dev": origin, "payload:dev": third} {
		member, tag, _ := strings.Cut(tag, ":")
		w.put(t, member, tag, w.releases[commit].Record.Members()[member])
	}
	change := w.plans(t, func() (pipeline.Change, error) { return p.PlanReconcile(t.Context()) })
	got := map[string]string{}
	for _, m := range change.Tags {
		_, got[m.Member+":"+m.Tag.Tag], _ = strings.Cut(m.Drift, ": ")
	}
	want := map[string]string{
		"base:dev":    "a move was interrupted, or somebody else took it back",
		"app:dev":     "somebody else took it back",
		"payload:dev": "somebody else moved it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
}

// A release begins by putting right what it finds, in every channel, and says so; where nothing
// drifted it writes nothing.
func TestAReleaseBeginsByReconciling(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	p.History = history{w.plan(first).Source}
	notes := &told{}
	p.Progress = notes
	release := func() error {
		_, err := p.Release(t.Context(), w.plan(first), pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: because("")})
		return err
	}
	w.still(t, 0, release)
	w.put(t, "base", "prod", w.releases[third].Record.Members()["base"])
	if err := errors.Join(release(), w.settled(t)); err != nil {
		t.Error(err)
	}
	if len(notes.notes) != 1 || !strings.Contains(notes.notes[0], "base:prod") || !strings.Contains(notes.notes[0], "somebody else") {
		t.Errorf("it told %q, want base:prod alone", notes.notes)
	}
	w.put(t, "base", "prod", w.releases[third].Record.Members()["base"])
	p.History = history{w.plan(origin).Source}
	_, err := p.Release(t.Context(), w.plan(origin), pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: because("")})
	if !errors.Is(err, fault.Conflict) {
		t.Errorf("releasing an older commit ended with %v", err)
	}
	if err := w.settled(t); err != nil {
		t.Errorf("a release that was refused has put nothing right: %v", err)
	}
}

// A plan in a file is not believed: whatever somebody writes into it is planned again.
func TestASavedPlanThatSomebodyChangedIsRefused(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	edit := func(c pipeline.Change, change func(*release.Document)) pipeline.Change {
		d, err := release.DecodeDocument(c.Document)
		if err != nil {
			t.Fatal(err)
		}
		change(&d)
		if c.Document, err = d.Encode(); err != nil {
			t.Fatal(err)
		}
		return saved(t, c)
	}
	state := func(channel string, change func(*release.State)) func(*release.Document) {
		return func(d *release.Document) {
			s := d.Channels[channel]
			change(&s)
			d.Channels[channel] = s
		}
	}
	promotion := w.plans(t, func() (pipeline.Change, error) {
		return p.PlanPromotion(t.Context(), w.book.head(), w.promotion("prod", third, ""))
	})
	back := w.plans(t, func() (pipeline.Change, error) {
		return p.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
	})
	held := w.plans(t, func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "prod", because("Friday"), true) })
	fresh := w.plans(t, func() (pipeline.Change, error) { return p.PlanReissue(t.Context()) })
	for name, tt := range map[string]struct {
		change pipeline.Change
		want   fault.Kind
	}{
		"another member": {edit(promotion, state("prod", func(s *release.State) {
			s.Members["app"] = w.releases[fork].Record.Members()["app"].Digest
		})), fault.Forged},
		"another record":              {edit(promotion, state("prod", func(s *release.State) { s.Record = w.releases[fork].Node.Digest })), fault.Conflict}, // it does not descend
		"another channel on the side": {edit(promotion, state("dev", func(s *release.State) { s.Record = w.releases[fork].Node.Digest })), fault.Forged},
		"a rollback without its hold": {edit(back, state("prod", func(s *release.State) { s.Hold = "" })), fault.Forged},
		"a rollback to what was never served": {edit(back, state("prod", func(s *release.State) {
			s.Record = w.releases[third].Node.Digest
		})), fault.Unverified},
		"a hold that moves": {edit(held, state("prod", func(s *release.State) { s.Record = w.releases[third].Node.Digest })), fault.Forged},
		"a refresh that denies": {edit(fresh, func(d *release.Document) {
			d.Denied = map[digest.Digest]release.Denial{w.releases[second].Node.Digest: {Commit: second, Reason: "x", By: "x", At: w.now}}
		}), fault.Forged},
		"a refresh that lasts": {edit(fresh, func(d *release.Document) { d.Expires = d.Expires.AddDate(9, 0, 0) }), fault.Forged},
		"not JSON":             {func() pipeline.Change { c := saved(t, fresh); c.Document = []byte("{"); return c }(), fault.Forged},
		"a member of nobody": {func() pipeline.Change {
			c := saved(t, promotion)
			c.Tags[0].Member = "nobody"
			return c
		}(), fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			w.still(t, tt.want, func() error { _, _, err := p.ApplySaved(t.Context(), tt.change); return err })
		})
	}
	for name, c := range map[string]pipeline.Change{"a rollback": back} {
		if _, _, err := p.ApplySaved(t.Context(), saved(t, c)); err != nil {
			t.Errorf("%s as it was planned: %v", name, err)
		}
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

// Who may not move a channel writes nothing, not even a document that nobody would believe.
func TestAStrangersSignatureIsNotAttached(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := w.pipeline(t, "stranger")
	p.Signer = (&world{key: stranger}).signer(origin)
	err = w.still(t, fault.Environment, func() error {
		_, err := p.Promote(t.Context(), w.promotion("prod", second, ""))
		return err
	})
	if !errors.Is(err, pipeline.ErrNotMover) {
		t.Errorf("it ended with %v, want that nobody may sign", err)
	}
}

func TestARollbackSaysWhatTheEvidenceSaysChanges(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	change := w.plans(t, func() (pipeline.Change, error) {
		return p.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
	})
	want := []release.Difference{}
	for _, member := range []string{"app", "base", "payload"} {
		d := release.Difference{Member: member, Packages: []release.PackageChange{{Name: "lib", Before: "2222", After: "1111"}}, Introduced: []string{}, Fixed: []string{}}
		if member != "payload" { // which nobody scans
			d.Platform, d.Introduced, d.Fixed = "linux/amd64", []string{"LOW CVE-1111 in lib"}, []string{"LOW CVE-2222 in lib"}
		}
		want = append(want, d)
	}
	for i, d := range change.Differences {
		if d.SizeBefore == 0 || d.SizeAfter == 0 {
			t.Errorf("%s is %d bytes, then %d", d.Member, d.SizeBefore, d.SizeAfter)
		}
		change.Differences[i].SizeBefore, change.Differences[i].SizeAfter = 0, 0
	}
	if diff := cmp.Diff(want, change.Differences); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	again := w.plans(t, func() (pipeline.Change, error) { return saved(t, change), nil })
	if _, _, err := p.ApplySaved(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	w.still(t, fault.Conflict, func() error { // the same command again does not go back twice
		_, err := p.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
		return err
	})
}

// Row D7: a ledger that lost a generation does not take the tags back with it. Nothing moves, nothing
// is planned, and nothing is written, until the ledger is whole again.
func TestD7ALedgerThatWentBackIsNotFollowed(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	whole := w.book.heads
	p.History = history{w.plan(third).Source}
	for name, lost := range map[string][]release.Head{"a generation is lost": whole[:len(whole)-1], "all are lost": nil} {
		w.book.heads = lost
		for what, try := range map[string]func() error{
			"reconciling": func() error { _, _, err := p.Converge(t.Context()); return err },
			"releasing": func() error {
				_, err := p.Release(t.Context(), w.plan(third), pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: because("")})
				return err
			},
			"promoting":                              func() error { _, err := p.Promote(t.Context(), w.promotion("dev", third, "")); return err },
			"planning":                               func() error { _, err := p.PlanReconcile(t.Context()); return err },
			"refreshing":                             func() error { _, err := p.PlanReissue(t.Context()); return err },
			"breaking the glass for another channel": func() error { return w.breakGlass(t, p, "dev") },
		} {
			if lost == nil && what != "promoting" && what != "releasing" { // there is nothing to follow, nor to refresh
				continue
			}
			t.Run(name+", "+what, func(t *testing.T) {
				before, served := w.shown("metadata", release.ChannelsTag), w.shown("app", "prod")
				head := w.book.head()
				if err := try(); !errors.Is(err, fault.Forged) || fault.HintOf(err) == "" {
					t.Errorf("it ended with %v", err)
				}
				if w.shown("metadata", release.ChannelsTag) != before || w.shown("app", "prod") != served || w.book.head().ID != head.ID {
					t.Error("something moved")
				}
			})
		}
	}
	w.book.heads = whole
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

// What a careless cleaner took from one channel stops no other, nor its own way to a release that is whole.
func TestWhatOneChannelLostStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newStage(t)
	p := w.pipeline(t, "ops")
	w.promote(t, p, "prod", second)
	w.promote(t, p, "nightly", second)
	w.promote(t, p, "dev", third)
	w.vanish(t, "app", w.book.head().Document.Channels["dev"].Members["app"])
	notes := &told{}
	p.Progress = notes
	w.plans(t, func() (pipeline.Change, error) {
		return p.PlanPromotion(t.Context(), w.book.head(), w.promotion("hotfix", second, ""))
	})
	if len(notes.notes) != 1 || !strings.Contains(notes.notes[0], "app:dev") || !strings.Contains(notes.notes[0], "mage ops:fsck") {
		t.Errorf("it told %q, want app:dev alone", notes.notes)
	}
	w.still(t, fault.Refused, func() error { // what is lost goes into no other channel
		_, err := p.PlanPromotion(t.Context(), w.book.head(), w.promotion("hotfix", third, ""))
		return err
	})
	p.History = history{w.plan(second).Source}
	if _, err := p.Release(t.Context(), w.plan(second), pipeline.Order{Channel: "nightly", Until: pipeline.UntilPromote, Moved: because("")}); err != nil {
		t.Errorf("releasing to another channel: %v", err)
	}
	for _, plan := range []func() (pipeline.Change, error){
		func() (pipeline.Change, error) {
			return p.PlanRollback(t.Context(), "prod", "", because("it leaks"), false)
		},
		func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "dev", because("it is lost"), true) },
		func() (pipeline.Change, error) { return p.PlanHold(t.Context(), "dev", because("mended"), false) },
		func() (pipeline.Change, error) {
			return p.PlanRollback(t.Context(), "dev", "", because("it is lost"), false)
		},
	} {
		if _, _, err := p.Apply(t.Context(), w.plans(t, plan)); err != nil {
			t.Error(err)
		}
	}
	if err := w.settled(t); err != nil {
		t.Error(err)
	}
}

// breakGlass rolls a channel back with a document that nobody signs.
func (w *world) breakGlass(t *testing.T, p *pipeline.Pipeline, channel string) error {
	m := because("the site is down")
	m.Unsigned = true
	c, err := p.PlanRollback(t.Context(), channel, "", m, false)
	if err == nil {
		_, _, err = p.Apply(t.Context(), c)
	}
	return err
}
