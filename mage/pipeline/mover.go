package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// ErrUnsigned marks a change that was not signed, ErrNotMover one that nobody here may sign: there is
// no identity, or none of a mover.
var (
	ErrUnsigned = errors.New("it is not signed")
	ErrNotMover = errors.New("no identity of this machine may sign it")
)

// maxSkew is how far the clocks of two movers may be apart.
const maxSkew = 10 * time.Minute

// signDocument signs as who may move the document's channels, or not at all: what their policies
// do not accept, their consumers could not verify.
func (p *Pipeline) signDocument(ctx context.Context, node graph.Node, d release.Document) (evidence.Bundle, error) {
	bundle, err := p.askSigner(ctx, node)
	if err == nil {
		err = p.isMovers(bundle.JSON, node, d)
	} else if kind, _ := fault.KindOf(err); kind == fault.Environment {
		err = fmt.Errorf("%w: %w", ErrNotMover, err)
	}
	if err != nil {
		return evidence.Bundle{}, fault.Wrap(fmt.Errorf("%w: %w", ErrUnsigned, err), fault.Environment, "signing", d.Summary())
	}
	return bundle, nil
}

func (p *Pipeline) askSigner(ctx context.Context, node graph.Node) (evidence.Bundle, error) {
	signer, err := p.Signer(ctx)
	if err != nil {
		return evidence.Bundle{}, err
	}
	st, err := evidence.NewStatement(p.Family.ArtifactOf(family.Metadata), node.Digest, evidence.Signature, struct{}{})
	if err != nil {
		return evidence.Bundle{}, err
	}
	return signer.Sign(ctx, st)
}

// isMovers refuses a signature that the policy of one of the document's channels does not accept.
func (p *Pipeline) isMovers(bundle []byte, node graph.Node, d release.Document) error {
	for _, channel := range d.Names() {
		st, err := p.Verifier.VerifyMover(bundle, node.Digest, channel)
		if err == nil && st.PredicateType != evidence.Signature {
			err = fmt.Errorf("it states %s", st.PredicateType)
		}
		if kind, _ := fault.KindOf(err); kind == fault.Environment { // there is nothing to check it against
			return err
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
	for _, bundle := range attached.Bundles {
		err := p.isMovers(bundle, node, d)
		if err == nil || errors.Is(err, fault.Environment) && !errors.Is(err, ErrNotMover) {
			return err == nil, err
		}
	}
	return false, nil
}

// Signed reports whether a mover signed a head's document. As every document names the digest of the
// one before it, the newest signature speaks for all of them.
func (p *Pipeline) Signed(ctx context.Context, head release.Head) (bool, error) {
	node, err := documentNode(head.Content)
	if err != nil {
		return false, err
	}
	return p.isSigned(ctx, node, head.Document)
}

// Vouched refuses a head that nobody answers for who may move channels, as [Keeper] asks it.
func (p *Pipeline) Vouched(ctx context.Context, head release.Head) error { return p.vouched(ctx, head) }

// vouched refuses a head that nobody who may move channels answers for: who can push to the ledger does
// not thereby move one. A mover's signature answers for it, and for all that it follows. What was committed
// under -breakglass has none yet: then each generation must be what planning it comes to, a rollback to
// what was served and still verifies, or a hold.
func (p *Pipeline) vouched(ctx context.Context, head release.Head) error {
	if head.ID == "" {
		return nil
	}
	if signed, err := p.Signed(ctx, head); err != nil || signed {
		return err
	}
	newer := head
	for h, err := range release.Chain(p.Ledger.History(ctx)) {
		switch {
		case err != nil:
			return err
		case h.Document.Generation >= newer.Document.Generation:
			continue // committed since, or the head itself
		}
		if err := p.brokeGlass(ctx, h, newer); err != nil {
			return err
		}
		if signed, err := p.Signed(ctx, h); err != nil || signed {
			return err
		}
		newer = h
	}
	return p.brokeGlass(ctx, release.Head{}, newer)
}

// brokeGlass refuses an unsigned generation that is not what an emergency may do after the one before.
func (p *Pipeline) brokeGlass(ctx context.Context, before, head release.Head) error {
	forged := func(why string) error {
		return fault.New(fault.Forged, "following", fmt.Sprintf("generation %d of %s", head.Document.Generation, p.Family.Name), "nobody who may move its channels signed it, and %s", why).
			WithHint("mage ops:history shows what it did; if it is right, mage ops:refresh -early -apply, as a mover, signs it; if not, somebody pushed it to the ledger: take it off before anything else moves")
	}
	if !emergency(head.Document) {
		return forged("it is no rollback or hold under -breakglass")
	}
	if head.Document.Previous != before.Digest() {
		return forged("it does not follow the one before")
	}
	if at := head.Document.Issued; at.After(p.Now().Add(maxSkew)) || at.Before(before.Document.Issued.Add(-maxSkew)) {
		return forged(fmt.Sprintf("it says that it is of %s, which is not between the one before and now", at.Format(time.RFC3339)))
	}
	then := *p
	then.past = true
	same, err := then.comesTo(ctx, before, head.Document, head.Content)
	if errors.Is(err, fault.Unavailable) || errors.Is(err, fault.Interrupted) {
		return err
	}
	if err != nil {
		return forged("what it does is refused: " + err.Error())
	}
	if !same {
		return forged("it does more than it says")
	}
	return nil
}

// emergency reports whether a generation is marked as what nobody needs to sign at once.
func emergency(d release.Document) bool {
	changed := d.Changed()
	if len(changed) != 1 {
		return false
	}
	m := d.Channels[changed[0]].Moved
	return m.Unsigned && (m.Action == release.RolledBack || m.Action == release.Held)
}

// documentReady makes sure that a document which nobody had signed is in the registry and signed now.
// It returns nil when nobody can: then the metadata artifact's tags stay at the document before.
func (p *Pipeline) documentReady(ctx context.Context, head release.Head) (*graph.Node, error) {
	if err := p.pushDocument(ctx, head.Content); err != nil {
		return nil, err
	}
	node, err := documentNode(head.Content)
	if err != nil {
		return nil, err
	}
	err = p.signHead(ctx, head)
	switch {
	case errors.Is(err, ErrUnsigned) && !errors.Is(err, fault.Interrupted):
		p.Progress.Note("promote", head.Document.Summary(), "still unsigned, so "+p.Family.ArtifactOf(family.Metadata)+" stays where it is: "+err.Error())
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &node, nil
}

// signHead signs a head's document, unless somebody did, and attaches the signature.
func (p *Pipeline) signHead(ctx context.Context, head release.Head) error {
	node, err := documentNode(head.Content)
	if err != nil {
		return err
	}
	if signed, err := p.isSigned(ctx, node, head.Document); err != nil || signed {
		return err
	}
	bundle, err := p.signDocument(ctx, node, head.Document)
	if err != nil {
		return err
	}
	return attachBundle(ctx, p.metadata(), node, bundle)
}
