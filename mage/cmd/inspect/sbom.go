//go:build goexperiment.jsonv2

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	stereofile "github.com/anchore/stereoscope/pkg/file"
	stereoscope "github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/format/common/cyclonedxhelpers"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
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
func (t target) catalog(ctx context.Context, job inspect.Job, licensed licensed, modules string) (made bom, cached bool, err error) {
	key := fmt.Sprintf("sbom %s %s %s %s %d", modules, inspect.Revision, t.cell, t.digest, t.created)
	if content, there := results(job).Load(key); there && json.Unmarshal(content, &made) == nil {
		return made, true, nil
	}
	if made, err = t.bom(ctx, licensed); err != nil {
		return bom{}, false, err
	}
	content, err := json.Marshal(made)
	if err != nil {
		return bom{}, false, err
	}
	return made, false, results(job).Store(key, content)
}

// imageBOM catalogs the packages of an image, over layers that were unpacked for all scanners. The
// content of a layer must be what the image's configuration says it is: an engine would refuse another.
func imageBOM(ctx context.Context, job inspect.Job, img image, layers map[digest.Digest]*blobLayer, created int64, config *syft.CreateSBOMConfig, licensed licensed) (bom, error) {
	if err := prepare(job, img, layers, licensed); err != nil {
		return bom{}, err
	}
	view, err := os.MkdirTemp("", "view-")
	if err != nil {
		return bom{}, err
	}
	defer os.RemoveAll(view)
	content := filepath.Join(view, "content")
	if err := errors.Join(newView(job.Layout, view, img.cell), os.Mkdir(content, 0o700)); err != nil {
		return bom{}, err
	}
	for i, layer := range img.manifest.Layers {
		plain, err := layers[layer.Digest].plain()
		if err != nil {
			return bom{}, err
		}
		if plain.digest != img.diffIDs[i] {
			return bom{}, fault.New(fault.Forged, "unpacking", layer.Digest.String(), "its content is %s, the configuration of %s states %s", plain.digest, img.cell, img.diffIDs[i])
		}
		// Where stereoscope looks for a layer that it unpacked before (pkg/image/layer.go,
		// uncompressedCache). If it looks elsewhere one day, it unpacks the layer itself.
		if err := os.Symlink(plain.path, filepath.Join(content, fmt.Sprintf("%d-%s", i, plain.digest))); err != nil {
			return bom{}, err
		}
	}
	src, err := openView(ctx, view, content, img.cell)
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "opening for Syft", img.cell.String())
	}
	return catalog(licensed, created, src, img.cell.Cell, img.cell.Digest, config)
}

// prepare makes what a catalog needs, several things at a time: where the top of an image alone is new, its
// other layers were not unpacked for anybody else, and to unpack them is most of the work. The largest
// comes first, so that none is left alone at the end.
func prepare(job inspect.Job, img image, layers map[digest.Digest]*blobLayer, licensed licensed) error {
	bySize := slices.SortedStableFunc(slices.Values(img.manifest.Layers), func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	var group errgroup.Group
	group.SetLimit(parallel(job))
	for _, layer := range bySize {
		group.Go(func() error { _, err := layers[layer.Digest].plain(); return err })
	}
	group.Go(func() error { _, err := licensed(); return err })
	return group.Wait()
}

// openView opens the one image of a layout as Syft's own provider does (stereoscope, pkg/image/oci), which
// has no way to name the directory of unpacked layers.
func openView(ctx context.Context, view, content string, cell inspect.Cell) (source.Source, error) {
	path, err := layout.FromPath(view)
	if err != nil {
		return nil, err
	}
	packed, err := path.Image(v1.Hash{Algorithm: cell.Digest.Algorithm().String(), Hex: cell.Digest.Encoded()})
	if err != nil {
		return nil, err
	}
	manifest, err := packed.RawManifest()
	if err != nil {
		return nil, err
	}
	img := stereoscope.New(packed, stereofile.NewTempDirGenerator("stereoscope"), content, stereoscope.WithManifest(manifest))
	if err := img.Read(ctx); err != nil {
		return nil, errors.Join(err, img.Cleanup())
	}
	return stereoscopesource.New(img, stereoscopesource.ImageConfig{
		Reference: view, Alias: source.Alias{Name: cell.Image, Version: cell.Digest.String()},
	}), nil
}

// directoryBOM catalogs the packages that the files of a directory declare.
func directoryBOM(ctx context.Context, job inspect.Job, d inspect.Directory, tree digest.Digest, licensed licensed) (bom, error) {
	// Naming the one source matters: with several, Syft ends by pulling from registries.
	config := syft.DefaultGetSourceConfig().WithSources("local-directory").WithBasePath(d.Path).
		WithAlias(source.Alias{Name: d.Name, Version: tree.String()})
	src, err := syft.GetSource(ctx, d.Path, config)
	if err != nil {
		return bom{}, fault.Wrap(err, fault.Refused, "opening for Syft", d.Name)
	}
	return catalog(licensed, job.Epoch, src, d.Cell(), tree, syft.DefaultCreateSBOMConfig().WithoutFiles())
}

func catalog(licensed licensed, created int64, src source.Source, cell evidence.Cell, subject digest.Digest, config *syft.CreateSBOMConfig) (bom, error) {
	defer src.Close()
	ctx, err := licensed()
	if err != nil {
		return bom{}, err
	}
	found, err := syft.CreateSBOM(ctx, src, config)
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
