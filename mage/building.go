package mage

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// buildAll builds and packs, and loads the images into Docker if there is an engine.
func buildAll() command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx, true)
		if err != nil {
			return err
		}
		built, err := p.Build(ctx, plan, nil)
		if err != nil {
			return err
		}
		if err := w.loadIntoEngine(ctx, p, built); err != nil {
			return err
		}
		return w.report(ctx, p, pipeline.Result{Source: plan.Source, Record: built.Record, Reached: pipeline.UntilBuild}, pipeline.Order{Until: pipeline.UntilBuild}, nil)
	}
}

// buildImage builds one image and what it stands on, into the layout and a Docker engine.
func buildImage(name string) command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx, true)
		if err != nil {
			return err
		}
		builder, ok := p.Builder.(*builderPort)
		if !ok {
			return fault.New(fault.Invalid, "building", name, "this pipeline has no builder of images")
		}
		builder.only = []string{name}
		images, err := builder.Build(ctx, plan, nil)
		if err != nil {
			return err
		}
		built := release.Built{Plan: plan, Record: release.Record{Images: images.Images, Source: plan.Source}}
		if err := w.loadIntoEngine(ctx, p, built); err != nil {
			return err
		}
		w.progress.settle()
		return w.print(images.Images, func() string {
			table := term.Table{Head: []string{"image", "digest"}}
			for _, n := range slices.Sorted(maps.Keys(images.Images)) {
				table.Rows = append(table.Rows, []string{n, images.Images[n].Index.Digest.String()})
			}
			return table.String()
		})
	}
}

// packArtifacts packs kinds of artifacts; what they pin is built first when it is not there.
func packArtifacts(kinds ...family.Kind) command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx, true)
		if err != nil {
			return err
		}
		built, err := p.Build(ctx, plan, nil)
		if err != nil {
			return err
		}
		d := newDist(w.root, plan.Source)
		files := map[string]string{}
		for _, kind := range kinds {
			name := w.fam.ArtifactOf(kind)
			if name == "" {
				continue
			}
			file := d.path(fileName(name, kind))
			if kind == family.Metadata {
				if err := w.writeDocument(ctx, p, file, built); err != nil {
					return err
				}
			}
			files[name] = file
		}
		w.progress.settle()
		return w.print(files, func() string { return fileList(files, w.root) })
	}
}

// writeDocument writes the channels document as it stands, or, before the first release, as it
// would be if dev took what was just built.
func (w *workshop) writeDocument(ctx context.Context, p *pipeline.Pipeline, file string, built release.Built) error {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return err
	}
	content := head.Content
	if head.ID == "" {
		if content, err = firstDocument(p, built, w.moved("artifacts:metadata")); err != nil {
			return err
		}
	}
	return writeFile(file, bytes.NewReader(content))
}

func firstDocument(p *pipeline.Pipeline, built release.Built, m release.Moved) ([]byte, error) {
	node, err := pipeline.RecordNode(built.Record)
	if err != nil {
		return nil, err
	}
	m.At = built.Record.Source.Epoch
	d, _, err := release.PlanPromote(release.Head{}, p.Family.Name, cmp.Or(p.Family.On(family.Push), p.Family.ChannelNames()[0]), release.Candidate{Record: built.Record, Digest: node.Digest}, m)
	if err != nil {
		return nil, err
	}
	return d.Encode()
}
