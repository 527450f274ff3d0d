package mage

import (
	"context"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

// layoutPort answers whether a layout is whole, and fills one from a registry.
type layoutPort struct{ *registry.Layout }

func (p layoutPort) Complete(ctx context.Context, n graph.Node) (bool, error) {
	there, err := p.Exists(ctx, n)
	if err != nil || !there {
		return false, err
	}
	return registry.Verify(ctx, p.Layout, n) == nil, ctx.Err()
}

// CopyFrom brings a node and all it reaches into the layout.
func (p layoutPort) CopyFrom(ctx context.Context, src graph.Store, root graph.Node) error {
	return registry.Copy(ctx, src, p.Layout, root)
}
