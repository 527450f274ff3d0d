package release

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// Found is a finding at the cell where it came in, with what stands on that cell and so has it too.
type Found struct {
	evidence.Finding
	Cell        evidence.Cell `json:"cell"`
	Inherited   []string      `json:"inherited,omitempty"`   // images on the same platform, sorted
	Instruction string        `json:"instruction,omitempty"` // what made the layer
	Blocking    bool          `json:"blocking"`
	Waiver      string        `json:"waiver,omitempty"` // file:line of the one that keeps it from blocking
}

// String says what is wrong and where, and what somebody would change. It never holds a secret.
func (f Found) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s: %s", f.Cell, f.what())
	if f.Layer != "" {
		fmt.Fprintf(&out, "\n      in layer %s", f.Layer)
	}
	if f.Instruction != "" {
		fmt.Fprintf(&out, " of %s", f.Instruction)
	}
	if len(f.Inherited) > 0 {
		fmt.Fprintf(&out, "\n      inherited from %s by %s", f.Cell.Image, strings.Join(f.Inherited, ", "))
	}
	return out.String()
}

// Place is the file and, where it is known, the line.
func (f Found) Place() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s:%d", f.Path, f.Line)
	}
	return f.Path
}

// Where is the package, or the place, that a finding is about.
func (f Found) Where() string {
	return strings.TrimSpace(strings.Join([]string{f.Package, f.Version, f.Place()}, " "))
}

func (f Found) what() string {
	switch f.Kind {
	case evidence.Secret:
		return fmt.Sprintf("%s secret in %s: %s (%s)", f.Severity, f.Place(), f.Title, f.ID)
	case evidence.Vulnerability:
		return fmt.Sprintf("%s %s in %s %s, fixed in %s: %s", f.Severity, f.ID, f.Package, f.Version, cmp.Or(f.FixedIn, "no version"), f.Title)
	}
	return f.ID + " " + f.Title
}

// compare orders what stops a release first, then secrets, then by falling severity.
func (f Found) compare(g Found) int {
	return cmp.Or(
		cmp.Compare(rank(g), rank(f)),
		cmp.Compare(f.Kind, g.Kind),
		cmp.Compare(severity(g), severity(f)),
		cmp.Compare(f.ID, g.ID),
		cmp.Compare(f.Cell.Image, g.Cell.Image),
		cmp.Compare(f.Cell.Platform, g.Cell.Platform),
		cmp.Compare(f.Package, g.Package),
		cmp.Compare(f.Path, g.Path),
		cmp.Compare(f.Line, g.Line),
	)
}

func rank(f Found) int {
	if f.Blocking {
		return 1
	}
	return 0
}

func severity(f Found) int {
	return slices.Index([]string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}, f.Severity)
}

// origins tells every finding once: at the lowest image that has it, in the same layer, on the same
// platform. That an image's layers begin with its parent's was proved when it was built, so a
// finding in a layer of the parent is the parent's.
func origins(reports []evidence.Report, images map[string]family.Image) []Found {
	has := map[evidence.Cell]map[evidence.Finding]bool{}
	for _, r := range reports {
		has[r.Cell] = map[evidence.Finding]bool{}
		for _, f := range r.Findings {
			has[r.Cell][f] = true
		}
	}
	type origin struct {
		cell    evidence.Cell
		finding evidence.Finding
	}
	list, index := []Found{}, map[origin]int{}
	for _, r := range reports {
		for _, f := range r.Findings {
			at := r.Cell
			for parent := images[at.Image].From; inherits(f) && has[evidence.Cell{Image: parent, Platform: at.Platform}][f]; parent = images[at.Image].From {
				at.Image = parent
			}
			i, told := index[origin{at, f}]
			if !told {
				i = len(list)
				index[origin{at, f}] = i
				list = append(list, Found{Finding: f, Cell: at, Instruction: instructionOf(r, f.Layer)})
			}
			if r.Cell != at && !slices.Contains(list[i].Inherited, r.Cell.Image) {
				list[i].Inherited = append(list[i].Inherited, r.Cell.Image)
				slices.Sort(list[i].Inherited)
			}
		}
	}
	return list
}

// inherits reports whether the same finding in a parent is the very same: a secret in a layer, which has
// a digest, is. One in an image's configuration is not: a child may put another in the same place, and a
// waiver of the parent's must not cover it.
func inherits(f evidence.Finding) bool { return f.Kind != evidence.Secret || f.Layer != "" }

func instructionOf(r evidence.Report, layer digest.Digest) string {
	for _, l := range r.Layers {
		if l.Digest == layer {
			return l.Instruction
		}
	}
	return ""
}
