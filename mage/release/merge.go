package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// OSBase names the material that a family stands on: the pinned image, or, followed by a slash and
// a platform, a root file system that was made for that platform.
const OSBase = "os-base"

// Part is what one machine built of a plan: every image on some of its platforms.
type Part struct {
	From   string // where it lies
	Record Record
}

// Merge puts together what several machines built of one plan: the record that one machine would
// have made, without the indexes, which have to be assembled, and without the artifacts, which are
// packed over them. Everything that does not fit is listed.
func Merge(p Plan, parts []Part) (Record, error) {
	merged := Record{Schema: 1, Family: p.Family.Name, Source: p.Source, Images: map[string]Image{}}
	var wrong []string
	for i, part := range parts {
		if strange := p.strange(part.Record); len(strange) > 0 {
			wrong = append(wrong, prefixed(part.From, strange)...)
			continue
		}
		wrong = append(wrong, prefixed(part.From+" and "+parts[0].From, disagree(parts[0].Record, part.Record))...)
		wrong = append(wrong, prefixed(part.From, merged.take(part.Record))...)
		if i == 0 {
			merged.Tools, merged.LocalBase = part.Record.Tools, part.Record.LocalBase
		}
	}
	if len(wrong) == 0 { // otherwise what is missing may be in a part that does not fit
		wrong = missing(p, merged)
	}
	if len(wrong) > 0 {
		return Record{}, fault.New(fault.Refused, "merging", p.Source.Tag(), "%s", strings.Join(wrong, "\n    ")).
			WithHint("build every platform from this commit with the same tools, and give the dist/%s directory of each", p.Source.Tag()[len("sha-"):])
	}
	slices.SortFunc(merged.Materials, func(a, b evidence.Material) int { return strings.Compare(a.Name, b.Name) })
	merged.rebase(p.Family)
	return merged, nil
}

// strange lists what makes a record another plan's.
func (p Plan) strange(r Record) []string {
	var wrong []string
	if r.Family != p.Family.Name {
		wrong = append(wrong, fmt.Sprintf("family %q, want %q", r.Family, p.Family.Name))
	}
	if r.Source.Tag() != p.Source.Tag() || !r.Source.Epoch.Equal(p.Source.Epoch) {
		wrong = append(wrong, fmt.Sprintf("it was built from %q, this is %q", r.Source.Tag(), p.Source.Tag()))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		if built := r.Images[name].Built; built != "" {
			wrong = append(wrong, fmt.Sprintf("%q was not built but kept of commit %s", name, built))
		}
	}
	for _, c := range r.Cells() {
		if !slices.Contains(p.Cells(), c) {
			wrong = append(wrong, fmt.Sprintf("%q is not asked for", c))
		}
	}
	return wrong
}

// disagree lists in what two parts differ that one machine would have had once.
func disagree(a, b Record) []string {
	var wrong []string
	tools := maps.Clone(b.Tools)
	maps.Copy(tools, a.Tools) // here for the names alone
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		if a.Tools[name] != b.Tools[name] {
			wrong = append(wrong, fmt.Sprintf("%q is version %q and %q", name, b.Tools[name], a.Tools[name]))
		}
	}
	if a.LocalBase != b.LocalBase || !slices.Equal(a.origins(), b.origins()) {
		wrong = append(wrong, fmt.Sprintf("made from %q and from %q", b.origins(), a.origins()))
	}
	for _, name := range slices.Sorted(maps.Keys(a.Images)) {
		if other, ok := b.Images[name]; ok && !maps.Equal(a.Images[name].Arguments, other.Arguments) {
			wrong = append(wrong, fmt.Sprintf("other build arguments of %s", name))
		}
	}
	return wrong
}

// origins are where a record's materials come from, without what each platform took of it.
func (r Record) origins() []string {
	var uris []string
	for _, m := range r.Materials {
		uris = append(uris, m.URI)
	}
	slices.Sort(uris)
	return slices.Compact(uris)
}

// take adds the cells and the materials of a part, and lists those that are there already with
// other content.
func (r *Record) take(part Record) []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(part.Images)) {
		image, ok := r.Images[name]
		if !ok {
			image = Image{Platforms: map[string]graph.Node{}, Arguments: part.Images[name].Arguments, Inputs: maps.Clone(part.Images[name].Inputs)}
		}
		if !maps.Equal(image.Inputs.without(), part.Images[name].Inputs.without()) {
			image.Inputs = nil
		}
		image.Cached = image.Cached || part.Images[name].Cached
		r.Images[name] = image
		for platform, node := range part.Images[name].Platforms {
			if there, ok := image.Platforms[platform]; ok && there.Digest != node.Digest {
				wrong = append(wrong, fmt.Sprintf("%s %s is %q, another part has %q", name, platform, node.Digest, there.Digest))
				continue
			}
			image.Platforms[platform] = node
		}
	}
	for _, m := range part.Materials {
		i := slices.IndexFunc(r.Materials, func(n evidence.Material) bool { return n.Name == m.Name })
		switch {
		case i < 0:
			r.Materials = append(r.Materials, m)
		case m.URI != r.Materials[i].URI || !maps.Equal(m.Digest, r.Materials[i].Digest):
			wrong = append(wrong, fmt.Sprintf("%q is %q, another part has %q", m.Name, m.Digest, r.Materials[i].Digest))
		}
	}
	return wrong
}

func missing(p Plan, merged Record) []string {
	var wrong []string
	for _, c := range p.Cells() {
		if _, ok := merged.Digest(c); !ok {
			wrong = append(wrong, fmt.Sprintf("%s was not built", c))
		}
	}
	return wrong
}

func prefixed(from string, wrong []string) []string {
	for i := range wrong {
		wrong[i] = from + ": " + wrong[i]
	}
	return wrong
}
