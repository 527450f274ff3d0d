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

// ErrUnsigned marks a change that was not signed, ErrNotMover one that nobody here may sign: there is
// no identity, or none of a mover.
var (
	ErrUnsigned = errors.New("it is not signed")
	ErrNotMover = errors.New("no identity of this machine may sign it")
)

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
