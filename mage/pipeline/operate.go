package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// PlanRollback plans the way back: to the release that to names (one that the channel served), or
// without one to the newest before the present that is still whole and verifies. What does not is
// passed over, and said so.
func (p *Pipeline) PlanRollback(ctx context.Context, channel, to string, m release.Moved, bad bool) (Change, error) {
	head, steps, err := release.Past(p.Ledger.History(ctx), channel)
	if err != nil {
		return Change{}, err
	}
	ways, err := waysBack(head, steps, channel, to)
	if err != nil {
		return Change{}, err
	}
	m.At = p.Now()
	for _, s := range ways {
		c, useless, err := p.planBack(ctx, head, channel, s, m, bad)
		switch {
		case err != nil:
			return Change{}, err
		case useless == nil:
			return c, nil
		case to != "", errors.Is(useless, fault.Interrupted), errors.Is(useless, fault.Unavailable), errors.Is(useless, fault.Environment):
			return Change{}, useless
		}
		p.Progress.Note("rollback", channel, "passing over "+name(s)+": "+useless.Error())
	}
	return Change{}, fault.New(fault.Unverified, "rolling back", channel, "no earlier release is whole and verifies").
		WithHint("name one with -to=, or release a commit that repairs it")
}

// waysBack lists where a channel can go back to: the one that is named among all it ever served, or
// the way that it came.
func waysBack(head release.Head, steps []release.Step, channel, to string) ([]release.State, error) {
	served, ok := head.Document.Channels[channel]
	if ok && to != "" {
		if err := oneCommit(steps, channel, to); err != nil {
			return nil, err
		}
	}
	switch {
	case !ok:
		return nil, fault.New(fault.Conflict, "rolling back", channel, "it never served anything")
	case to != "" && named(served, to):
		return nil, fault.New(fault.Conflict, "rolling back", channel, "it serves %s already", name(served))
	case to == "" && served.Moved.Action == release.RolledBack && served.Hold != "": // run again, it would go back twice
		return nil, fault.New(fault.Conflict, "rolling back", channel, "generation %d rolled it back to %s, and it is held", served.Generation, name(served)).
			WithHint("mage ops:reconcile -apply finishes a rollback that was interrupted; -to=… names a release further back")
	case to == "":
		return release.Trail(steps)[1:], nil
	}
	for _, s := range steps {
		if named(s.State, to) {
			return []release.State{s.State}, nil
		}
	}
	return nil, fault.New(fault.Unverified, "rolling back", channel, "it never served %s", to).WithHint("mage ops:history -channel=%s shows what it served", channel)
}

// oneCommit refuses the beginning of a commit that more than one begins with, of those a channel served.
func oneCommit(steps []release.Step, channel, to string) error {
	commits := map[string]bool{}
	for _, s := range steps {
		if named(s.State, to) {
			commits[s.State.Commit] = true
		}
	}
	if len(commits) < 2 {
		return nil
	}
	return fault.New(fault.Invalid, "rolling back", channel, "%s may be %s", to, strings.Join(slices.Sorted(maps.Keys(commits)), " or "))
}

// planBack plans the way back to one release. At the same time it is proved, which may find it useless,
// and compared with what is served.
func (p *Pipeline) planBack(ctx context.Context, head release.Head, channel string, to release.State, m release.Moved, bad bool) (c Change, useless, err error) {
	served := head.Document.Channels[channel]
	proved, compared := make(chan error, 1), make(chan []release.Difference, 1)
	go func() { proved <- p.stillGood(ctx, head, channel, to) }()
	go func() { compared <- p.compare(ctx, served.Record, to.Record) }()
	next, err := release.PlanRollback(head, channel, to, m, bad)
	if err == nil {
		c, err = p.change(ctx, head, next, fmt.Sprintf("roll %s back: %s → %s", channel, name(served), name(to)))
	}
	c.Differences = <-compared
	if useless := <-proved; useless != nil {
		return Change{}, useless, nil
	}
	return c, nil, err
}

// stillGood proves that what a channel served can be served again.
func (p *Pipeline) stillGood(ctx context.Context, head release.Head, channel string, s release.State) error {
	if err := head.Document.Admits(s.Record); err != nil {
		return err
	}
	pub, err := p.Load(ctx, s.Record)
	if err != nil {
		return err
	}
	if is := (release.Candidate{Record: pub.Record, Digest: pub.Node.Digest}).State(); is.Commit != s.Commit || is.Tag != s.Tag || !maps.Equal(is.Members, s.Members) {
		return fault.New(fault.Forged, "reading record", s.Record.String(), "it names other digests than the ledger")
	}
	if err := head.Document.AdmitsImages(pub.Record); err != nil {
		return err
	}
	_, _, err = p.whole(ctx, pub, channel)
	return err
}

// named reports whether people mean a channel's state by a name.
func named(s release.State, to string) bool {
	generation, err := strconv.ParseUint(strings.TrimPrefix(to, "gen-"), 10, 64)
	return to == s.Version || to == s.Commit || to == s.Tag || to == s.Record.String() || err == nil && generation == s.Generation ||
		shortened(to) != "" && strings.HasPrefix(s.Commit, shortened(to))
}

// PlanHold plans to freeze a channel, or to let it move again.
func (p *Pipeline) PlanHold(ctx context.Context, channel string, m release.Moved, hold bool) (Change, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Change{}, err
	}
	plan, what := release.PlanUnhold, "let "+channel+" move again"
	if hold {
		plan, what = release.PlanHold, "hold "+channel+": "+m.Reason
	}
	m.At = p.Now()
	next, _, err := plan(head, channel, m)
	if err != nil {
		return Change{}, err
	}
	return p.change(ctx, head, next, what)
}

// PlanRefresh plans to issue the channels document anew when it is near its end; before, nothing. A
// schedule runs it, so that it signs nothing which no mover vouches for.
func (p *Pipeline) PlanRefresh(ctx context.Context) (Change, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Change{}, err
	}
	if from := head.Document.RefreshAt(); head.ID != "" && p.Now().Before(from) {
		c := Change{Family: p.Family.Name, Expects: head.ID, Generation: head.Document.Generation}
		c.Summary = fmt.Sprintf("refresh the channels document: not needed until %s, it expires on %s", from.Format(time.DateOnly), head.Document.Expires.Format(time.DateOnly))
		return c, nil
	}
	return p.planReissue(ctx, head, p.change)
}

// PlanReissue plans to issue the channels document anew, however long it would still last, and whoever
// committed it: so a person who has looked at the history vouches for a ledger whose signature was lost,
// or whose movers are no longer those of the family file.
func (p *Pipeline) PlanReissue(ctx context.Context) (Change, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Change{}, err
	}
	c, err := p.planReissue(ctx, head, p.changeUnvouched)
	c.Vouches = err == nil
	return c, err
}

// planner is how a change from a head is planned: asking who vouches for the head, or not.
type planner func(ctx context.Context, head release.Head, next release.Document, summary string) (Change, error)

func (p *Pipeline) planReissue(ctx context.Context, head release.Head, change planner) (Change, error) {
	next, err := release.PlanRefresh(head, p.Now())
	if err != nil {
		return Change{}, err
	}
	return change(ctx, head, next, fmt.Sprintf("refresh the channels document until %s", next.Expires.Format(time.DateOnly)))
}

// Adoption is a plan to begin a ledger, and what could not be proved about what it takes over.
type Adoption struct {
	Change
	Unproved map[string]string `json:"unproved"` // channel → why
}

// PlanAdopt plans generation 1 for a registry that served channels before it had a ledger: every
// channel whose tag shows the images of one published record.
func (p *Pipeline) PlanAdopt(ctx context.Context, m release.Moved) (Adoption, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Adoption{}, err
	}
	found, unproved := map[string]release.Candidate{}, map[string]string{}
	for _, channel := range slices.Sorted(maps.Keys(p.Family.Channels)) {
		candidate, err := p.adoptable(ctx, channel)
		switch {
		case errors.Is(err, fault.Interrupted), errors.Is(err, fault.Unavailable), errors.Is(err, fault.Environment):
			return Adoption{}, err
		case err != nil:
			unproved[channel] = err.Error()
		default:
			found[channel] = candidate
		}
	}
	m.At = p.Now()
	next, err := release.PlanAdopt(head, p.Family.Name, found, m)
	if err != nil {
		return Adoption{Unproved: unproved}, err
	}
	c, err := p.change(ctx, head, next, fmt.Sprintf("begin the ledger with %s", strings.Join(next.Names(), ", ")))
	return Adoption{Change: c, Unproved: unproved}, err
}

// adoptable finds the record that a channel's tags show: some sha- tag of the metadata repository
// whose record names exactly what every member's tag shows.
func (p *Pipeline) adoptable(ctx context.Context, channel string) (release.Candidate, error) {
	shown, err := p.shown(ctx, channel)
	if err != nil {
		return release.Candidate{}, err
	}
	tags, err := p.metadata().Tags(ctx)
	if err != nil {
		return release.Candidate{}, err
	}
	for _, tag := range tags {
		if !strings.HasPrefix(tag, "sha-") {
			continue
		}
		node, _, err := p.metadata().Resolve(ctx, tag)
		if err != nil {
			return release.Candidate{}, err
		}
		pub, err := p.Load(ctx, node.Digest)
		switch kind, _ := fault.KindOf(err); {
		case kind == fault.Forged, kind == fault.Unverified, kind == fault.Refused, err == nil && !serves(pub.Record, shown):
			continue // no record of ours, or another
		case err != nil:
			return release.Candidate{}, err
		}
		_, _, err = p.whole(ctx, pub, channel)
		return release.Candidate{Record: pub.Record, Digest: pub.Node.Digest}, err
	}
	return release.Candidate{}, fault.New(fault.Unverified, "adopting", channel, "no record names what its tags show")
}

// shown reads what a tag shows on every member but the metadata artifact.
func (p *Pipeline) shown(ctx context.Context, tag string) (map[string]digest.Digest, error) {
	shown := map[string]digest.Digest{}
	for _, member := range p.Family.Members() {
		if member == p.Family.ArtifactOf(family.Metadata) {
			continue
		}
		node, found, err := p.Registry.Repository(member).Resolve(ctx, tag)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fault.New(fault.Unverified, "reading", member+":"+tag, "there is no such tag")
		}
		shown[member] = node.Digest
	}
	return shown, nil
}

func serves(r release.Record, shown map[string]digest.Digest) bool {
	members := r.Members()
	for member, d := range shown {
		if members[member].Digest != d {
			return false
		}
	}
	return len(members) == len(shown)
}

// PlanRetag plans to give the whole family another movable name. Channels and immutable names have
// their own commands.
func (p *Pipeline) PlanRetag(ctx context.Context, from, to string) (Change, error) {
	if err := p.freeName(to); err != nil {
		return Change{}, err
	}
	if _, err := ref.ParseTag(from); err != nil {
		return Change{}, err
	}
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Change{}, err
	}
	shown, err := p.shown(ctx, from)
	if err != nil {
		return Change{}, err
	}
	c := Change{Family: p.Family.Name, Summary: retagging(from, to), From: from, Expects: head.ID, Generation: head.Document.Generation}
	for _, member := range p.Family.Members() {
		if d, ok := shown[member]; ok {
			m, err := p.planTag(ctx, wanted{member: member, tag: to, to: d, phase: imagePhase}, nil)
			if err != nil {
				return Change{}, err
			}
			if m != nil {
				c.Tags = append(c.Tags, *m)
			}
		}
	}
	return c, nil
}

func retagging(from, to string) string { return "retag " + from + " as " + to }

// freeName refuses tags that mean something else.
func (p *Pipeline) freeName(tag string) error {
	if _, err := ref.ParseTag(tag); err != nil {
		return err
	}
	refuse := func(why, hint string) error {
		return fault.New(fault.Invalid, "retagging", tag, "%s", why).WithHint("%s", hint)
	}
	switch _, channel := p.Family.Channels[tag]; {
	case channel:
		return refuse("it is a channel", "mage ops:promote -channel="+tag+" moves it")
	case release.CheckVersion(tag) == nil, strings.HasPrefix(tag, "sha-"):
		return refuse("it is an immutable name", "mage release:prod -version="+tag+" gives it once")
	case tag == release.ChannelsTag, strings.HasPrefix(tag, "gen-"):
		return refuse("it belongs to the channels document", "choose another name")
	}
	return nil
}

// retags reports whether a change gives free names alone, of which the ledger knows nothing.
func (p *Pipeline) retags(c Change) bool {
	return len(c.Document) == 0 && len(c.Tags) > 0 &&
		!slices.ContainsFunc(c.Tags, func(m TagMove) bool { return p.freeName(m.Tag.Tag) != nil })
}
