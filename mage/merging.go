package mage

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// buildMerge joins what several machines built of this commit, each for some platforms, into what
// one build for all of them would have made. Without CONTAINAI_PLATFORMS that is every platform of
// the family.
func buildMerge(dirs string) command {
	return func(ctx context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		if len(s.env.platforms) == 0 {
			s.env.platforms = fam.Platforms
		}
		handover := s.env.handover // of the parts, not of what is made of them
		s.env.handover = ""
		w, p, plan, err := s.openPipeline(ctx, true)
		if err != nil {
			return err
		}
		if err := takeParts(strings.Split(dirs, ","), handover, plan.Source); err != nil {
			return err
		}
		parts, err := readParts(strings.Split(dirs, ","))
		if err != nil {
			return err
		}
		merged, err := release.Merge(plan, parts)
		if err != nil {
			return err
		}
		builder, ok := p.Builder.(*builderPort)
		if !ok {
			return fault.New(fault.Invalid, "merging", dirs, "this pipeline has no builder of images")
		}
		p.Builder = &mergerPort{builder, merged, parts}
		built, err := p.Build(ctx, plan, nil)
		if err != nil {
			return err
		}
		if err := sameCells(merged, built.Record, w.root, plan); err != nil {
			return err
		}
		w.progress.Note("merge", plan.Source.Tag(), "next: CONTAINAI_PLATFORMS="+strings.Join(plan.Platforms, ",")+" "+releaseCommand(w.fam))
		return w.report(ctx, p, pipeline.Result{Source: plan.Source, Record: built.Record, Reached: pipeline.UntilBuild}, pipeline.Order{Until: pipeline.UntilBuild}, nil)
	}
}

// takeParts compares the parts with what the jobs that built them said, in the same order.
func takeParts(dirs []string, said string, src release.Source) error {
	if said == "" {
		return nil
	}
	digests := strings.Split(said, ",")
	if len(digests) != len(dirs) {
		return fault.New(fault.Invalid, "merging", strings.Join(dirs, ","), "CONTAINAI_HANDOVER has %d digests for %d directories", len(digests), len(dirs))
	}
	for i, dir := range dirs {
		part := dist{dir: dir}
		if err := part.takeOver(digests[i], src); err != nil {
			return err
		}
		if !part.taken {
			return fault.New(fault.Invalid, "merging", dir, "CONTAINAI_HANDOVER says nothing of it")
		}
	}
	return nil
}

// readParts reads the records of dist directories.
func readParts(dirs []string) ([]release.Part, error) {
	var parts []release.Part
	for _, dir := range dirs {
		file := filepath.Join(dir, "record.json")
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, (&fault.Error{Op: "merging", Subject: dir, Kind: fault.Invalid, Err: err}).
				WithHint("name dist/<commit> directories that build:all left, separated by commas")
		}
		record, err := release.DecodeRecord(content)
		if err != nil {
			return nil, fault.Wrap(err, fault.Forged, "reading", file)
		}
		parts = append(parts, release.Part{From: dir, Record: record})
	}
	return parts, nil
}

// sameCells refuses parts that hold other content than an earlier merge or build of this source.
func sameCells(merged, built release.Record, root string, plan release.Plan) error {
	for _, c := range plan.Cells() {
		given, _ := merged.Digest(c)
		there, _ := built.Digest(c)
		if given.Digest != there.Digest {
			return fault.New(fault.Conflict, "merging", c.String(), "dist/ holds %s already, the parts have %s", there.Digest, given.Digest).
				WithHint("remove %s, and merge again", newDist(root, plan.Source).dir)
		}
	}
	return nil
}

// mergerPort builds from what other machines built.
type mergerPort struct {
	*builderPort
	merged release.Record
	parts  []release.Part
}

// Build brings every cell of the plan into the layout and assembles the indexes. Every byte is
// compared with its digest, also what was there before.
func (p *mergerPort) Build(ctx context.Context, plan release.Plan, _ pipeline.Keep) (pipeline.Images, error) {
	p.progress.Start("merge", "family")
	for _, part := range p.parts {
		if err := p.take(ctx, part); err != nil {
			return pipeline.Images{}, fault.Wrap(err, fault.Forged, "merging", part.From)
		}
	}
	images, err := buildkit.Assemble(ctx, plan, p.merged.Images, p.layout)
	if err != nil {
		return pipeline.Images{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if err := registry.Verify(ctx, p.layout, images[name].Index); err != nil {
			return pipeline.Images{}, err
		}
		if err := p.layout.Name(ctx, images[name].Index, name); err != nil {
			return pipeline.Images{}, err
		}
	}
	p.progress.Done("merge", "family", fmt.Sprintf("%d images from %d builds", len(images), len(p.parts)))
	return pipeline.Images{Images: images, Materials: p.merged.Materials, Tools: p.merged.Tools, LocalBase: p.merged.LocalBase}, nil
}

// take copies the cells of one part, shared blobs once.
func (p *mergerPort) take(ctx context.Context, part release.Part) error {
	from, err := registry.OpenLayout(filepath.Join(part.From, "layout"))
	if err != nil {
		return err
	}
	for _, cell := range part.Record.Cells() {
		node, _ := part.Record.Digest(cell)
		if err := registry.Copy(ctx, from, p.layout, node); err != nil {
			return err
		}
	}
	return nil
}
