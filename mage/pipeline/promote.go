package pipeline

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Outcome is what a promotion did.
type Outcome struct {
	Channel    string
	Generation uint64
	Entry      release.Entry
	Moves      []TagMove // tags that were moved
	Moved      bool      // false: the channel served this release already
	Reports    []evidence.Report
}

// Promotion is what is to be served, where, and why.
type Promotion struct {
	Published
	Channel string
	Version string // v1.2.3: also an immutable tag of every member; may be empty
	Moved   release.Moved
}

// Promote moves a channel to what was published, as one thing: preconditions, the signed
// document, the ledger entry (the commit), the tags, and a second look. Of several who move at
// once one wins each generation; the others plan again if their own channel stands where it stood.
func (p *Pipeline) Promote(ctx context.Context, pr Promotion) (Outcome, error) {
	var reports []evidence.Report
	var head release.Head
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		reports, err = p.admit(both, pr.Published, pr.Channel)
		return err
	})
	group.Go(func() (err error) {
		if head, err = p.Ledger.Head(both); err != nil {
			return err
		}
		return p.vouched(both, head)
	})
	if err := group.Wait(); err != nil {
		return Outcome{}, err
	}
	head, moves, moved, err := p.enter(ctx, head, pr)
	if err != nil {
		return Outcome{}, err
	}
	head, done, err := p.follow(ctx, head, moves)
	if err != nil {
		return Outcome{Channel: pr.Channel, Moved: moved, Moves: done}, partly(err, moved)
	}
	return Outcome{
		Channel: pr.Channel, Generation: head.Document.Generation, Entry: head.Document.Entry(pr.Channel),
		Moves: done, Moved: moved, Reports: reports,
	}, nil
}

// enter commits a promotion to the ledger, unless the channel serves it already, and returns the
// ledger's head and the tags that have to follow.
func (p *Pipeline) enter(ctx context.Context, head release.Head, pr Promotion) (now release.Head, moves []TagMove, moved bool, err error) {
	for range maxConverging {
		next, moves, err := p.planPromotion(ctx, head, pr)
		if err != nil || !moves {
			return head, nil, false, err
		}
		committed, tags, err := p.commit(ctx, head, next)
		if kind, _ := fault.KindOf(err); kind != fault.Conflict {
			return committed, tags, err == nil, err
		}
		now, readErr := p.Ledger.Head(ctx)
		if readErr == nil {
			readErr = p.vouched(ctx, now)
		}
		if readErr != nil {
			return head, nil, false, readErr
		}
		if !sameState(now.Document.Channels[pr.Channel], head.Document.Channels[pr.Channel]) {
			return now, nil, false, err
		}
		head = now
	}
	return head, nil, false, fault.New(fault.Conflict, "moving", pr.Channel, "other channels moved %d times meanwhile", maxConverging)
}

// sameState reports whether a channel was left alone between two documents.
func sameState(a, b release.State) bool {
	return a.Generation == b.Generation && a.Record == b.Record && a.Hold == b.Hold
}

// PlanPromotion says what Promote would do after head.
func (p *Pipeline) PlanPromotion(ctx context.Context, head release.Head, pr Promotion) (Change, error) {
	admitted := make(chan error, 1) // what is asked of the release has nothing to do with where tags stand
	go func() {
		_, err := p.admit(ctx, pr.Published, pr.Channel)
		admitted <- err
	}()
	c, err := p.planEntry(ctx, head, pr)
	if refused := <-admitted; refused != nil {
		return Change{}, refused
	}
	return c, err
}

// planEntry plans a promotion of a release, whether or not it is admitted.
func (p *Pipeline) planEntry(ctx context.Context, head release.Head, pr Promotion) (Change, error) {
	next, _, err := p.planPromotion(ctx, head, pr)
	if err != nil {
		return Change{}, err
	}
	served := head.Document.Channels[pr.Channel]
	return p.change(ctx, head, next, fmt.Sprintf("promote %s: %s → %s", pr.Channel, name(served), name(next.Channels[pr.Channel])))
}

// planPromotion is the next document of a promotion whose release was admitted.
func (p *Pipeline) planPromotion(ctx context.Context, head release.Head, pr Promotion) (release.Document, bool, error) {
	explicit, err := p.forwards(ctx, head.Document.Channels[pr.Channel], pr.Record.Source, pr.Channel)
	if err != nil {
		return release.Document{}, false, err
	}
	m := pr.Moved
	m.At, m.Explicit = p.Now(), explicit
	candidate := release.Candidate{Record: pr.Record, Digest: pr.Node.Digest, Version: pr.Version}
	next, moved, err := release.PlanPromote(head, p.Family.Name, pr.Channel, candidate, m)
	if err == nil && moved && pr.Version != "" {
		err = p.versionFree(ctx, next, pr)
	}
	return next, moved, err
}

// versionFree refuses a version that anything else has: in the registry, or in the ledger, where
// another mover may have committed it whose tags are still to come.
func (p *Pipeline) versionFree(ctx context.Context, next release.Document, pr Promotion) error {
	if err := release.CheckVersion(pr.Version); err != nil {
		return err
	}
	steps, err := release.Steps(p.Ledger.History(ctx), "")
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.State.Version == pr.Version && s.State.Record != pr.Node.Digest {
			return fault.New(fault.Immutable, "naming", pr.Version, "generation %d gave it to %s, in %s", s.Generation, s.State.Tag, s.Channel).
				WithHint("release under another version")
		}
	}
	next.Channels = map[string]release.State{pr.Channel: next.Channels[pr.Channel]}
	_, err = p.planTags(ctx, next, nil)
	return err
}

// name is how people call what a channel serves.
func name(s release.State) string {
	switch {
	case s.Version != "":
		return s.Version + " (" + s.Tag + ")"
	case s.Tag != "":
		return s.Tag
	}
	return "nothing"
}

// admit checks what must be true before a channel may name a record: it is whole, and the
// channel's gate accepts the attested reports, which it returns.
func (p *Pipeline) admit(ctx context.Context, pub Published, channel string) ([]evidence.Report, error) {
	found, claims, err := p.whole(ctx, pub, channel)
	if err != nil {
		return nil, err
	}
	reports, err := found.Reports(claims)
	if err != nil {
		return nil, err
	}
	_, err = p.Approve(release.Evidenced{Built: release.Built{Record: pub.Record}, Reports: reports}, channel)
	return reports, err
}

// whole proves that a release is complete in the registry, that all of its evidence verifies under the
// channel's policy, and that this denies none of it. It looks for the first two at once, and what is
// not there counts before what is not proved.
func (p *Pipeline) whole(ctx context.Context, pub Published, channel string) (Found, []release.Claim, error) {
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	for _, c := range claims {
		if err := p.permits(channel, c.Commit, c.Subject.Digest); err != nil {
			return nil, nil, err
		}
	}
	complete := make(chan error, 1)
	go func() { complete <- p.complete(ctx, pub.Record) }()
	found, missing, err := pub.proved, []release.Claim(nil), error(nil)
	if found == nil {
		found, missing, err = p.collect(ctx, claims, channel)
	}
	if lacking := <-complete; lacking != nil {
		return nil, nil, lacking
	}
	if err != nil {
		return nil, nil, err
	}
	if len(missing) > 0 {
		c := missing[0]
		return nil, nil, fault.New(fault.Unverified, "admitting", c.Member, "%d statements are missing, the first is %s of %s", len(missing), c.Predicate, c.Subject.Digest)
	}
	return found, claims, nil
}

// permits refuses what the family file takes back for a channel: its consumers will.
func (p *Pipeline) permits(channel, commit string, d digest.Digest) error {
	reason, denied := p.Family.Policy(channel).Denied(d, commit)
	if !denied || p.past {
		return nil
	}
	return fault.New(fault.Refused, "admitting", commit, "the family file denies it to %s: %s", channel, reason).
		WithHint("choose another release, or take it off the deny list in the family file")
}

// forwards refuses a commit that does not descend from what the channel serves, and of the same commit
// an earlier rebuild. A channel whose order is explicit takes it, and the history says so.
func (p *Pipeline) forwards(ctx context.Context, served release.State, src release.Source, channel string) (explicit bool, err error) {
	if served.Commit == "" {
		return false, nil
	}
	if n := release.RebuildOf(served.Tag); served.Commit == src.Commit && n > src.Rebuild && !p.Family.Channels[channel].Explicit {
		return false, &fault.Error{Op: "moving", Subject: channel, Kind: fault.Conflict, Err: fmt.Errorf("it serves rebuild %d of this commit, %s is before it", n, src.Tag()),
			Hint: "nothing needs to be done; or rebuild once more with -rebuild, or take the channel back with mage ops:rollback"}
	}
	if served.Commit == src.Commit {
		return release.RebuildOf(served.Tag) > src.Rebuild, nil
	}
	descends, err := p.History.Descends(ctx, src.Commit, served.Commit)
	if err != nil || descends {
		return false, err
	}
	if p.Family.Channels[channel].Explicit {
		return true, nil
	}
	return false, &fault.Error{Op: "moving", Subject: channel, Kind: fault.Conflict,
		Err:  fmt.Errorf("it serves %s, which is not an ancestor of %s", served.Commit, src.Commit),
		Hint: "a channel moves only forwards; release a commit that descends from the served one, or take the channel back with mage ops:rollback"}
}
