package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Assemble puts indexes over the family's images, whose platform manifests other machines built and
// the store holds. It proves of them what Build proves of its own: the platform that each states in
// its configuration, and the lineage.
func Assemble(ctx context.Context, p release.Plan, images map[string]release.Image, s graph.Store) (map[string]release.Image, error) {
	built := map[string]release.Image{}
	for _, name := range p.Family.ImageNames() {
		manifests := map[string]graph.Node{}
		for _, platform := range slices.Sorted(maps.Keys(images[name].Platforms)) {
			found, err := platformManifests(ctx, s, images[name].Platforms[platform])
			if err != nil {
				return nil, err
			}
			for _, n := range found {
				manifests[graph.PlatformName(n.Platform)] = n
			}
		}
		image, err := prove(ctx, p, name, manifests, built, s)
		if err != nil {
			return nil, err
		}
		image.Arguments, image.Cached, image.Inputs = images[name].Arguments, images[name].Cached, images[name].Inputs
		built[name] = image
	}
	return built, nil
}

// carry copies one platform's image from a layout into a store, content before manifests, and returns its
// manifest there.
type carry func(ctx context.Context, from, into graph.Store, manifest graph.Node) (graph.Node, error)

// merge carries the one image of a layout into a store and returns its platform manifests. BuildKit's own
// index, if there is one, stays behind.
func merge(ctx context.Context, dir string, into graph.Store, image carry) (map[string]graph.Node, error) {
	from, err := oci.New(dir)
	if err != nil {
		return nil, fault.Wrap(err, fault.BuildFailed, "opening layout", dir)
	}
	top, err := onlyEntry(dir)
	if err != nil {
		return nil, err
	}
	found, err := platformManifests(ctx, from, top)
	if err != nil {
		return nil, err
	}
	manifests := map[string]graph.Node{}
	for _, n := range found {
		name := graph.PlatformName(n.Platform)
		if manifests[name], err = image(ctx, from, into, n); err != nil {
			return nil, err
		}
	}
	return manifests, nil
}

// onlyEntry returns the one entry of a layout's index.json.
func onlyEntry(dir string) (graph.Node, error) {
	content, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return graph.Node{}, fault.Wrap(err, fault.BuildFailed, "reading layout", dir)
	}
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return graph.Node{}, fault.Wrap(err, fault.BuildFailed, "reading layout", dir)
	}
	if len(index.Manifests) != 1 {
		return graph.Node{}, fault.New(fault.BuildFailed, "reading layout", dir, "it names %d images, want 1", len(index.Manifests))
	}
	return index.Manifests[0], nil
}

// platformManifests returns the manifests below an image, each with nothing but its type,
// digest, size and the platform that its own configuration states.
func platformManifests(ctx context.Context, s graph.Store, top graph.Node) ([]graph.Node, error) {
	nodes := []graph.Node{top}
	if graph.IsIndex(top) {
		index, err := graph.Index(ctx, s, top)
		if err != nil {
			return nil, err
		}
		nodes = index.Manifests
	}
	manifests := make([]graph.Node, 0, len(nodes))
	for _, n := range nodes {
		m, err := graph.Manifest(ctx, s, n)
		if err != nil {
			return nil, err
		}
		c, err := graph.Config(ctx, s, m.Config)
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, graph.Node{MediaType: n.MediaType, Digest: n.Digest, Size: n.Size, Platform: normal(c.Platform)})
	}
	return manifests, nil
}

// normal drops a variant that is the architecture's only one, as containerd does:
// https://github.com/containerd/platforms/blob/v1.0.0-rc.1/database.go.
func normal(p ocispec.Platform) *ocispec.Platform {
	if p.Architecture == "arm64" && p.Variant == "v8" || p.Architecture == "amd64" && p.Variant == "v1" {
		p.Variant = ""
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// copyImage carries an image as it is. The store checks each digest.
func copyImage(ctx context.Context, from, into graph.Store, manifest graph.Node) (graph.Node, error) {
	children, err := graph.Children(ctx, from, manifest)
	if err != nil {
		return manifest, err
	}
	for _, n := range append(children, manifest) {
		if err := copyNode(ctx, from, into, n); err != nil {
			return manifest, diskFull(err, n)
		}
	}
	return manifest, nil
}

// diskFull says what to do about a node that could not be copied because the disk is full.
func diskFull(err error, n graph.Node) error {
	if errors.Is(err, syscall.ENOSPC) {
		return (&fault.Error{Op: "copying", Subject: n.Digest.String(), Kind: fault.Environment, Err: err}).WithHint(diskHint)
	}
	return fault.Wrap(err, fault.Environment, "copying", n.Digest.String())
}

func copyNode(ctx context.Context, from, into graph.Store, n graph.Node) error {
	there, err := into.Exists(ctx, n)
	if err != nil || there {
		return err
	}
	r, err := from.Fetch(ctx, n)
	if err != nil {
		return err
	}
	defer r.Close()
	return into.Push(ctx, n, r)
}
