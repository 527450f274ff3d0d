package pipeline

import (
	"context"
	"errors"
	"slices"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// unname takes the tags of releases that are gone off what stays. In GHCR a version goes with all of
// its tags or not at all, and elsewhere deleting by tag takes the manifest in some registries. So the
// tags are moved to waste, which is made for it and goes with them; that is the same everywhere.
func (s *sweep) unname(ctx context.Context, list []retention.Unnaming) error {
	var last ref.Repo
	for _, u := range list {
		if repo := u.Item.At.Repo; repo != last {
			last = repo
			for _, r := range []ref.Repo{s.k.metadata().Name(), repo} { // a record may have come, and gives its tag afterwards
				if err := s.review(ctx, s.shelf(r)); err != nil {
					return err
				}
			}
		}
		if err := s.take(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// take takes tags off one item. The journal has each before the registry hears of it; what waste a kill
// leaves behind, the next plan deletes, whatever its age.
func (s *sweep) take(ctx context.Context, u retention.Unnaming) error {
	shelf, it := s.shelf(u.Item.At.Repo), u.Item
	tags, _, err := shelf.Look(ctx, it)
	if err != nil {
		return err
	}
	it.Tags = slices.DeleteFunc(tags, func(tag string) bool { return !slices.Contains(u.Tags, tag) })
	if it.Tags = s.known().Ownerless(it); len(it.Tags) == 0 {
		return nil
	}
	repo := s.k.Registry.Repository(s.k.member(it.At.Repo))
	waste, err := graph.PackArtifact(ctx, repo, retention.WasteType, nil, map[string]string{"vnd.containai.run": s.run, "vnd.containai.of": it.At.Digest.String()})
	if err != nil {
		return err
	}
	moved, err := s.move(ctx, repo, it, waste)
	if err != nil {
		return err
	}
	outcome, why, err := s.discard(ctx, shelf, waste, moved)
	if err == nil && outcome == retention.Retained {
		err = moveBack(ctx, repo, it, waste, moved)
	}
	if err != nil {
		return err
	}
	for _, e := range moved {
		e.Outcome, e.Why = outcome, why
		if err := s.k.Journal.Append(e); err != nil {
			return err
		}
		s.tell(ref.Tagged{Repo: it.At.Repo, Tag: e.Tags[0]}.String(), e)
	}
	return nil
}

// move moves an item's tags to waste, and returns the entries of those that were moved. One that
// somebody moves meanwhile is theirs, and one whose record came back stays.
func (s *sweep) move(ctx context.Context, repo Repository, it graph.Item, waste graph.Node) ([]retention.Entry, error) {
	var moved []retention.Entry
	for _, tag := range it.Tags {
		if _, owned, err := s.k.metadata().Resolve(ctx, tag); err != nil {
			return nil, err
		} else if owned {
			continue
		}
		e := retention.NewTagEntry(s.run, s.k.place(it.At), tag, it, s.facts.Now)
		if err := s.k.Journal.Append(e); err != nil {
			return nil, err
		}
		at := ref.Tagged{Repo: it.At.Repo, Tag: tag}
		_, err := repo.MoveTag(ctx, release.Move{Tag: at, From: it.At.Digest, To: waste})
		switch {
		case errors.Is(err, fault.Conflict):
			e.Outcome, e.Why = retention.Skipped, err.Error()
			if err := s.k.Journal.Append(e); err != nil {
				return nil, err
			}
			s.tell(at.String(), e)
		case err != nil:
			return nil, err
		default:
			moved = append(moved, e)
		}
	}
	return moved, nil
}

// discard deletes waste with the tags that were moved to it, and nothing else.
func (s *sweep) discard(ctx context.Context, shelf Shelf, waste graph.Node, moved []retention.Entry) (retention.Outcome, string, error) {
	recent, err := shelf.Recent(ctx, func(p ref.Pinned) bool {
		return slices.ContainsFunc(s.facts.Items, func(it graph.Item) bool { return it.At == p })
	})
	if err != nil {
		return "", "", err
	}
	i := slices.IndexFunc(recent, func(it graph.Item) bool { return it.At.Digest == waste.Digest })
	if i < 0 {
		return "", "", fault.New(fault.Unavailable, "discarding", waste.Digest.String(), "the registry does not list yet what was pushed to it").
			WithHint("run the same command again: it goes on where this one stopped")
	}
	it := recent[i]
	it.MediaType, it.Size, it.ArtifactType = waste.MediaType, waste.Size, retention.WasteType
	for _, tag := range it.Tags {
		if !slices.ContainsFunc(moved, func(e retention.Entry) bool { return e.Tags[0] == tag }) {
			return "", "", fault.New(fault.Conflict, "discarding", it.At.String(), "somebody gave it the tag %s", tag).WithHint("plan again")
		}
	}
	e, err := s.remove(ctx, shelf, it, retention.NewEntry(s.run, s.k.place(it.At), it, s.facts.Now))
	if err != nil || e.Outcome == retention.Retained {
		return e.Outcome, e.Why, err
	}
	return retention.Deleted, "", nil
}

// moveBack gives an item the tags that the registry does not let go with waste.
func moveBack(ctx context.Context, repo Repository, it graph.Item, waste graph.Node, moved []retention.Entry) error {
	for _, e := range moved {
		m := release.Move{Tag: ref.Tagged{Repo: it.At.Repo, Tag: e.Tags[0]}, From: waste.Digest, To: nodeOf(it)}
		if _, err := repo.MoveTag(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func nodeOf(it graph.Item) graph.Node {
	return graph.Node{MediaType: it.MediaType, Digest: it.At.Digest, Size: it.Size}
}
