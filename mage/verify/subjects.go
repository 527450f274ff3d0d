package verify

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// subjects groups claims by what they are about. The zero record is that of an image on its own.
func (v *Verifier) subjects(r release.Record, recordAt graph.Node, claims []release.Claim) (subjects []Subject, nodes []graph.Node) {
	hasRecord := recordAt.Digest != "" // without one nobody says what a subject was made from
	seen := map[string]bool{}
	for _, c := range claims {
		key := c.Member + " " + c.Platform + " " + c.Subject.Digest.String()
		if seen[key] {
			continue
		}
		seen[key] = true
		s := Subject{Name: c.Member, Platform: c.Platform, Kind: v.kind(c, recordAt), Digest: c.Subject.Digest, Commit: c.Commit}
		if s.Kind == family.PlatformManifest && hasRecord {
			s.Inspected = r.InspectedBy(c.Member)
		}
		if hasRecord && s.Kind != family.RecordManifest {
			s.Dependencies = r.Dependencies(v.Family, c)
		}
		subjects, nodes = append(subjects, s), append(nodes, c.Subject)
	}
	return subjects, nodes
}

func (v *Verifier) kind(c release.Claim, recordAt graph.Node) family.SubjectKind {
	_, isImage := v.Family.Images[c.Member]
	switch {
	case isImage && c.Platform != "":
		return family.PlatformManifest
	case isImage:
		return family.ImageIndex
	case c.Subject.Digest == recordAt.Digest:
		return family.RecordManifest
	case v.Family.Artifacts[c.Member].Kind == family.Payload:
		return family.PayloadManifest
	}
	return family.InstallManifest
}

// proves verifies many subjects at once and reports them in their order.
func (w *walk) proves(ctx context.Context, subjects []Subject, nodes []graph.Node, into *Result) error {
	results, err := w.Verifier.verifyAll(ctx, subjects, nodes, w.now)
	for _, r := range results {
		into.Checks = append(into.Checks, r.Checks...)
	}
	return err
}

// maxSubjects is how many subjects are read and verified at a time: it bounds what is held of their
// evidence, as pipeline.MaxEvidence does for one.
const maxSubjects = 8

// verifyAll returns the results by index, and the first error in the subjects' order.
func (v *Verifier) verifyAll(ctx context.Context, subjects []Subject, nodes []graph.Node, now time.Time) ([]Result, error) {
	results, errs := make([]Result, len(subjects)), make([]error, len(subjects))
	group := errgroup.Group{}
	group.SetLimit(maxSubjects)
	for i, s := range subjects {
		group.Go(func() error {
			results[i], errs[i] = v.verifyOne(ctx, s, nodes[i], now)
			return nil
		})
	}
	_ = group.Wait()
	for i, err := range errs {
		if err != nil {
			return results[:i], err
		}
	}
	return results, nil
}

// verifyOne looks into the registry, and elsewhere only for what it does not find there.
func (v *Verifier) verifyOne(ctx context.Context, s Subject, node graph.Node, now time.Time) (Result, error) {
	attached, err := pipeline.Attachments(ctx, v.Registry.Repository(s.Name), node, evidence.BundleType, evidence.SBOMType)
	if err != nil {
		return Result{}, fault.Wrap(err, fault.Unavailable, "reading evidence of", s.String())
	}
	found := Evidence(attached)
	result, refusal := Verify(ctx, s, found, v.Trust, v.Policy, now)
	if v.Elsewhere == nil || !errors.Is(refusal, fault.Unverified) && !errors.Is(refusal, fault.Forged) {
		return result, refusal
	}
	more, err := v.Elsewhere.Bundles(ctx, s.Digest)
	switch {
	case err != nil && errors.Is(refusal, fault.Forged): // who does not answer takes nothing back
		return result, refusal
	case err != nil:
		return Result{}, fault.Wrap(err, fault.Unavailable, "reading evidence of", s.String())
	}
	found.Bundles = append(found.Bundles, more...)
	return Verify(ctx, s, found, v.Trust, v.Policy, now)
}
