package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// Ailment is something that is promised and not so.
type Ailment struct {
	What Ail    `json:"what"`
	At   string `json:"at"` // a place, a tag, or a channel
	Why  string `json:"why"`
	Cure string `json:"cure"` // what -repair does, or what a person can do

	repair func(ctx context.Context) error // nil: nothing here can
}

// Ail is a kind of ailment.
type Ail string

// The ailments.
const (
	Missing    Ail = "missing"    // a root leads to it, and the registry does not have it
	Unreadable Ail = "unreadable" // it is there, and what it names is not known
	Unlisted   Ail = "unlisted"   // evidence that its subject's referrers tag lost
	Drifted    Ail = "drifted"    // a tag that does not follow the ledger
	Unproven   Ail = "unproven"   // a release that is served and does not verify
	Unvouched  Ail = "unvouched"  // a ledger that no mover answers for
)

// Examination is what was found to be wrong, and how much is looked at.
type Examination struct {
	Manifests int       `json:"manifests"`
	Orphans   int       `json:"orphans"` // that no root reaches: no ailment, prune takes them
	Ailments  []Ailment `json:"ailments"`
}

// Examine walks everything that is promised, from every root. It writes nothing.
func (k *Keeper) Examine(ctx context.Context) (Examination, error) {
	f, err := k.Scan(ctx)
	if err != nil {
		return Examination{}, err
	}
	m := graph.NewMap(f.Items, retention.Names(f.Family, f.Base))
	roots, _ := retention.Roots(f, m)
	walk := m.Walk(roots)
	x := Examination{Manifests: len(f.Items), Ailments: []Ailment{}}
	for _, it := range f.Items {
		if !walk.Has(it.At) {
			x.Orphans++
		}
	}
	lost, err := k.Deleted("")
	if err != nil {
		return x, err
	}
	holes := walk.Holes()
	unserved, err := k.unserved(ctx, f.Items, walk)
	if err != nil {
		return x, err
	}
	for _, h := range append(holes, unserved...) {
		x.Ailments = append(x.Ailments, k.hole(h, walk, lost))
	}
	x.Ailments = append(x.Ailments, k.unlisted(m, walk)...)
	return x, nil
}

// unserved is what is listed and must stay, and what the registry does not give: what was read once is
// in a cache, and a list is not the content.
func (k *Keeper) unserved(ctx context.Context, items []graph.Item, walk graph.Walk) ([]graph.Hole, error) {
	found := make([]*graph.Hole, len(items))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReading)
	for i, it := range items {
		if !walk.Has(it.At) || it.Unread != "" {
			continue // what is unread is a hole already
		}
		group.Go(func() error {
			there, err := k.Registry.Repository(k.member(it.At.Repo)).Exists(ctx, nodeOf(it))
			if err == nil && !there {
				found[i] = &graph.Hole{At: it.At, Missing: true, Why: "it is listed, and the registry does not give it"}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var holes []graph.Hole
	for _, h := range found {
		if h != nil {
			holes = append(holes, *h)
		}
	}
	return holes, nil
}

// hole is the ailment of a hole: the journal may bring back what is missing.
func (k *Keeper) hole(h graph.Hole, walk graph.Walk, lost []retention.Entry) Ailment {
	why := h.Why
	if path := walk.Path(h.At); len(path) > 0 {
		why += "; needed by " + path[0].String()
	}
	a := Ailment{What: Unreadable, At: h.At.String(), Why: why, Cure: "look at it, and at the registry: what cannot be read is never deleted"}
	if !h.Missing {
		return a
	}
	a.What, a.Cure = Missing, "release the commit anew, or roll the channel back"
	if i := slices.IndexFunc(lost, func(e retention.Entry) bool { return e.At == k.place(h.At) }); i >= 0 {
		a.Cure = "restored from the journal of run " + lost[i].Run
		a.repair = func(ctx context.Context) error { return k.Undelete(ctx, lost[i:i+1]) }
	}
	return a
}

// unlisted is evidence that hangs on something that stays, and that the referrers tag of its subject
// does not list though there is one: a simultaneous writer lost it.
func (k *Keeper) unlisted(m *graph.Map, walk graph.Walk) []Ailment {
	listed := map[ref.Pinned]map[digest.Digest]bool{}
	for _, it := range m.Items() {
		for _, tag := range it.Tags {
			subject, via, ok := graph.TagSubject(tag)
			if !ok || via != graph.Fallback {
				continue
			}
			at := ref.Pinned{Repo: it.At.Repo, Digest: subject}
			listed[at] = map[digest.Digest]bool{}
			for _, c := range it.Children {
				listed[at][c.Digest] = true
			}
		}
	}
	var found []Ailment
	for _, subject := range slices.SortedFunc(maps.Keys(listed), graph.ComparePlaces) {
		for _, r := range m.Referrers(subject) {
			if walk.Has(subject) && !listed[subject][r.At.Digest] {
				found = append(found, Ailment{
					What: Unlisted, At: r.At.String(), Why: fmt.Sprintf("%s does not list it", graph.FallbackTag(subject.Digest)),
					Cure: "pushed again, which lists it", repair: func(ctx context.Context) error { return k.relist(ctx, r) },
				})
			}
		}
	}
	return found
}

// relist pushes the same bytes of a referrer again: that lists it among its subject's.
func (k *Keeper) relist(ctx context.Context, it graph.Item) error {
	member := k.member(it.At.Repo)
	n, content, found, err := k.Shelves[member].Manifest(ctx, it.At.Digest)
	if err == nil && !found {
		err = fault.New(fault.Conflict, "listing", it.At.String(), "it is no longer there")
	}
	if err != nil {
		return err
	}
	return k.Registry.Repository(member).Push(ctx, n, strings.NewReader(string(content)))
}

// Examine looks at what the ledger says is served: every tag follows it, and every release is whole
// and verifies. The returned ailments come after a keeper's.
func (p *Pipeline) Examine(ctx context.Context) ([]Ailment, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil || head.ID == "" {
		return nil, err
	}
	var found []Ailment
	seen := map[digest.Digest]bool{}
	for _, channel := range head.Document.Names() {
		s := head.Document.Channels[channel]
		if seen[s.Record] {
			continue
		}
		seen[s.Record] = true
		pub, err := p.Load(ctx, s.Record)
		if err == nil {
			_, _, err = p.whole(ctx, pub, channel)
		}
		if kind, _ := fault.KindOf(err); kind == fault.Unavailable || kind == fault.Interrupted {
			return found, err
		}
		if err != nil {
			found = append(found, Ailment{What: Unproven, At: channel + " " + s.Tag, Why: err.Error(), Cure: "mage ops:rollback takes the channel to the last release that verifies"})
		}
	}
	change, err := p.PlanReconcile(ctx)
	switch kind, _ := fault.KindOf(err); {
	case kind == fault.Immutable, kind == fault.Unverified:
		return append(found, Ailment{What: Drifted, At: p.Family.Name, Why: err.Error(), Cure: fault.HintOf(err)}), nil
	case kind == fault.Forged: // somebody has to look at it; what else is ill can be cured
		return append(found, Ailment{What: Unvouched, At: p.Family.Name, Why: err.Error(), Cure: fault.HintOf(err)}), nil
	case err != nil:
		return found, err
	}
	for _, move := range change.Tags {
		found = append(found, Ailment{
			What: Drifted, At: move.Tag.String(), Why: move.String(), Cure: "moved to where the ledger says",
			repair: func(ctx context.Context) error { _, _, err := p.Converge(ctx); return err },
		})
	}
	return found, nil
}

// Repairable reports whether Repair can do anything about it.
func (a Ailment) Repairable() bool { return a.repair != nil }

// Repair cures an ailment, or returns an error when it cannot.
func (a Ailment) Repair(ctx context.Context) error {
	if a.repair == nil {
		return fault.New(fault.Unverified, "repairing", a.At, "nothing here can: %s", a.Why).WithHint("%s", a.Cure)
	}
	return a.repair(ctx)
}

// Repair cures what can be cured, and returns the places. What cannot be does not stop the others; the
// error is the first.
func Repair(ctx context.Context, ailments []Ailment, p Progress) ([]string, error) {
	repaired := []string{}
	var first error
	for _, a := range ailments {
		if !a.Repairable() {
			continue
		}
		err := fault.Wrap(a.Repair(ctx), fault.Unverified, "repairing", a.At)
		switch {
		case ctx.Err() != nil:
			return repaired, err
		case err == nil:
			repaired = append(repaired, a.At)
			continue
		case first == nil:
			first = err
		}
		p.Note("fsck", a.At, err.Error())
	}
	return repaired, first
}
