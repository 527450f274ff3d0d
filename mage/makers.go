package mage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/pack"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// builderPort opens BuildKit when something has to be built.
type builderPort struct {
	*workshop
	layout *registry.Layout
	only   []string // images to build; empty means all
	opened *buildkit.Builder
}

func (p *builderPort) open(ctx context.Context) (*buildkit.Builder, error) {
	if p.opened != nil {
		return p.opened, nil
	}
	options, err := p.buildOptions()
	if err != nil {
		return nil, err
	}
	b, err := buildkit.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	p.onClose(b.Close)
	p.opened = b
	return b, nil
}

// buildOptions say where a builder finds things.
func (w *workshop) buildOptions() (buildkit.Options, error) {
	shared, err := buildkit.ParseCache(w.env.shared, w.env.jobCache)
	return buildkit.Options{
		State: w.state.Dir(), Cache: w.env.cache, Builder: w.env.builder, Host: w.env.buildkit,
		Platforms: w.platforms(), Shared: shared, CA: w.env.caBundle, Environ: w.env.all, Compress: pack.Compress, Now: w.env.now, Progress: w.progress.build,
	}, err
}

// Build bakes the family into the layout.
func (p *builderPort) Build(ctx context.Context, plan release.Plan, keep pipeline.Keep) (pipeline.Images, error) {
	if p.env.handover != "" {
		return pipeline.Images{}, fault.New(fault.Forged, "taking over", plan.Source.Tag(), "the layout is not whole, or not of %s", strings.Join(plan.Platforms, ", ")).
			WithHint("run all jobs of the workflow again: this one builds nothing")
	}
	p.progress.Start("build", "family")
	b, err := p.open(ctx)
	if err != nil {
		return pipeline.Images{}, err
	}
	r, err := b.Build(ctx, buildkit.Request{
		Plan: plan, Root: p.root, Images: p.only, Cache: p.cache, Rebuild: plan.Source.Rebuild > 0, Keep: keep, Layout: p.layout.Dir(),
	}, p.layout)
	if err != nil {
		return pipeline.Images{}, err
	}
	for name, image := range r.Images {
		if err := p.layout.Name(ctx, image.Index, name); err != nil {
			return pipeline.Images{}, err
		}
	}
	p.progress.Done("build", "family", "")
	return pipeline.Images{Images: r.Images, Materials: r.Materials, Tools: r.Tools, LocalBase: r.LocalBase}, nil
}

// Smoke runs commands inside what was built.
func (p *builderPort) Smoke(ctx context.Context, platform string, n graph.Node, tests []family.Smoke) ([]evidence.SmokeResult, error) {
	smoked := buildkit.Smoked(filepath.Join(p.state.CacheDir(), "smoke"))
	return smoked.Run(n.Digest, tests, func(open []family.Smoke) ([]evidence.SmokeResult, error) {
		b, err := p.open(ctx)
		if err != nil {
			return nil, err
		}
		p.progress.hush(true)
		defer p.progress.hush(false)
		return b.Smoke(ctx, p.layout.Dir(), n, platform, open)
	})
}

// inspectorPort builds the scanner worker when something has to be inspected.
type inspectorPort struct {
	*workshop
	dist   dist
	layout *registry.Layout
	opened *inspect.Inspector

	unscanned bool          // the channel allows what no vulnerability database was had for
	payload   digest.Digest // of the payload's SBOM, when this process inspected it
}

// database returns the vulnerability database of this run. Where none can be had, a channel that allows
// NOT SCANNED is told, and another is refused before anything is scanned. A directory that was named and
// cannot be used is refused everywhere.
func (p *inspectorPort) database(ctx context.Context) (inspect.Database, error) {
	db, err := databases{workshop: p.workshop, hurry: p.unscanned}.find(ctx)
	if err == nil || !p.unscanned || p.env.database != "" || errors.Is(err, fault.Interrupted) {
		return db, err
	}
	p.progress.Note("inspect", "vulnerabilities", "NOT SCANNED: "+err.Error())
	return inspect.Database{}, nil
}

// Inspect makes the evidence of every cell and of the payload's tree. A finding in the payload
// is refused here: no gate has a rule that would let it pass.
func (p *inspectorPort) Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	inspector, err := p.inspector(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.unpackPayload(ctx, b); err != nil {
		return nil, err
	}
	job := p.job(b)
	if len(job.Targets()) == 0 {
		return nil, nil
	}
	reports, err := inspector.Inspect(ctx, job)
	if err != nil {
		return nil, err
	}
	for _, s := range inspector.Steps() {
		for i := range reports {
			if reports[i].Cell == s.Cell {
				reports[i].Checks = append(reports[i].Checks, evidence.Check{Name: string(s.Check), Took: s.Duration, Cached: s.Cached})
			}
		}
	}
	for _, r := range reports[len(job.Cells):] {
		p.payload = r.SBOM
		if len(r.Findings) > 0 {
			f := r.Findings[0]
			return nil, fault.New(fault.Refused, "inspecting", r.Cell.Image, "%d findings, the first is %s %s in %s", len(r.Findings), f.Kind, f.ID, f.Path)
		}
	}
	return reports[:len(job.Cells)], nil
}

func (p *inspectorPort) inspector(ctx context.Context) (*inspect.Inspector, error) {
	if p.opened != nil {
		return p.opened, nil
	}
	worker, err := p.compile(ctx, "inspect", inspect.Worker(p.env.library))
	if err != nil {
		return nil, err
	}
	db, err := p.database(ctx)
	if err != nil {
		return nil, err
	}
	p.opened = inspect.New(worker, p.state.CacheDir(), db, p.progress.inspect)
	return p.opened, nil
}

// Holds reports whether an inspection now would say the same as a report.
func (p *inspectorPort) Holds(ctx context.Context, r evidence.Report) (bool, error) {
	inspector, err := p.inspector(ctx)
	if err != nil {
		return false, err
	}
	return inspector.Holds(r, p.env.now(), p.fam.Vulnerabilities.MaxAge)
}

// unpackPayload brings the packed payload back as a tree: what is inspected is what is published.
func (p *inspectorPort) unpackPayload(ctx context.Context, b release.Built) error {
	name := p.fam.ArtifactOf(family.Payload)
	node, ok := b.Record.Artifacts[name]
	if !ok {
		return nil
	}
	tree := p.tree(name)
	if err := os.RemoveAll(tree); err != nil {
		return fault.Wrap(err, fault.Environment, "clearing", tree)
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", tree)
	}
	manifest, err := graph.Manifest(ctx, p.layout, node)
	if err != nil {
		return err
	}
	content, err := p.layout.Fetch(ctx, manifest.Layers[0])
	if err != nil {
		return err
	}
	defer content.Close()
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "opening", tree)
	}
	defer root.Close()
	return pack.Unpack(ctx, content, root, pack.Limits{})
}

func (p *inspectorPort) tree(name string) string { return p.dist.path("unpacked", name) }

func (p *inspectorPort) job(b release.Built) inspect.Job {
	job := inspect.Job{Layout: p.layout.Dir(), Out: p.dist.path("evidence"), Epoch: b.Record.Source.Epoch.Unix(), Now: p.env.now(), MaxAge: p.fam.Vulnerabilities.MaxAge}
	for _, cell := range b.Record.Cells() {
		n, _ := b.Record.Digest(cell)
		job.Cells = append(job.Cells, inspect.NewCell(cell.Image, cell.Platform, n))
	}
	if name := p.fam.ArtifactOf(family.Payload); name != "" {
		job.Directories = append(job.Directories, inspect.Directory{Name: name, Path: p.tree(name)})
	}
	return job
}

// SBOM returns a CycloneDX document that Inspect wrote. The payload has no report that is approved, so its
// SBOM is compared here with the one that was inspected; an earlier job's is held by what it handed over.
func (p *inspectorPort) SBOM(_ context.Context, b release.Built, subject, platform string) ([]byte, error) {
	if platform == "" {
		platform = inspect.AnyPlatform
	}
	file := p.job(b).Dir(evidence.Cell{Image: subject, Platform: platform}) + "/" + inspect.SBOMFile
	content, err := os.ReadFile(file)
	if is := digest.FromBytes(content); err == nil && platform == inspect.AnyPlatform && p.payload != "" && is != p.payload {
		return nil, fault.New(fault.Forged, "reading", file, "it is %s, and %s was inspected", is, p.payload)
	}
	return content, fault.Wrap(err, fault.Environment, "reading", file)
}

func (w *workshop) programs() string { return w.env.cache + "/programs" }

// compile builds one of this library's own programs, once, and tells the stage that waits for it.
func (w *workshop) compile(ctx context.Context, stage string, p tool.Program) (string, error) {
	return p.Build(ctx, w.programs(), func(line string) { w.progress.Note(stage, "", line) })
}

// loadIntoEngine hands the host platform's images to a Docker engine, if one answers.
func (w *workshop) loadIntoEngine(ctx context.Context, p *pipeline.Pipeline, built release.Built) error {
	names, err := buildkit.Load(ctx, p.Layout, built.Record.Images, built.Record.Source.Tag())
	if err != nil {
		return err
	}
	for _, name := range names {
		w.progress.Done("build", name, "loaded into the Docker engine")
	}
	return nil
}
