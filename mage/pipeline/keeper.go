package pipeline

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// Keeper cares for a family's repositories: what lies in them, what may go, what must come back.
// Every field is required.
type Keeper struct {
	Family   *family.Family
	Base     ref.Repo         // host and owner
	Host     string           // how the journal calls that host, which may be another address in every run
	Shelves  map[string]Shelf // by member
	Registry Registry
	Ledger   Ledger
	Vouched  func(ctx context.Context, head release.Head) error // refuses a head that no mover answers for
	Journal  Journal
	Progress Progress
}

// place is how the journal calls a place.
func (k *Keeper) place(at ref.Pinned) string {
	at.Repo.Host = k.Host
	return at.String()
}

// tagPlace is how the journal calls a tag.
func (k *Keeper) tagPlace(repo ref.Repo, tag string) string {
	repo.Host = k.Host
	return ref.Tagged{Repo: repo, Tag: tag}.String()
}

// member is whose repository it is.
func (k *Keeper) member(repo ref.Repo) string {
	for member, s := range k.Shelves {
		if s.Name() == repo {
			return member
		}
	}
	return "" // everything that is kept lies in one of them
}

// Shelf is a repository whose manifests can be listed and taken away.
type Shelf interface {
	Lister
	Sweeper
}

// Lister says what lies in a repository.
type Lister interface {
	Name() ref.Repo
	// List returns every manifest, without what it names, and the registry's time. It is complete
	// or an error. A repository that does not exist holds nothing.
	List(ctx context.Context) ([]graph.Item, time.Time, error)
	// Recent returns at least what came since something known did.
	Recent(ctx context.Context, known func(ref.Pinned) bool) ([]graph.Item, error)
	// Manifest reads a manifest; one that was read before may come from a cache.
	Manifest(ctx context.Context, d digest.Digest) (n graph.Node, content []byte, found bool, err error)
}

// Sweeper takes manifests away and brings them back.
type Sweeper interface {
	// Look returns the tags that an item has now.
	Look(ctx context.Context, it graph.Item) (tags []string, found bool, err error)
	// Delete takes an item away with its tags. What the registry does not give up is Retained, with
	// its reason; that is no error.
	Delete(ctx context.Context, it graph.Item) (retention.Outcome, string, error)
	// Restore brings a deleted item back, by its number or from its content.
	Restore(ctx context.Context, e retention.Entry, content []byte) error
}

// Journal remembers deletions, so that they can be undone.
type Journal interface {
	Append(e retention.Entry) error // on the disk before it returns
	Entries() ([]retention.Entry, error)
	Keep(content []byte) error // a manifest, before it is taken away
	Kept(d digest.Digest) (content []byte, found bool, err error)
	// Sighted fills in the ages that no registry told: since when something was seen.
	Sighted(items []graph.Item, now time.Time) error
}
