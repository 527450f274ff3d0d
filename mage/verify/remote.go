package verify

import (
	"context"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
)

// OpenRegistry opens a family's repositories below "host[:port]/owner". It sends nothing, and later
// asks for a login only where content is not public. Plain HTTP is for loopback addresses alone.
func OpenRegistry(base string, f *family.Family) (pipeline.Registry, error) {
	client, err := registry.New(base, registry.Options{UserAgent: "containai-verify"})
	if err != nil {
		return nil, err
	}
	return Connect(client, f.Members())
}

// Connect gives the pipeline's port over a client of the library's own.
func Connect(client *registry.Client, members []string) (pipeline.Registry, error) {
	all := remote{}
	for _, name := range members {
		repo, err := client.Repo(name)
		if err != nil {
			return nil, err
		}
		all[name] = remoteRepository{repo}
	}
	return all, nil
}

type remote map[string]pipeline.Repository

// Repository returns a member's repository; only members are asked for.
func (r remote) Repository(name string) pipeline.Repository { return r[name] }

// remoteRepository turns the registry's referrers into the pipeline's.
type remoteRepository struct{ *registry.Repository }

func (r remoteRepository) Attach(ctx context.Context, subject graph.Node, artifactType string, content []byte, annotations map[string]string) error {
	_, _, err := r.Repository.Attach(ctx, subject, artifactType, registry.Layer{MediaType: artifactType, Content: content}, annotations)
	return err
}

// Referrers leaves out what is listed and not there: it is evidence that is missing.
func (r remoteRepository) Referrers(ctx context.Context, subject graph.Node) ([]pipeline.Referrer, error) {
	listed, err := r.Repository.Referrers(ctx, subject)
	if err != nil {
		return nil, err
	}
	var out []pipeline.Referrer
	for _, x := range listed {
		if !x.Missing {
			out = append(out, pipeline.Referrer{Manifest: x.Node, ArtifactType: x.ArtifactType, Annotations: x.Annotations, Layers: x.Layers})
		}
	}
	return out, nil
}
