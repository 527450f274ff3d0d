package pipeline

import (
	"context"
	"encoding/json"
	"fmt"

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
	maxSignatures = 24
	maxAttaching  = 4
)

// Attest makes and attaches the statements of a release that are missing. Approved is asked for
// only when a missing statement needs what the inspection found. It returns how many it made.
func (p *Pipeline) Attest(ctx context.Context, pub Published, approved func(context.Context) (release.Approved, error)) (int, error) {
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	_, missing, err := p.collect(ctx, claims, pub.Record.Source.Commit)
	if err != nil || len(missing) == 0 {
		return 0, err
	}
	p.Progress.Start("attest", pub.Record.Source.Tag())
	a, err := approved(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.attachSBOMs(ctx, a); err != nil {
		return 0, err
	}
	bundles, err := p.sign(ctx, pub, a, missing)
	if err != nil {
		return 0, err
	}
	if err := p.attach(ctx, missing, bundles); err != nil {
		return 0, err
	}
	for _, name := range p.Family.Members() {
		if err := p.Registry.Repository(name).Settle(ctx); err != nil {
			return 0, err
		}
	}
	p.Progress.Done("attest", pub.Record.Source.Tag(), fmt.Sprintf("%d statements signed and attached", len(bundles)))
	return len(bundles), nil
}

// collect reads the evidence of claims and returns what proves them and what nothing proves. What
// does not verify is told only where it leaves a claim unproved: another commit's evidence on the
// same content is no cause for alarm.
func (p *Pipeline) collect(ctx context.Context, claims []release.Claim, commit string) (Found, []release.Claim, error) {
	refused := map[digest.Digest][]error{}
	found, err := Collect(ctx, p.Registry, p.Verifier, claims, commit, func(c release.Claim, err error) {
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
		if c.Predicate != evidence.SBOM {
			continue
		}
		content, err := p.Inspect.SBOM(ctx, a.Built(), c.Member, c.Platform)
		if err != nil {
			return err
		}
		if err := p.Registry.Repository(c.Member).Attach(ctx, c.Subject, evidence.SBOMType, content, nil); err != nil {
			return err
		}
	}
	return nil
}

// sign makes a bundle of every claim, in parallel, in the claims' order.
func (p *Pipeline) sign(ctx context.Context, pub Published, a release.Approved, claims []release.Claim) ([]evidence.Bundle, error) {
	signer, err := p.Signer(ctx)
	if err != nil {
		return nil, err
	}
	bundles := make([]evidence.Bundle, len(claims))
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
			bundles[i], err = signer.Sign(ctx, st)
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
		return evidence.NewSLSA(id, r.Dependencies(p.Family, c)), nil
	case evidence.SBOM:
		content, err := p.Inspect.SBOM(ctx, a.Built(), c.Member, c.Platform)
		return json.RawMessage(content), err
	case evidence.Scan:
		for _, report := range a.Reports() {
			if report.Digest == c.Subject.Digest {
				return report, nil
			}
		}
	}
	return nil, fault.New(fault.Unverified, "attesting", c.Member+" "+c.Platform, "nothing is known for %s", c.Predicate)
}

// attach hangs bundles on their subjects: serially on one subject, a few subjects at a time.
func (p *Pipeline) attach(ctx context.Context, claims []release.Claim, bundles []evidence.Bundle) error {
	bySubject := map[digest.Digest][]int{}
	var order []digest.Digest
	for i, c := range claims {
		d := c.Subject.Digest
		if bySubject[d] == nil {
			order = append(order, d)
		}
		bySubject[d] = append(bySubject[d], i)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxAttaching)
	for _, d := range order {
		group.Go(func() error {
			for _, i := range bySubject[d] {
				if err := attachBundle(ctx, p.Registry.Repository(claims[i].Member), claims[i].Subject, bundles[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func attachBundle(ctx context.Context, repo Repository, subject graph.Node, b evidence.Bundle) error {
	return repo.Attach(ctx, subject, evidence.BundleType, b.JSON, map[string]string{
		evidence.BundleContent: "dsse-envelope", evidence.BundlePredicate: b.PredicateType,
	})
}
