package pipeline

import (
	"context"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// NextRebuild is the number that the next deliberate rebuild of a commit has: the first that none ever had,
// by the tags of the metadata repository, by what channels served, and by the names that were pruned, as the
// journal here has them. One whose evidence is not complete is continued if its record is signed, or is what
// built says that this machine made: who can push and cannot sign could have put another there, for us to
// sign.
func (p *Pipeline) NextRebuild(ctx context.Context, src release.Source, pruned []string, built func(release.Source) (release.Record, bool, error)) (uint, error) {
	src.Rebuild = 0
	commit := src.Tag()
	highest := func(tags []string) (n uint) {
		for _, tag := range tags {
			if strings.HasPrefix(tag, commit+"-r") {
				n = max(n, release.RebuildOf(tag))
			}
		}
		return n
	}
	tags, err := p.metadata().Tags(ctx)
	if err != nil {
		return 0, err
	}
	served, err := p.servedTags(ctx)
	if err != nil {
		return 0, err
	}
	src.Rebuild = highest(tags)
	if gone := highest(append(served, pruned...)); gone > src.Rebuild {
		return gone + 1, nil
	}
	if src.Rebuild == 0 {
		return 2, nil
	}
	pub, found, err := p.Adopt(ctx, src)
	if err != nil || !found {
		return src.Rebuild, err
	}
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	_, missing, err := p.collect(ctx, claims, "")
	if err != nil || len(missing) == 0 {
		return src.Rebuild + 1, err
	}
	ours, err := isBuilt(pub, built)
	unsigned := slices.ContainsFunc(missing, func(c release.Claim) bool { return c.Subject.Digest == pub.Node.Digest })
	if unsigned && !ours {
		src.Rebuild++
	}
	return src.Rebuild, err
}

// servedTags are the names of all releases that a channel ever served.
func (p *Pipeline) servedTags(ctx context.Context) (tags []string, err error) {
	for head, err := range p.Ledger.History(ctx) {
		if err != nil {
			return nil, err
		}
		for _, s := range head.Document.Channels {
			tags = append(tags, s.Tag)
		}
	}
	return tags, nil
}

// mayBeSigned refuses a published record that its builder did not sign and that was not built here: who
// can push and cannot sign could have put it there, for us to sign.
func (p *Pipeline) mayBeSigned(ctx context.Context, pub Published, channel string) error {
	if signed, err := p.recordSigned(ctx, pub, channel); signed || err != nil {
		return err
	}
	ours, err := isBuilt(pub, func(release.Source) (release.Record, bool, error) { return p.Dist.ReadRecord() })
	if ours || err != nil {
		return err
	}
	return fault.New(fault.Unverified, "adopting", pub.Record.Source.Tag(), "nobody signed its record, and it is not what was built here").
		WithHint("where it was built, run the same command; otherwise anybody who may push could have put it there: release the commit with -rebuild, under a number of its own")
}

// recordSigned reports whether a job of its commit signed a record.
func (p *Pipeline) recordSigned(ctx context.Context, pub Published, channel string) (bool, error) {
	claims := slices.DeleteFunc(release.Claims(p.Family, pub.Record, pub.Node), func(c release.Claim) bool { return c.Subject.Digest != pub.Node.Digest })
	_, missing, err := p.collect(ctx, claims, channel)
	return err == nil && len(missing) == 0, err
}

// isBuilt reports whether a published record is what was built here.
func isBuilt(pub Published, built func(release.Source) (release.Record, bool, error)) (bool, error) {
	record, there, err := built(pub.Record.Source)
	if err != nil || !there {
		return false, err
	}
	node, err := RecordNode(record)
	return node.Digest == pub.Node.Digest, err
}
