package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// PlanPrune says what would go and why everything else stays. It writes nothing to the registry. What no
// channel served may go, so it follows no ledger that anybody who may push could have written.
func (k *Keeper) PlanPrune(ctx context.Context, allow retention.Allow) (retention.Facts, retention.Plan, error) {
	f, head, err := k.scan(ctx)
	if err == nil {
		err = k.Vouched(ctx, head)
	}
	if err != nil {
		return f, retention.Plan{}, err
	}
	p, err := retention.NewPlan(f, allow)
	return f, p, err
}

// recheck is how many deletions may follow one look at what is new in a repository.
const recheck = 10

// Prune does what a plan says, and no more: before each deletion it looks whether the item is still
// what the plan saw, and every few of them, and at each repository, whether anything new needs it.
// It ends by walking every root again; what is missing then and is in the journal comes back. The
// result is one entry for each planned deletion that was come to.
func (k *Keeper) Prune(ctx context.Context, f retention.Facts, p retention.Plan) ([]retention.Entry, error) {
	if err := p.Refusal(); err != nil {
		return nil, err
	}
	if err := k.settle(f); err != nil {
		return nil, err
	}
	s := k.newSweep(f, p)
	err := s.all(ctx, p.Deletes)
	if err == nil {
		err = s.unname(ctx, p.Unnames)
	}
	if err == nil {
		err = k.prove(ctx, f)
	}
	if kind, _ := fault.KindOf(err); err != nil && s.wrote() && kind != fault.Partial {
		err = &fault.Error{Op: "pruning", Subject: k.Base.String(), Kind: fault.Partial, Err: err,
			Hint: fmt.Sprintf("%d of %d deletions are done and in the journal; run the same command again: it goes on where this one stopped", len(s.done), len(p.Deletes))}
	}
	return s.done, err
}

// settle finds out what became of deletions whose run was killed before the answer came.
func (k *Keeper) settle(f retention.Facts) error {
	entries, err := k.Journal.Entries()
	if err != nil {
		return err
	}
	held := map[string]string{} // what is where: a manifest, or the digest that a tag is on
	for _, it := range f.Items {
		held[k.place(it.At)] = ""
		for _, tag := range it.Tags {
			held[k.tagPlace(it.At.Repo, tag)] = it.At.Digest.String()
		}
	}
	for _, e := range retention.Fold(entries) {
		if e.Outcome != "" {
			continue
		}
		e.Outcome, e.Why = retention.Deleted, "its run ended before the answer came; it is gone"
		if of, there := held[e.At]; there && of == e.Of {
			e.Outcome, e.Why = retention.Skipped, "its run ended before the answer came; it is still there"
		}
		if err := k.Journal.Append(e); err != nil {
			return err
		}
	}
	return nil
}

// sweep is one run through a plan's deletions.
type sweep struct {
	k      *Keeper
	facts  retention.Facts // as far as they are known now
	run    string
	doomed map[ref.Pinned]bool
	why    map[ref.Pinned]string // what was planned and stays
	done   []retention.Entry
}

func (k *Keeper) newSweep(f retention.Facts, p retention.Plan) *sweep {
	s := &sweep{k: k, facts: f, run: p.Now.UTC().Format("20060102T150405Z"), doomed: map[ref.Pinned]bool{}, why: map[ref.Pinned]string{}}
	s.facts.Items = slices.Clone(f.Items)
	for _, d := range p.Deletes {
		s.doomed[d.Item.At] = true
	}
	return s
}

// all goes through the deletions in their order: what names something goes before it.
func (s *sweep) all(ctx context.Context, deletes []retention.Deletion) error {
	var last ref.Repo
	for i, d := range deletes {
		if repo := d.Item.At.Repo; repo != last || i%recheck == 0 {
			last = repo
			if err := s.review(ctx, s.shelf(repo)); err != nil {
				return err
			}
		}
		e, err := s.one(ctx, s.shelf(last), d.Item)
		if err != nil {
			return err
		}
		s.tell(d.At, e)
	}
	return nil
}

// tell notes what became of something, and says so.
func (s *sweep) tell(at string, e retention.Entry) {
	s.done = append(s.done, e)
	detail := string(e.Outcome)
	if e.Why != "" {
		detail += ": " + e.Why
	}
	s.k.Progress.Done("prune", at, detail)
}

func (s *sweep) shelf(repo ref.Repo) Shelf { return s.k.Shelves[s.k.member(repo)] }

// one deletes an item, unless it stays.
func (s *sweep) one(ctx context.Context, shelf Shelf, it graph.Item) (retention.Entry, error) {
	e := retention.NewEntry(s.run, s.k.place(it.At), it, s.facts.Now)
	if !s.doomed[it.At] {
		e.Outcome, e.Why = retention.Skipped, s.why[it.At]
		return e, nil
	}
	tags, found, err := shelf.Look(ctx, it)
	switch {
	case err != nil:
		return e, err
	case !found:
		e.Outcome = retention.Absent // not ours: what the journal has of it stands
		return e, nil
	case !slices.Equal(tags, it.Tags):
		e.Outcome, e.Why = retention.Skipped, fmt.Sprintf("its tags are %v now, they were %v", tags, it.Tags)
		s.spare(it.At, "something that leads to it was tagged meanwhile")
		return e, nil
	}
	if err := s.keep(ctx, shelf, it); err != nil {
		return e, err
	}
	e, err = s.remove(ctx, shelf, it, e)
	if e.Outcome == retention.Retained {
		s.spare(it.At, "something that leads to it is retained")
	}
	return e, err
}

// remove deletes an item. The journal has it before the registry hears of it, and what became of it after.
func (s *sweep) remove(ctx context.Context, shelf Shelf, it graph.Item, e retention.Entry) (retention.Entry, error) {
	err := s.k.Journal.Append(e)
	if err == nil {
		e.Outcome, e.Why, err = shelf.Delete(ctx, it)
	}
	if err == nil {
		err = s.k.Journal.Append(e)
	}
	return e, err
}

// keep puts a manifest into the trash.
func (s *sweep) keep(ctx context.Context, shelf Shelf, it graph.Item) error {
	_, content, found, err := shelf.Manifest(ctx, it.At.Digest)
	if err != nil || !found {
		return err
	}
	return s.k.Journal.Keep(content)
}

// spare leaves everything that an item leads to: it stays, and must stay whole.
func (s *sweep) spare(at ref.Pinned, why string) {
	m := graph.NewMap(s.facts.Items, retention.Names(s.k.Family, s.k.Base))
	walk := m.Walk([]graph.Root{{At: at, Why: why}})
	for p := range s.doomed {
		if walk.Has(p) {
			delete(s.doomed, p)
			s.why[p] = why
		}
	}
}

// review looks at what is new in a repository and in the ledger, and plans again if anything is.
func (s *sweep) review(ctx context.Context, shelf Shelf) error {
	known := map[ref.Pinned]int{}
	for i, it := range s.facts.Items {
		known[it.At] = i
	}
	recent, err := shelf.Recent(ctx, func(p ref.Pinned) bool { _, ok := known[p]; return ok })
	if err != nil {
		return err
	}
	var fresh []graph.Item
	changed := false
	for _, it := range recent {
		i, ok := known[it.At]
		switch {
		case !ok:
			fresh = append(fresh, it)
		case !slices.Equal(s.facts.Items[i].Tags, it.Tags):
			s.facts.Items[i].Tags = it.Tags
			changed = true
		}
	}
	if err := s.k.read(ctx, fresh); err != nil {
		return err
	}
	s.facts.Items = append(s.facts.Items, fresh...)
	head, err := s.k.Ledger.Head(ctx)
	if err != nil {
		return err
	}
	node, err := documentNode(head.Content)
	if err != nil {
		return err
	}
	if node.Digest != s.facts.Head { // which are older than the sweep
		changed = true
		head, err := s.k.readLedger(ctx, &s.facts)
		if err == nil {
			err = s.k.Vouched(ctx, head)
		}
		if err != nil {
			return err
		}
	}
	if !changed && len(fresh) == 0 {
		return nil
	}
	return s.replan()
}

// replan takes from what is doomed whatever a plan of today would keep.
func (s *sweep) replan() error {
	now := s.known()
	p, err := retention.NewPlan(now, retention.Allow{Empty: true, Share: true})
	if err != nil {
		return err
	}
	still := map[ref.Pinned]bool{}
	for _, d := range p.Deletes {
		still[d.Item.At] = true
	}
	for _, it := range now.Items {
		if s.doomed[it.At] && !still[it.At] {
			delete(s.doomed, it.At)
			s.why[it.At] = "something that came since the plan needs it"
		}
	}
	return nil
}

// known are the facts without what this run deleted.
func (s *sweep) known() retention.Facts {
	gone := map[string]bool{}
	for _, e := range s.done {
		gone[e.At] = e.Outcome == retention.Deleted || e.Outcome == retention.Absent
	}
	now := s.facts
	now.Items = slices.DeleteFunc(slices.Clone(now.Items), func(it graph.Item) bool { return gone[s.k.place(it.At)] })
	return now
}

func (s *sweep) wrote() bool {
	return slices.ContainsFunc(s.done, func(e retention.Entry) bool { return e.Outcome == retention.Deleted })
}
