package mage

import (
	"context"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
)

// registryPort gives the pipeline the family's repositories.
type registryPort map[string]pipeline.Repository

func newRegistryPort(client *registry.Client, members []string) (registryPort, error) {
	port := registryPort{}
	for _, name := range members {
		repo, err := client.Repo(name)
		if err != nil {
			return nil, err
		}
		port[name] = repositoryPort{repo}
	}
	return port, nil
}

// Repository returns a member's repository; only members are asked for.
func (p registryPort) Repository(name string) pipeline.Repository { return p[name] }

// repositoryPort turns the registry's referrers into the pipeline's.
type repositoryPort struct{ *registry.Repository }

func (p repositoryPort) Attach(ctx context.Context, subject graph.Node, artifactType string, content []byte, annotations map[string]string) error {
	_, _, err := p.Repository.Attach(ctx, subject, artifactType, registry.Layer{MediaType: artifactType, Content: content}, annotations)
	return err
}

// Referrers leaves out what is listed and not there: it is evidence that is missing.
func (p repositoryPort) Referrers(ctx context.Context, subject graph.Node) ([]pipeline.Referrer, error) {
	listed, err := p.Repository.Referrers(ctx, subject)
	if err != nil {
		return nil, err
	}
	var out []pipeline.Referrer
	for _, r := range listed {
		if !r.Missing {
			out = append(out, pipeline.Referrer{Manifest: r.Node, ArtifactType: r.ArtifactType, Annotations: r.Annotations, Layers: r.Layers})
		}
	}
	return out, nil
}

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
