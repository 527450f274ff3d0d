package pipeline

import (
	"context"
	"strings"

	"github.com/containai/containai/mage/release"
)

// NextRebuild is the number that the next deliberate rebuild of a commit has: the first free one, by the
// tags of the metadata repository. One that was published and whose evidence is not complete is continued.
func (p *Pipeline) NextRebuild(ctx context.Context, src release.Source) (uint, error) {
	tags, err := p.metadata().Tags(ctx)
	if err != nil {
		return 0, err
	}
	src.Rebuild = 0
	for _, tag := range tags {
		if strings.HasPrefix(tag, src.Tag()+"-r") {
			src.Rebuild = max(src.Rebuild, release.RebuildOf(tag))
		}
	}
	if src.Rebuild == 0 {
		return 2, nil
	}
	pub, found, err := p.Adopt(ctx, src)
	if err != nil || !found {
		return src.Rebuild, err
	}
	_, missing, err := p.collect(ctx, release.Claims(p.Family, pub.Record, pub.Node), "")
	if err != nil || len(missing) > 0 {
		return src.Rebuild, err
	}
	return src.Rebuild + 1, nil
}
