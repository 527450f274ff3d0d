package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

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

// Signed reports whether a mover signed a head's document. As every document names the digest of the
// one before it, the newest signature speaks for all of them.
func (p *Pipeline) Signed(ctx context.Context, head release.Head) (bool, error) {
	node, err := documentNode(head.Content)
	if err != nil {
		return false, err
	}
	return p.isSigned(ctx, node, head.Document)
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
