package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
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

	Differences []Difference `json:"differences,omitempty"` // of what is served, for whoever decides
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Document) == 0 && len(c.Tags) == 0 }

// Steps says what Apply will do, one line each, in order.
func (c Change) Steps() []string {
	var steps []string
	if len(c.Document) > 0 {
		next, err := release.DecodeDocument(c.Document)
		steps = append(steps, documentStep(c.Generation+1, err == nil && next.Unsigned()), ledgerStep(c.Generation+1, c.Expects))
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

// change plans the way from a head to the next document; a document that is the head's own plans
// only the tags that drifted.
func (p *Pipeline) change(ctx context.Context, head release.Head, next release.Document, summary string) (Change, error) {
	c := Change{Family: p.Family.Name, Summary: summary, Expects: head.ID, Generation: head.Document.Generation}
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
	if c.Tags, err = p.planTags(ctx, next, &node); err != nil {
		return Change{}, p.overtaken(ctx, head, err)
	}
	return c, nil
}

// overtaken explains why a plan cannot be made: what looks like an overwritten tag may be another
// mover's next generation.
func (p *Pipeline) overtaken(ctx context.Context, head release.Head, cause error) error {
	now, err := p.Ledger.Head(ctx)
	if err != nil || now.ID == head.ID {
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
	if p.retags(c) {
		moved, err := p.moveTags(ctx, c.Tags)
		return head, moved, partly(err, len(moved) > 0)
	}
	if head, err = p.commitChange(ctx, head, c); err != nil {
		return release.Head{}, nil, err
	}
	head, moved, err := p.converge(ctx, head)
	return head, moved, partly(err, len(c.Document) > 0)
}

// commitChange commits a change's document, if it has one.
func (p *Pipeline) commitChange(ctx context.Context, head release.Head, c Change) (release.Head, error) {
	if len(c.Document) == 0 {
		return head, nil
	}
	next, err := release.DecodeDocument(c.Document)
	if err != nil {
		return head, err
	}
	if next.Previous != head.Digest() || next.Family != p.Family.Name {
		return head, fault.New(fault.Invalid, "applying", c.Summary, "its document is of family %q and follows %s, not the ledger's", next.Family, next.Previous)
	}
	return p.commit(ctx, head, next)
}

// commit pushes and signs the document, then makes it the ledger's newest entry: from then on the
// channel has moved. A document that is marked unsigned is signed by a later [Pipeline.Converge].
func (p *Pipeline) commit(ctx context.Context, head release.Head, next release.Document) (release.Head, error) {
	content, err := next.Encode()
	if err != nil {
		return release.Head{}, err
	}
	node, err := documentNode(content)
	if err != nil {
		return release.Head{}, err
	}
	if err := p.publishDocument(ctx, node, next, content); err != nil {
		return release.Head{}, err
	}
	p.Progress.Done("promote", documentStep(next.Generation, next.Unsigned()), "")
	committed, err := p.Ledger.Append(ctx, head, content, next.Summary())
	if err == nil {
		p.Progress.Done("promote", ledgerStep(next.Generation, head.ID), "as "+committed.ID)
	}
	return committed, err
}

// publishDocument pushes a document while it is being signed, and attaches the signature. A run
// that was killed may have done so before: then there is nothing to do.
func (p *Pipeline) publishDocument(ctx context.Context, node graph.Node, d release.Document, content []byte) error {
	there, err := p.metadata().Exists(ctx, node)
	if err != nil {
		return err
	}
	if there && !d.Unsigned() {
		if signed, err := p.isSigned(ctx, node, d); err != nil || signed {
			return err
		}
	}
	var bundle evidence.Bundle
	var group errgroup.Group // without a context of its own: what the signer starts outlives it
	if !there {
		group.Go(func() error { return p.pushDocument(ctx, content) })
	}
	if !d.Unsigned() {
		group.Go(func() (err error) {
			bundle, err = p.signDocument(ctx, node, d)
			return err
		})
	}
	if err := group.Wait(); err != nil || d.Unsigned() {
		return err
	}
	return attachBundle(ctx, p.metadata(), node, bundle)
}

// ErrNotMover marks a change that nobody here may sign: there is no identity, or none of a mover.
var ErrNotMover = errors.New("no identity of this machine may sign it")

// signDocument signs as who may move the document's channels, or not at all: what their policies
// do not accept, their consumers could not verify.
func (p *Pipeline) signDocument(ctx context.Context, node graph.Node, d release.Document) (evidence.Bundle, error) {
	signer, err := p.Signer(ctx)
	if err != nil {
		if kind, _ := fault.KindOf(err); kind == fault.Environment {
			err = &fault.Error{Op: "signing", Subject: d.Summary(), Kind: kind, Err: fmt.Errorf("%w: %w", ErrNotMover, err), Hint: fault.HintOf(err)}
		}
		return evidence.Bundle{}, err
	}
	st, err := evidence.NewStatement(p.Family.ArtifactOf(family.Metadata), node.Digest, evidence.Signature, struct{}{})
	if err != nil {
		return evidence.Bundle{}, err
	}
	bundle, err := signer.Sign(ctx, st)
	if err != nil {
		return evidence.Bundle{}, err
	}
	return bundle, p.isMovers(bundle.JSON, node, d)
}

// isMovers refuses a signature that the policy of one of the document's channels does not accept.
func (p *Pipeline) isMovers(bundle []byte, node graph.Node, d release.Document) error {
	for _, channel := range d.Names() {
		st, err := p.Verifier.VerifyMover(bundle, node.Digest, channel)
		if err == nil && st.PredicateType != evidence.Signature {
			err = fmt.Errorf("it states %s", st.PredicateType)
		}
		if err != nil {
			return &fault.Error{Op: "signing", Subject: d.Summary(), Kind: fault.Environment, Err: fmt.Errorf("%w: %s does not accept it: %w", ErrNotMover, channel, err),
				Hint: "sign as one of the movers that the family file names; every channel of the document has to accept the same one"}
		}
	}
	return nil
}

// isSigned reports whether a mover's signature hangs on a document already.
func (p *Pipeline) isSigned(ctx context.Context, node graph.Node, d release.Document) (bool, error) {
	attached, err := Attachments(ctx, p.metadata(), node, evidence.BundleType)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(attached.Bundles, func(bundle []byte) bool { return p.isMovers(bundle, node, d) == nil }), nil
}

// maxConverging is how often tags are derived anew while somebody else moves the ledger on.
const maxConverging = 10

// Converge makes every channel tag what the ledger says, and ends when all tags read back so and
// the ledger has not moved since: another mover may have committed meanwhile, and the newest
// generation counts. It returns the head and the tags it moved; none when nothing drifted.
func (p *Pipeline) Converge(ctx context.Context) (release.Head, []TagMove, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return release.Head{}, nil, err
	}
	return p.converge(ctx, head)
}

// converge is Converge for who has read the ledger, or moved it. Tags that were read before the
// ledger was seen to stand still may be newer than head: they are never taken for drift.
func (p *Pipeline) converge(ctx context.Context, head release.Head) (release.Head, []TagMove, error) {
	var moved []TagMove
	for range maxConverging {
		moves, err := p.drift(ctx, head)
		if err != nil {
			return head, moved, partly(err, len(moved) > 0)
		}
		now, err := p.Ledger.Head(ctx)
		switch {
		case err != nil:
			return head, moved, partly(err, len(moved) > 0)
		case now.ID != head.ID:
			head = now
			continue
		case len(moves) == 0:
			return head, moved, nil
		}
		done, err := p.moveTags(ctx, moves)
		moved = append(moved, done...)
		if kind, _ := fault.KindOf(err); err != nil && kind != fault.Conflict {
			return head, moved, partly(err, len(moved) > 0)
		}
	}
	return release.Head{}, moved, partly(fault.New(fault.Conflict, "moving tags of", p.Family.Name, "somebody moved them %d times meanwhile", maxConverging), len(moved) > 0)
}

// drift returns the tags that do not follow a head. What its document needs before tags may show
// it, its bytes and its signature, is put right first.
func (p *Pipeline) drift(ctx context.Context, head release.Head) ([]TagMove, error) {
	if head.ID == "" {
		return nil, nil
	}
	node, err := p.documentReady(ctx, head)
	if err != nil {
		return nil, err
	}
	return p.planTags(ctx, head.Document, node)
}

// documentReady makes sure that the head's document is in the registry and signed. It returns nil
// when nobody can sign it now: then the metadata artifact's tags stay at the document before.
func (p *Pipeline) documentReady(ctx context.Context, head release.Head) (*graph.Node, error) {
	if err := p.pushDocument(ctx, head.Content); err != nil {
		return nil, err
	}
	node, err := documentNode(head.Content)
	if err != nil || !head.Document.Unsigned() {
		return &node, err
	}
	if signed, err := p.isSigned(ctx, node, head.Document); err != nil || signed {
		return &node, err
	}
	bundle, err := p.signDocument(ctx, node, head.Document)
	if errors.Is(err, fault.Interrupted) {
		return nil, err
	}
	if err != nil {
		p.Progress.Note("promote", head.Document.Summary(), "still unsigned, so "+p.Family.ArtifactOf(family.Metadata)+" stays where it is: "+err.Error())
		return nil, nil
	}
	return &node, attachBundle(ctx, p.metadata(), node, bundle)
}

// partly marks an error after the first write that others see: what was begun is finished by
// reconciling.
func partly(err error, wrote bool) error {
	if kind, _ := fault.KindOf(err); err == nil || !wrote || kind == fault.Partial {
		return err
	}
	return &fault.Error{Op: "moving", Subject: "tags", Kind: fault.Partial, Err: err,
		Hint: "the channel has moved and its tags have not all followed: run the same command again, or mage ops:reconcile -apply"}
}
