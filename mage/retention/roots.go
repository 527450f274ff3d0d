package retention

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/semver"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
)

// Roots returns every place that must stay, the strongest reason first, and the protected patterns
// that no tag matches.
func Roots(f Facts, m *graph.Map) (roots []graph.Root, unmatched []string) {
	window, oldest := f.window(m)
	roots = slices.Concat(f.current(), f.shown(m), window, f.documents(m, oldest), f.versions(m))
	protected, unmatched := f.protected(m)
	return slices.Concat(roots, protected, f.others(m), f.waiting(m), f.young(m)), unmatched
}

// current are the releases that the channels serve, whatever is left of them.
func (f Facts) current() []graph.Root {
	var roots []graph.Root
	seen := map[string]bool{}
	for _, s := range f.Served {
		if seen[s.Channel] {
			continue
		}
		seen[s.Channel] = true
		why := fmt.Sprintf("%s serves %s", s.Channel, s.Tag)
		if s.Hold != "" {
			why += ", held"
		}
		roots = append(roots, f.release(s, why)...)
	}
	if f.Head != "" {
		roots = append(roots, graph.Root{At: ref.Pinned{Repo: f.metadata(), Digest: f.Head}, Why: "newest channels document"})
	}
	return roots
}

// release are the roots of one release: its record, and the members that a channel names itself.
// What the family no longer has is not looked at: nothing is deleted there.
func (f Facts) release(s Served, why string) []graph.Root {
	roots := []graph.Root{{At: ref.Pinned{Repo: f.metadata(), Digest: s.Record}, Why: why}}
	for _, member := range f.Family.Members() {
		if d, ok := s.Members[member]; ok {
			roots = append(roots, graph.Root{At: ref.Pinned{Repo: f.repo(member), Digest: d}, Why: why})
		}
	}
	return roots
}

// shown is what channel-named tags show, whatever the ledger says, and what the document under such
// a tag says is served.
func (f Facts) shown(m *graph.Map) []graph.Root {
	var roots []graph.Root
	for it, tag := range tagged(m) {
		if !f.isChannelTag(tag) {
			continue
		}
		why := fmt.Sprintf("tag %s shows it", tag)
		roots = append(roots, graph.Root{At: it.At, Why: why})
		for _, p := range it.Mentions {
			roots = append(roots, graph.Root{At: p, Why: fmt.Sprintf("the channels document under tag %s names it", tag)})
		}
	}
	return roots
}

// channelsTag names the newest channels document in the metadata repository.
const channelsTag = "channels"

func (f Facts) isChannelTag(tag string) bool {
	_, ok := f.Family.Channels[tag]
	return ok || tag == channelsTag
}

// window are the past releases that one can roll back to, and the oldest generation among them. A
// release whose record is gone cannot be rolled back to: an older one takes its place.
func (f Facts) window(m *graph.Map) (roots []graph.Root, oldest uint64) {
	kept, since := map[string]map[digest.Digest]bool{}, map[string]time.Time{}
	for _, s := range f.Served {
		until, past := since[s.Channel]
		if since[s.Channel] = s.At; !past {
			until = f.Now
		}
		if _, there := m.Item(ref.Pinned{Repo: f.metadata(), Digest: s.Record}); !there {
			continue
		}
		if kept[s.Channel] == nil {
			kept[s.Channel] = map[digest.Digest]bool{}
		}
		why := f.keeps(s, until, len(kept[s.Channel]), kept[s.Channel][s.Record])
		if why == "" {
			continue
		}
		kept[s.Channel][s.Record] = true
		roots = append(roots, f.release(s, why)...)
		if oldest == 0 || s.Generation < oldest {
			oldest = s.Generation
		}
	}
	return roots, oldest
}

// keeps says why a state, which ended at a time, stays when count newer releases of its channel do, or "".
func (f Facts) keeps(s Served, until time.Time, count int, counted bool) string {
	keep := f.Family.Channels[s.Channel].Keep
	switch {
	case !keep.Stated():
		return fmt.Sprintf("%s does not say what it keeps, so all of its releases stay", s.Channel)
	case keep.All:
		return fmt.Sprintf("%s keeps all its releases", s.Channel)
	case counted || count < keep.Releases:
		return fmt.Sprintf("one of the last %d releases of %s", keep.Releases, s.Channel)
	case keep.Within > 0 && f.Now.Sub(until) < keep.Within:
		return fmt.Sprintf("%s served it until %s ago, within %s", s.Channel, Span(f.Now.Sub(until)), Span(keep.Within))
	}
	return ""
}

// documents are the channels documents since the oldest generation that can be rolled back to.
func (f Facts) documents(m *graph.Map, oldest uint64) []graph.Root {
	var roots []graph.Root
	for it, tag := range tagged(m) {
		if n, ok := generation(tag); ok && it.At.Repo == f.metadata() && n >= oldest {
			roots = append(roots, graph.Root{At: it.At, Why: fmt.Sprintf("channels document of generation %d, the oldest that stays is %d", n, oldest)})
		}
	}
	return roots
}

// generation reads the tag of a channels document: gen-<number>.
func generation(tag string) (uint64, bool) {
	number, ok := strings.CutPrefix(tag, "gen-")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, ok && err == nil
}

// versions are the version tags within their window, and the newest of all.
func (f Facts) versions(m *graph.Map) []graph.Root {
	given := map[string]time.Time{}
	for _, s := range f.Served {
		if s.Version != "" {
			given[s.Version] = s.At // the oldest state comes last: when it got its name
		}
	}
	newest := newestVersions(m)
	var roots []graph.Root
	for it, tag := range tagged(m) {
		at, known := given[tag]
		if !known {
			at = it.Since
		}
		window := f.Family.Retention.Versions
		switch {
		case !isVersion(tag):
		case slices.Contains(newest, tag):
			roots = append(roots, graph.Root{At: it.At, Why: "newest version " + tag})
		case window == 0:
			roots = append(roots, graph.Root{At: it.At, Why: "version " + tag + ", versions stay for good"})
		case at.IsZero() || f.Now.Sub(at) < window:
			roots = append(roots, graph.Root{At: it.At, Why: fmt.Sprintf("version %s, younger than %s", tag, Span(window))})
		}
	}
	return roots
}

func isVersion(tag string) bool { return semver.IsValid(tag) && semver.Canonical(tag) == tag }

// newestVersions returns the newest version there is, and the newest that is no pre-release.
func newestVersions(m *graph.Map) []string {
	var newest, stable string
	for _, tag := range tagged(m) {
		if !isVersion(tag) {
			continue
		}
		if newest == "" || semver.Compare(tag, newest) > 0 {
			newest = tag
		}
		if semver.Prerelease(tag) == "" && (stable == "" || semver.Compare(tag, stable) > 0) {
			stable = tag
		}
	}
	return []string{newest, stable}
}

// protected are the tags that the family file protects.
func (f Facts) protected(m *graph.Map) (roots []graph.Root, unmatched []string) {
	for _, pattern := range f.Family.Retention.Protect {
		found := false
		for it, tag := range tagged(m) {
			if ok, err := path.Match(pattern, tag); err == nil && ok {
				found = true
				roots = append(roots, graph.Root{At: it.At, Why: fmt.Sprintf("tag %s is protected by %q", tag, pattern)})
			}
		}
		if !found {
			unmatched = append(unmatched, pattern)
		}
	}
	return roots, unmatched
}

// commitTag is what a release is called, a deliberate rebuild and one of a dirty work tree.
var commitTag = lazyregexp.New(`^sha-[0-9a-f]{40}(-r[0-9]+|-dirty-[0-9a-f]{8})?$`)

// others are tags that nothing of ours gave: people did, and we do not know why.
func (f Facts) others(m *graph.Map) []graph.Root {
	if f.Family.Retention.Others {
		return nil
	}
	var roots []graph.Root
	for it, tag := range tagged(m) {
		_, _, evidence := graph.TagSubject(tag)
		_, document := generation(tag)
		if !evidence && !document && !f.isChannelTag(tag) && !isVersion(tag) && !commitTag.MatchString(tag) {
			roots = append(roots, graph.Root{At: it.At, Why: fmt.Sprintf("somebody gave it the tag %s", tag)})
		}
	}
	return roots
}

// waiting are complete, signed records that may still be promoted.
func (f Facts) waiting(m *graph.Map) []graph.Root {
	var roots []graph.Root
	for _, it := range m.Items() {
		age := f.Now.Sub(it.Since)
		if len(it.Locks) == 0 || age >= f.Family.Retention.Records || !signed(m, it.At) {
			continue
		}
		root := graph.Root{At: it.At, Why: fmt.Sprintf("signed record, younger than %s: it may be promoted", Span(f.Family.Retention.Records))}
		if len(m.Walk([]graph.Root{root}).Holes()) == 0 {
			roots = append(roots, root)
		}
	}
	return roots
}

func signed(m *graph.Map, record ref.Pinned) bool {
	return slices.ContainsFunc(m.Referrers(record), func(it graph.Item) bool { return it.ArtifactType == evidence.BundleType })
}

// young is everything within the grace: a release may be pushing it right now. What came at an
// unknown time, or in the future, is young. Waste is nobody's: a killed prune left it.
func (f Facts) young(m *graph.Map) []graph.Root {
	var roots []graph.Root
	for _, it := range m.Items() {
		switch {
		case it.ArtifactType == WasteType:
		case it.Since.IsZero():
			roots = append(roots, graph.Root{At: it.At, Why: "its age is not known"})
		case f.Now.Sub(it.Since) < f.Family.Retention.Grace:
			roots = append(roots, graph.Root{At: it.At, Why: fmt.Sprintf("younger than %s", Span(f.Family.Retention.Grace))})
		}
	}
	return roots
}

// tagged yields every tag with the item that it is on, sorted by place and tag.
func tagged(m *graph.Map) func(yield func(graph.Item, string) bool) {
	return func(yield func(graph.Item, string) bool) {
		for _, it := range m.Items() {
			for _, tag := range it.Tags {
				if !yield(it, tag) {
					return
				}
			}
		}
	}
}

// Span prints a duration in the largest unit that says it: 180d, 24h, 5m.
func Span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dm", int(d.Minutes()))
}
