package graph

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/ref"
)

// Item is a manifest as a repository holds it.
type Item struct {
	At        ref.Pinned
	MediaType string
	Size      int64     // of the manifest itself
	ID        int64     // by which some registries delete and restore it; 0 elsewhere
	Tags      []string  // sorted
	Since     time.Time // when the registry got it; zero: not known
	Links
	Locks    []ref.Pinned // what a record pins, in every repository
	Mentions []ref.Pinned // what a channels document says is served; no edges: documents outlive it
	Unread   string       // why its links are not known; empty: they are
}

// Via is how one manifest leads to another.
type Via string

// The edges. A tag is one as well when it stands for a digest instead of naming something.
const (
	Child    Via = "child"         // an index to what it lists
	Referrer Via = "referrer"      // a subject to what speaks about it
	Fallback Via = "referrers tag" // a subject to the index that lists its referrers
	Legacy   Via = "cosign tag"    // a subject to what cosign v2 attached to it
	Subject  Via = "subject"       // a referrer to what it speaks about
	Lock     Via = "lock"          // a record to what it pins
	Base     Via = "base"          // an image to the one it was built on
)

// Map is what a set of repositories holds, as one digest graph. It is never changed.
type Map struct {
	items []Item // sorted by place; those that something names and nobody has are at the end
	held  int    // how many are truly there
	index map[ref.Pinned]int
	out   [][]edge
	names map[ref.Repo][]ref.Repo
}

type edge struct {
	to  int
	via Via
}

// NewMap draws the graph of all items of some repositories. names says into which other
// repositories the manifests of one may lead: records into all, images into their bases'.
func NewMap(items []Item, names map[ref.Repo][]ref.Repo) *Map {
	m := &Map{items: slices.SortedFunc(slices.Values(items), byPlace), names: names, index: make(map[ref.Pinned]int, len(items))}
	m.held = len(m.items)
	for i := range m.items {
		m.index[m.items[i].At] = i
	}
	m.out = make([][]edge, m.held)
	for i := range m.held {
		m.link(i)
	}
	return m
}

func byPlace(a, b Item) int { return ComparePlaces(a.At, b.At) }

// ComparePlaces orders places by repository, then digest.
func ComparePlaces(a, b ref.Pinned) int {
	return cmp.Or(cmp.Compare(a.Repo.Host, b.Repo.Host), cmp.Compare(a.Repo.Path, b.Repo.Path), cmp.Compare(a.Digest, b.Digest))
}

// link draws the edges that one item causes.
func (m *Map) link(i int) {
	it := m.items[i]
	here := func(d digest.Digest) ref.Pinned { return ref.Pinned{Repo: it.At.Repo, Digest: d} }
	for _, tag := range it.Tags {
		if subject, via, ok := TagSubject(tag); ok {
			m.draw(here(subject), via, it.At)
		}
	}
	for _, c := range it.Children {
		if m.holds(here(c.Digest)) || slices.Contains(ManifestTypes(), c.MediaType) {
			m.need(i, Child, here(c.Digest)) // else it is a blob
		}
	}
	if it.Subject != "" {
		m.draw(here(it.Subject), Referrer, it.At)
		m.draw(it.At, Subject, here(it.Subject))
	}
	for _, p := range it.Locks {
		m.need(i, Lock, p)
	}
	for _, repo := range append([]ref.Repo{it.At.Repo}, m.names[it.At.Repo]...) {
		m.draw(it.At, Base, ref.Pinned{Repo: repo, Digest: it.Base})
	}
}

// draw adds an edge between two that are there; evidence of something that is gone, and a base that
// lies elsewhere, are no holes.
func (m *Map) draw(from ref.Pinned, via Via, to ref.Pinned) {
	i, ok := m.index[from]
	if ok && i < m.held && m.holds(to) {
		m.out[i] = append(m.out[i], edge{m.index[to], via})
	}
}

// need adds an edge to what must be there, be it or not.
func (m *Map) need(from int, via Via, to ref.Pinned) {
	i, ok := m.index[to]
	if !ok {
		i = len(m.items)
		m.index[to] = i
		m.items = append(m.items, Item{At: to})
	}
	m.out[from] = append(m.out[from], edge{i, via})
}

// Items returns what is there, sorted by place. The caller must not change it.
func (m *Map) Items() []Item { return m.items[:m.held] }

// Item returns what lies at a place.
func (m *Map) Item(at ref.Pinned) (Item, bool) {
	if !m.holds(at) {
		return Item{}, false
	}
	return m.items[m.index[at]], true
}

func (m *Map) holds(at ref.Pinned) bool {
	i, ok := m.index[at]
	return ok && i < m.held
}

// Referrers returns what speaks about the item at a place, by its own word.
func (m *Map) Referrers(at ref.Pinned) []Item {
	var list []Item
	if !m.holds(at) {
		return nil
	}
	for _, e := range m.out[m.index[at]] {
		if e.via == Referrer {
			list = append(list, m.items[e.to])
		}
	}
	return list
}

// Leads returns the repositories that the manifests of one may lead into, itself first.
func (m *Map) Leads(repo ref.Repo) []ref.Repo { return append([]ref.Repo{repo}, m.names[repo]...) }

// Root is a place that must stay, and why.
type Root struct {
	At  ref.Pinned
	Why string
}

// Walk is everything that some roots reach.
type Walk struct {
	m      *Map
	came   map[int]step // how each item was first reached
	absent []ref.Pinned // roots that nothing is known of
}

type step struct {
	from int // -1: it is a root
	via  Via
	why  string // of a root
}

// Walk follows every edge from the roots, breadth first: the path to each item is a shortest one,
// and the first root of the list wins. Roots that are not there are reached, too: see [Walk.Holes].
func (m *Map) Walk(roots []Root) Walk {
	w := Walk{m: m, came: make(map[int]step, len(m.items))}
	var queue []int
	for _, r := range roots {
		i, ok := m.index[r.At]
		if !ok {
			w.absent = append(w.absent, r.At)
			continue
		}
		if _, twice := w.came[i]; twice {
			continue
		}
		w.came[i] = step{from: -1, why: r.Why}
		queue = append(queue, i)
	}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		if i >= m.held {
			continue
		}
		for _, e := range m.out[i] {
			if _, ok := w.came[e.to]; !ok {
				w.came[e.to] = step{from: i, via: e.via}
				queue = append(queue, e.to)
			}
		}
	}
	return w
}

// Has reports whether a place was reached.
func (w Walk) Has(at ref.Pinned) bool {
	i, ok := w.m.index[at]
	if ok {
		_, ok = w.came[i]
	}
	return ok
}

// Step is one place on the way from a root.
type Step struct {
	At  ref.Pinned
	Via Via    // how it was reached; empty for the root
	Why string // of the root
}

// Path returns the way from a root to a place; nil if none reaches it.
func (w Walk) Path(at ref.Pinned) []Step {
	var path []Step
	i, ok := w.m.index[at]
	for ok {
		came, reached := w.came[i]
		if !reached {
			return nil
		}
		path = append(path, Step{At: w.m.items[i].At, Via: came.via, Why: came.why})
		i, ok = came.from, came.from >= 0
	}
	slices.Reverse(path)
	return path
}

// Holes returns the places that were reached and cannot be followed, sorted: what is not there, and
// what is there and could not be read.
func (w Walk) Holes() []Hole {
	var holes []Hole
	for _, at := range w.absent {
		holes = append(holes, Hole{At: at, Missing: true, Why: "the registry does not have it"})
	}
	for i := range w.came {
		switch it := w.m.items[i]; {
		case i >= w.m.held:
			holes = append(holes, Hole{At: it.At, Missing: true, Why: "the registry does not have it"})
		case it.Unread != "":
			holes = append(holes, Hole{At: it.At, Why: it.Unread})
		}
	}
	slices.SortFunc(holes, func(a, b Hole) int { return ComparePlaces(a.At, b.At) })
	return slices.CompactFunc(holes, func(a, b Hole) bool { return a.At == b.At })
}

// Hole is a place where the graph ends and should not.
type Hole struct {
	At      ref.Pinned
	Missing bool
	Why     string
}

// Downwards orders places so that what names something comes before it: indexes before their
// children, subjects before their referrers, records before all. Cycles are cut where they are met.
func (m *Map) Downwards(places []ref.Pinned) []ref.Pinned {
	chosen := map[int]bool{}
	for _, p := range places {
		if m.holds(p) {
			chosen[m.index[p]] = true
		}
	}
	var order []int
	seen := map[int]bool{}
	var visit func(i int)
	visit = func(i int) {
		if seen[i] || !chosen[i] {
			return
		}
		seen[i] = true
		for _, e := range m.out[i] {
			if e.via != Subject {
				visit(e.to)
			}
		}
		order = append(order, i)
	}
	for _, i := range m.byRank(chosen) {
		visit(i)
	}
	sorted := make([]ref.Pinned, 0, len(order))
	for _, i := range slices.Backward(order) {
		sorted = append(sorted, m.items[i].At)
	}
	return sorted
}

// byRank returns chosen items, those of repositories that few lead out of first: a repository's
// items stay together, because edges between repositories go one way.
func (m *Map) byRank(chosen map[int]bool) []int {
	var list []int
	for i := range chosen {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b int) int {
		x, y := m.items[a].At, m.items[b].At
		return cmp.Or(cmp.Compare(len(m.names[x.Repo]), len(m.names[y.Repo])), ComparePlaces(x, y))
	})
	return list
}

// String prints a path as people read it, root first.
func (s Step) String() string {
	if s.Via == "" {
		return s.Why + ": " + short(s.At)
	}
	return string(s.Via) + " " + short(s.At)
}

// short is the name of a place without what all places have in common.
func short(p ref.Pinned) string {
	name := p.Repo.Path[strings.LastIndexByte(p.Repo.Path, '/')+1:]
	return name + "@" + p.Digest.Encoded()[:min(12, len(p.Digest.Encoded()))]
}
