package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/release"
)

// picture is the graph of images, what they stand on, and what names them, drawn for one width.
type picture struct {
	Class  string // "wide" or "tall"
	Top    int    // of the picture: what stands highest may be above the frame
	W, H   int
	Frames []rect
	Boxes  []box
	Edges  []edge
}

type rect struct{ X, Y, W, H int }

type box struct {
	rect
	Class, Name, Note, Title string
	Mark                     *word
}

type edge struct{ Path, Class string }

// TextX, NameY and NoteY are where a box's two lines stand.
func (b box) TextX() int { return b.X + 12 }
func (b box) NameY() int { return b.Y + 19 }
func (b box) NoteY() int { return b.Y + 35 }

// MarkX is where its mark ends.
func (b box) MarkX() int { return b.X + b.W - 10 }

// Measures in pixels.
const (
	boxW, boxH   = 188, 44
	gapX, gapY   = 46, 16
	frameMargin  = 16
	tallIndent   = 18
	tallW        = 340
	widestUseful = 1250 // a picture that is wider is not drawn: its text would be too small
)

// branch is a node of the tree with what stands on it.
type branch struct {
	box
	children []*branch
}

// forest is the tree of images: what the base images stand on is its root.
func (m Model) forest() []*branch {
	images := map[string]*branch{}
	for _, member := range m.Members {
		if member.Kind == "image" {
			images[member.Name] = &branch{box: m.memberBox(member)}
		}
	}
	root := &branch{box: m.systemBox()}
	for _, member := range m.Members {
		i, parent := images[member.Name], images[member.From]
		if parent == nil {
			parent = root
		}
		if i != nil {
			parent.children = append(parent.children, i)
		}
	}
	if root.Name == "" {
		return root.children
	}
	return []*branch{root}
}

// systemBox is the operating system that the base images stand on.
func (m Model) systemBox() box {
	for _, name := range slices.Sorted(maps.Keys(m.Materials)) {
		if strings.HasPrefix(name, "os-base") {
			uri := m.Materials[name]
			b := box{Class: "outside", Name: "operating system", Note: "pinned image", Title: uri}
			if strings.HasPrefix(uri, "pkg:generic/") {
				b.Note = "from a mirror's packages"
			}
			return b
		}
	}
	return box{}
}

func (m Model) memberBox(member Member) box {
	b := box{Class: "built", Name: member.Name, Title: member.Name + " " + member.Digest.String(), Mark: m.mark(member)}
	b.Note = member.Kind
	if member.Kind == "image" {
		b.Note = "built"
	}
	if member.Kept != "" {
		b.Class, b.Note, b.Title = "kept", "kept", b.Title+", kept: "+member.Kept
	}
	if len(member.Platforms) > 0 {
		b.Note = Bytes(member.Size) + " · " + b.Note
	}
	if n := len(member.Platforms); n > 1 {
		b.Note += fmt.Sprintf(" · %d platforms", n)
	}
	return b
}

// mark is the inspection's result for an image, in a sign.
func (m Model) mark(member Member) *word {
	if m.stops(member.Name) {
		return &word{"✗", "bad"}
	}
	var mark *word
	for _, c := range m.Cells {
		switch {
		case c.Image != member.Name:
		case c.NotScanned:
			return &word{"!", "warn"}
		default:
			mark = &word{"✓", "good"}
		}
	}
	return mark
}

// stops reports whether something about an image stops the release.
func (m Model) stops(image string) bool {
	return m.Verdict != nil && (slices.ContainsFunc(m.Verdict.Findings, func(f release.Found) bool { return f.Blocking && f.Cell.Image == image }) ||
		slices.ContainsFunc(m.Verdict.Refusals, func(r release.Refusal) bool { return r.Cell.Image == image }))
}

// ends are what stands beside the tree: the artifacts, and the record with the channel that serves it.
func (m Model) ends() (artifacts, after []box) {
	for _, member := range m.Members {
		if member.Kind != "image" {
			artifacts = append(artifacts, m.memberBox(member))
		}
	}
	after = append(after, box{Class: "built", Name: "record", Note: short(m.Tag), Title: "what this commit released, pinned by digest"})
	if m.Reached == "promote" {
		after = append(after, box{Class: "channel", Name: m.Channel, Note: fmt.Sprintf("generation %d", m.Generation), Title: "the channel that serves it"})
	}
	return artifacts, after
}

// pictures draws the graph twice: side by side for a wide window, below each other for a narrow one.
func (m Model) pictures() []picture {
	if len(m.Members) == 0 {
		return nil
	}
	tall, wide := m.tall(), m.wide()
	if wide.W > widestUseful {
		tall.Class += " only"
		return []picture{tall}
	}
	return []picture{wide, tall}
}

// wide draws from left to right: the tree in its frame, the artifacts below, record and channel at the end.
func (m Model) wide() picture {
	p := picture{Class: "wide"}
	y := frameMargin + 1
	for _, root := range m.forest() {
		p.grow(root, 1, &y)
	}
	right := 0
	frame := rect{X: -1, Y: 1}
	for _, b := range p.Boxes {
		right = max(right, b.X+b.W)
		if b.Class != "outside" && (frame.X < 0 || b.X-frameMargin < frame.X) {
			frame.X = b.X - frameMargin
		}
	}
	frame.X = max(frame.X, 1)
	frame.W, frame.H = right+frameMargin-frame.X, y-gapY+frameMargin-1
	p.Frames = []rect{frame}
	artifacts, after := m.ends()
	middle := frame.Y + frame.H/2
	below := frame.Y + frame.H + 30
	for i, a := range artifacts {
		a.rect = rect{frame.X + i*(boxW+gapX), below, boxW, boxH}
		p.Boxes = append(p.Boxes, a)
		p.Edges = append(p.Edges, edge{fmt.Sprintf("M%d %d V%d", a.X+boxW/2, frame.Y+frame.H, below), "pins"})
		right = max(right, a.X+a.W)
	}
	p.W, p.H = right+frameMargin+1, frame.Y+frame.H+1
	if len(artifacts) > 0 {
		p.H = below + boxH + 2
	}
	x := p.W + 30
	from := edge{fmt.Sprintf("M%d %d H%d", frame.X+frame.W, middle, x), "pins"}
	for i, b := range after {
		b.rect = rect{x, middle - boxH/2 - i*(boxH+34), boxW - 20, boxH}
		p.Boxes = append(p.Boxes, b)
		p.Edges = append(p.Edges, from)
		from = edge{fmt.Sprintf("M%d %d V%d", x+b.W/2, b.Y, b.Y-34), ""}
	}
	if n := len(artifacts); n > 0 {
		last := frame.X + (n-1)*(boxW+gapX) + boxW
		p.Edges = append(p.Edges, edge{fmt.Sprintf("M%d %d H%d V%d", last, below+boxH/2, x+(boxW-20)/2, middle+boxH/2), "pins"})
	}
	p.W = x + boxW - 18
	for _, b := range p.Boxes {
		p.Top = min(p.Top, b.Y-2)
	}
	p.H -= p.Top
	return p
}

// grow places a branch and what stands on it, and returns its middle.
func (p *picture) grow(b *branch, x int, y *int) int {
	if len(b.children) == 0 {
		b.rect = rect{x, *y, boxW, boxH}
		*y += boxH + gapY
	} else {
		var first, last int
		for i, c := range b.children {
			last = p.grow(c, x+boxW+gapX, y)
			if i == 0 {
				first = last
			}
		}
		b.rect = rect{x, (first+last)/2 - boxH/2, boxW, boxH}
	}
	middle := b.Y + boxH/2
	for _, c := range b.children {
		bend := x + boxW + gapX/2
		p.Edges = append(p.Edges, edge{fmt.Sprintf("M%d %d H%d V%d H%d", x+boxW, middle, bend, c.Y+boxH/2, c.X), ""})
	}
	b.Name, b.Note = fit(b.Name, 20), fit(b.Note, 27)
	p.Boxes = append(p.Boxes, b.box)
	return middle
}

// tall draws the tree as an indented list, and the rest below it.
func (m Model) tall() picture {
	p := picture{Class: "tall", W: tallW, H: 1}
	for _, root := range m.forest() {
		p.list(root, 0, nil)
	}
	artifacts, after := m.ends()
	for _, b := range append(artifacts, after...) {
		p.put(b, 0)
	}
	p.H -= gapY - 1
	return p
}

func (p *picture) list(b *branch, depth int, parent *rect) {
	at := p.put(b.box, depth)
	if parent != nil {
		p.Edges = append(p.Edges, edge{fmt.Sprintf("M%d %d V%d H%d", parent.X+tallIndent/2, parent.Y+parent.H, at.Y+at.H/2, at.X), ""})
	}
	for _, c := range b.children {
		p.list(c, depth+1, &at)
	}
}

// put places a box below the others.
func (p *picture) put(b box, depth int) rect {
	x := 1 + min(depth, 8)*tallIndent
	b.rect = rect{x, p.H, tallW - x - 1, boxH}
	b.Name, b.Note = fit(b.Name, (b.W-40)/8), fit(b.Note, (b.W-24)/7)
	p.Boxes = append(p.Boxes, b)
	p.H += boxH + gapY
	return b.rect
}

// fit cuts a text in the middle: both ends of a name tell more than one.
func fit(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	tail := most / 3
	return string(runes[:most-tail-1]) + "…" + string(runes[len(runes)-tail:])
}
