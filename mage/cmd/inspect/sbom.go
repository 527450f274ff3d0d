//go:build goexperiment.jsonv2

package main

import (
	"bytes"
	"context"
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
	content    []byte // CycloneDX 1.6 in JSON
	packages   int    // components that are packages
	osPackages int    // of these, packages of an operating system's package manager
	java       int    // of these, Java archives
	databases  []string
}

// imageBOM catalogs the packages of an image.
func imageBOM(ctx context.Context, job inspect.Job, cell inspect.Cell) (bom, error) {
	view, err := os.MkdirTemp("", "view-")
	if err != nil {
		return bom{}, err
	}
	defer os.RemoveAll(view)
	if err := newView(job.Layout, view, cell); err != nil {
		return bom{}, err
	}
	return catalog(ctx, job, "oci-dir", view, cell.Cell, cell.Digest)
}

// directoryBOM catalogs the packages that the files of a directory declare.
func directoryBOM(ctx context.Context, job inspect.Job, d inspect.Directory, tree digest.Digest) (bom, error) {
	return catalog(ctx, job, "local-directory", d.Path, d.Cell(), tree)
}

func catalog(ctx context.Context, job inspect.Job, kind, path string, cell evidence.Cell, subject digest.Digest) (bom, error) {
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
	content, packages, err := encodeBOM(*found, subject, time.Unix(job.Epoch, 0).UTC())
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "encoding SBOM of", cell.String())
	}
	made := bom{content: content, packages: packages, databases: databases}
	for p := range found.Artifacts.Packages.Enumerate() {
		switch p.Type {
		case pkg.DebPkg, pkg.ApkPkg, pkg.RpmPkg:
			made.osPackages++
		case pkg.JavaPkg, pkg.JenkinsPluginPkg:
			made.java++
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
