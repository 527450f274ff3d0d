//go:build goexperiment.jsonv2

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/format/common/cyclonedxhelpers"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	"github.com/opencontainers/go-digest"
	_ "modernc.org/sqlite" // Syft reads the RPM database through database/sql

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// bom is the SBOM of one target and what was counted while it was made.
type bom struct {
	Content    []byte   // CycloneDX 1.6 in JSON
	Packages   int      // components that are packages
	OSPackages int      // of these, packages of an operating system's package manager
	Java       int      // of these, Java archives
	Databases  []string // of package managers
}

// catalog makes the SBOM of a target, or takes the one that was made before of the same digest. It
// states when the image was made, not when it was looked at, so that it is the same in every release.
func (t target) catalog(ctx context.Context, job inspect.Job, version string) (made bom, cached bool, err error) {
	key := fmt.Sprintf("sbom syft-%s-%s %s %s %d", version, inspect.Revision, t.cell, t.digest, t.created)
	if content, there := results(job).Load(key); there && json.Unmarshal(content, &made) == nil {
		return made, true, nil
	}
	if made, err = t.bom(ctx); err != nil {
		return bom{}, false, err
	}
	content, err := json.Marshal(made)
	if err != nil {
		return bom{}, false, err
	}
	return made, false, results(job).Store(key, content)
}

// imageBOM catalogs the packages of an image.
func imageBOM(ctx context.Context, job inspect.Job, cell inspect.Cell, created int64) (bom, error) {
	view, err := os.MkdirTemp("", "view-")
	if err != nil {
		return bom{}, err
	}
	defer os.RemoveAll(view)
	if err := newView(job.Layout, view, cell); err != nil {
		return bom{}, err
	}
	return catalog(ctx, created, "oci-dir", view, cell.Cell, cell.Digest)
}

// directoryBOM catalogs the packages that the files of a directory declare.
func directoryBOM(ctx context.Context, job inspect.Job, d inspect.Directory, tree digest.Digest) (bom, error) {
	return catalog(ctx, job.Epoch, "local-directory", d.Path, d.Cell(), tree)
}

func catalog(ctx context.Context, created int64, kind, path string, cell evidence.Cell, subject digest.Digest) (bom, error) {
	// Naming the one source matters: with several, Syft ends by pulling from registries.
	config := syft.DefaultGetSourceConfig().WithSources(kind).
		WithAlias(source.Alias{Name: cell.Image, Version: subject.String()})
	if kind == "local-directory" {
		config = config.WithBasePath(path)
	}
	src, err := syft.GetSource(ctx, path, config)
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "opening for Syft", cell.String())
	}
	defer src.Close()
	found, err := syft.CreateSBOM(ctx, src, syft.DefaultCreateSBOMConfig().WithoutFiles())
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "cataloging", cell.String())
	}
	databases, err := packageDatabases(src)
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "looking for package databases in", cell.String())
	}
	content, packages, err := encodeBOM(*found, subject, time.Unix(created, 0).UTC())
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "encoding SBOM of", cell.String())
	}
	made := bom{Content: content, Packages: packages, Databases: databases}
	for p := range found.Artifacts.Packages.Enumerate() {
		switch p.Type {
		case pkg.DebPkg, pkg.ApkPkg, pkg.RpmPkg:
			made.OSPackages++
		case pkg.JavaPkg, pkg.JenkinsPluginPkg:
			made.Java++
		}
	}
	return made, nil
}

// encodeBOM writes CycloneDX 1.6 that depends on the content alone: Syft's random serial number
// and its clock are replaced.
func encodeBOM(found syftsbom.SBOM, subject digest.Digest, created time.Time) ([]byte, int, error) {
	document := cyclonedxhelpers.ToFormatModel(found)
	document.SerialNumber = inspect.SerialNumber(subject)
	document.Metadata.Timestamp = created.Format(time.RFC3339)
	packages := 0
	for _, component := range *document.Components {
		if component.Type != cyclonedx.ComponentTypeOS {
			packages++
		}
	}
	var content bytes.Buffer
	encoder := cyclonedx.NewBOMEncoder(&content, cyclonedx.BOMFileFormatJSON)
	encoder.SetEscapeHTML(false)
	err := encoder.EncodeVersion(document, cyclonedx.SpecVersion1_6)
	return content.Bytes(), packages, err
}

// packageDatabases returns the package managers' databases that an image has, read or not.
func packageDatabases(src source.Source) ([]string, error) {
	resolver, err := src.FileResolver(source.SquashedScope)
	if err != nil {
		return nil, err
	}
	locations, err := resolver.FilesByGlob(
		"**/var/lib/dpkg/status", "**/var/lib/dpkg/status.d/*",
		"**/lib/apk/db/installed",
		"**/var/lib/rpm/{Packages,Packages.db,rpmdb.sqlite}", "**/usr/lib/sysimage/rpm/{Packages,Packages.db,rpmdb.sqlite}",
	)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, l := range locations {
		paths = append(paths, filepath.ToSlash(l.RealPath))
	}
	return paths, nil
}
