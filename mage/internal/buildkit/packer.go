package buildkit

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// packer carries images that were built into a store, as they are released: created at the commit's time,
// where BuildKit writes the time that it gave to files, and with layers in gzip.
//
// BuildKit hands layers over in zstd, which is quick: to set the times of files it writes every layer once
// more for every image that has it. The slow compression, which every client can read, is done here, once
// for each layer. A layer of the pinned operating system comes as its registry has it; in gzip it stays so.
type packer struct {
	created  time.Time
	compress Compress
	dir      string                       // for a layer on its way
	packed   map[digest.Digest]graph.Node // by the digest it had
}

// Compress writes what it reads as gzip, the same bytes for the same content everywhere.
type Compress func(ctx context.Context, w io.Writer, r io.Reader) error

// handedOver is how BuildKit compresses what it exports: as little as it can, for it is unpacked again here.
const handedOver = "compression=zstd,compression-level=1"

func (p packer) image(ctx context.Context, from, into graph.Store, manifest graph.Node) (graph.Node, error) {
	m, config, err := readBuilt(ctx, from, manifest)
	if err != nil {
		return manifest, err
	}
	for i, layer := range m.Layers {
		if m.Layers[i], err = p.layer(ctx, from, into, layer, diffID(config, i)); err != nil {
			return manifest, diskFull(err, layer)
		}
	}
	if m.Config, err = p.config(ctx, from, into, m.Config); err != nil {
		return manifest, err
	}
	content, err := json.Marshal(m)
	if err != nil {
		return manifest, err
	}
	packed, err := graph.PushBytes(ctx, into, manifest.MediaType, content)
	packed.Platform = manifest.Platform
	return packed, err
}

// config copies a configuration under the time of creation; all else stays as it is written.
func (p packer) config(ctx context.Context, from, into graph.Store, n graph.Node) (graph.Node, error) {
	says, err := members(ctx, from, n)
	if err != nil {
		return n, err
	}
	if says["created"], err = json.Marshal(p.created.UTC()); err != nil {
		return n, err
	}
	content, err := json.Marshal(says)
	if err != nil {
		return n, err
	}
	return graph.PushBytes(ctx, into, n.MediaType, content)
}

func (p packer) layer(ctx context.Context, from, into graph.Store, n graph.Node, content digest.Digest) (graph.Node, error) {
	if !strings.HasSuffix(n.MediaType, "+zstd") {
		return n, copyNode(ctx, from, into, n)
	}
	if packed, ok := p.packed[n.Digest]; ok {
		return packed, nil
	}
	file, err := os.CreateTemp(p.dir, "layer-")
	if err != nil {
		return n, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	packed, err := p.pack(ctx, from, file, n, content)
	if err != nil {
		return n, err
	}
	there, err := into.Exists(ctx, packed)
	if err == nil && !there {
		err = into.Push(ctx, packed, file)
	}
	p.packed[n.Digest] = packed
	return packed, err
}

// pack writes a layer in gzip, describes it, and leaves the file at its beginning. Unpacked, the layer must
// be what its image says.
func (p packer) pack(ctx context.Context, from graph.Store, file *os.File, n graph.Node, want digest.Digest) (graph.Node, error) {
	blob, err := from.Fetch(ctx, n)
	if err != nil {
		return n, err
	}
	defer blob.Close()
	content, err := unpacked(n.MediaType, blob)
	if err != nil {
		return n, fault.Wrap(err, fault.BuildFailed, "reading layer", n.Digest.String())
	}
	defer content.Close()
	is, packed := digest.Canonical.Digester(), digest.Canonical.Digester()
	if err := p.compress(ctx, io.MultiWriter(file, packed.Hash()), io.TeeReader(content, is.Hash())); err != nil {
		return n, err
	}
	if is.Digest() != want {
		return n, fault.New(fault.BuildFailed, "packing layer", n.Digest.String(), "unpacked it is %s, and its image says %q", is.Digest(), want)
	}
	n.MediaType, n.Digest = ocispec.MediaTypeImageLayerGzip, packed.Digest()
	if n.Size, err = file.Seek(0, io.SeekCurrent); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	return n, err
}

// diffID is the digest of a layer's archive, by its image's configuration.
func diffID(c ocispec.Image, layer int) digest.Digest {
	if layer >= len(c.RootFS.DiffIDs) {
		return ""
	}
	return c.RootFS.DiffIDs[layer]
}
