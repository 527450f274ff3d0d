package pipeline

import (
	"context"
	"errors"

	"github.com/containai/containai/mage/release"
)

// SignHead pushes a head's document and signs it, for tests that write to the ledger themselves.
func (p *Pipeline) SignHead(ctx context.Context, head release.Head) error {
	return errors.Join(p.pushDocument(ctx, head.Content), p.signHead(ctx, head))
}
