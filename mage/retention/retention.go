// Package retention decides what may leave a registry.
//
// [Facts] are what the registry holds, what the ledger says was served, and what the family file
// wants kept. [NewPlan] finds the roots, walks the digest graph from them, and the rest is the
// [Plan]: for everything that stays the path from a root, for everything that goes the statement
// that no root reaches it. Everything here is pure.
//
// Invariant: what is deleted is the complement of what is reached, never a choice of its own; and
// where the graph has a hole, nothing of that repository is deleted.
package retention

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
)

// Facts are what a plan is made from.
type Facts struct {
	Family     *family.Family
	Base       ref.Repo      // host and owner, below which the members are
	Items      []graph.Item  // everything that the members' repositories hold
	Served     []Served      // every state of every channel, newest first: the ledger
	Head       digest.Digest // manifest of the newest channels document, in the metadata repository
	Generation uint64        // of that document
	Now        time.Time     // by the registry's clock, never by ours
}

// Served is what a channel served since a generation.
type Served struct {
	Channel    string
	Generation uint64
	Tag        string // sha-<commit>
	Version    string // v1.2.3 or empty
	Record     digest.Digest
	Members    map[string]digest.Digest
	At         time.Time
	Hold       string // why the channel is frozen
}

// Allow lifts refusals, each by its name.
type Allow struct {
	Empty bool // a policy that says nothing, a protected pattern that no tag matches
	Share bool // a plan that deletes more of a repository than the family's share
}

// repo returns a member's repository.
func (f Facts) repo(member string) ref.Repo {
	return ref.Repo{Host: f.Base.Host, Path: f.Base.Path + "/" + member}
}

func (f Facts) metadata() ref.Repo { return f.repo(f.Family.ArtifactOf(family.Metadata)) }

// Names says into which other repositories the manifests of one may lead: records into every
// member's, an image into those of the images it is built on.
func Names(f *family.Family, base ref.Repo) map[ref.Repo][]ref.Repo {
	at := Facts{Family: f, Base: base}.repo
	names := map[ref.Repo][]ref.Repo{}
	metadata := f.ArtifactOf(family.Metadata)
	for _, member := range f.Members() {
		if member != metadata {
			names[at(metadata)] = append(names[at(metadata)], at(member))
		}
		for parent := f.Images[member].From; parent != ""; parent = f.Images[parent].From {
			names[at(member)] = append(names[at(member)], at(parent))
		}
	}
	return names
}
