package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Change is a planned change of a channel: what the ledger must still say, the document that
// comes next, and the tags that follow it. Printing it is the plan, [Pipeline.Apply] does it, and
// nothing else. A Change without a document only moves tags.
type Change struct {
	Family     string    `json:"family"`
	Summary    string    `json:"summary"`
	Expects    string    `json:"expects"`    // id of the ledger's head; empty for an empty ledger
	Generation uint64    `json:"generation"` // of that head
	Document   []byte    `json:"document,omitempty"`
	Tags       []TagMove `json:"tags"`
	From       string    `json:"from,omitempty"`    // the name whose digests a retag gives
	Signs      bool      `json:"signs,omitempty"`   // the head's document, which nobody has signed yet
	Vouches    bool      `json:"vouches,omitempty"` // for a head that no mover vouches for: a person has looked at it

	Differences []release.Difference `json:"differences,omitempty"` // of what is served, for whoever decides

	seen *release.Head // what this process planned after; nil when the plan comes from a file
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Document) == 0 && len(c.Tags) == 0 && !c.Signs }

// Steps says what Apply will do, one line each, in order.
func (c Change) Steps() []string {
	var steps []string
	if len(c.Document) > 0 {
		next, err := release.DecodeDocument(c.Document)
		steps = append(steps, documentStep(c.Generation+1, err == nil && next.Unsigned()), ledgerStep(c.Generation+1, c.Expects))
	}
	if c.Signs {
		steps = append(steps, fmt.Sprintf("sign the channels document of generation %d, as one of its movers", c.Generation))
	}
	for _, m := range c.Tags {
		steps = append(steps, m.String())
	}
	return steps
}

func (c Change) String() string { return c.Summary + "\n  " + strings.Join(c.Steps(), "\n  ") }

func documentStep(generation uint64, unsigned bool) string {
	if unsigned {
		return fmt.Sprintf("push the channels document of generation %d, which nobody signs yet", generation)
	}
	return fmt.Sprintf("push and sign the channels document of generation %d", generation)
}

func ledgerStep(generation uint64, after string) string {
	return fmt.Sprintf("commit generation %d to the ledger, after %s", generation, orEmpty(after))
}

func orEmpty(id string) string {
	if id == "" {
		return "nothing"
	}
	return id
}

// change plans the way from a head, which a mover vouches for, to the next document; a document that is
// the head's own plans only the tags that drifted.
func (p *Pipeline) change(ctx context.Context, head release.Head, next release.Document, summary string) (Change, error) {
	vouched := make(chan error, 1)
	go func() { vouched <- p.vouched(ctx, head) }()
	c, err := p.changeUnvouched(ctx, head, next, summary)
	if refused := <-vouched; refused != nil {
		return Change{}, refused
	}
	return c, err
}

func (p *Pipeline) changeUnvouched(ctx context.Context, head release.Head, next release.Document, summary string) (Change, error) {
	c := Change{Family: p.Family.Name, Summary: summary, Expects: head.ID, Generation: head.Document.Generation, seen: &head}
	content := head.Content
	if next.Generation != head.Document.Generation {
		var err error
		if content, err = next.Encode(); err != nil {
			return Change{}, err
		}
		c.Document = content
	}
	if len(content) == 0 {
		return c, nil
	}
	node, err := documentNode(content)
	if err != nil {
		return Change{}, err
	}
	shown, plan := shownNode(next, node), p.planTags
	if len(c.Document) == 0 {
		shown, plan = &node, p.planDrift // converging signs it, if nobody has yet
	}
	if c.Tags, err = plan(ctx, next, shown); err == nil {
		err = p.notAhead(ctx, head, c.Tags, shown)
	}
	if err != nil {
		return Change{}, p.overtaken(ctx, head, err)
	}
	return c, nil
}

// shownNode is the manifest that the metadata artifact's tags will show: none while nobody has signed it.
func shownNode(d release.Document, node graph.Node) *graph.Node {
	if d.Unsigned() {
		return nil
	}
	return &node
}

// overtaken explains why a plan cannot be made: what looks like an overwritten tag may be another
// mover's next generation, or one that the ledger has lost.
func (p *Pipeline) overtaken(ctx context.Context, head release.Head, cause error) error {
	err := p.notAhead(ctx, head, nil, nil)
	now, unread := p.Ledger.Head(ctx) // after the tag: what is ahead of it then, the ledger has lost
	switch {
	case unread != nil:
		return cause
	case now.ID == head.ID && errors.Is(err, errAhead):
		return err
	case now.ID == head.ID:
		return cause
	}
	return fault.New(fault.Conflict, "planning for", p.Family.Name, "the ledger moved from generation %d to %d meanwhile", head.Document.Generation, now.Document.Generation).
		WithHint("plan again")
}

// Apply does what a change says, or refuses with fault.Conflict, and has changed nothing, when
// the ledger or a tag is no longer where the plan saw it. A change that was committed and not
// finished, by a run that was killed, is finished.
func (p *Pipeline) Apply(ctx context.Context, c Change) (release.Head, []TagMove, error) {
	if c.Family != p.Family.Name {
		return release.Head{}, nil, fault.New(fault.Invalid, "applying", c.Summary, "the plan is for family %q, this is %q", c.Family, p.Family.Name)
	}
	if c.seen != nil {
		return p.carryOut(ctx, *c.seen, c)
	}
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return release.Head{}, nil, err
	}
	if len(c.Document) > 0 && bytes.Equal(head.Content, c.Document) {
		return p.converge(ctx, head)
	}
	if head.ID != c.Expects {
		return release.Head{}, nil, fault.New(fault.Conflict, "applying", c.Summary, "the plan expects the ledger at generation %d (%s), it is at %d (%s)",
			c.Generation, orEmpty(c.Expects), head.Document.Generation, orEmpty(head.ID)).WithHint("plan again")
	}
	if err := p.checkTags(ctx, c.Tags); err != nil {
		return release.Head{}, nil, err
	}
	return p.carryOut(ctx, head, c)
}

// carryOut does what a change says, which was planned after head.
func (p *Pipeline) carryOut(ctx context.Context, head release.Head, c Change) (release.Head, []TagMove, error) {
	if p.retags(c) {
		moved, err := p.moveTags(ctx, c.Tags)
		return head, moved, partly(err, len(moved) > 0)
	}
	if len(c.Document) == 0 {
		return p.catchUp(ctx, head, c.Signs)
	}
	next, err := release.DecodeDocument(c.Document)
	if err != nil {
		return head, nil, err
	}
	if next.Previous != head.Digest() || next.Family != p.Family.Name {
		return head, nil, fault.New(fault.Invalid, "applying", c.Summary, "its document is of family %q and follows %s, not the ledger's", next.Family, next.Previous)
	}
	head, moves, err := p.commit(ctx, head, next)
	if err != nil {
		return release.Head{}, nil, err
	}
	head, moved, err := p.follow(ctx, head, moves)
	return head, moved, partly(err, true)
}

// commit pushes and signs the document, then makes it the ledger's newest entry: from then on the
// channel has moved. It returns the tags that have to follow. A document that is marked unsigned is
// signed by a later [Pipeline.Converge].
func (p *Pipeline) commit(ctx context.Context, head release.Head, next release.Document) (release.Head, []TagMove, error) {
	content, err := next.Encode()
	if err != nil {
		return release.Head{}, nil, err
	}
	node, err := documentNode(content)
	if err != nil {
		return release.Head{}, nil, err
	}
	step := documentStep(next.Generation, next.Unsigned())
	p.Progress.Start("promote", step)
	var moves []TagMove
	var group errgroup.Group // without a context of its own: what the signer starts outlives it
	group.Go(func() error { return p.publishDocument(ctx, node, next, content) })
	group.Go(func() (err error) {
		shown := shownNode(next, node)
		if moves, err = p.planTags(ctx, next, shown); err == nil {
			err = p.notAhead(ctx, head, moves, shown)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return release.Head{}, nil, p.overtaken(ctx, head, err)
	}
	p.Progress.Done("promote", step, "")
	step = ledgerStep(next.Generation, head.ID)
	p.Progress.Start("promote", step)
	committed, err := p.Ledger.Append(ctx, head, content, next.Summary())
	if err == nil {
		p.Progress.Done("promote", step, "as "+committed.ID)
	}
	return committed, moves, err
}

// publishDocument signs a document, pushes it and attaches the signature. Who cannot sign sends
// nothing. A run that was killed may have done all of it: then there is nothing to do.
func (p *Pipeline) publishDocument(ctx context.Context, node graph.Node, d release.Document, content []byte) error {
	if d.Unsigned() {
		return p.pushDocument(ctx, content)
	}
	var bundle evidence.Bundle
	var document parcel
	var group errgroup.Group // without a context of its own: what the signer starts outlives it
	group.Go(func() (err error) {
		bundle, err = p.signDocument(ctx, node, d)
		return err
	})
	group.Go(func() (err error) {
		document, err = p.lookForDocument(ctx, content)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if document.there {
		if signed, err := p.isSigned(ctx, node, d); err != nil || signed {
			return err
		}
	}
	group = errgroup.Group{}
	group.Go(func() error { return p.send(ctx, document) })
	group.Go(func() error { // attaching finds it there
		_, err := graph.PushBytes(ctx, p.metadata(), evidence.BundleType, bundle.JSON)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return attachBundle(ctx, p.metadata(), node, bundle)
}
