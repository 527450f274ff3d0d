package buildkit

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// annotate returns the Buildx settings that write annotations into the manifests of images.
func (g Graph) annotate(p release.Plan, images []string, base osBase) []string {
	var set []string
	for _, image := range images {
		target, _ := g.Target(image)
		notes := annotations(p, target, base)
		for _, key := range slices.Sorted(maps.Keys(notes)) {
			set = append(set, "--set", image+".annotations=manifest:"+key+"="+notes[key])
		}
	}
	return set
}

// annotations is what a manifest says of itself: what its labels say in the words of the OCI
// specification (https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md), and what
// its commit says. Nothing of it depends on when or where it is built.
func annotations(p release.Plan, t Target, base osBase) map[string]string {
	notes := map[string]string{}
	for key, value := range t.Labels {
		if strings.HasPrefix(key, "org.opencontainers.image.") {
			notes[key] = value
		}
	}
	src := p.Source
	notes[ocispec.AnnotationSource] = p.Family.Source
	notes[ocispec.AnnotationVersion] = src.Tag()
	notes[ocispec.AnnotationCreated] = src.Epoch.UTC().Format(time.RFC3339)
	notes[ocispec.AnnotationRevision] = src.Commit
	if src.Dirty != "" {
		notes[ocispec.AnnotationRevision] += "-dirty-" + src.Dirty
	}
	delete(notes, ocispec.AnnotationBaseImageName)
	delete(notes, ocispec.AnnotationBaseImageDigest)
	if p.Family.Images[t.Name].From == "" && !base.local {
		notes[ocispec.AnnotationBaseImageName] = base.name
		notes[ocispec.AnnotationBaseImageDigest] = base.digest.String()
	}
	return notes
}

// assemble puts an index over an image's manifests. It says what all of them say, and the parent that
// the lineage proof has just been made for: inside one solve no manifest can know it.
func assemble(ctx context.Context, s graph.Store, manifests map[string]graph.Node, parent graph.Node) (graph.Node, error) {
	shared, err := sharedAnnotations(ctx, s, manifests)
	if err != nil {
		return graph.Node{}, err
	}
	if parent.Digest != "" {
		shared[ocispec.AnnotationBaseImageDigest] = parent.Digest.String()
	}
	return graph.Assemble(ctx, s, slices.Collect(maps.Values(manifests)), shared)
}

// sharedAnnotations returns what all manifests say.
func sharedAnnotations(ctx context.Context, s graph.Store, manifests map[string]graph.Node) (map[string]string, error) {
	var shared map[string]string
	for _, n := range manifests {
		m, err := graph.Manifest(ctx, s, n)
		if err != nil {
			return nil, fault.Wrap(err, fault.BuildFailed, "reading", n.Digest.String())
		}
		if shared == nil {
			shared = maps.Clone(m.Annotations)
		}
		maps.DeleteFunc(shared, func(key, value string) bool { return m.Annotations[key] != value })
	}
	if shared == nil {
		shared = map[string]string{}
	}
	return shared, nil
}
