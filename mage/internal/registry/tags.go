package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
)

// maxListings is how often a list of several pages is read until it is the same twice.
const maxListings = 5

// Tags returns every tag, sorted, those of the referrers fallback included; a repository that does
// not exist has none. A list of one page is a moment's state. One of several is read until it
// comes out the same twice: what moves between two pages would be missing, and nobody may take a
// part for the whole.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	before, pages, err := r.listTags(ctx)
	for range maxListings {
		if err == nil && pages <= 1 {
			return before, nil
		}
		if err != nil && !errors.Is(err, errRepeated) {
			return nil, classify(err, fault.Unavailable, "listing tags of", r.name.String())
		}
		var again []string
		again, pages, err = r.listTags(ctx)
		if err == nil && slices.Equal(before, again) {
			return again, nil
		}
		before = again
	}
	return nil, fault.New(fault.Unavailable, "listing tags of", r.name.String(), "its pages were read %d times and never twice the same", maxListings+1).
		WithHint("somebody is writing tags, or the registry's pages lead in a circle; run the same command again")
}

// errRepeated is a tag that was listed twice: the pages lead in a circle, or tags moved meanwhile.
var errRepeated = errors.New("a tag was listed twice")

// listTags reads the pages of a list once. oras-go bounds their number and size, and keeps to the
// host that was asked.
func (r *Repository) listTags(ctx context.Context) (tags []string, pages int, err error) {
	seen := map[string]bool{}
	err = r.remote.Tags(ctx, "", func(page []string) error {
		pages++
		for _, tag := range page {
			if seen[tag] {
				return errRepeated
			}
			seen[tag] = true
		}
		tags = append(tags, page...)
		return nil
	})
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return nil, 0, nil
	}
	slices.Sort(tags)
	return tags, pages, err
}
