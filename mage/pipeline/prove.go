package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// prove walks every root of what is there after a sweep. A hole that a sweep made, this one or one that
// stopped before it came here, is filled again: somebody pushed what needs it in the moment between the
// last look and the deletion.
func (k *Keeper) prove(ctx context.Context, before retention.Facts) error {
	after, err := k.Scan(ctx)
	if err != nil {
		return err
	}
	taken, err := k.Deleted("")
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for _, h := range holes(before) {
		old[k.place(h.At)] = true
	}
	var back []retention.Entry
	var lost []string
	for _, h := range holes(after) {
		at := k.place(h.At)
		i := slices.IndexFunc(taken, func(e retention.Entry) bool { return e.At == at })
		switch {
		case !h.Missing:
		case i >= 0:
			back = append(back, taken[i])
		case !old[at]:
			lost = append(lost, at)
		}
	}
	if err := k.Undelete(ctx, back); err != nil {
		return err
	}
	if len(back) > 0 {
		return k.prove(ctx, before) // what came back may need more
	}
	if len(lost) > 0 {
		return fault.New(fault.Partial, "proving", k.Base.String(), "%d places that roots reach are gone, and not by this run: %s", len(lost), strings.Join(lost, ", ")).
			WithHint("mage ops:fsck tells what else is missing")
	}
	k.Progress.Done("prove", k.Family.Name, fmt.Sprintf("every root is whole: %d manifests", len(after.Items)))
	return nil
}

// holes are where the graph that must stay ends too early.
func holes(f retention.Facts) []graph.Hole {
	m := graph.NewMap(f.Items, retention.Names(f.Family, f.Base))
	roots, _ := retention.Roots(f, m)
	return m.Walk(roots).Holes()
}

// Deleted returns what the journal says was deleted and did not come back, newest first: in the order
// in which it can be restored. What was absent when it was to be deleted may be of a call whose answer
// was lost, and can come back as well. A name chooses: a run, a digest, a tag, a repository; empty is all.
func (k *Keeper) Deleted(name string) ([]retention.Entry, error) {
	entries, err := k.Journal.Entries()
	if err != nil {
		return nil, err
	}
	var list []retention.Entry
	for _, e := range retention.Fold(entries) {
		gone := e.Outcome == retention.Deleted || e.Outcome == retention.Absent || e.Outcome == ""
		if gone && !e.Waste && e.Named(name) {
			list = append(list, e)
		}
	}
	slices.Reverse(list)
	return list, nil
}

// Restorable returns what a name brings back, in the order in which it comes.
func (k *Keeper) Restorable(name string) ([]retention.Entry, error) {
	entries, err := k.Deleted(name)
	if err != nil {
		return nil, err
	}
	return k.whole(entries)
}

// Undelete brings entries back, and the journal says so. What an entry's manifest names comes back before
// it, and what speaks about it after it, if that is deleted too. What does not come back does not stop the
// others; the error counts it.
func (k *Keeper) Undelete(ctx context.Context, entries []retention.Entry) error {
	entries, err := k.whole(entries)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		err := k.restore(ctx, e)
		if kind, _ := fault.KindOf(err); kind == fault.Interrupted || ctx.Err() != nil {
			return err
		}
		if err != nil {
			failed = append(failed, err)
			k.Progress.Note("undelete", e.At, err.Error())
			continue
		}
		k.Progress.Done("undelete", e.At, strings.Join(e.Tags, " "))
		e.Outcome, e.Why = retention.Restored, ""
		if err := k.Journal.Append(e); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fault.Wrap(fmt.Errorf("%d of %d did not come back, the first: %w", len(failed), len(entries), failed[0]), fault.Unverified, "restoring", k.Base.String())
	}
	return nil
}

// whole puts before each entry what its manifest names, as no registry takes an index whose children it
// does not have, and after it what speaks about it, as a release without its evidence is none; at any
// depth. What came back meanwhile is left out.
func (k *Keeper) whole(entries []retention.Entry) ([]retention.Entry, error) {
	deleted, err := k.Deleted("")
	if err != nil {
		return nil, err
	}
	lost, named := map[string]retention.Entry{}, map[string]graph.Links{}
	about := map[string][]string{} // place → what speaks about it
	for _, e := range deleted {
		lost[e.At], named[e.At] = e, k.links(e)
		repo, _, _ := strings.Cut(e.At, "@")
		for _, subject := range subjects(e, named[e.At]) {
			about[repo+"@"+subject.String()] = append(about[repo+"@"+subject.String()], e.At)
		}
	}
	var ordered []retention.Entry
	var add func(at string)
	add = func(at string) {
		e, ok := lost[at]
		if !ok {
			return
		}
		delete(lost, at) // each once
		repo, _, _ := strings.Cut(at, "@")
		for _, c := range named[at].Children {
			add(repo + "@" + c.Digest.String())
		}
		ordered = append(ordered, e)
		for _, r := range about[at] {
			add(r)
		}
	}
	for _, e := range entries {
		add(e.At)
	}
	return ordered, nil
}

// subjects are what a deleted manifest speaks about, by its own word and by its tags.
func subjects(e retention.Entry, l graph.Links) []digest.Digest {
	var list []digest.Digest
	if l.Subject != "" {
		list = append(list, l.Subject)
	}
	for _, tag := range e.Tags {
		if subject, _, ok := graph.TagSubject(tag); ok {
			list = append(list, subject)
		}
	}
	return list
}

// links are what a deleted manifest names, as far as the trash can tell: what it cannot, restoring it says.
func (k *Keeper) links(e retention.Entry) graph.Links {
	_, hex, _ := strings.Cut(e.At, "@")
	d, err := digest.Parse(hex)
	if err != nil {
		return graph.Links{}
	}
	content, found, err := k.Journal.Kept(d)
	if err != nil || !found {
		return graph.Links{}
	}
	links, err := graph.ReadLinks(graph.Node{MediaType: e.MediaType, Digest: d}, content)
	if err != nil {
		return graph.Links{}
	}
	return links
}

func (k *Keeper) restore(ctx context.Context, e retention.Entry) error {
	if e.Of != "" {
		return k.restoreTag(ctx, e)
	}
	_, hex, _ := strings.Cut(e.At, "@")
	d, err := digest.Parse(hex)
	if err != nil {
		return fault.Wrap(err, fault.Forged, "restoring", e.At)
	}
	content, found, err := k.Journal.Kept(d)
	if err != nil {
		return err
	}
	for _, s := range k.Shelves {
		if k.place(ref.Pinned{Repo: s.Name(), Digest: d}) != e.At {
			continue
		}
		if e.ID == 0 && !found {
			return fault.New(fault.Unverified, "restoring", e.At, "its manifest is not in this machine's trash").
				WithHint("run it where the prune ran, with that state directory; or release the commit anew")
		}
		return s.Restore(ctx, e, content)
	}
	return fault.New(fault.Invalid, "restoring", e.At, "the family has no such repository")
}

// restoreTag gives a tag again to what it was taken off, unless somebody else took it.
func (k *Keeper) restoreTag(ctx context.Context, e retention.Entry) error {
	for member, s := range k.Shelves {
		if k.tagPlace(s.Name(), e.Tags[0]) != e.At {
			continue
		}
		repo := k.Registry.Repository(member)
		move := release.Move{Tag: ref.Tagged{Repo: s.Name(), Tag: e.Tags[0]}, To: graph.Node{MediaType: e.MediaType, Digest: digest.Digest(e.Of), Size: e.Size}}
		now, found, err := repo.Resolve(ctx, move.Tag.Tag)
		if err == nil && found && k.isWaste(ctx, s, now.Digest) {
			move.From = now.Digest // a kill left it there
		}
		if err == nil {
			_, err = repo.MoveTag(ctx, move)
		}
		return err
	}
	return fault.New(fault.Invalid, "restoring", e.At, "the family has no such repository")
}

func (k *Keeper) isWaste(ctx context.Context, s Shelf, d digest.Digest) bool {
	n, content, found, err := s.Manifest(ctx, d)
	if err != nil || !found {
		return false
	}
	l, err := graph.ReadLinks(n, content)
	return err == nil && l.ArtifactType == retention.WasteType
}
