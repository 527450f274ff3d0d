//go:build goexperiment.jsonv2

package main

import (
	"context"
	"encoding/json"
	"fmt"

	trivy "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// layerCache is Trivy's cache of what it found in each layer, over our results. Trivy's keys name the
// layer and the analysers' versions; rules adds the versions of what they know, which Trivy's do not.
// Neither names how a layer was unpacked, and the same bytes can be an archive in two ways with other
// content in each: what was found tells how it was read, and counts for a layer that is read so.
type layerCache struct {
	results inspect.Results
	rules   string
	read    map[string]string // packing of this job's layers, by digest
}

// layerResult is what the cache keeps of a layer.
type layerResult struct {
	Read  string
	Found trivy.BlobInfo
}

func (c layerCache) key(blob string) string { return fmt.Sprintf("layer %s %s", c.rules, blob) }

func (c layerCache) MissingBlobs(ctx context.Context, _ string, blobs []string) (bool, []string, error) {
	var missing []string
	for _, blob := range blobs {
		if _, err := c.GetBlob(ctx, blob); err != nil {
			missing = append(missing, blob)
		}
	}
	return false, missing, nil
}

func (c layerCache) PutBlob(_ context.Context, blob string, found trivy.BlobInfo) error {
	content, err := json.Marshal(layerResult{c.read[found.DiffID], found})
	if err != nil {
		return err
	}
	return c.results.Store(c.key(blob), content)
}

func (c layerCache) GetBlob(_ context.Context, blob string) (trivy.BlobInfo, error) {
	var kept layerResult
	content, there := c.results.Load(c.key(blob))
	if !there || json.Unmarshal(content, &kept) != nil || kept.Read != c.read[kept.Found.DiffID] {
		return trivy.BlobInfo{}, fault.New(fault.Refused, "looking for", blob, "there is no result")
	}
	return kept.Found, nil
}

// An image's own result is empty: its configuration is scanned elsewhere, every string of it.
func (c layerCache) PutArtifact(context.Context, string, trivy.ArtifactInfo) error { return nil }

func (c layerCache) GetArtifact(context.Context, string) (trivy.ArtifactInfo, error) {
	return trivy.ArtifactInfo{}, nil
}

// Results are trimmed by the process that started this one.
func (c layerCache) DeleteBlobs(context.Context, []string) error { return nil }
func (c layerCache) Clear(context.Context) error                 { return nil }
func (c layerCache) Close() error                                { return nil }
