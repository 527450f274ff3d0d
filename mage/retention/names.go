package retention

import (
	"slices"

	"github.com/containai/containai/mage/graph"
)

// Unnaming is something that stays, without some of its tags: each named a release whose record is
// not there, or goes. A release's name goes with its record; nothing else of what stays is touched.
type Unnaming struct {
	Item graph.Item `json:"-"`
	At   string     `json:"at"`
	Tags []string   `json:"tags"`
	Why  string     `json:"why"`
}

// unnamings are the names of releases that go while what they are on stays: builds that change nothing
// give the same digest many names. Where nothing is deleted, no name is either.
func (f Facts) unnamings(m *graph.Map, w graph.Walk, skipped func(graph.Item) bool) []Unnaming {
	list := []Unnaming{}
	if slices.ContainsFunc(m.Items(), func(it graph.Item) bool { return it.At.Repo == f.metadata() && skipped(it) }) {
		return list // there may be more records than are seen
	}
	owned := f.owned(func(it graph.Item) bool { return w.Has(it.At) })
	for _, it := range m.Items() {
		if tags := f.ownerless(it, owned); len(tags) > 0 && w.Has(it.At) && !skipped(it) {
			list = append(list, Unnaming{Item: it, At: it.At.String(), Tags: tags, Why: "the records of these releases go, or are gone"})
		}
	}
	return list
}

// owned are the tags that records have, of those that are chosen.
func (f Facts) owned(chosen func(graph.Item) bool) map[string]bool {
	owned := map[string]bool{}
	for _, it := range f.Items {
		if it.At.Repo == f.metadata() && chosen(it) {
			for _, tag := range it.Tags {
				owned[tag] = true
			}
		}
	}
	return owned
}

// ownerless are the tags of a member that name a release and that no record owns.
func (f Facts) ownerless(it graph.Item, owned map[string]bool) []string {
	if it.At.Repo == f.metadata() {
		return nil // a record has its name itself
	}
	return slices.DeleteFunc(slices.Clone(it.Tags), func(tag string) bool { return owned[tag] || !commitTag.MatchString(tag) })
}

// Ownerless are the tags of an item that name a release of which no record is there at all, be it kept
// or not.
func (f Facts) Ownerless(it graph.Item) []string {
	return f.ownerless(it, f.owned(func(graph.Item) bool { return true }))
}

// WasteType is the artifact type of what a tag is moved to, to be deleted with it: GitHub has no other
// way to take one tag off a manifest.
const WasteType = "application/vnd.containai.waste.v1"
