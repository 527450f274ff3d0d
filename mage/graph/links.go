package graph

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// The media types of manifests beside OCI's: Docker's, and the OCI artifact manifest that was given
// up before image specification v1.1 and still lies in registries.
const (
	dockerManifest   = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList       = "application/vnd.docker.distribution.manifest.list.v2+json"
	artifactManifest = "application/vnd.oci.artifact.manifest.v1+json"
)

// ManifestTypes are the media types of everything that a registry keeps among its manifests and
// whose links are known.
func ManifestTypes() []string {
	return []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest, artifactManifest}
}

// Links is what a manifest names besides its blobs.
type Links struct {
	ArtifactType string
	Children     []Node        // of an index, in its own order
	Subject      digest.Digest // what it speaks about; empty for none
	Base         digest.Digest // of the image it says it was built on
	Bytes        int64         // of its blobs, as it says
}

// ReadLinks reads the links of a manifest of any known media type. An unknown one is refused: what
// it names is not known.
func ReadLinks(n Node, content []byte) (Links, error) {
	if !slices.Contains(ManifestTypes(), n.MediaType) {
		return Links{}, fault.New(fault.Refused, "reading", n.Digest.String(), "media type %q: what it names is not known", n.MediaType)
	}
	var doc struct {
		ArtifactType string            `json:"artifactType"`
		Manifests    []Node            `json:"manifests"`
		Config       *Node             `json:"config"`
		Layers       []Node            `json:"layers"`
		Blobs        []Node            `json:"blobs"`
		Subject      *Node             `json:"subject"`
		Annotations  map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return Links{}, fault.Wrap(err, fault.Forged, "decoding", n.Digest.String())
	}
	l := Links{ArtifactType: doc.ArtifactType, Children: doc.Manifests}
	blobs := slices.Concat(doc.Layers, doc.Blobs)
	if doc.Config != nil {
		l.ArtifactType = cmp.Or(l.ArtifactType, doc.Config.MediaType)
		blobs = append(blobs, *doc.Config)
	}
	if err := checkNodes(n, slices.Concat(blobs, doc.Manifests)); err != nil {
		return Links{}, err
	}
	for _, b := range blobs {
		l.Bytes += b.Size
	}
	if doc.Subject != nil {
		l.Subject = doc.Subject.Digest
		if err := l.Subject.Validate(); err != nil {
			return Links{}, fault.Wrap(err, fault.Forged, "decoding subject of", n.Digest.String())
		}
	}
	if base := digest.Digest(doc.Annotations[ocispec.AnnotationBaseImageDigest]); base.Validate() == nil {
		l.Base = base
	}
	return l, nil
}

// What a tag may be besides a name: a list of referrers, or what cosign v2 attached to a digest.
var (
	fallbackGrammar = lazyregexp.New(`^sha256-([0-9a-f]{64})$`)
	legacyGrammar   = lazyregexp.New(`^sha256-([0-9a-f]{64})\.[a-z]+$`)
)

// TagSubject returns the digest that a tag stands for, and how: the referrers tag of the
// distribution specification v1.1, or cosign's .sig, .att and .sbom tags. Other tags are names.
func TagSubject(tag string) (digest.Digest, Via, bool) {
	if m := fallbackGrammar.FindStringSubmatch(tag); m != nil {
		return digest.NewDigestFromEncoded(digest.SHA256, m[1]), Fallback, true
	}
	if m := legacyGrammar.FindStringSubmatch(tag); m != nil {
		return digest.NewDigestFromEncoded(digest.SHA256, m[1]), Legacy, true
	}
	return "", "", false
}

// FallbackTag is the referrers tag of a digest.
func FallbackTag(d digest.Digest) string { return fmt.Sprintf("%s-%s", d.Algorithm(), d.Encoded()) }
