package buildkit

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"maps"
	"runtime"
	"slices"

	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Load gives the images of this machine's platform to the local Docker engine, as name:tag.
// Without an engine it does nothing and returns no names: having none is not an error.
func Load(ctx context.Context, s graph.Store, images map[string]release.Image, tag string) ([]string, error) {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", "DOCKER_HOST")
	}
	defer engine.Close()
	if _, err := engine.Ping(ctx); err != nil {
		return nil, ctx.Err()
	}
	nodes := hostImages(images, tag)
	names := slices.Sorted(maps.Keys(nodes))
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeArchive(ctx, w, s, nodes)
		w.CloseWithError(err)
		written <- err
	}()
	loaded, err := engine.ImageLoad(ctx, r)
	if err == nil {
		_, err = io.Copy(io.Discard, loaded.Body)
		loaded.Body.Close()
	}
	r.CloseWithError(err)
	if werr := <-written; err == nil {
		err = werr
	}
	return names, fault.Wrap(err, fault.Environment, "loading into", "the Docker engine")
}

// hostImages picks the platform manifests that run here, by the name they will have.
func hostImages(images map[string]release.Image, tag string) map[string]graph.Node {
	nodes := map[string]graph.Node{}
	for name, image := range images {
		if n, ok := image.Platforms["linux/"+runtime.GOARCH]; ok {
			nodes[name+":"+tag] = n
		}
	}
	return nodes
}

// archiveEntry is one image of manifest.json, which engines without the containerd store read:
// https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format.
type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// writeArchive streams images as one tar archive that is both an OCI layout and a Docker archive.
func writeArchive(ctx context.Context, w io.Writer, s graph.Store, images map[string]graph.Node) error {
	out := tar.NewWriter(w)
	var entries []archiveEntry
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		n := images[name]
		m, err := graph.Manifest(ctx, s, n)
		if err != nil {
			return err
		}
		for _, blob := range append([]graph.Node{n, m.Config}, m.Layers...) {
			if err := writeBlob(ctx, out, s, blob, seen); err != nil {
				return err
			}
		}
		entry := archiveEntry{Config: blobPath(m.Config), RepoTags: []string{name}}
		for _, layer := range m.Layers {
			entry.Layers = append(entry.Layers, blobPath(layer))
		}
		entries = append(entries, entry)
		n.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/" + name, ocispec.AnnotationRefName: name}
		index.Manifests = append(index.Manifests, n)
	}
	for _, file := range []struct {
		name    string
		content any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, index},
		{"manifest.json", entries},
	} {
		content, err := json.Marshal(file.content)
		if err != nil {
			return fault.Wrap(err, fault.Invalid, "encoding", file.name)
		}
		if err := writeFile(out, file.name, content); err != nil {
			return err
		}
	}
	return out.Close()
}

func writeFile(out *tar.Writer, name string, content []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

// writeBlob streams one blob, once.
func writeBlob(ctx context.Context, out *tar.Writer, s graph.Store, n graph.Node, seen map[string]bool) error {
	if seen[n.Digest.String()] {
		return nil
	}
	seen[n.Digest.String()] = true
	r, err := s.Fetch(ctx, n)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := out.WriteHeader(&tar.Header{Name: blobPath(n), Mode: 0o644, Size: n.Size}); err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return err
}

func blobPath(n graph.Node) string {
	return ocispec.ImageBlobsDir + "/" + n.Digest.Algorithm().String() + "/" + n.Digest.Encoded()
}
