package mage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
)

// reproduced is what build:reproduce prints.
type reproduced struct {
	Tag   string           `json:"tag"`
	Same  bool             `json:"same"` // every cell is
	Cells []reproducedCell `json:"cells"`
}

// reproducedCell is an image on a platform that was built twice.
type reproducedCell struct {
	evidence.Cell
	First      string               `json:"first"`
	Second     string               `json:"second"`
	Inherited  string               `json:"inherited,omitempty"` // the image below it that has the same difference
	Difference *buildkit.Difference `json:"difference,omitempty"`
}

// buildReproduce builds the family twice without cache, the second time from another directory with
// other permissions, and names what is not the same. Nothing of it is kept.
func buildReproduce() command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, true)
		if err != nil {
			return err
		}
		plan, err := w.plan(ctx)
		if err != nil {
			return err
		}
		dir := filepath.Join(w.state.WorkDir(), "reproduce")
		if err := os.RemoveAll(dir); err != nil { // a killed run's
			return fault.Wrap(err, fault.Environment, "clearing", dir)
		}
		defer os.RemoveAll(dir)
		out, err := w.reproduce(ctx, plan, dir)
		if err != nil {
			return err
		}
		w.progress.settle()
		if err := w.print(out, func() string { return reproducedText(out) }); err != nil || out.Same {
			return err
		}
		return fault.New(fault.Refused, "reproducing", out.Tag, "two builds of it are not the same bytes").
			WithHint("the lines above name the first layer and path that differ; docs/reproducible.md says what usually helps")
	}
}

func (w *workshop) reproduce(ctx context.Context, plan release.Plan, dir string) (reproduced, error) {
	elsewhere := filepath.Join(dir, "elsewhere", "source")
	if err := w.repo.Copy(ctx, elsewhere); err != nil {
		return reproduced{}, err
	}
	below, err := filepath.Rel(w.repo.Root(), w.root)
	if err != nil {
		return reproduced{}, fault.Wrap(err, fault.Environment, "resolving", w.root)
	}
	b, err := (&builderPort{workshop: w}).open(ctx)
	if err != nil {
		return reproduced{}, err
	}
	first, err := w.buildAt(ctx, b, plan, w.root, filepath.Join(dir, "first"))
	if err != nil {
		return reproduced{}, err
	}
	second, err := w.buildAt(ctx, b, plan, filepath.Join(elsewhere, below), filepath.Join(dir, "second"))
	if err != nil {
		return reproduced{}, err
	}
	return w.compare(ctx, plan, first, second)
}

// compare asks of every cell what differs first, and whether the image below has it already.
func (w *workshop) compare(ctx context.Context, plan release.Plan, first, second madeAt) (reproduced, error) {
	out := reproduced{Tag: plan.Source.Tag(), Same: true}
	found := map[evidence.Cell]*buildkit.Difference{}
	for _, cell := range plan.Cells() {
		a, b := first.images[cell.Image].Platforms[cell.Platform], second.images[cell.Image].Platforms[cell.Platform]
		d, err := buildkit.Compare(ctx, first.layout, second.layout, a, b)
		if err != nil {
			return out, err
		}
		found[cell] = d
		line := reproducedCell{Cell: cell, First: a.Digest.String(), Second: b.Digest.String(), Difference: d}
		parent := w.fam.Images[cell.Image].From
		if below := found[evidence.Cell{Image: parent, Platform: cell.Platform}]; below != nil && d != nil && below.Layer == d.Layer {
			line.Inherited = parent
		}
		out.Same = out.Same && d == nil
		out.Cells = append(out.Cells, line)
	}
	return out, nil
}

// madeAt is what one of the two builds made.
type madeAt struct {
	layout *registry.Layout
	images map[string]release.Image
}

// buildAt runs every step of every image from a directory, into a layout of its own.
func (w *workshop) buildAt(ctx context.Context, b *buildkit.Builder, plan release.Plan, root, into string) (madeAt, error) {
	layout, err := registry.OpenLayout(into)
	if err != nil {
		return madeAt{}, err
	}
	w.progress.Start("build", "from "+root)
	r, err := b.Build(ctx, buildkit.Request{Plan: plan, Root: root, Rebuild: true}, layout)
	if err == nil {
		w.progress.Done("build", "from "+root, "")
	}
	return madeAt{layout, r.Images}, err
}

func reproducedText(out reproduced) string {
	table := term.Table{Head: []string{"image", "platform", "built twice"}}
	for _, c := range out.Cells {
		if c.Difference == nil {
			table.Rows = append(table.Rows, []string{c.Image, c.Platform, "the same: " + c.First})
			continue
		}
		table.Rows = append(table.Rows, []string{c.Image, c.Platform, "NOT the same: " + where(c)})
	}
	return out.Tag + "\n\n" + table.String()
}

// where says in one line what differs first.
func where(c reproducedCell) string {
	d := c.Difference
	at := "beside the layers"
	if d.Layer > 0 {
		at = fmt.Sprintf("layer %d", d.Layer)
	}
	if d.Path != "" {
		at += ", /" + strings.TrimPrefix(d.Path, "/")
	}
	at += ": " + strings.Join(d.What, "; ")
	if d.Others > 0 {
		at += fmt.Sprintf("; and %d more paths", d.Others)
	}
	if c.Inherited != "" {
		return at + " (inherited from " + c.Inherited + ")"
	}
	if d.Instruction != "" {
		return at + " (made by " + d.Instruction + ")"
	}
	return at
}
