// Package graph is the digest graph: content by digest, and the edges between contents.
//
// A [Node] is an OCI descriptor; a [Store] holds nodes. Everything that reads goes through
// [Fetch], and so the invariant: no byte is used before its size and digest were checked.
package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
)

// MaxManifest bounds a manifest, an index and an image configuration, in bytes: the size that
// the distribution specification v1.1 asks every registry to accept.
const MaxManifest = 4 << 20

// Node is content by digest: media type, digest, size in bytes.
type Node = ocispec.Descriptor

// Store holds content. It has the three methods of oras-go's content.Storage on purpose, so that
// its memory, layout and remote stores satisfy it without an adapter.
type Store interface {
	Fetch(ctx context.Context, n Node) (io.ReadCloser, error)
	Exists(ctx context.Context, n Node) (bool, error)
	Push(ctx context.Context, n Node, content io.Reader) error
}

// NewNode describes content.
func NewNode(mediaType string, content []byte) Node {
	return Node{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// Fetch returns the whole content of a node of at most limit bytes, checked by size and digest.
func Fetch(ctx context.Context, s Store, n Node, limit int64) ([]byte, error) {
	if n.Size > limit {
		return nil, fault.New(fault.Refused, "reading", n.Digest.String(), "%d bytes exceed the limit of %d", n.Size, limit)
	}
	r, err := s.Fetch(ctx, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, n.Size+1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "reading", n.Digest.String())
	}
	if int64(len(content)) != n.Size || digest.FromBytes(content) != n.Digest {
		return nil, fault.New(fault.Forged, "reading", n.Digest.String(), "content has %d bytes and digest %s, want %d bytes", len(content), digest.FromBytes(content), n.Size)
	}
	return content, nil
}

// PushBytes puts content into s unless it is there, and returns its node.
func PushBytes(ctx context.Context, s Store, mediaType string, content []byte) (Node, error) {
	n := NewNode(mediaType, content)
	there, err := s.Exists(ctx, n)
	if err != nil || there {
		return n, err
	}
	return n, s.Push(ctx, n, bytes.NewReader(content))
}

// Manifest fetches and decodes an image manifest.
func Manifest(ctx context.Context, s Store, n Node) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	err := decode(ctx, s, n, &m)
	return m, err
}

// Index fetches and decodes an image index.
func Index(ctx context.Context, s Store, n Node) (ocispec.Index, error) {
	var x ocispec.Index
	err := decode(ctx, s, n, &x)
	return x, err
}

// Config fetches and decodes an image configuration.
func Config(ctx context.Context, s Store, n Node) (ocispec.Image, error) {
	var c ocispec.Image
	err := decode(ctx, s, n, &c)
	return c, err
}

func decode(ctx context.Context, s Store, n Node, into any) error {
	content, err := Fetch(ctx, s, n, MaxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fault.Wrap(err, fault.Forged, "decoding", n.Digest.String())
	}
	return nil
}

// IsIndex reports whether a node is an image index.
func IsIndex(n Node) bool { return n.MediaType == ocispec.MediaTypeImageIndex }

// Children returns what a manifest or an index names, in its own order; other nodes have none.
func Children(ctx context.Context, s Store, n Node) ([]Node, error) {
	switch n.MediaType {
	case ocispec.MediaTypeImageIndex:
		x, err := Index(ctx, s, n)
		if err != nil {
			return nil, err
		}
		return x.Manifests, checkNodes(n, x.Manifests)
	case ocispec.MediaTypeImageManifest:
		m, err := Manifest(ctx, s, n)
		if err != nil {
			return nil, err
		}
		children := append([]Node{m.Config}, m.Layers...)
		return children, checkNodes(n, children)
	}
	return nil, nil
}

// checkNodes refuses descriptors that contradict themselves: a digest that is none, a negative
// size, embedded data that is other content. Image specification v1.1, "Content Descriptors".
func checkNodes(parent Node, nodes []Node) error {
	for _, n := range nodes {
		err := n.Digest.Validate()
		switch {
		case err != nil:
		case n.Size < 0:
			err = fmt.Errorf("its size is %d", n.Size)
		case n.Data != nil && (int64(len(n.Data)) != n.Size || digest.FromBytes(n.Data) != n.Digest):
			err = fmt.Errorf("its data has %d bytes and the digest %s", len(n.Data), digest.FromBytes(n.Data))
		}
		if err != nil {
			return fault.New(fault.Forged, "reading", parent.Digest.String(), "it names %s: %w", n.Digest, err)
		}
	}
	return nil
}

// Assemble puts an image index over platform manifests into s. The same manifests and annotations give
// the same bytes: children are sorted by platform and carry nothing but what identifies them.
func Assemble(ctx context.Context, s Store, manifests []Node, annotations map[string]string) (Node, error) {
	children := make([]Node, 0, len(manifests))
	for _, m := range manifests {
		if m.Platform == nil {
			return Node{}, fault.New(fault.Invalid, "assembling index", m.Digest.String(), "the manifest has no platform")
		}
		children = append(children, Node{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, Platform: m.Platform})
	}
	slices.SortFunc(children, func(a, b Node) int { return strings.Compare(PlatformName(a.Platform), PlatformName(b.Platform)) })
	content, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children, Annotations: annotations})
	if err != nil {
		return Node{}, err
	}
	return PushBytes(ctx, s, ocispec.MediaTypeImageIndex, content)
}

// PlatformName prints a platform as "os/arch[/variant]".
func PlatformName(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}

// CheckLineage proves that child was built on base: base's layers are a prefix of child's, layer
// by layer and byte by byte, on the same platform. A base without layers proves nothing.
func CheckLineage(base, child ocispec.Manifest) error {
	if len(base.Layers) == 0 {
		return errors.New("its base has no layers to compare")
	}
	if len(child.Layers) < len(base.Layers) {
		return fmt.Errorf("it has %d layers, its base has %d", len(child.Layers), len(base.Layers))
	}
	for i, layer := range base.Layers {
		if child.Layers[i].Digest != layer.Digest {
			return fmt.Errorf("layer %d is %s, its base has %s", i, child.Layers[i].Digest, layer.Digest)
		}
	}
	return nil
}
