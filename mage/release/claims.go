package release

import (
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
)

// Claim is one statement that must exist, signed, about one digest of a release.
type Claim struct {
	Member    string // repository the subject lives in
	Platform  string // of a platform manifest; empty for indexes and artifacts
	Subject   graph.Node
	Predicate string
	Commit    string // whose job must have signed it; empty accepts any

	Dependencies []evidence.Material // what a provenance must name, at least
}

// Claims returns every statement that a record needs before a channel may name it:
//
//	platform manifest  signature, provenance, SBOM, scan
//	index              signature, provenance
//	payload            signature, provenance, SBOM
//	installer          signature, provenance
//	record             signature
//
// They are sorted by member, then platform.
func Claims(f *family.Family, r Record, record graph.Node) []Claim {
	var claims []Claim
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		for _, c := range ImageClaims(name, r.Images[name]) {
			c.Commit = r.BuiltBy(name)
			if c.Predicate == evidence.SBOM || c.Predicate == evidence.Scan {
				c.Commit = r.InspectedBy(name)
			}
			claims = append(claims, c)
		}
	}
	own := len(claims)
	for _, name := range slices.Sorted(maps.Keys(r.Artifacts)) {
		claims = append(claims, about(name, "", r.Artifacts[name], evidence.Signature, evidence.Provenance)...)
		if f.Artifacts[name].Kind == family.Payload {
			claims = append(claims, about(name, "", r.Artifacts[name], evidence.SBOM)...)
		}
	}
	claims = append(claims, about(f.ArtifactOf(family.Metadata), "", record, evidence.Signature)...)
	for i := range claims[own:] {
		claims[own+i].Commit = r.Source.Commit
	}
	for i, c := range claims {
		if c.Predicate == evidence.Provenance {
			claims[i].Dependencies = r.Dependencies(f, c)
		}
	}
	return claims
}

// ImageClaims returns every statement that one image needs, whoever may sign it.
func ImageClaims(name string, image Image) []Claim {
	claims := about(name, "", image.Index, evidence.Signature, evidence.Provenance)
	for _, platform := range slices.Sorted(maps.Keys(image.Platforms)) {
		claims = append(claims, about(name, platform, image.Platforms[platform], evidence.Signature, evidence.Provenance, evidence.SBOM, evidence.Scan)...)
	}
	return claims
}

func about(member, platform string, subject graph.Node, predicates ...string) []Claim {
	claims := make([]Claim, len(predicates))
	for i, p := range predicates {
		claims[i] = Claim{Member: member, Platform: platform, Subject: subject, Predicate: p}
	}
	return claims
}

// Dependencies returns what the subject of a claim was made from: an image, the record's materials
// of its platform and, if it is built on another of the family, that parent's digest; payload and installer, the
// images they are made for, and the installer also the verifiers it carries.
func (r Record) Dependencies(f *family.Family, c Claim) []evidence.Material {
	image, ok := f.Images[c.Member]
	switch {
	case !ok && f.Artifacts[c.Member].Kind == family.Installer:
		return append(r.pins(), r.Verifiers...)
	case !ok:
		return r.pins()
	}
	deps := slices.DeleteFunc(slices.Clone(r.Materials), func(m evidence.Material) bool {
		platform, ok := strings.CutPrefix(m.Name, OSBase+"/")
		return ok && c.Platform != "" && platform != c.Platform
	})
	if image.From == "" {
		return deps
	}
	parent := r.Images[image.From].Index
	if c.Platform != "" {
		parent = r.Images[image.From].Platforms[c.Platform]
	}
	return append(deps, material(image.From, parent))
}

// pins are the images that payload and installer are made for.
func (r Record) pins() []evidence.Material {
	var out []evidence.Material
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		out = append(out, material(name, r.Images[name].Index))
	}
	return out
}

func material(name string, n graph.Node) evidence.Material {
	return evidence.Material{Name: name, URI: "oci:" + name, Digest: map[string]string{"sha256": n.Digest.Encoded()}}
}
