package verify

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Image verifies one image by its name in the family and a tag or digest: its index and every
// platform below it, all built from one commit.
func (v *Verifier) Image(ctx context.Context, name, tagOrDigest string, now time.Time) (Result, error) {
	result, _, err := v.imageEvidence(ctx, name, tagOrDigest, now)
	return result, err
}

// SBOM verifies an image and returns the CycloneDX document of each platform.
func (v *Verifier) SBOM(ctx context.Context, name, tagOrDigest string, now time.Time) (Result, map[string][]byte, error) {
	result, platforms, err := v.imageEvidence(ctx, name, tagOrDigest, now)
	if err != nil {
		return result, nil, err
	}
	documents := map[string][]byte{}
	for platform, proved := range platforms {
		st, ok := proved[family.DemandSBOM]
		if !ok {
			return result, nil, refuse(fault.Unverified, name+" "+platform, Missing, "the policy does not demand SBOMs")
		}
		documents[platform] = st.Predicate
	}
	return result, documents, nil
}

func (v *Verifier) imageEvidence(ctx context.Context, name, tagOrDigest string, now time.Time) (result Result, platforms map[string]statements, err error) {
	ctx, cancel := v.patiently(ctx)
	defer cancel()
	defer func() { err = arrived(err) }()
	result = Result{Subject: name + " " + tagOrDigest}
	if err := KnownImage(v.Family, name); err != nil {
		return result, nil, err
	}
	node, err := v.resolve(ctx, name, tagOrDigest)
	result.Digest = node.Digest
	if err != nil {
		return result, nil, err
	}
	image, err := readImage(ctx, v.Registry.Repository(name), name, node)
	if err != nil {
		return result, nil, err
	}
	subjects, nodes := v.subjects(release.Record{}, graph.Node{}, release.ImageClaims(name, image))
	index, err := v.verifyAll(ctx, subjects[:1], nodes[:1], now)
	if err == nil {
		result.Commit = index[0].Commit
		for i := range subjects {
			subjects[i].Commit = result.Commit
		}
	}
	var results []Result
	if err == nil {
		results, err = v.verifyAll(ctx, subjects[1:], nodes[1:], now)
	}
	platforms = map[string]statements{}
	for i, r := range append(index, results...) {
		result.Checks = append(result.Checks, r.Checks...)
		if i > 0 {
			platforms[subjects[i].Platform] = r.statements
			if report, ok, err := report(sigstore.Verified{Statement: r.statements[family.DemandScan]}); ok && err == nil {
				result.reports = append(result.reports, report)
			}
		}
	}
	if err == nil {
		err = result.closed()
	}
	return result, platforms, err
}

// KnownImage refuses a name that no image of the family has.
func KnownImage(f *family.Family, name string) error {
	if _, ok := f.Images[name]; !ok {
		return fault.New(fault.Invalid, "verifying", name, "the family has images %v", f.ImageNames())
	}
	return nil
}

func (v *Verifier) resolve(ctx context.Context, name, tagOrDigest string) (graph.Node, error) {
	repo := v.Registry.Repository(name)
	lookup := func() (graph.Node, bool, error) { return repo.Resolve(ctx, tagOrDigest) }
	if d, err := digest.Parse(tagOrDigest); err == nil {
		lookup = func() (graph.Node, bool, error) { return repo.ByDigest(ctx, d) }
	}
	node, found, err := lookup()
	switch {
	case err != nil:
		return node, err
	case !found:
		return node, refuse(fault.Unverified, name+" "+tagOrDigest, Missing, "the registry does not have it")
	case !graph.IsIndex(node):
		return node, fault.New(fault.Invalid, "verifying", name+" "+tagOrDigest, "it is %s, not an image index", node.MediaType)
	}
	return node, nil
}

// maxPlatforms bounds the manifests of one index.
const maxPlatforms = 64

// readImage reads an index: every platform once, and nothing that has none.
func readImage(ctx context.Context, repo pipeline.Repository, name string, node graph.Node) (release.Image, error) {
	index, err := graph.Index(ctx, repo, node)
	if err != nil {
		return release.Image{}, err
	}
	image := release.Image{Index: node, Platforms: map[string]graph.Node{}}
	if len(index.Manifests) > maxPlatforms {
		return image, refuse(fault.Forged, name, WrongIndex, "it has %d entries, at most %d", len(index.Manifests), maxPlatforms)
	}
	for _, m := range index.Manifests {
		if m.Digest.Validate() != nil || m.Digest.Algorithm() != digest.SHA256 || m.MediaType != ocispec.MediaTypeImageManifest {
			return image, refuse(fault.Forged, name, WrongIndex, "%q is no image manifest by its SHA-256 but %q", m.Digest, m.MediaType)
		}
		image.Platforms[graph.PlatformName(m.Platform)] = m
	}
	if _, nameless := image.Platforms[""]; nameless || len(image.Platforms) == 0 || len(image.Platforms) != len(index.Manifests) {
		return image, refuse(fault.Forged, name, WrongIndex, "it does not name each platform once")
	}
	return image, nil
}
