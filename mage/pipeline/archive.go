package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// maxArchived is the largest bundle that the archive is asked to keep, in bytes: GitHub takes predicates
// of 16 MB, which are a third longer inside. https://github.com/actions/attest#attestation-limits
const maxArchived = 20 << 20

// archive gives the archive what it lacks of a release's evidence. The registry is where evidence is:
// what fails here is said and done again by the next run, and nothing else is undone.
func (p *Pipeline) archive(ctx context.Context, pub Published, claims []release.Claim, channel string) error {
	if p.Archive == nil {
		return nil
	}
	tag, stored := pub.Record.Source.Tag(), atomic.Int64{}
	p.Progress.Start("archive", tag)
	err := p.eachSubject(ctx, pub, claims, channel, func(ctx context.Context, subject digest.Digest, bundles [][]byte) error {
		n, err := p.Archive.Store(ctx, subject, bundles)
		stored.Add(int64(n))
		return err
	})
	if err != nil {
		kind, _ := fault.KindOf(err)
		hint := "everything is signed and in the registry, and no channel was moved; run the same command again, which stores what is missing"
		if kind == fault.Environment {
			hint = fault.HintOf(err) + "; then run the same command again: everything is signed and in the registry, and no channel was moved"
		}
		return &fault.Error{Op: "archiving", Subject: tag, Kind: kind, Err: fmt.Errorf("archive pending, %d bundles were stored now: %w", stored.Load(), err), Hint: hint}
	}
	p.Progress.Done("archive", tag, fmt.Sprintf("%d bundles stored where GitHub keeps them", stored.Load()))
	return nil
}

// unarchived counts what the archive lacks.
func (p *Pipeline) unarchived(ctx context.Context, pub Published, claims []release.Claim, channel string) (int, error) {
	var lacking atomic.Int64
	err := p.eachSubject(ctx, pub, claims, channel, func(ctx context.Context, subject digest.Digest, bundles [][]byte) error {
		lacks, err := p.Archive.Lacking(ctx, subject, bundles)
		lacking.Add(int64(len(lacks)))
		return err
	})
	return int(lacking.Load()), err
}

// eachSubject reads the verified bundles of every subject that this release's commit has signed, and
// hands over those that an archive takes. What an earlier release signed, that one archived.
func (p *Pipeline) eachSubject(ctx context.Context, pub Published, claims []release.Claim, channel string, do func(context.Context, digest.Digest, [][]byte) error) error {
	about, members, order := map[digest.Digest]signers{}, map[digest.Digest]release.Claim{}, []digest.Digest(nil)
	for _, c := range claims {
		d := c.Subject.Digest
		if c.Commit != pub.Record.Source.Commit {
			continue
		}
		if about[d] == nil {
			about[d], members[d], order = signers{}, c, append(order, d)
		}
		about[d][c.Predicate] = c
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxAttaching)
	for _, d := range order {
		group.Go(func() error {
			bundles, err := p.archivable(ctx, members[d], about[d], channel)
			if err != nil || len(bundles) == 0 {
				return err
			}
			return do(ctx, d, bundles)
		})
	}
	return group.Wait()
}

// archivable are the bundles on a subject that prove one of its claims; one that is too large is told.
func (p *Pipeline) archivable(ctx context.Context, c release.Claim, claimed signers, channel string) ([][]byte, error) {
	attached, err := Attachments(ctx, p.Registry.Repository(c.Member), c.Subject, evidence.BundleType)
	if err != nil {
		return nil, err
	}
	var bundles [][]byte
	for _, content := range attached.Bundles {
		st, err := claimed.verify(p.Verifier, content, c.Subject.Digest, channel)
		if _, ok := claimed[st.PredicateType]; err != nil || !ok {
			continue
		}
		if len(content) > maxArchived {
			p.Progress.Note("archive", c.Member+" "+c.Platform, fmt.Sprintf("%s has %d bytes, and GitHub keeps none above %d: it is in the registry alone", st.PredicateType, len(content), maxArchived))
			continue
		}
		bundles = append(bundles, content)
	}
	return bundles, nil
}
