package mage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
)

// replayed is what inspect:replay prints.
type replayed struct {
	Of    string         `json:"of"`
	Cells []replayedCell `json:"cells"`
}

type replayedCell struct {
	Cell        string        `json:"cell"`
	Digest      digest.Digest `json:"digest"`
	Database    string        `json:"database,omitempty"`
	Findings    int           `json:"findings"`
	Differences []string      `json:"differences"`
}

// verdict is what is repeated: reports, and the store that holds what they speak about.
type verdict struct {
	reports []evidence.Report
	content graph.Store
	find    func(context.Context, digest.Digest) (graph.Node, bool, error)
}

// replay scans again what a report speaks about, with the database it names and nothing kept from
// before, and compares. What names the report is an image, whose scan attestations are verified first,
// or a report file of dist/.
func replay(what string) command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, true)
		if err != nil {
			return err
		}
		v, err := w.verdict(ctx, what)
		if err != nil {
			return err
		}
		worker, err := w.compile(ctx, "inspect", inspect.Worker(w.env.library))
		if err != nil {
			return err
		}
		out := replayed{Of: what}
		for _, r := range v.reports {
			cell, err := w.replayCell(ctx, worker, v, r)
			if err != nil {
				return err
			}
			out.Cells = append(out.Cells, cell)
		}
		w.progress.settle()
		if err := w.print(out, func() string { return replayedText(out) }); err != nil {
			return err
		}
		return out.err()
	}
}

// verdict finds the reports to repeat.
func (w *workshop) verdict(ctx context.Context, what string) (verdict, error) {
	content, err := os.ReadFile(what)
	if errors.Is(err, fs.ErrNotExist) {
		return w.attestedVerdict(ctx, what)
	}
	if err != nil {
		return verdict{}, fault.Wrap(err, fault.Invalid, "reading", what)
	}
	report, err := inspect.DecodeReport(content)
	if err != nil {
		return verdict{}, err
	}
	dist := filepath.Join(filepath.Dir(what), "..", "..", "..") // evidence/<image>/<os-arch>/report.json
	if _, err := os.Stat(filepath.Join(dist, "layout")); err != nil {
		return verdict{}, fault.New(fault.Invalid, "reading", what, "what it speaks about is not there: %w", err).WithHint("name a report in dist/<commit>/evidence, or an image")
	}
	layout, err := registry.OpenLayout(filepath.Join(dist, "layout"))
	return verdict{[]evidence.Report{report}, layout, func(_ context.Context, d digest.Digest) (graph.Node, bool, error) {
		blob, err := os.Stat(filepath.Join(dist, "layout", ocispec.ImageBlobsDir, "sha256", d.Encoded()))
		if err != nil {
			return graph.Node{}, false, nil
		}
		return graph.Node{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: blob.Size()}, true, nil
	}}, err
}

// attestedVerdict verifies an image and returns the reports that are attested of its platforms.
func (w *workshop) attestedVerdict(ctx context.Context, reference string) (verdict, error) {
	v, name, at, err := w.imageVerifier(ctx, reference)
	if err != nil {
		return verdict{}, err
	}
	result, err := v.Image(ctx, name, at, w.env.now())
	if err != nil {
		return verdict{}, err
	}
	if len(result.Reports()) == 0 {
		return verdict{}, fault.New(fault.Unverified, "replaying", reference, "no scan is attested of it")
	}
	repo, err := w.client.Repo(name)
	if err != nil {
		return verdict{}, err
	}
	return verdict{result.Reports(), repo, repo.ByDigest}, nil
}

// replayCell scans one platform manifest anew.
func (w *workshop) replayCell(ctx context.Context, worker string, v verdict, attested evidence.Report) (replayedCell, error) {
	out := replayedCell{Cell: attested.Cell.String(), Digest: attested.Digest, Database: attested.Database, Findings: len(attested.Findings), Differences: []string{}}
	db, err := databases{workshop: w}.byDigest(ctx, attested)
	if err != nil {
		return out, err
	}
	work, err := os.MkdirTemp(w.state.WorkDir(), "replay-*")
	if err != nil {
		return out, fault.Wrap(err, fault.Environment, "creating", w.state.WorkDir())
	}
	defer os.RemoveAll(work)
	layout, err := registry.OpenLayout(filepath.Join(work, "layout"))
	if err != nil {
		return out, err
	}
	n, there, err := v.find(ctx, attested.Digest)
	if err == nil && !there {
		err = fault.New(fault.Unverified, "replaying", out.Cell, "what the report speaks about, %s, is not there any more", attested.Digest)
	}
	if err != nil {
		return out, err
	}
	if err := registry.Copy(ctx, v.content, layout, n); err != nil {
		return out, err
	}
	job := inspect.Job{
		Layout: layout.Dir(), Out: filepath.Join(work, "evidence"), Now: w.env.now(),
		Cells: []inspect.Cell{inspect.NewCell(attested.Cell.Image, attested.Cell.Platform, n)},
	}
	reports, err := inspect.New(worker, filepath.Join(work, "cache"), db, w.progress.inspect).Inspect(ctx, job)
	if err != nil {
		return out, err
	}
	out.Differences = differences(attested, reports[0])
	return out, nil
}

// byDigest returns the database that a report names: the directory of CONTAINAI_VULNERABILITY_DB, one
// that was pulled before, or by its digest from the mirror and the sources. Its age does not matter.
func (d databases) byDigest(ctx context.Context, r evidence.Report) (inspect.Database, error) {
	want := r.DatabaseDigest
	if want == "" {
		return inspect.Database{}, nil // it was NOT SCANNED, and is to be so again
	}
	if d.env.database != "" {
		db, err := inspect.OpenDirectory(d.env.database)
		if err != nil || db.Digest == want {
			return db, err
		}
	}
	if db, there := d.cache().Open(want); there {
		return db, nil
	}
	var causes []error
	for _, o := range d.sources() {
		o.at = want.String()
		repo, n, err := d.resolve(ctx, o)
		if err == nil {
			db, err := d.cache().Pull(ctx, repo, n)
			if err == nil {
				return db, nil
			}
			causes = append(causes, err)
			continue
		}
		causes = append(causes, err)
	}
	return inspect.Database{}, fault.New(fault.Unverified, "replaying", r.Cell.String(), "the database %s of %s is nowhere: %w", want, r.Database, joined(causes)).
		WithHint("mirrored databases stay: run mage inspect:mirror -apply as often as releases are made; or set CONTAINAI_VULNERABILITY_DB to the directory it came from")
}

// differences lists what a second scan says otherwise, with - for what was attested and + for what is
// found now. How the scanner was isolated and the smoke tests are no part of the verdict.
func differences(attested, again evidence.Report) []string {
	out := []string{}
	line := func(name string, was, is any) {
		if was != is {
			out = append(out, fmt.Sprintf("%s: %v, attested %v", name, is, was))
		}
	}
	for _, tool := range []string{inspect.ToolSyft, inspect.ToolTrivy, inspect.ToolModules, inspect.ToolInspect} {
		line(tool, attested.Tools[tool], again.Tools[tool])
	}
	line("database", attested.Database, again.Database)
	line("database digest", attested.DatabaseDigest, again.DatabaseDigest)
	line("secrets", attested.Secrets, again.Secrets)
	line("vulnerabilities", attested.Vulnerabilities, again.Vulnerabilities)
	line("reason", attested.Reason, again.Reason)
	line("packages", attested.Packages, again.Packages)
	line("SBOM", attested.SBOM, again.SBOM)
	if !slices.Equal(attested.Layers, again.Layers) {
		out = append(out, fmt.Sprintf("layers: %v, attested %v", again.Layers, attested.Layers))
	}
	for _, f := range attested.Findings {
		if !slices.Contains(again.Findings, f) {
			out = append(out, "- "+findingText(f))
		}
	}
	for _, f := range again.Findings {
		if !slices.Contains(attested.Findings, f) {
			out = append(out, "+ "+findingText(f))
		}
	}
	return out
}

func findingText(f evidence.Finding) string {
	at := strings.TrimSpace(f.Package + " " + f.Version)
	if at == "" {
		at = f.Path
	}
	return fmt.Sprintf("%s %s %s in %s", f.Severity, f.Kind, f.ID, at)
}

func replayedText(r replayed) string {
	var text strings.Builder
	for _, c := range r.Cells {
		same := "the same verdict"
		if len(c.Differences) > 0 {
			same = fmt.Sprintf("%d differences", len(c.Differences))
		}
		database := c.Database
		if database == "" {
			database = "no database"
		}
		fmt.Fprintf(&text, "%s  %s: %d findings with %s\n", c.Cell, same, c.Findings, term.Escape(database))
		for _, d := range c.Differences {
			fmt.Fprintf(&text, "  %s\n", term.Escape(d))
		}
	}
	return text.String()
}

// err refuses evidence that a second scan does not confirm.
func (r replayed) err() error {
	var cells []string
	for _, c := range r.Cells {
		if len(c.Differences) > 0 {
			cells = append(cells, c.Cell)
		}
	}
	if len(cells) == 0 {
		return nil
	}
	return fault.New(fault.Forged, "replaying", r.Of, "the verdict on %s is not what a second scan says", strings.Join(cells, ", ")).
		WithHint("where tools differ, replay with the library's version that made the report; otherwise trust neither and scan again")
}
