//go:build goexperiment.jsonv2

package main

import (
	"bufio"
	"cmp"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// maxLayer bounds one unpacked layer, in bytes.
const maxLayer = 16 << 30

// blobLayer is a layer as a file. Its diff id is, for Trivy, the digest of the blob. It is unpacked once,
// when the first scanner asks for it, and all of them read what was unpacked.
type blobLayer struct {
	path      string
	digest    digest.Digest
	mediaType string
	room      *room
	events    *eventWriter
	plain     func() (unpacked, error)

	opened bool // its result was not there
	took   time.Duration
}

// room is the disk that is left for all layers of a job.
type room struct {
	limit int64
	taken atomic.Int64
}

func newRoom(job inspect.Job) *room {
	return &room{limit: cmp.Or(job.Unpacked, inspect.MaxUnpacked)}
}

// Write takes room for what is about to be written.
func (r *room) Write(p []byte) (int, error) {
	if r.taken.Add(int64(len(p))) > r.limit {
		return 0, fault.New(fault.Refused, "making room for", "layers", "with this one, those of the family unpack to more than %d bytes", r.limit).
			WithHint("make the layer smaller, or inspect fewer platforms at a time: CONTAINAI_PLATFORMS")
	}
	return len(p), nil
}

// unpacked is the content of a layer as a tar, and its digest.
type unpacked struct {
	path   string
	digest digest.Digest
}

func newBlobLayer(path string, d digest.Digest, mediaType string, room *room, events *eventWriter) *blobLayer {
	b := &blobLayer{path: path, digest: d, mediaType: mediaType, room: room, events: events}
	b.plain = sync.OnceValues(b.unpack)
	return b
}

func (b *blobLayer) hash() v1.Hash {
	return v1.Hash{Algorithm: b.digest.Algorithm().String(), Hex: b.digest.Encoded()}
}

func (b *blobLayer) Digest() (v1.Hash, error)             { return b.hash(), nil }
func (b *blobLayer) DiffID() (v1.Hash, error)             { return b.hash(), nil }
func (b *blobLayer) MediaType() (types.MediaType, error)  { return types.MediaType(b.mediaType), nil }
func (b *blobLayer) Compressed() (io.ReadCloser, error)   { return os.Open(b.path) }
func (b *blobLayer) Uncompressed() (io.ReadCloser, error) { return b.open() }

func (b *blobLayer) Size() (int64, error) {
	info, err := os.Stat(b.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// open reads the layer's content for Trivy and tells when that begins and ends: only a layer whose
// result is not in the cache is opened.
func (b *blobLayer) open() (io.ReadCloser, error) {
	begin := time.Now()
	b.opened = true
	b.events.tell(inspect.Event{Kind: inspect.Started, Layer: b.digest})
	content, err := b.plain()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(content.path)
	if err != nil {
		return nil, err
	}
	return &layerReader{file, sync.OnceFunc(func() {
		b.took = time.Since(begin)
		b.events.tell(inspect.Event{Kind: inspect.Done, Layer: b.digest, Duration: b.took})
	})}, nil
}

// unpack writes the content of a layer to a temporary file. A directory's tree is one already.
func (b *blobLayer) unpack() (unpacked, error) {
	packed, err := os.Open(b.path)
	if err != nil {
		return unpacked{}, err
	}
	defer packed.Close()
	hash := digest.SHA256.Digester()
	if b.mediaType == ocispec.MediaTypeImageLayer {
		_, err := io.Copy(hash.Hash(), packed)
		return unpacked{b.path, hash.Digest()}, err
	}
	content, err := b.decompress(bufio.NewReaderSize(packed, 1<<20))
	if err != nil {
		return unpacked{}, fault.Wrap(err, fault.Refused, "unpacking", b.digest.String())
	}
	file, err := os.CreateTemp("", "layer-*.tar")
	if err != nil {
		return unpacked{}, err
	}
	defer file.Close()
	size, err := io.Copy(io.MultiWriter(b.room, file, hash.Hash()), io.LimitReader(content, maxLayer+1))
	if err == nil && size > maxLayer {
		err = fault.New(fault.Refused, "reading", "its content", "it unpacks to more than %d bytes", int64(maxLayer)).
			WithHint("make it several layers, or leave out of it what does not belong into an image")
	}
	return unpacked{file.Name(), hash.Digest()}, fault.Wrap(err, fault.Refused, "unpacking", b.digest.String())
}

func (b *blobLayer) decompress(r io.Reader) (io.Reader, error) {
	if b.mediaType != ocispec.MediaTypeImageLayerZstd {
		return gzip.NewReader(r)
	}
	decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	return decoder.IOReadCloser(), nil
}

// layerReader tells when a layer was read.
type layerReader struct {
	*os.File
	done func()
}

func (r *layerReader) Close() error {
	r.done()
	return r.File.Close()
}
