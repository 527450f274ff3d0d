//go:build goexperiment.jsonv2

package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
)

// layerTypes are the layers that both scanners unpack. Another one would be skipped by them.
func layerTypes() []string {
	return []string{
		ocispec.MediaTypeImageLayer,
		ocispec.MediaTypeImageLayerGzip,
		ocispec.MediaTypeImageLayerZstd,
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
	}
}

// packing is how a layer is unpacked: several media types may say the same.
func packing(mediaType string) string {
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return "tar"
	case ocispec.MediaTypeImageLayerZstd:
		return "zstd"
	}
	return "gzip"
}

// image is a cell whose every blob was read and has the digest its parent states.
type image struct {
	cell      inspect.Cell
	manifest  ocispec.Manifest
	documents map[string][]byte // what is scanned as text, by name
	diffIDs   []digest.Digest   // of the layers, as its configuration states them
	created   int64             // Unix seconds that its configuration states; zero if it does not
}

// The names of an image's own documents.
const (
	manifestFile = "manifest.json"
	configFile   = "config.json"
)

// openImages reads the cells of a job and checks every blob once.
func openImages(ctx context.Context, job inspect.Job) ([]image, error) {
	images := make([]image, 0, len(job.Cells))
	blobs := map[digest.Digest]ocispec.Descriptor{}
	for _, cell := range job.Cells {
		img, err := openImage(ctx, job.Layout, cell)
		if err != nil {
			return nil, fault.Wrap(err, fault.Refused, "opening", cell.String()+" "+cell.Digest.String())
		}
		for _, layer := range img.manifest.Layers {
			if known, ok := blobs[layer.Digest]; ok && known.Size != layer.Size {
				return nil, fault.New(fault.Forged, "opening", cell.String(), "layer %s has %d bytes here and %d elsewhere", layer.Digest, layer.Size, known.Size)
			}
			if known, ok := blobs[layer.Digest]; ok && packing(known.MediaType) != packing(layer.MediaType) {
				return nil, fault.New(fault.Forged, "opening", cell.String(), "layer %s is %q here and %q elsewhere", layer.Digest, layer.MediaType, known.MediaType)
			}
			blobs[layer.Digest] = layer
		}
		images = append(images, img)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel(job))
	for _, blob := range blobs {
		group.Go(func() error { return checkBlob(ctx, job.Layout, blob) })
	}
	return images, group.Wait()
}

func openImage(ctx context.Context, layout string, cell inspect.Cell) (image, error) {
	if cell.MediaType != ocispec.MediaTypeImageManifest {
		return image{}, fault.New(fault.Refused, "reading", cell.Digest.String(), "media type %q is no image manifest", cell.MediaType)
	}
	store := blobStore(layout)
	node := graph.Node{MediaType: cell.MediaType, Digest: cell.Digest, Size: cell.Size}
	img := image{cell: cell, documents: map[string][]byte{}}
	raw, err := graph.Fetch(ctx, store, node, graph.MaxManifest)
	if err != nil {
		return image{}, err
	}
	img.documents[manifestFile] = raw
	if img.manifest, err = graph.Manifest(ctx, store, node); err != nil {
		return image{}, err
	}
	if raw, err = graph.Fetch(ctx, store, img.manifest.Config, graph.MaxManifest); err != nil {
		return image{}, err
	}
	img.documents[configFile] = raw
	config, err := graph.Config(ctx, store, img.manifest.Config)
	if err != nil {
		return image{}, err
	}
	img.diffIDs = config.RootFS.DiffIDs
	if config.Created != nil {
		img.created = config.Created.Unix()
	}
	return img, img.check(config)
}

// check refuses an image that a scanner would read differently from a container engine.
func (i image) check(config ocispec.Image) error {
	const op = "checking"
	subject := i.cell.Digest.String()
	if got := graph.PlatformName(&config.Platform); got != i.cell.Platform {
		return fault.New(fault.Forged, op, subject, "its configuration says platform %q, want %q", got, i.cell.Platform)
	}
	if len(i.manifest.Layers) == 0 || len(i.manifest.Layers) != len(config.RootFS.DiffIDs) {
		return fault.New(fault.Forged, op, subject, "%d layers and %d diff ids", len(i.manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for _, layer := range i.manifest.Layers {
		if !slices.Contains(layerTypes(), layer.MediaType) {
			return fault.New(fault.Refused, op, subject, "layer %s has media type %q, which is not scanned", layer.Digest, layer.MediaType)
		}
	}
	return nil
}

// checkBlob reads a blob and compares its size and digest.
func checkBlob(ctx context.Context, layout string, blob ocispec.Descriptor) error {
	reader, err := blobStore(layout).Fetch(ctx, blob)
	if err != nil {
		return err
	}
	defer reader.Close()
	hash := digest.SHA256.Digester()
	size, err := io.Copy(hash.Hash(), io.LimitReader(contextReader{ctx, reader}, blob.Size+1))
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "reading", blob.Digest.String())
	}
	if size != blob.Size || hash.Digest() != blob.Digest {
		return fault.New(fault.Forged, "reading", blob.Digest.String(), "the layout holds %d bytes with digest %s, want %d bytes", size, hash.Digest(), blob.Size)
	}
	return nil
}

// blobStore reads the blobs of an OCI image layout (image specification v1.1, image-layout.md).
type blobStore string

func (s blobStore) path(d digest.Digest) string {
	return filepath.Join(string(s), ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (s blobStore) Fetch(_ context.Context, n graph.Node) (io.ReadCloser, error) {
	if err := n.Digest.Validate(); err != nil || n.Digest.Algorithm() != digest.SHA256 {
		return nil, fault.New(fault.Forged, "reading", n.Digest.String(), "it is no sha256 digest")
	}
	file, err := os.Open(s.path(n.Digest))
	if err != nil {
		return nil, fault.New(fault.Refused, "reading", n.Digest.String(), "the layout does not hold it: %w", err)
	}
	return file, nil
}

func (s blobStore) Exists(_ context.Context, n graph.Node) (bool, error) {
	_, err := os.Stat(s.path(n.Digest))
	return err == nil, nil
}

func (s blobStore) Push(context.Context, graph.Node, io.Reader) error {
	return fault.New(fault.Refused, "writing", string(s), "the worker only reads")
}

// newView makes a layout that holds one image alone, over the blobs of the family's layout, for
// readers that would choose among several by tag or platform.
func newView(layout, dir string, cell inspect.Cell) error {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: cell.MediaType, Digest: cell.Digest, Size: cell.Size}},
	}
	documents := map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile:  index,
	}
	for name, document := range documents {
		content, err := json.Marshal(document)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return os.Symlink(filepath.Join(layout, ocispec.ImageBlobsDir), filepath.Join(dir, ocispec.ImageBlobsDir))
}

// contextReader ends a long read when its context ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
