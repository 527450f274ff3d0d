package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// bar is one member's layers on one platform, drawn to the scale of the largest.
type bar struct {
	Name, Label string
	Size        int64
	Parts       []part
}

type part struct {
	X, W  string // percent
	Color int
	Title string
}

// bars draws every image on every platform, and the artifacts.
func (m Model) bars() []bar {
	var most int64
	for _, p := range m.places() {
		most = max(most, p.Size)
	}
	if most == 0 {
		return nil
	}
	colors := m.colors()
	var bars []bar
	for _, p := range m.places() {
		b := bar{Name: strings.TrimSpace(p.member + " " + p.Platform.Platform), Size: p.Size}
		b.Label = fmt.Sprintf("%s: %d layers, %s", b.Name, len(p.Layers), Bytes(p.Size))
		var at int64
		for _, l := range p.Layers {
			b.Parts = append(b.Parts, part{percent(at, most), percent(l.Size, most), colors[l.From], fmt.Sprintf("%s, of %s %s", Bytes(l.Size), l.From, l.Instruction)})
			at += l.Size
		}
		bars = append(bars, b)
	}
	return bars
}

func percent(n, of int64) string { return fmt.Sprintf("%.2f", 100*float64(n)/float64(of)) }

// place is a member on a platform.
type place struct {
	member string
	Platform
}

func (m Model) places() []place {
	var all []place
	for _, member := range m.Members {
		for _, p := range member.Platforms {
			all = append(all, place{member.Name, p})
		}
	}
	return all
}

// colors gives every member that brings layers one of eight colours, in the order of the members.
func (m Model) colors() map[string]int {
	colors := map[string]int{}
	for _, p := range m.places() {
		for _, l := range p.Layers {
			if _, ok := colors[l.From]; !ok {
				colors[l.From] = len(colors) % 8
			}
		}
	}
	return colors
}

// swatch is a line of the chart's key.
type swatch struct {
	Name  string
	Color int
	Size  int64
}

// Key says which colour is whose, and how much each member adds to what it stands on.
func (p page) Key() []swatch {
	colors, sizes := p.colors(), map[string]int64{}
	for _, l := range p.Layers() {
		sizes[l.From] += l.Size
	}
	var key []swatch
	for _, name := range slices.Sorted(maps.Keys(colors)) {
		key = append(key, swatch{name, colors[name], sizes[name]})
	}
	return key
}

// ownLayer is a layer where it came in.
type ownLayer struct {
	Layer
	Platform string
}

// Layers lists every layer once.
func (p page) Layers() []ownLayer {
	var all []ownLayer
	seen := map[digest.Digest]bool{}
	for _, at := range p.places() {
		for _, l := range at.Layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				all = append(all, ownLayer{l, at.Platform.Platform})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b ownLayer) int { return strings.Compare(a.From, b.From) })
	return all
}

// stored is what a registry keeps of all members.
func (p page) stored() int64 {
	var sum int64
	for _, l := range p.Layers() {
		sum += l.Size
	}
	return sum
}

// span is one stage on the time line.
type span struct {
	Stage
	X, W, Label string
}

func (m Model) timeline() []span {
	end := m.Seconds
	for _, s := range m.Stages {
		end = max(end, s.After+s.Seconds)
	}
	var spans []span
	for _, s := range m.Stages {
		if end > 0 {
			spans = append(spans, span{s, fmt.Sprintf("%.2f", 100*max(0, s.After)/end), fmt.Sprintf("%.2f", max(.3, 100*s.Seconds/end)), s.Name + " took " + s.Took()})
		}
	}
	return spans
}

// changes is a comparison the other way round: of each thing that changed, where.
type changes struct {
	Chips  []word
	Tables []changeTable
}

type changeTable struct {
	Name   string
	Rows   []changed
	Hidden int
}

type changed struct{ What, Where, Class string }

// maxChanges is how many changes of one kind the page lists.
const maxChanges = 400

func (m Model) changes() changes {
	if m.Compared == nil {
		return changes{}
	}
	t := m.Compared.Totals()
	out := changes{Chips: []word{
		{fmt.Sprintf("%d vulnerabilities come", t.Introduced), tint(t.Introduced, "bad")}, {fmt.Sprintf("%d go", t.Fixed), tint(t.Fixed, "good")},
		{fmt.Sprintf("packages: %d added, %d removed, %d changed", t.Added, t.Removed, t.Bumped), ""}, {"size " + signed(t.Size), ""},
	}}
	come, gone, packages, unknown := newWhereabouts(), newWhereabouts(), newWhereabouts(), newWhereabouts()
	sizes := changeTable{Name: "Sizes"}
	for _, d := range m.Compared.Differences {
		at := strings.TrimSpace(d.Member + " " + d.Platform)
		come.add(at, d.Introduced)
		gone.add(at, d.Fixed)
		packages.add(at, packageLines(d))
		unknown.add(at, d.Unknown)
		if d.SizeBefore != d.SizeAfter {
			sizes.Rows = append(sizes.Rows, changed{SizeChange(d), at, ""})
		}
	}
	for _, t := range []changeTable{
		come.table("Vulnerabilities that come", "bad"), gone.table("Vulnerabilities that go", "good"),
		packages.table("Packages", ""), sizes, unknown.table("Not known", "warn"),
	} {
		if len(t.Rows) > 0 {
			out.Tables = append(out.Tables, t)
		}
	}
	return out
}

func tint(n int, class string) string {
	if n == 0 {
		return ""
	}
	return class
}

// whereabouts say of each thing in which cells it is, in the order it was first seen.
type whereabouts struct {
	order []string
	cells map[string][]string
}

func newWhereabouts() *whereabouts { return &whereabouts{cells: map[string][]string{}} }

func (w *whereabouts) add(cell string, things []string) {
	for _, thing := range things {
		if w.cells[thing] == nil {
			w.order = append(w.order, thing)
		}
		w.cells[thing] = append(w.cells[thing], cell)
	}
}

func (w *whereabouts) table(name, class string) changeTable {
	t := changeTable{Name: name, Hidden: max(0, len(w.order)-maxChanges)}
	for _, thing := range w.order[:len(w.order)-t.Hidden] {
		t.Rows = append(t.Rows, changed{thing, listed(w.cells[thing], 3), class})
	}
	return t
}
