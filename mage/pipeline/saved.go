package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// ApplySaved is Apply for a plan that was kept in a file, where anybody may have written to it: what
// it does has to be what planning it again says, with every precondition asked again. The time of the
// plan stays, so the document is the same to the byte, or was not planned here.
func (p *Pipeline) ApplySaved(ctx context.Context, c Change) (release.Head, []TagMove, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return release.Head{}, nil, err
	}
	switch {
	case p.retags(c):
		err = p.retagAgain(ctx, c)
	case len(c.Document) > 0 && head.ID == c.Expects:
		err = p.planAgain(ctx, head, c)
	default:
		err = p.vouched(ctx, head)
	}
	if err != nil {
		return release.Head{}, nil, err
	}
	return p.Apply(ctx, c)
}

// retagAgain refuses a saved retag that gives another name than it says, or anything but what its old
// name shows now.
func (p *Pipeline) retagAgain(ctx context.Context, c Change) error {
	if _, err := ref.ParseTag(c.From); err != nil {
		return err
	}
	shown, err := p.shown(ctx, c.From)
	if err != nil {
		return err
	}
	for _, m := range c.Tags {
		if m.To.Digest != shown[m.Member] || c.Summary != retagging(c.From, m.Tag.Tag) {
			return fault.New(fault.Conflict, "applying", c.Summary, "%s is not what %s:%s shows, under the name that was planned", m, m.Member, c.From).WithHint("plan again")
		}
	}
	return nil
}

// planAgain refuses a saved document that planning does not come to.
func (p *Pipeline) planAgain(ctx context.Context, head release.Head, c Change) error {
	saved, err := release.DecodeDocument(c.Document)
	if err == nil && (len(saved.Changed()) > 0 || !c.Vouches) {
		err = p.vouched(ctx, head)
	}
	if err != nil {
		return err
	}
	same, err := p.comesTo(ctx, head, saved, c.Document)
	if err == nil && !same {
		err = fault.New(fault.Forged, "applying", c.Summary, "planned again, the document of generation %d is another one", saved.Generation).
			WithHint("the plan was changed after it was made: plan again")
	}
	return err
}

// comesTo reports whether planning what a document says that it does, from the head before it, comes to
// the same bytes.
func (p *Pipeline) comesTo(ctx context.Context, head release.Head, d release.Document, content []byte) (bool, error) {
	again, err := p.derive(ctx, head, d)
	if err != nil {
		return false, err
	}
	planned, err := again.Encode()
	return bytes.Equal(planned, content), err
}

// derive plans what a document says that it does: from its head, by the same person, at the same time.
func (p *Pipeline) derive(ctx context.Context, head release.Head, saved release.Document) (release.Document, error) {
	changed := saved.Changed()
	switch {
	case len(changed) == 0:
		return release.PlanRefresh(head, saved.Issued)
	case saved.Channels[changed[0]].Moved.Action == release.Adopted:
		return p.deriveAdoption(ctx, head, saved)
	}
	channel := changed[0]
	s := saved.Channels[channel]
	m := s.Moved
	switch m.Action {
	case release.Held:
		next, _, err := release.PlanHold(head, channel, m)
		return next, err
	case release.Released:
		next, _, err := release.PlanUnhold(head, channel, m)
		return next, err
	}
	if m.Action == release.RolledBack {
		return p.deriveRollback(ctx, head, saved, channel)
	}
	pub, err := p.Load(ctx, s.Record)
	if err != nil {
		return release.Document{}, err
	}
	if _, err := p.admit(ctx, pub, channel); err != nil {
		return release.Document{}, err
	}
	then := *p
	then.Now = func() time.Time { return m.At }
	next, _, err := then.planPromotion(ctx, head, Promotion{Published: pub, Channel: channel, Version: s.Version, Moved: m})
	return next, err
}

// deriveRollback looks through the channel's history again, and proves again where it goes back to.
func (p *Pipeline) deriveRollback(ctx context.Context, head release.Head, saved release.Document, channel string) (release.Document, error) {
	s := saved.Channels[channel]
	steps, err := release.Steps(p.Ledger.History(ctx), channel)
	if err != nil {
		return release.Document{}, err
	}
	steps = slices.DeleteFunc(steps, func(s release.Step) bool { return s.Generation > head.Document.Generation }) // its own, if it is in the ledger
	ways, err := waysBack(head, steps, channel, cmp.Or(s.Version, s.Record.String()))
	if err != nil {
		return release.Document{}, err
	}
	if err := p.stillGood(ctx, head, channel, ways[0]); err != nil {
		return release.Document{}, err
	}
	return release.PlanRollback(head, channel, ways[0], s.Moved, len(saved.Denied) > len(head.Document.Denied))
}

// deriveAdoption looks at the registry's tags again.
func (p *Pipeline) deriveAdoption(ctx context.Context, head release.Head, saved release.Document) (release.Document, error) {
	found := map[string]release.Candidate{}
	for _, channel := range saved.Names() {
		candidate, err := p.adoptable(ctx, channel)
		if err != nil {
			return release.Document{}, err
		}
		found[channel] = candidate
	}
	return release.PlanAdopt(head, p.Family.Name, found, saved.Channels[saved.Names()[0]].Moved)
}
