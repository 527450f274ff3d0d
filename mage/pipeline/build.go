package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Build returns the built content of a plan. Content that an earlier run left whole in the
// layout is what was built; everything else is built now, but for what keep, which may be nil, keeps.
func (p *Pipeline) Build(ctx context.Context, plan release.Plan, keep Keep) (release.Built, error) {
	if built, ok, err := p.resume(ctx, plan); ok || err != nil {
		return built, err
	}
	images, err := p.Builder.Build(ctx, plan, keep)
	if err != nil {
		return release.Built{}, err
	}
	packed, err := p.Packer.Pack(ctx, plan, images.Images)
	if err != nil {
		return release.Built{}, err
	}
	materials := slices.SortedFunc(slices.Values(images.Materials), func(a, b evidence.Material) int { return strings.Compare(a.Name, b.Name) })
	record := release.Record{
		Schema: 1, Family: plan.Family.Name, Source: plan.Source,
		Images: images.Images, Artifacts: packed.Artifacts, Verifiers: packed.Verifiers,
		Materials: materials, Tools: images.Tools, LocalBase: images.LocalBase,
	}
	return release.Built{Plan: plan, Record: record}, p.Dist.WriteRecord(record)
}

// resume finds what an earlier run of the same plan built. A layout that lost anything is not
// trusted: then everything is built again. What an earlier run kept is asked for again: since then
// somebody may have marked it bad, or more may be known about it.
func (p *Pipeline) resume(ctx context.Context, plan release.Plan) (release.Built, bool, error) {
	record, ok, err := p.Dist.ReadRecord()
	if !ok || err != nil {
		return release.Built{}, false, err
	}
	if record.Source.Tag() != plan.Source.Tag() || !slices.Equal(record.Cells(), sortedCells(plan)) {
		return release.Built{}, false, nil
	}
	if record.Keeps() {
		return release.Built{}, false, nil
	}
	for name, node := range record.Members() {
		whole, err := p.Layout.Complete(ctx, node)
		if err != nil {
			return release.Built{}, false, err
		}
		if !whole {
			p.Progress.Note("build", name, "the layout is not whole: building again")
			return release.Built{}, false, nil
		}
	}
	p.Progress.Done("build", plan.Source.Tag(), fmt.Sprintf("%d images are built already", len(record.Images)))
	record.Source.Ref = plan.Source.Ref
	return release.Built{Plan: plan, Record: record}, true, nil
}

func sortedCells(plan release.Plan) []evidence.Cell {
	return slices.SortedFunc(slices.Values(plan.Cells()), func(a, b evidence.Cell) int {
		return strings.Compare(a.Image+" "+a.Platform, b.Image+" "+b.Platform)
	})
}

// Evidence inspects every cell of what was built: SBOM, scans, then the image's smoke tests. Of what was
// kept with its evidence, that is read and verified. What an earlier job found is not looked for again.
func (p *Pipeline) Evidence(ctx context.Context, b release.Built, channel string) (release.Evidenced, error) {
	if reports, found, err := p.Dist.ReadReports(b.Record); found || err != nil {
		return release.Evidenced{Built: b, Reports: reports}, err
	}
	kept, err := p.keptReports(ctx, b.Record, channel)
	if err != nil {
		return release.Evidenced{}, err
	}
	reports, err := p.Inspect.Inspect(ctx, toInspect(b))
	if err != nil {
		return release.Evidenced{}, err
	}
	for i := range reports {
		if err := p.smoke(ctx, b, &reports[i]); err != nil {
			return release.Evidenced{}, err
		}
	}
	reports = slices.SortedFunc(slices.Values(append(reports, kept...)), func(a, b evidence.Report) int { return strings.Compare(a.Cell.String(), b.Cell.String()) })
	return release.Evidenced{Built: b, Reports: reports}, p.Dist.WriteReports(reports)
}

// smoke runs the smoke tests of a cell and puts their results into its report.
func (p *Pipeline) smoke(ctx context.Context, b release.Built, r *evidence.Report) error {
	tests := p.Family.Images[r.Cell.Image].Smoke
	r.Smoke = []evidence.SmokeResult{}
	if len(tests) == 0 {
		r.Checks = append(r.Checks, evidence.Check{Name: "smoke"})
		return nil
	}
	node, ok := b.Record.Digest(r.Cell)
	if !ok {
		return fault.New(fault.Refused, "testing", r.Cell.String(), "it was not built")
	}
	p.Progress.Start("smoke", r.Cell.String())
	began := p.Now()
	results, err := p.Builder.Smoke(ctx, r.Cell.Platform, node, tests)
	if err != nil {
		return err
	}
	if len(results) != len(tests) {
		return fault.New(fault.Refused, "testing", r.Cell.String(), "%d of %d smoke tests answered", len(results), len(tests))
	}
	r.Smoke = results
	check := evidence.Check{Name: "smoke", Took: p.Now().Sub(began), Cached: true}
	passed := 0
	for _, result := range results {
		if result.Passed {
			passed++
		}
		check.Cached = check.Cached && result.Cached
	}
	r.Checks = append(r.Checks, check)
	p.Progress.Done("smoke", r.Cell.String(), fmt.Sprintf("%d of %d passed", passed, len(tests)))
	return nil
}

// Approve asks a channel's gate.
func (p *Pipeline) Approve(e release.Evidenced, channel string) (release.Approved, error) {
	gate, err := release.NewGate(p.Family, channel)
	if err != nil {
		return release.Approved{}, err
	}
	approved, err := gate.Approve(e, p.Now())
	if err == nil {
		p.Progress.Done("gate", channel, fmt.Sprintf("%d cells approved", len(e.Reports)))
	}
	return approved, err
}
