package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// The scan's limits.
const (
	maxListing = 4       // repositories that are listed at a time
	maxItems   = 200_000 // manifests of all repositories: what is known of them fits into memory
)

// Scan reads what the registry holds and what the ledger says: everything that a plan is made from.
// It writes nothing to the registry.
func (k *Keeper) Scan(ctx context.Context) (retention.Facts, error) {
	f, _, err := k.scan(ctx)
	return f, err
}

// scan also returns the head that the ledger was read from.
func (k *Keeper) scan(ctx context.Context) (retention.Facts, release.Head, error) {
	f := retention.Facts{Family: k.Family, Base: k.Base}
	head, err := k.readLedger(ctx, &f)
	if err != nil {
		return f, head, err
	}
	items, now, err := k.list(ctx)
	if err != nil {
		return f, head, err
	}
	if err := k.read(ctx, items); err != nil {
		return f, head, err
	}
	f.Items, f.Now = items, now
	k.Progress.Done("scan", k.Family.Name, fmt.Sprintf("%d manifests in %d repositories", len(items), len(k.Shelves)))
	return f, head, k.Journal.Sighted(items, now)
}

// readLedger tells what every channel served, newest first.
func (k *Keeper) readLedger(ctx context.Context, f *retention.Facts) (release.Head, error) {
	head, err := k.Ledger.Head(ctx)
	if err != nil || head.ID == "" {
		return head, err
	}
	node, err := documentNode(head.Content)
	if err != nil {
		return head, err
	}
	f.Head, f.Generation = node.Digest, head.Document.Generation
	steps, err := release.Steps(k.Ledger.History(ctx), "")
	f.Served = nil
	for _, s := range steps {
		f.Served = append(f.Served, retention.Served{
			Channel: s.Channel, Generation: s.Generation, Tag: s.State.Tag, Version: s.State.Version,
			Record: s.State.Record, Members: s.State.Members, At: s.State.Moved.At, Hold: s.State.Hold,
		})
	}
	return head, err
}

// list lists all repositories at once. The time is the earliest that one of them told: by it
// everything is youngest.
func (k *Keeper) list(ctx context.Context) ([]graph.Item, time.Time, error) {
	members := slices.Sorted(maps.Keys(k.Shelves))
	lists, times := make([][]graph.Item, len(members)), make([]time.Time, len(members))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxListing)
	for i, member := range members {
		group.Go(func() (err error) {
			k.Progress.Start("scan", member)
			lists[i], times[i], err = k.Shelves[member].List(groupCtx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, time.Time{}, err
	}
	var now time.Time
	for _, at := range times {
		if now.IsZero() || !at.IsZero() && at.Before(now) {
			now = at
		}
	}
	items := slices.Concat(lists...)
	switch {
	case now.IsZero():
		return nil, now, fault.New(fault.Environment, "listing", k.Base.String(), "it holds none of the family's %d repositories, or this login sees none", len(members)).
			WithHint("publish a release first; on GHCR: mage ops:visibility")
	case len(items) > maxItems:
		return nil, now, fault.New(fault.Refused, "listing", k.Base.String(), "%d manifests exceed the limit of %d", len(items), maxItems)
	}
	slices.SortFunc(items, func(a, b graph.Item) int { return graph.ComparePlaces(a.At, b.At) })
	return items, now, nil
}

// read fills in what every item names. What cannot be read is marked, never left out.
func (k *Keeper) read(ctx context.Context, items []graph.Item) error {
	shelves := map[ref.Repo]Shelf{}
	for _, s := range k.Shelves {
		shelves[s.Name()] = s
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReading)
	for i := range items {
		group.Go(func() error { return k.readItem(ctx, shelves[items[i].At.Repo], &items[i]) })
	}
	return group.Wait()
}

func (k *Keeper) readItem(ctx context.Context, s Shelf, it *graph.Item) error {
	n, content, found, err := s.Manifest(ctx, it.At.Digest)
	if err == nil && !found {
		err = fault.New(fault.Unverified, "reading", it.At.String(), "it is listed and is not there")
	}
	if err == nil {
		it.MediaType, it.Size = n.MediaType, n.Size
		it.Links, err = graph.ReadLinks(n, content)
	}
	if err == nil && s.Name() == k.metadata().Name() {
		err = k.readPins(ctx, n, it)
	}
	kind, _ := fault.KindOf(err)
	if ctx.Err() != nil || kind == fault.Environment || kind == fault.Interrupted {
		return fault.Wrap(err, fault.Interrupted, "scanning", it.At.String())
	}
	if err != nil {
		it.Unread = err.Error()
	}
	return nil
}

// readPins reads what a record pins, and what a channels document under a channel's tag says is
// served.
func (k *Keeper) readPins(ctx context.Context, n graph.Node, it *graph.Item) error {
	document, _ := family.Metadata.Types()
	switch {
	case it.ArtifactType == release.RecordType:
		r, err := ReadRecord(ctx, k.metadata(), n)
		if err != nil {
			return err
		}
		members := r.Members()
		for _, name := range k.Family.Members() { // nothing is deleted where the family has no member any more
			if n, ok := members[name]; ok {
				it.Locks = append(it.Locks, ref.Pinned{Repo: k.repo(name), Digest: n.Digest})
			}
		}
	case it.ArtifactType == document && slices.ContainsFunc(it.Tags, k.isChannelTag):
		d, err := ReadDocument(ctx, k.metadata(), n)
		if err != nil {
			return err
		}
		for _, channel := range d.Names() {
			s := d.Channels[channel]
			it.Mentions = append(it.Mentions, ref.Pinned{Repo: k.metadata().Name(), Digest: s.Record})
			for _, name := range k.Family.Members() {
				if of, ok := s.Members[name]; ok {
					it.Mentions = append(it.Mentions, ref.Pinned{Repo: k.repo(name), Digest: of})
				}
			}
		}
	}
	return nil
}

func (k *Keeper) isChannelTag(tag string) bool {
	_, ok := k.Family.Channels[tag]
	return ok || tag == release.ChannelsTag
}

func (k *Keeper) metadata() Repository {
	return k.Registry.Repository(k.Family.ArtifactOf(family.Metadata))
}

func (k *Keeper) repo(member string) ref.Repo {
	return ref.Repo{Host: k.Base.Host, Path: k.Base.Path + "/" + member}
}
