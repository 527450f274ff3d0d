package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

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

// Evidence inspects every cell of what was built: SBOM, scans, and the image's smoke tests. Of what was
// kept with its evidence, that is read and verified. What an earlier job found is not looked for again.
func (p *Pipeline) Evidence(ctx context.Context, b release.Built, channel string) (release.Evidenced, error) {
	if reports, found, err := p.Dist.ReadReports(b.Record); found || err != nil {
		return release.Evidenced{Built: b, Reports: reports}, err
	}
	kept, err := p.keptReports(ctx, b.Record, channel)
	if err != nil {
		return release.Evidenced{}, err
	}
	reports, err := p.inspectAndSmoke(ctx, toInspect(b))
	if err != nil {
		return release.Evidenced{}, err
	}
	reports = slices.SortedFunc(slices.Values(append(reports, kept...)), func(a, b evidence.Report) int { return strings.Compare(a.Cell.String(), b.Cell.String()) })
	return release.Evidenced{Built: b, Reports: reports}, p.Dist.WriteReports(reports)
}

// inspectAndSmoke does both at the same time, for the one reads bytes and the other runs them.
func (p *Pipeline) inspectAndSmoke(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	var reports []evidence.Report
	var smoked map[evidence.Cell]tested
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		reports, err = p.Inspect.Inspect(ctx, b)
		return err
	})
	group.Go(func() (err error) {
		smoked, err = p.smoke(ctx, b)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range reports {
		of, ok := smoked[reports[i].Cell]
		if !ok {
			return nil, fault.New(fault.Refused, "testing", reports[i].Cell.String(), "it was not built")
		}
		reports[i].Smoke, reports[i].Checks = of.results, append(reports[i].Checks, of.check)
	}
	return reports, nil
}

// tested is what the smoke tests of a cell gave, and how long they took.
type tested struct {
	results []evidence.SmokeResult
	check   evidence.Check
}

// smoke runs the smoke tests of every cell, one cell after another.
func (p *Pipeline) smoke(ctx context.Context, b release.Built) (map[evidence.Cell]tested, error) {
	all := map[evidence.Cell]tested{}
	for _, cell := range b.Record.Cells() {
		of, err := p.smokeCell(ctx, b, cell)
		if err != nil {
			return nil, err
		}
		all[cell] = of
	}
	return all, nil
}

func (p *Pipeline) smokeCell(ctx context.Context, b release.Built, cell evidence.Cell) (tested, error) {
	tests := p.Family.Images[cell.Image].Smoke
	of := tested{results: []evidence.SmokeResult{}, check: evidence.Check{Name: "smoke"}}
	if len(tests) == 0 {
		return of, nil
	}
	node, _ := b.Record.Digest(cell)
	p.Progress.Start("smoke", cell.String())
	began := p.Now()
	results, err := p.Builder.Smoke(ctx, cell.Platform, node, tests)
	if err != nil {
		return of, err
	}
	if len(results) != len(tests) {
		return of, fault.New(fault.Refused, "testing", cell.String(), "%d of %d smoke tests answered", len(results), len(tests))
	}
	of.results, of.check.Took, of.check.Cached = results, p.Now().Sub(began), true
	passed := 0
	for _, result := range results {
		if result.Passed {
			passed++
		}
		of.check.Cached = of.check.Cached && result.Cached
	}
	p.Progress.Done("smoke", cell.String(), fmt.Sprintf("%d of %d passed", passed, len(tests)))
	return of, nil
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
