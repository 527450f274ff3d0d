package graph

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// PackArtifact stores the manifest of an OCI artifact over layers that are stored already. The
// same layers and annotations give the same digest: no clock is read.
func PackArtifact(ctx context.Context, s Store, artifactType string, layers []Node, annotations map[string]string) (Node, error) {
	manifest, err := EncodeArtifact(artifactType, nil, layers, annotations)
	if err != nil {
		return Node{}, err
	}
	if _, err := PushBytes(ctx, s, ocispec.DescriptorEmptyJSON.MediaType, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return Node{}, err
	}
	return PushBytes(ctx, s, ocispec.MediaTypeImageManifest, manifest)
}

// mediaType is the grammar of RFC 6838, section 4.2.
var mediaType = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)

// EncodeArtifact encodes an artifact manifest, image specification v1.1, "Guidelines for Artifact Usage": the
// empty configuration, an artifactType, and the empty layer where there is none.
func EncodeArtifact(artifactType string, subject *Node, layers []Node, annotations map[string]string) ([]byte, error) {
	empty := Node{MediaType: ocispec.DescriptorEmptyJSON.MediaType, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: ocispec.DescriptorEmptyJSON.Size}
	if !mediaType.MatchString(artifactType) {
		return nil, fault.New(fault.Invalid, "packing artifact", artifactType, "the artifact type is not a media type of RFC 6838")
	}
	if len(layers) == 0 {
		layers = []Node{empty}
	}
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       empty,
		Layers:       layers,
		Annotations:  annotations,
	}
	if subject != nil {
		m.Subject = &Node{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	for _, layer := range layers {
		if !mediaType.MatchString(layer.MediaType) {
			return nil, fault.New(fault.Invalid, "packing artifact", artifactType, "layer %s has media type %q", layer.Digest, layer.MediaType)
		}
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(manifest) > MaxManifest {
		return nil, fault.New(fault.Refused, "packing artifact", artifactType, "its manifest exceeds %d bytes", MaxManifest)
	}
	return manifest, nil
}
