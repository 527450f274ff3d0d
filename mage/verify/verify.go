// Package verify is the consumer's side: it checks that a channel, an image or an SBOM is what
// the family's policy says, from a registry and a trust root alone. It needs no login for public
// content, no builder and no scanner.
//
// A [Verifier] answers with a [Result], the list of everything that was compared, or fails with
// what did not hold. Invariant: a Result without an error has at least one check, and every
// check in it was made on content addressed by digest; a tag is resolved once, at the start.
package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Verifier checks against one registry and one trust root.
type Verifier struct {
	Family   *family.Family
	Registry pipeline.Registry
	Trust    pipeline.Verifier
}

// Check is one comparison that held.
type Check struct {
	Subject string `json:"subject"` // member, with platform where there is one
	What    string `json:"what"`
	Found   string `json:"found"`
}

// Result is everything that was checked about one subject.
type Result struct {
	Subject    string        `json:"subject"`
	Digest     digest.Digest `json:"digest"`
	Generation uint64        `json:"generation,omitempty"` // of the channels document
	Commit     string        `json:"commit,omitempty"`
	Checks     []Check       `json:"checks"`
}

func (r *Result) hold(subject, what, format string, args ...any) {
	r.Checks = append(r.Checks, Check{subject, what, fmt.Sprintf(format, args...)})
}

// Channel verifies everything a channel serves at the time now: the channels document, its
// record, the evidence of every member, the lineage of every image, and the tags.
//
// It fails with fault.Unverified when evidence is missing, fault.Forged when something does not
// match, fault.Refused when the document has expired.
func (v *Verifier) Channel(ctx context.Context, name string, now time.Time) (Result, error) {
	result := Result{Subject: "channel " + name}
	state, err := v.document(ctx, name, now, &result)
	if err != nil {
		return result, err
	}
	record, node, err := v.record(ctx, state, &result)
	if err != nil {
		return result, err
	}
	claims := release.Claims(v.Family, record, node)
	found, err := v.evidence(ctx, claims, state.Commit, &result)
	if err != nil {
		return result, err
	}
	if err := v.sboms(ctx, claims, found, &result); err != nil {
		return result, err
	}
	if err := v.lineage(ctx, record, &result); err != nil {
		return result, err
	}
	err = v.tags(ctx, name, state, record, &result)
	return result, err
}

// Image verifies one image by its name in the family and a tag or digest: its index and every
// platform below it.
func (v *Verifier) Image(ctx context.Context, name, tagOrDigest string) (Result, error) {
	result := Result{Subject: name + " " + tagOrDigest}
	image, err := v.image(ctx, name, tagOrDigest, &result)
	if err != nil {
		return result, err
	}
	claims := release.ImageClaims(name, image)
	found, err := v.evidence(ctx, claims, "", &result)
	if err != nil {
		return result, err
	}
	err = v.sboms(ctx, claims, found, &result)
	return result, err
}

// SBOM verifies the SBOMs of an image and returns the CycloneDX document of each platform.
func (v *Verifier) SBOM(ctx context.Context, name, tagOrDigest string) (Result, map[string][]byte, error) {
	result := Result{Subject: "SBOM of " + name + " " + tagOrDigest}
	image, err := v.image(ctx, name, tagOrDigest, &result)
	if err != nil {
		return result, nil, err
	}
	claims := release.ImageClaims(name, image)
	found, err := v.evidence(ctx, claims, "", &result)
	if err != nil {
		return result, nil, err
	}
	if err := v.sboms(ctx, claims, found, &result); err != nil {
		return result, nil, err
	}
	documents := map[string][]byte{}
	for platform, node := range image.Platforms {
		documents[platform] = found[pipeline.Key{Subject: node.Digest, Predicate: evidence.SBOM}].Predicate
	}
	return result, documents, nil
}

func (v *Verifier) document(ctx context.Context, channel string, now time.Time, result *Result) (release.State, error) {
	name := v.Family.ArtifactOf(family.Metadata)
	repo := v.Registry.Repository(name)
	node, found, err := repo.Resolve(ctx, release.ChannelsTag)
	if err != nil {
		return release.State{}, err
	}
	if !found {
		return release.State{}, fault.New(fault.Unverified, "verifying", "channel "+channel, "%s has no tag %s", name, release.ChannelsTag).
			WithHint("nothing was released to this registry yet: mage release:%s", channel)
	}
	result.Digest = node.Digest
	claim := release.Claim{Member: name, Subject: node, Predicate: evidence.Signature}
	if _, err := v.evidence(ctx, []release.Claim{claim}, "", result); err != nil {
		return release.State{}, err
	}
	document, err := pipeline.ReadDocument(ctx, repo, node)
	if err != nil {
		return release.State{}, err
	}
	state, ok := document.Channels[channel]
	switch {
	case document.Family != v.Family.Name:
		return state, fault.New(fault.Forged, "verifying", "channels document", "it is of family %q, want %q", document.Family, v.Family.Name)
	case now.After(document.Expires):
		return state, fault.New(fault.Refused, "verifying", "channels document", "it expired on %s", document.Expires.Format(time.DateOnly)).WithHint("ask the releasers to refresh it")
	case !ok:
		return state, fault.New(fault.Unverified, "verifying", "channel "+channel, "the document has channels %v", document.Names())
	}
	result.Generation, result.Commit = document.Generation, state.Commit
	result.hold(name, "channels document", "generation %d, fresh until %s", document.Generation, document.Expires.Format(time.DateOnly))
	return state, nil
}

func (v *Verifier) record(ctx context.Context, s release.State, result *Result) (release.Record, graph.Node, error) {
	repo := v.Registry.Repository(v.Family.ArtifactOf(family.Metadata))
	node, found, err := repo.ByDigest(ctx, s.Record)
	if err != nil {
		return release.Record{}, node, err
	}
	if !found {
		return release.Record{}, node, fault.New(fault.Unverified, "verifying", "record "+s.Record.String(), "the registry does not have it")
	}
	record, err := pipeline.ReadRecord(ctx, repo, node)
	if err != nil {
		return release.Record{}, node, err
	}
	members := map[string]digest.Digest{}
	for name, n := range record.Members() {
		members[name] = n.Digest
	}
	if record.Source.Commit != s.Commit || record.Source.Tag() != s.Tag || !maps.Equal(members, s.Members) {
		return release.Record{}, node, fault.New(fault.Forged, "verifying", "record "+s.Record.String(), "it and the channels document do not name the same commit and digests")
	}
	result.hold("record", "names the channel's members", "%d members of %s", len(members), s.Tag)
	return record, node, nil
}

// evidence demands every claim and reports what each bundle proved.
func (v *Verifier) evidence(ctx context.Context, claims []release.Claim, commit string, result *Result) (pipeline.Found, error) {
	var bad error
	found, err := pipeline.Collect(ctx, v.Registry, v.Trust, claims, commit, func(_ release.Claim, err error) { bad = err })
	if err != nil {
		return nil, err
	}
	for _, c := range claims {
		if _, ok := found[pipeline.KeyOf(c)]; ok {
			result.hold(subject(c), predicateName(c.Predicate), "signed for %s", c.Subject.Digest)
			continue
		}
		if bad != nil {
			return nil, fault.Wrap(bad, fault.Forged, "verifying", subject(c))
		}
		return nil, fault.New(fault.Unverified, "verifying", subject(c), "there is no %s of %s", predicateName(c.Predicate), c.Subject.Digest).
			WithHint("releasing the same commit again attests what is missing")
	}
	return found, nil
}

// sboms compares the SBOM that hangs on a subject with the one that was attested, and with the
// digest that the scan attestation states.
func (v *Verifier) sboms(ctx context.Context, claims []release.Claim, found pipeline.Found, result *Result) error {
	stated := map[digest.Digest]digest.Digest{}
	reports, err := found.Reports(claims)
	if err != nil {
		return err
	}
	for _, r := range reports {
		stated[r.Digest] = r.SBOM
	}
	for _, c := range claims {
		if c.Predicate != evidence.SBOM {
			continue
		}
		content, err := v.attached(ctx, c, stated[c.Subject.Digest])
		if err != nil {
			return err
		}
		if !sameJSON(content, found[pipeline.KeyOf(c)].Predicate) {
			return fault.New(fault.Forged, "verifying", subject(c), "the SBOM attached to it is not the SBOM that was attested")
		}
		result.hold(subject(c), "SBOM as attested", "%s", digest.FromBytes(content))
	}
	return nil
}

// attached finds the SBOM document of a subject; when its digest is stated, that very one.
func (v *Verifier) attached(ctx context.Context, c release.Claim, stated digest.Digest) ([]byte, error) {
	repo := v.Registry.Repository(c.Member)
	referrers, err := repo.Referrers(ctx, c.Subject)
	if err != nil {
		return nil, err
	}
	for _, r := range referrers {
		if r.ArtifactType == evidence.SBOMType && len(r.Layers) == 1 && (stated == "" || r.Layers[0].Digest == stated) {
			return graph.Fetch(ctx, repo, r.Layers[0], pipeline.MaxBundle)
		}
	}
	return nil, fault.New(fault.Unverified, "verifying", subject(c), "no SBOM document hangs on %s", c.Subject.Digest)
}

// lineage proves that every image stands on its parent, layer by layer, on every platform.
func (v *Verifier) lineage(ctx context.Context, r release.Record, result *Result) error {
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		parent := v.Family.Images[name].From
		if parent == "" {
			continue
		}
		for platform, node := range r.Images[name].Platforms {
			child, err := graph.Manifest(ctx, v.Registry.Repository(name), node)
			if err != nil {
				return err
			}
			base, err := graph.Manifest(ctx, v.Registry.Repository(parent), r.Images[parent].Platforms[platform])
			if err != nil {
				return err
			}
			if err := graph.CheckLineage(base, child); err != nil {
				return fault.Wrap(err, fault.Forged, "verifying", name+" "+platform)
			}
		}
		result.hold(name, "built on "+parent, "its layers are a prefix, byte by byte")
	}
	return nil
}

// tags checks that the names people pull show what the document says.
func (v *Verifier) tags(ctx context.Context, channel string, s release.State, r release.Record, result *Result) error {
	for _, name := range slices.Sorted(maps.Keys(s.Members)) {
		for _, tag := range []string{channel, r.Source.Tag()} {
			node, found, err := v.Registry.Repository(name).Resolve(ctx, tag)
			if err != nil {
				return err
			}
			if !found || node.Digest != s.Members[name] {
				return fault.New(fault.Forged, "verifying", name+":"+tag, "it shows %q, the channels document says %s", node.Digest, s.Members[name]).
					WithHint("tags follow the ledger: a release to the channel derives them again")
			}
		}
		result.hold(name, "tags", "%s and %s", channel, r.Source.Tag())
	}
	return nil
}

func (v *Verifier) image(ctx context.Context, name, tagOrDigest string, result *Result) (release.Image, error) {
	if _, ok := v.Family.Images[name]; !ok {
		return release.Image{}, fault.New(fault.Invalid, "verifying", name, "the family has images %v", v.Family.ImageNames())
	}
	repo := v.Registry.Repository(name)
	lookup := func() (graph.Node, bool, error) { return repo.Resolve(ctx, tagOrDigest) }
	if d, err := digest.Parse(tagOrDigest); err == nil {
		lookup = func() (graph.Node, bool, error) { return repo.ByDigest(ctx, d) }
	}
	node, found, err := lookup()
	if err != nil {
		return release.Image{}, err
	}
	if !found {
		return release.Image{}, fault.New(fault.Unverified, "verifying", name+" "+tagOrDigest, "the registry does not have it")
	}
	result.Digest = node.Digest
	if !graph.IsIndex(node) {
		return release.Image{}, fault.New(fault.Invalid, "verifying", name+" "+tagOrDigest, "it is %s, not an image index", node.MediaType)
	}
	index, err := graph.Index(ctx, repo, node)
	if err != nil {
		return release.Image{}, err
	}
	image := release.Image{Index: node, Platforms: map[string]graph.Node{}}
	for _, m := range index.Manifests {
		image.Platforms[graph.PlatformName(m.Platform)] = m
	}
	if len(image.Platforms) == 0 || len(image.Platforms) != len(index.Manifests) {
		return release.Image{}, fault.New(fault.Forged, "verifying", name+" "+tagOrDigest, "its index does not name each platform once")
	}
	return image, nil
}

func subject(c release.Claim) string {
	if c.Platform == "" {
		return c.Member
	}
	return c.Member + " " + c.Platform
}

func predicateName(predicate string) string {
	switch predicate {
	case evidence.Signature:
		return "signature"
	case evidence.Provenance:
		return "provenance"
	case evidence.SBOM:
		return "SBOM attestation"
	case evidence.Scan:
		return "scan attestation"
	}
	return predicate
}

// sameJSON compares documents by their values: white space and escapes do not count.
func sameJSON(a, b []byte) bool {
	x, errX := canonical(a)
	y, errY := canonical(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func canonical(content []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}
