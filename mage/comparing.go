package mage

import (
	"cmp"
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

// releaseDiff says what changes between two releases: by default from what a channel serves to this
// commit, published or only built and inspected here. It writes nothing.
func releaseDiff(channel, from, to string) command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx, false)
		if err != nil {
			return err
		}
		channel = cmp.Or(channel, usualChannel(w.fam))
		head, err := p.Ledger.Head(ctx)
		if err != nil {
			return err
		}
		served, ok := head.Document.Channels[channel]
		if !ok && from == "" {
			return fault.New(fault.Unverified, "comparing with", channel, "it serves nothing").
				WithHint("-from= names what to compare with: a commit, version, digest or another channel")
		}
		before, _, err := p.Find(ctx, head, cmp.Or(from, served.Record.String()))
		if err != nil {
			return err
		}
		c := report.Comparison{Channel: channel, From: before.Record.Source.Tag()}
		if to == "" {
			c.To = plan.Source.Tag()
			c.Differences, err = w.compareHere(ctx, p, before.Node.Digest, plan)
		} else {
			c.To, c.Differences, err = compareFound(ctx, p, before.Node.Digest, head, to)
		}
		if err != nil {
			return err
		}
		w.progress.settle()
		return w.print(c, func() string { return c.Text(term.Escape) })
	}
}

// compareFound compares with a published release that somebody names.
func compareFound(ctx context.Context, p *pipeline.Pipeline, before digest.Digest, head release.Head, to string) (string, []release.Difference, error) {
	after, _, err := p.Find(ctx, head, to)
	if err != nil {
		return "", nil, err
	}
	differences, err := p.Compare(ctx, before, after.Node.Digest)
	return after.Record.Source.Tag(), differences, err
}

// compareHere compares with this commit: as it was published, or else as dist/ holds it.
func (w *workshop) compareHere(ctx context.Context, p *pipeline.Pipeline, before digest.Digest, plan release.Plan) ([]release.Difference, error) {
	pub, found, err := p.Adopt(ctx, plan.Source)
	if err != nil {
		return nil, err
	}
	if found {
		return p.Compare(ctx, before, pub.Node.Digest)
	}
	d := newDist(w.root, plan.Source)
	record, built, err := d.ReadRecord()
	var reports []evidence.Report
	if err == nil && built {
		reports, err = d.reports(record)
	}
	if err != nil || !built || len(reports) == 0 {
		return nil, &fault.Error{Op: "comparing", Subject: plan.Source.Tag(), Kind: fault.Invalid, Err: cmp.Or(err, errors.New("it is neither published nor built and inspected here")),
			Hint: "mage release:pr builds and inspects it; or name a published release with -to="}
	}
	return p.CompareBuilt(ctx, before, release.Built{Plan: plan, Record: record}, reports)
}
