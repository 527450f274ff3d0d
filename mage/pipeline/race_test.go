package pipeline_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// The race matrix: two or three people move channels at once. Each has a pipeline and a client of
// their own; a schedule that rapid draws says whose request reaches the registry, or the ledger,
// next. After every write the world is looked at as a consumer sees it, and at the end it must be
// as if the winners had come one after the other.
//
// A failure prints the moves and the schedule, and with them -rapid.seed=… to see it again. Which of
// the requests that one mover sends at once comes first is not the schedule's to say.

// interleavings is how many schedules a test draws; with CONTAINAI_DEEP as many as the issue asks.
func interleavings(t *testing.T, ordinary, many int) {
	t.Helper()
	n, seed := ordinary, "1" // the same ones every time
	if deep() {
		n, seed = many, "0" // others every time
	}
	setFlag(t, "rapid.checks", "100", fmt.Sprint(n))
	setFlag(t, "rapid.seed", "0", seed)
	setFlag(t, "rapid.nofailfile", "false", "true")
}

// setFlag sets a flag of rapid's for one test, unless somebody gave it.
func setFlag(t *testing.T, name, unset, value string) {
	t.Helper()
	was := flag.Lookup(name).Value.String()
	if was != unset {
		return
	}
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := flag.Set(name, was); err != nil {
			t.Error(err)
		}
	})
}

// roundsPerWorld is how many races one world sees: its history grows with each.
const roundsPerWorld = 100

func TestRacesEndAsIfTheWinnersHadComeOneAfterTheOther(t *testing.T) {
	interleavings(t, 60, 2_100)
	raceOver(t, func() *world { return newStage(t) })
}

// The embedded registry writes to a disk, so it sees fewer.
func TestRacesOnTheEmbeddedRegistryEndAlike(t *testing.T) {
	if !deep() {
		t.Skip("it waits for the disk: mage testDeep runs it")
	}
	interleavings(t, 0, 150)
	raceOver(t, func() *world {
		served, _ := serveState(t, t.TempDir())
		w := newWorldBefore(t, served, pair, origin, first, second, third, fork)
		w.begin(t)
		return w
	})
}

func raceOver(t *testing.T, newWorld func() *world) {
	var w *world
	sum := tally{}
	rapid.Check(t, func(rt *rapid.T) {
		if sum["races"]%roundsPerWorld == 0 {
			w = w.renewed(newWorld)
		}
		moves := rapid.SliceOfN(drawMove(fmt.Sprintf("v1.%d.0", sum["races"])), 2, 3).Draw(rt, "moves")
		turns := drawTurns(len(moves)).Draw(rt, "schedule")
		w.restore(t)
		sum["races"]++
		if err := w.run(t, sum, moves, turns); err != nil {
			rt.Fatal(err)
		}
	})
	t.Log(sum)
}

// Tags that somebody moved, and a document that was committed before anybody signed it, are put
// right by however many reconcile at once.
func TestTwoWhoReconcileAtOncePutEverythingRight(t *testing.T) {
	interleavings(t, 15, 400)
	var w *world
	sum := tally{}
	rapid.Check(t, func(rt *rapid.T) {
		if sum["races"]%roundsPerWorld == 0 {
			w = w.renewed(func() *world { return newStage(t) })
		}
		drifted := rapid.SliceOfN(drawDrift(w), 0, 5).Draw(rt, "drifted tags")
		unsigned := rapid.Bool().Draw(rt, "unsigned")
		turns := drawTurns(2).Draw(rt, "schedule")
		w.restore(t)
		if unsigned {
			w.commitUnsigned(t)
		}
		for _, d := range drifted {
			w.put(t, d.member, d.tag, w.releases[origin].Record.Members()[d.member])
		}
		sum["races"]++
		if err := w.run(t, sum, []move{{what: "reconcile"}, {what: "reconcile"}}, turns); err != nil {
			rt.Fatal(err)
		}
	})
	t.Log(sum)
}

// tally counts what happened in all races.
type tally map[string]int

func (s tally) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, fmt.Sprintf("%s: %d", what, s[what]))
	}
	return strings.Join(parts, ", ")
}

// move is what somebody wants.
type move struct {
	what, channel, commit string
	version               string // which everybody in a race wants who wants one
}

func (m move) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %.4s %s", m.what, m.channel, m.commit, m.version))
}

func drawMove(version string) *rapid.Generator[move] {
	return rapid.Custom(func(t *rapid.T) move {
		m := move{
			what:    rapid.SampledFrom([]string{"promote", "release", "promote", "rollback", "hold", "refresh", "reconcile"}).Draw(t, "what"),
			channel: rapid.SampledFrom([]string{"dev", "prod"}).Draw(t, "channel"), // nightly must stay where it is
		}
		if m.what == "promote" || m.what == "release" {
			m.commit = rapid.SampledFrom([]string{second, third, fork, first, origin}).Draw(t, "commit")
			m.version = rapid.SampledFrom([]string{"", "", version}).Draw(t, "version")
		}
		return m
	})
}

type drift struct{ member, tag string }

func drawDrift(w *world) *rapid.Generator[drift] {
	members := slices.Sorted(maps.Keys(w.releases[origin].Record.Members()))
	return rapid.Custom(func(t *rapid.T) drift {
		return drift{rapid.SampledFrom(members).Draw(t, "member"), rapid.SampledFrom([]string{"dev", "nightly", "prod"}).Draw(t, "tag")}
	})
}

// turn lets so many of a mover's requests through.
type turn struct{ mover, calls int }

func (t turn) String() string { return fmt.Sprintf("%d×%d", t.mover, t.calls) }

// drawTurns draws a schedule: single steps, and turns in which a whole command runs while the others
// stand still (a promotion sends about a hundred contended requests). When it ends, everybody still
// there goes in turn.
func drawTurns(movers int) *rapid.Generator[[]turn] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) turn {
		return turn{rapid.IntRange(0, movers-1).Draw(t, "mover"), rapid.SampledFrom([]int{1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144}).Draw(t, "calls")}
	}), 0, 30)
}

// renewed ends a world, if there is one, and begins another.
func (w *world) renewed(next func() *world) *world {
	if w != nil {
		w.server.Close()
	}
	return next()
}

// newStage is a world whose three channels served origin, and now first.
func newStage(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.begin(t)
	return w
}

func (w *world) begin(t *testing.T) {
	t.Helper()
	m := because("the beginning")
	m.At = w.now
	for _, channel := range stageChannels() {
		document, _, err := release.PlanPromote(w.book.head(), w.fam.Name, channel, w.candidate(origin), m)
		w.write(t, document, err)
	}
	w.restore(t)
}

func stageChannels() []string { return []string{"dev", "nightly", "prod"} }

// write commits a document and does nothing more: no signature, no tag.
func (w *world) write(t *testing.T, document release.Document, err error) {
	t.Helper()
	content, encodeErr := document.Encode()
	if err := errors.Join(err, encodeErr); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.append("operator", w.book.head(), content); err != nil {
		t.Fatal(err)
	}
}

func (w *world) promote(t *testing.T, p *pipeline.Pipeline, channel, commit string) pipeline.Outcome {
	t.Helper()
	out, err := p.Promote(t.Context(), pipeline.Promotion{Published: w.releases[commit], Channel: channel, Moved: release.Moved{By: "operator", Run: "1"}})
	if err != nil {
		t.Fatalf("promoting %s to %.4s: %v", channel, commit, err)
	}
	return out
}

// restore takes every channel to where each race begins: it serves first, and is not held.
func (w *world) restore(t *testing.T) {
	t.Helper()
	m := because("the next race")
	m.At = w.now
	for _, channel := range stageChannels() {
		state := func() release.State { return w.book.head().Document.Channels[channel] }
		if state().Commit != first && state().Commit != origin {
			document, err := release.PlanRollback(w.book.head(), channel, w.candidate(origin).State(), m, false)
			w.write(t, document, err)
		}
		if state().Hold != "" {
			document, _, err := release.PlanUnhold(w.book.head(), channel, m)
			w.write(t, document, err)
		}
		if state().Commit != first {
			document, _, err := release.PlanPromote(w.book.head(), w.fam.Name, channel, w.candidate(first), m)
			w.write(t, document, err)
		}
	}
	document, err := release.PlanRefresh(w.book.head(), w.now)
	w.write(t, document, err)
	p := w.pipeline(t, "operator")
	err = p.SignHead(t.Context(), w.book.head())
	if err == nil {
		_, _, err = p.Converge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) candidate(commit string) release.Candidate {
	pub := w.releases[commit]
	return release.Candidate{Record: pub.Record, Digest: pub.Node.Digest}
}

// commitUnsigned leaves a ledger as -breakglass does that died before it moved a tag.
func (w *world) commitUnsigned(t *testing.T) {
	t.Helper()
	m := release.Moved{Reason: "nobody can sign", At: w.now, Unsigned: true}
	document, err := release.PlanRollback(w.book.head(), "prod", w.candidate(origin).State(), m, false)
	w.write(t, document, err)
}

// result is how one mover ended.
type result struct {
	move
	moved bool
	err   error
}

// run makes moves at once, in the order of a schedule, and judges what came of it.
func (w *world) run(t *testing.T, sum tally, moves []move, turns []turn) error {
	before := w.book.head()
	r := newRace(len(moves))
	w.race.Store(r)
	results := make([]result, len(moves))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	for i, m := range moves {
		p := w.pipeline(t, moverName(i))
		group.Go(func() {
			defer r.end(moverName(i))
			results[i] = w.make(ctx, p, moverName(i), m)
		})
	}
	watch := watcher{world: w, reader: w.pipeline(t, reader), sum: sum, head: before}
	err := r.play(turns, watch.look)
	if err != nil {
		cancel()
	}
	r.stop()
	group.Wait()
	w.race.Store(nil)
	defer w.server.CloseClientConnections() // the movers' clients are not used again
	sum["calls"] += len(r.log)
	if err == nil {
		err = errors.Join(w.judge(sum, before, r, results), w.settled(t))
	}
	if err != nil {
		return fmt.Errorf("%w\nmoves %v, schedule %v, in this order:\n  %s", err, moves, turns, strings.Join(r.written(), "\n  "))
	}
	return nil
}

func moverName(i int) string { return fmt.Sprintf("mover-%d", i) }

// make does what a mover wants, as the commands do.
func (w *world) make(ctx context.Context, p *pipeline.Pipeline, who string, m move) result {
	moved := release.Moved{By: who, Run: "1", Reason: "as the test says"}
	apply := func(c pipeline.Change, err error) result {
		if err == nil {
			_, _, err = p.Apply(ctx, c)
		}
		return result{m, err == nil && len(c.Document) > 0, err}
	}
	switch m.what {
	case "promote":
		out, err := p.Promote(ctx, pipeline.Promotion{Published: w.releases[m.commit], Channel: m.channel, Version: m.version, Moved: moved})
		return result{m, out.Moved, err}
	case "release":
		out, err := p.Release(ctx, w.plan(m.commit), pipeline.Order{Channel: m.channel, Version: m.version, Until: pipeline.UntilPromote, Moved: moved})
		return result{m, out.Outcome.Moved, err}
	case "rollback":
		return apply(p.PlanRollback(ctx, m.channel, "sha-"+origin, moved, false))
	case "hold":
		return apply(p.PlanHold(ctx, m.channel, moved, true))
	case "refresh":
		return apply(p.PlanReissue(ctx))
	}
	_, _, err := p.Converge(ctx)
	return result{m, false, err}
}

// judge compares how the movers ended with what the ledger says.
func (w *world) judge(sum tally, before release.Head, r *race, results []result) error {
	heads, writers := w.book.since(before.Document.Generation)
	sum["generations"] += len(heads)
	for i, got := range results {
		who := moverName(i)
		won := slices.Contains(writers, who)
		sum[fmt.Sprintf("%s %v", got.what, kindName(got.err))]++
		switch {
		case got.err == nil && won != got.moved && got.what != "refresh": // two of the same second are one document
			return fmt.Errorf("%s says that it moved the channel: %v; the ledger says %v", got, got.moved, won)
		case got.err == nil && got.commit != "" && w.overtaken(who, got.channel, before):
			return fmt.Errorf("%s moved a channel that somebody else had moved since it was read", got)
		case got.err == nil:
		case won:
			return fmt.Errorf("%s, whose generation is in the ledger, ended with: %w", got, got.err)
		case !w.mayLose(got, who, heads, writers):
			return fmt.Errorf("%s, in whose way nobody was, ended with: %w", got, got.err)
		case r.named(who, w.fam.Channels, w.releases[got.commit].Record):
			return fmt.Errorf("%s lost, and had moved a channel's tag to its release", got)
		}
	}
	return nil
}

// overtaken reports whether a mover lost a generation, since a head, to one that changed its channel.
func (w *world) overtaken(who, channel string, before release.Head) bool {
	heads, _ := w.book.since(0)
	return slices.ContainsFunc(w.book.losses, func(l loss) bool {
		return l.who == who && l.after >= before.Document.Generation && slices.ContainsFunc(heads[l.after:l.found], func(h release.Head) bool {
			return slices.Contains(h.Document.Changed(), channel)
		})
	})
}

// mayLose reports whether somebody else's generation explains how a mover ended: a saved plan loses
// to any, a promotion to one of its own channel, or to a version that is another release's now.
func (w *world) mayLose(got result, who string, heads []release.Head, writers []string) bool {
	kind, _ := fault.KindOf(got.err)
	if kind == fault.Conflict && got.commit == origin {
		return true // first, which was served, is newer
	}
	for i, h := range heads {
		for _, channel := range append(h.Document.Changed(), "") {
			s := h.Document.Channels[channel]
			lost := kind == fault.Conflict && (got.commit == "" || channel == got.channel)
			taken := kind == fault.Immutable && got.version != "" && s.Version == got.version && s.Commit != got.commit
			if writers[i] != who && (lost || taken) {
				return true
			}
		}
	}
	return false
}

func kindName(err error) string {
	if err == nil {
		return "done"
	}
	kind, _ := fault.KindOf(err)
	return kind.Error()
}

// settled demands that every tag shows what the ledger's head says, without anybody reconciling,
// and that the ledger's chain holds.
func (w *world) settled(t *testing.T) error {
	head := w.book.head()
	for channel, state := range head.Document.Channels {
		for member, want := range state.Members {
			for _, tag := range []string{channel, cmp.Or(state.Version, channel)} {
				if got := w.shown(member, tag); got != want {
					return fmt.Errorf("at the end %s:%s shows %s, the ledger says %s", member, tag, got, want)
				}
			}
		}
	}
	document := w.shown("metadata", release.GenerationTag(head.Document.Generation))
	for _, tag := range append(head.Document.Names(), release.ChannelsTag) {
		if got := w.shown("metadata", tag); got != document || got == "" {
			return fmt.Errorf("at the end metadata:%s shows %s, the newest document is %s", tag, got, document)
		}
	}
	p := w.pipeline(t, reader)
	served, err := readShown(t.Context(), p, document)
	if err != nil || served.Generation != head.Document.Generation {
		return fmt.Errorf("at the end consumers see generation %d, the ledger is at %d: %w", served.Generation, head.Document.Generation, err)
	}
	change, err := p.PlanReconcile(t.Context())
	if err != nil || !change.Empty() {
		return fmt.Errorf("at the end there is something to reconcile: %v, %w", change, err)
	}
	return w.chained(head)
}

// chained follows the ledger's last generations.
func (w *world) chained(head release.Head) error {
	followed := 0
	for _, err := range release.Chain(w.book.history()) {
		if err != nil {
			return err
		}
		if followed++; followed == 30 { // what no race changes any more was followed before
			return nil
		}
	}
	return nil
}

// watcher looks at the world after every write.
type watcher struct {
	*world
	reader *pipeline.Pipeline
	sum    tally
	head   release.Head  // of the ledger, when it looked last
	shows  digest.Digest // metadata:channels, when it looked last
	newest uint64        // generation that consumers were shown
}

func (w *watcher) look(ctx context.Context) error {
	if now := w.book.head(); now.ID != w.head.ID {
		if err := forwards(w.head.Document, now.Document); err != nil {
			return err
		}
		w.head = now
	}
	shows := w.shown("metadata", release.ChannelsTag)
	if shows == w.shows {
		return nil
	}
	w.shows = shows
	document, err := readShown(ctx, w.reader, shows)
	if err != nil {
		return fmt.Errorf("consumers are shown what they cannot trust: %w", err)
	}
	if document.Generation < w.newest {
		w.sum["channels tag went back for a moment"]++
	}
	w.newest = max(w.newest, document.Generation)
	return w.unmixed(document)
}

// forwards refuses a generation that a channel may not have taken.
func forwards(was, now release.Document) error {
	if now.Generation != was.Generation+1 || len(now.Changed()) > 1 {
		return fmt.Errorf("generation %d follows %d and changes %v at once", now.Generation, was.Generation, now.Changed())
	}
	for _, channel := range now.Names() {
		from, to := was.Channels[channel], now.Channels[channel]
		switch changed := to.Generation == now.Generation; {
		case !changed && (to.Record != from.Record || to.Hold != from.Hold):
			return fmt.Errorf("generation %d changes %s on the side", now.Generation, channel)
		case !changed:
		case to.Moved.Action == release.Promoted && from.Hold != "":
			return fmt.Errorf("generation %d promotes %s, which was held: %s", now.Generation, channel, from.Hold)
		case to.Moved.Action == release.Promoted && !descends(to.Commit, from.Commit):
			return fmt.Errorf("generation %d takes %s backwards, from %.4s to %.4s", now.Generation, channel, from.Commit, to.Commit)
		case to.Moved.Action == release.RolledBack && to.Hold == "":
			return fmt.Errorf("generation %d rolls %s back and does not hold it", now.Generation, channel)
		}
	}
	return nil
}

// unmixed demands that each channel names one release's members and no others.
func (w *watcher) unmixed(document release.Document) error {
	for channel, state := range document.Channels {
		pub := w.releases[state.Commit]
		members := map[string]digest.Digest{}
		for name, n := range pub.Record.Members() {
			members[name] = n.Digest
		}
		if state.Record != pub.Node.Digest || state.Tag != pub.Record.Source.Tag() || !maps.Equal(members, state.Members) {
			return fmt.Errorf("generation %d mixes releases in %s: %+v", document.Generation, channel, state)
		}
	}
	return nil
}

// readShown reads a channels document as a consumer does: by its digest, strictly, and signed.
func readShown(ctx context.Context, p *pipeline.Pipeline, d digest.Digest) (release.Document, error) {
	repo := p.Registry.Repository("metadata")
	n, found, err := repo.ByDigest(ctx, d)
	if err != nil || !found {
		return release.Document{}, errors.Join(err, fmt.Errorf("%s is there: %v", d, found))
	}
	claims := []release.Claim{{Member: "metadata", Subject: n, Predicate: evidence.Signature}}
	proved, err := pipeline.Collect(ctx, p.Registry, p.Verifier, claims, "", nil)
	if err != nil || len(proved.Missing(claims)) > 0 {
		return release.Document{}, errors.Join(err, fmt.Errorf("nobody signed %s", d))
	}
	return pipeline.ReadDocument(ctx, repo, n)
}
