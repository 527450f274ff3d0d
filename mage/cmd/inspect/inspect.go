//go:build goexperiment.jsonv2

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// target is a cell or a directory: layers, documents, and a way to make its SBOM.
type target struct {
	cell      evidence.Cell
	digest    digest.Digest
	layers    []digest.Digest
	documents map[string][]byte
	created   int64 // Unix seconds that its SBOM states
	bom       func(ctx context.Context, licensed licensed) (bom, error)
}

// licensed returns a context that holds Syft's license scanner. Building that costs a second, as much as
// cataloging a small image: it is built once, and only if a catalog is.
type licensed func() (context.Context, error)

func newLicensed(ctx context.Context) licensed {
	return sync.OnceValues(func() (context.Context, error) {
		ctx, err := syft.SetContextLicenseScanner(ctx, cataloging.DefaultLicenseConfig())
		return ctx, fault.Wrap(err, fault.Refused, "starting", "Syft")
	})
}

func results(job inspect.Job) inspect.Results {
	return inspect.Results{Dir: filepath.Join(job.Cache, "results"), Now: job.Now}
}

// inspectAll makes the evidence of every target of a job.
func inspectAll(ctx context.Context, job inspect.Job, tools map[string]string, events *eventWriter) (err error) {
	db, err := openDatabase(job)
	if err != nil {
		return err
	}
	defer db.close()
	targets, blobs, err := openTargets(ctx, job, events)
	if err != nil {
		return err
	}
	scanner := newSecretScanner()
	found, err := analyseLayers(ctx, job, tools[inspect.ToolModules], blobs, scanner)
	if err != nil {
		return err
	}

	reports := make([]evidence.Report, len(targets))
	detections := make([]detection, len(targets))
	for i, t := range targets {
		if reports[i], detections[i], err = scan(ctx, t, found, db, scanner, events); err != nil {
			return fault.Wrap(err, fault.Refused, "scanning", t.cell.String())
		}
		reports[i].Tools = tools
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel(job))
	licensed := newLicensed(ctx)
	for i, t := range targets {
		group.Go(func() error {
			done := events.cell(t.cell)
			if err := finish(ctx, job, t, licensed, detections[i], reports[i], events); err != nil {
				return err
			}
			done()
			return nil
		})
	}
	return group.Wait()
}

// openTargets checks the cells' blobs and packs the directories.
func openTargets(ctx context.Context, job inspect.Job, events *eventWriter) ([]target, []*blobLayer, error) {
	images, err := openImages(ctx, job)
	if err != nil {
		return nil, nil, err
	}
	var targets []target
	var blobs []*blobLayer
	room := newRoom(job)
	known := map[digest.Digest]*blobLayer{}
	config := newCatalogers(splitClassifiers())
	for _, img := range images {
		t := target{cell: img.cell.Cell, digest: img.cell.Digest, documents: img.documents, created: cmp.Or(img.created, job.Epoch)}
		t.bom = func(ctx context.Context, licensed licensed) (bom, error) {
			return imageBOM(ctx, job, img, known, t.created, config, licensed)
		}
		for _, layer := range img.manifest.Layers {
			t.layers = append(t.layers, layer.Digest)
			if known[layer.Digest] == nil {
				known[layer.Digest] = newBlobLayer(blobStore(job.Layout).path(layer.Digest), layer.Digest, layer.MediaType, room, events)
				blobs = append(blobs, known[layer.Digest])
			}
		}
		targets = append(targets, t)
	}
	for _, d := range job.Directories {
		tree, err := packDirectory(d, room, events)
		if err != nil {
			return nil, nil, err
		}
		t := target{cell: d.Cell(), digest: tree.digest, layers: []digest.Digest{tree.digest}, created: job.Epoch}
		t.bom = func(ctx context.Context, licensed licensed) (bom, error) {
			return directoryBOM(ctx, job, d, tree.digest, licensed)
		}
		targets, blobs = append(targets, t), append(blobs, tree)
	}
	return targets, blobs, nil
}

// packDirectory makes a directory a layer, so that it is scanned like one.
func packDirectory(d inspect.Directory, room *room, events *eventWriter) (*blobLayer, error) {
	file, err := os.CreateTemp("", "tree-*.tar")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hash := digest.SHA256.Digester()
	if err := inspect.PackTree(io.MultiWriter(room, file, hash.Hash()), d.Path); err != nil {
		return nil, err
	}
	return newBlobLayer(file.Name(), hash.Digest(), ocispec.MediaTypeImageLayer, room, events), file.Close()
}

// scan collects what Trivy says about a target.
func scan(ctx context.Context, t target, found *layers, db database, scanner secret.Scanner, events *eventWriter) (evidence.Report, detection, error) {
	keys, blobs, err := found.of(ctx, t.layers)
	if err != nil {
		return evidence.Report{}, detection{}, err
	}
	took, cached := found.spent(t.layers)
	events.tell(inspect.Event{Kind: inspect.Checked, Cell: t.cell, Check: inspect.CheckSecrets, Digest: t.digest, Duration: took, Cached: cached})
	checked := events.check(t, inspect.CheckVulnerabilities)
	vulnerabilities, err := db.detect(ctx, found, keys)
	if err != nil {
		return evidence.Report{}, detection{}, err
	}
	checked(false)
	findings := append(layerSecrets(t.layers, blobs), vulnerabilities.findings...)
	for name, content := range t.documents {
		more, err := documentSecrets(scanner, name, content)
		if err != nil {
			return evidence.Report{}, detection{}, err
		}
		findings = append(findings, more...)
	}
	slices.SortFunc(findings, inspect.CompareFindings)
	everPackaged := slices.ContainsFunc(blobs, hasOSPackages)
	if everPackaged && vulnerabilities.osPackages == 0 {
		return evidence.Report{}, detection{}, fault.New(fault.Refused, "merging", "layers", "a later layer removes the package database, so nobody can say what is installed")
	}
	layers, err := describeLayers(scanner, t, findings)
	if err != nil {
		return evidence.Report{}, detection{}, err
	}
	return evidence.Report{
		Cell:            t.cell,
		Digest:          t.digest,
		Secrets:         evidence.Scanned,
		Vulnerabilities: vulnerabilities.coverage,
		Reason:          vulnerabilities.reason,
		Database:        db.version,
		Layers:          layers,
		DatabaseDigest:  db.digest,
		Smoke:           []evidence.SmokeResult{},
		Findings:        slices.Compact(append([]evidence.Finding{}, findings...)),
	}, vulnerabilities, nil
}

// finish makes the SBOM of a target, compares it with what Trivy saw and writes the evidence.
func finish(ctx context.Context, job inspect.Job, t target, licensed licensed, seen detection, report evidence.Report, events *eventWriter) error {
	checked := events.check(t, inspect.CheckSBOM)
	made, cached, err := t.catalog(ctx, job, licensed, report.Tools[inspect.ToolModules])
	if err != nil {
		return err
	}
	checked(cached)
	if err := agree(made, seen); err != nil {
		return fault.Wrap(err, fault.Refused, "cataloging", t.cell.String())
	}
	if made.Java > 0 && report.Vulnerabilities == evidence.Scanned {
		report.Vulnerabilities = evidence.NotScanned
		report.Reason = "it has Java archives, which need a database of their own"
	}
	report.Packages, report.SBOM = made.Packages, digest.FromBytes(made.Content)
	content, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	dir := job.Dir(t.cell)
	if err := writeFile(dir, inspect.SBOMFile, made.Content); err != nil {
		return err
	}
	return writeFile(dir, inspect.ReportFile, append(content, '\n'))
}

// agree refuses a catalog that is empty where packages must be, or that only one scanner sees.
func agree(made bom, seen detection) error {
	const op = "comparing scanners"
	switch {
	case len(made.Databases) > 0 && made.OSPackages == 0:
		return fault.New(fault.Refused, op, made.Databases[0], "there is a package database and no package in the SBOM")
	case made.OSPackages > 0 && seen.osPackages == 0:
		return fault.New(fault.Refused, op, "packages", "Syft sees %d packages of the operating system, Trivy none", made.OSPackages)
	case made.OSPackages == 0 && seen.osPackages > 0:
		return fault.New(fault.Refused, op, "packages", "Trivy sees %d packages of the operating system, Syft none", seen.osPackages)
	}
	return nil
}

// writeFile puts a file in place whole.
func writeFile(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", dir)
	}
	file, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return fault.Wrap(err, fault.Environment, "writing", filepath.Join(dir, name))
	}
	defer os.Remove(file.Name()) // fails once it was renamed
	_, err = file.Write(content)
	for _, step := range []func() error{
		func() error { return file.Chmod(0o644) },
		file.Sync,
		file.Close,
		func() error { return os.Rename(file.Name(), filepath.Join(dir, name)) },
	} {
		if err == nil {
			err = step()
		}
	}
	return fault.Wrap(err, fault.Environment, "writing", filepath.Join(dir, name))
}

// parallel is how many things are scanned at once.
func parallel(job inspect.Job) int {
	if job.Parallel > 0 {
		return job.Parallel
	}
	return runtime.NumCPU()
}
