package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Bounds of attesting: a signature waits for the log's next checkpoint, so many are made at once;
// one subject's evidence is attached one after the other.
const (
	maxSignatures = 48
	maxAttaching  = 4
)

// Attest makes and attaches the statements of a release that are missing, and returns how many.
// Approved is asked for only when a missing statement needs what the inspection found.
//
// When signing fails, what was signed until then is attached, so that nobody has to sign it again;
// the release stays published and attest pending, and no channel names it. When nothing was
// missing, what was read to find that out goes on with the release. The archive is given last what
// it lacks of what hangs in the registry.
func (p *Pipeline) Attest(ctx context.Context, pub Published, channel string, approved func(context.Context) (release.Approved, error)) (Published, int, error) {
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	found, _, err := p.collect(ctx, claims, channel)
	if err != nil {
		return pub, 0, err
	}
	found = found.without(claims, pub.reports)
	missing := found.Missing(claims)
	if len(missing) == 0 {
		pub.proved = found
		return pub, 0, p.archive(ctx, pub, claims, channel)
	}
	p.Progress.Start("attest", pub.Record.Source.Tag())
	a, err := approved(ctx)
	if err != nil {
		return pub, 0, err
	}
	if err := p.attachSBOMs(ctx, a); err != nil {
		return pub, 0, err
	}
	bundles, failure := p.sign(ctx, pub, channel, a, missing)
	attached, err := p.attach(ctx, missing, bundles)
	if failure = errors.Join(failure, err); failure != nil {
		return pub, attached, pending(failure, pub.Record.Source.Tag(), len(missing)-attached)
	}
	for _, name := range p.Family.Members() {
		if err := p.Registry.Repository(name).Settle(ctx); err != nil {
			return pub, attached, err
		}
	}
	p.Progress.Done("attest", pub.Record.Source.Tag(), fmt.Sprintf("%d statements signed and attached", attached))
	return pub, attached, p.archive(ctx, pub, claims, channel)
}

// Unattested counts the statements that a release lacks before a channel may take it, or where it lacks
// none, those that the archive does. An archive that cannot be asked is no reason to sign anything.
func (p *Pipeline) Unattested(ctx context.Context, pub Published, channel string) (int, error) {
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	_, missing, err := p.collect(ctx, claims, channel)
	if err != nil || len(missing) > 0 || p.Archive == nil {
		return len(missing), err
	}
	lacking, err := p.unarchived(ctx, pub, claims, channel)
	if errors.Is(err, fault.Unavailable) {
		p.Progress.Note("attest", pub.Record.Source.Tag(), "not known whether all evidence is archived: "+err.Error())
		return 0, nil
	}
	return lacking, err
}

// pending says what a release lacks whose signing failed.
func pending(err error, tag string, lacking int) error {
	kind, _ := fault.KindOf(err)
	return &fault.Error{Op: "attesting", Subject: tag, Kind: kind, Err: fmt.Errorf("attest pending, %d statements are missing: %w", lacking, err),
		Hint: "it is published and no channel names it; run the same command again, which signs what is missing"}
}

// collect reads the evidence of claims and returns what proves them and what nothing proves. What
// does not verify is told only where it leaves a claim unproved: another commit's evidence on the
// same content is no cause for alarm.
func (p *Pipeline) collect(ctx context.Context, claims []release.Claim, channel string) (Found, []release.Claim, error) {
	refused := map[digest.Digest][]error{}
	found, err := Collect(ctx, p.Registry, p.Verifier, claims, channel, func(c release.Claim, err error) {
		refused[c.Subject.Digest] = append(refused[c.Subject.Digest], err)
	})
	if err != nil {
		return nil, nil, err
	}
	missing := found.Missing(claims)
	for _, c := range missing {
		for _, err := range refused[c.Subject.Digest] {
			p.Progress.Note("attest", c.Member, "ignoring evidence that does not verify: "+err.Error())
		}
		delete(refused, c.Subject.Digest)
	}
	return found, missing, nil
}

// attachSBOMs hangs the CycloneDX documents on what they describe, readable without a verifier.
func (p *Pipeline) attachSBOMs(ctx context.Context, a release.Approved) error {
	for _, c := range release.Claims(p.Family, a.Built().Record, graph.Node{}) {
		if c.Predicate != evidence.SBOM || c.Commit != a.Built().Record.Source.Commit {
			continue // what was kept has it
		}
		content, err := p.sbom(ctx, a, c)
		if err != nil {
			return err
		}
		if err := p.Registry.Repository(c.Member).Attach(ctx, c.Subject, evidence.SBOMType, content, nil); err != nil {
			return err
		}
	}
	return nil
}

// sign makes a bundle of every claim, in parallel, in the claims' order. After a failure those that
// were not made are empty, and so are those that the channel's policy does not accept.
func (p *Pipeline) sign(ctx context.Context, pub Published, channel string, a release.Approved, claims []release.Claim) ([]evidence.Bundle, error) {
	bundles := make([]evidence.Bundle, len(claims))
	signer, err := p.Signer(ctx)
	if err != nil {
		return bundles, err
	}
	if id := signer.Identity(); id.Commit != pub.Record.Source.Commit {
		return bundles, fault.New(fault.Refused, "signing for", pub.Record.Source.Tag(), "this job is of commit %s", id.Commit).
			WithHint("a release is signed by a job of the commit that it was built from")
	}
	for _, c := range claims {
		if c.Commit != pub.Record.Source.Commit {
			return bundles, fault.New(fault.Unverified, "signing for", strings.TrimSpace(c.Member+" "+c.Platform), "its %s was signed when commit %s was released, and is not there any more", c.Predicate, c.Commit).
				WithHint("bring it back with mage ops:undelete; or release the commit with -rebuild, which keeps nothing of earlier releases")
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxSignatures)
	for i, c := range claims {
		group.Go(func() error {
			predicate, err := p.predicate(ctx, c, pub.Record, a, signer.Identity())
			if err != nil {
				return err
			}
			st, err := evidence.NewStatement(c.Member, c.Subject.Digest, c.Predicate, predicate)
			if err != nil {
				return err
			}
			signed, err := signer.Sign(ctx, st)
			if err == nil {
				_, err = p.Verifier.Verify(signed.JSON, c.Subject.Digest, pub.Record.Source.Commit, channel)
			}
			if err == nil {
				bundles[i] = signed
			}
			return err
		})
	}
	return bundles, group.Wait()
}

// predicate says what a claim claims.
func (p *Pipeline) predicate(ctx context.Context, c release.Claim, r release.Record, a release.Approved, id evidence.Identity) (any, error) {
	switch c.Predicate {
	case evidence.Signature:
		return struct{}{}, nil
	case evidence.Provenance:
		return evidence.NewSLSA(id, r.Dependencies(p.Family, c)).WithArguments(r.Images[c.Member].Arguments), nil
	case evidence.SBOM:
		content, err := p.sbom(ctx, a, c)
		return json.RawMessage(content), err
	case evidence.Scan:
		return reportOf(a, c)
	}
	return nil, fault.New(fault.Unverified, "attesting", c.Member+" "+c.Platform, "nothing is known for %s", c.Predicate)
}

// sbom reads the SBOM that a claim is about: of a cell, the one that its approved report speaks of.
func (p *Pipeline) sbom(ctx context.Context, a release.Approved, c release.Claim) ([]byte, error) {
	content, err := p.Inspect.SBOM(ctx, a.Built(), c.Member, c.Platform)
	if err != nil || c.Platform == "" {
		return content, err
	}
	report, err := reportOf(a, c)
	if is := digest.FromBytes(content); err == nil && is != report.SBOM {
		err = fault.New(fault.Forged, "attesting", c.Member+" "+c.Platform, "its SBOM is %s, and its report speaks of %s", is, report.SBOM).
			WithHint("it was changed since the inspection: run the same command again, which inspects anew")
	}
	return content, err
}

// reportOf finds what was found in the cell that a claim is about.
func reportOf(a release.Approved, c release.Claim) (evidence.Report, error) {
	for _, r := range a.Reports() {
		if r.Digest == c.Subject.Digest && r.Cell == (evidence.Cell{Image: c.Member, Platform: c.Platform}) {
			return r, nil
		}
	}
	return evidence.Report{}, fault.New(fault.Unverified, "attesting", c.Member+" "+c.Platform, "nothing is known for %s", c.Predicate)
}

// attach hangs the bundles that were made on their subjects: serially on one subject, a few
// subjects at a time. It returns how many hang.
func (p *Pipeline) attach(ctx context.Context, claims []release.Claim, bundles []evidence.Bundle) (int, error) {
	bySubject := map[digest.Digest][]int{}
	var order []digest.Digest
	for i, c := range claims {
		if bundles[i].JSON == nil {
			continue
		}
		d := c.Subject.Digest
		if bySubject[d] == nil {
			order = append(order, d)
		}
		bySubject[d] = append(bySubject[d], i)
	}
	var attached atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxAttaching)
	for _, d := range order {
		group.Go(func() error {
			for _, i := range bySubject[d] {
				if err := attachBundle(ctx, p.Registry.Repository(claims[i].Member), claims[i].Subject, bundles[i]); err != nil {
					return err
				}
				attached.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return int(attached.Load()), err
}

func attachBundle(ctx context.Context, repo Repository, subject graph.Node, b evidence.Bundle) error {
	return repo.Attach(ctx, subject, evidence.BundleType, b.JSON, map[string]string{
		evidence.BundleContent: "dsse-envelope", evidence.BundlePredicate: b.PredicateType,
	})
}
