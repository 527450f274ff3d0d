//go:build goexperiment.jsonv2

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	secretanalyzer "github.com/aquasecurity/trivy/pkg/fanal/analyzer/secret"
	"github.com/aquasecurity/trivy/pkg/fanal/artifact"
	trivyimage "github.com/aquasecurity/trivy/pkg/fanal/artifact/image"
	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	trivy "github.com/aquasecurity/trivy/pkg/fanal/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// layers holds what Trivy found in each layer, by the layer's digest.
type layers struct {
	cache layerCache
	keys  map[digest.Digest]string // cache keys
	blobs map[v1.Hash]*blobLayer
}

// analyseLayers analyses every layer once, or takes its result from the cache.
//
// Trivy is shown one image made of all layers of the family. It has no history: Trivy takes the
// layers before a CMD in the history for a base image and does not look for secrets in them
// (guessBaseLayers), and caches that. Layers are named by the digest of the blob that was
// checked, not by the diff id that a configuration claims, so that no image can pass off its
// layer as one that was scanned before.
func analyseLayers(ctx context.Context, job inspect.Job, modules string, blobs []*blobLayer, scanner secret.Scanner) (*layers, error) {
	family := &layersImage{Image: empty.Image, layers: map[v1.Hash]*blobLayer{}}
	cache := layerCache{results: results(job), rules: modules + " " + inspect.Revision, read: map[string]string{}}
	for _, blob := range blobs {
		if hash := blob.hash(); family.layers[hash] == nil {
			family.layers[hash] = blob
			family.order = append(family.order, hash)
			cache.read[blob.digest.String()] = packing(blob.mediaType)
		}
	}
	found := &layers{cache: cache, keys: map[digest.Digest]string{}, blobs: family.layers}
	// Trivy keeps its analysers in a global: ours takes the place of the one that has exceptions.
	analyzer.DeregisterAnalyzer(analyzer.TypeSecret)
	analyzer.RegisterAnalyzer(secretanalyzer.NewSecretAnalyzer(scanner, ""))
	return found, found.analyse(ctx, job, family)
}

func (l *layers) analyse(ctx context.Context, job inspect.Job, family *layersImage) error {
	art, err := trivyimage.NewArtifact(family, l.cache, artifact.Option{
		DisabledAnalyzers: notNeeded(),
		Parallel:          parallel(job),
		Offline:           true,
		NoProgress:        true,
	})
	if err != nil {
		return fault.Wrap(err, fault.Refused, "starting", "Trivy")
	}
	reference, err := art.Inspect(ctx)
	if err != nil {
		return fault.Wrap(err, fault.Refused, "scanning", "layers")
	}
	if len(reference.BlobIDs) != len(family.order) {
		return fault.New(fault.Refused, "scanning", "layers", "Trivy answered for %d of %d", len(reference.BlobIDs), len(family.order))
	}
	for i, hash := range family.order {
		l.keys[digest.Digest(hash.String())] = reference.BlobIDs[i]
	}
	return nil
}

// notNeeded are the analysers whose results no report holds, that would need a network, or, for
// configuration, that we replace by one that sees every string.
func notNeeded() []analyzer.Type {
	list := []analyzer.Type{
		analyzer.TypeApkCommand, analyzer.TypeHistoryDockerfile, analyzer.TypeImageConfigSecret,
		analyzer.TypeLicenseFile, analyzer.TypeDpkgLicense,
		analyzer.TypeExecutable, analyzer.TypeJar, analyzer.TypeRpmArchive,
	}
	list = append(list, analyzer.TypeLockfiles...)
	return append(list, analyzer.TypeConfigFiles...)
}

// of returns what was found in the layers of one target, in their order.
func (l *layers) of(ctx context.Context, digests []digest.Digest) (keys []string, blobs []trivy.BlobInfo, err error) {
	for _, d := range digests {
		key := l.keys[d]
		blob, err := l.cache.GetBlob(ctx, key)
		if err != nil {
			return nil, nil, fault.New(fault.Refused, "scanning", d.String(), "there is no result: %w", err)
		}
		if blob.SchemaVersion != trivy.BlobJSONSchemaVersion || blob.DiffID != d.String() {
			return nil, nil, fault.New(fault.Forged, "scanning", d.String(), "the result speaks about %q", blob.DiffID)
		}
		keys, blobs = append(keys, key), append(blobs, blob)
	}
	return keys, blobs, nil
}

// spent returns how long the layers took that this run opened and no target was charged with yet, and
// whether none of them had to be opened.
func (l *layers) spent(digests []digest.Digest) (took time.Duration, cached bool) {
	cached = true
	for _, d := range digests {
		if blob := l.blobs[v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()}]; blob.opened {
			took, blob.took, cached = took+blob.took, 0, false
		}
	}
	return took, cached
}

// layersImage is an image of all layers, as much of one as Trivy asks for.
type layersImage struct {
	v1.Image // an empty one answers the rest
	order    []v1.Hash
	layers   map[v1.Hash]*blobLayer
}

func (i *layersImage) Name() string          { return "family" }
func (i *layersImage) ID() (string, error)   { return "sha256:" + digest.FromString("").Encoded(), nil }
func (i *layersImage) RepoTags() []string    { return nil }
func (i *layersImage) RepoDigests() []string { return nil }

func (i *layersImage) ConfigFile() (*v1.ConfigFile, error) {
	return &v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: i.order}}, nil
}

func (i *layersImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	if layer := i.layers[h]; layer != nil {
		return layer, nil
	}
	return nil, fmt.Errorf("no layer %s", h)
}
