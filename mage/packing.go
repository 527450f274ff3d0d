package mage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/pack"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// installScript is the file of an installer's directory that becomes the artifact.
const installScript = "install.sh"

// packer makes payload and installer from the family's directories into a layout.
type packer struct {
	root        string // directory of the family file
	familyFile  string // the file itself
	dist        string // receives the staged payload tree and the packed files
	public      string // host[:port]/owner that profile.env and the installer name
	loopback    bool   // which is on this machine
	authorities authorities
	layout      graph.Store
	verifier    func(ctx context.Context, platform string) (file string, err error)
}

// Pack makes the artifacts that pin the images.
func (p packer) Pack(ctx context.Context, plan release.Plan, images map[string]release.Image) (pipeline.Packed, error) {
	out := pipeline.Packed{Artifacts: map[string]graph.Node{}}
	for _, name := range plan.Family.ArtifactNames() {
		kind := plan.Family.Artifacts[name].Kind
		file := filepath.Join(p.dist, fileName(name, kind))
		var err error
		switch kind {
		case family.Payload:
			out.Artifacts[name], err = p.packPayload(ctx, name, file, plan, images)
		case family.Installer:
			out.Artifacts[name], out.Verifiers, err = p.packInstaller(ctx, name, file, plan)
		case family.Metadata: // made when a channel moves
		}
		if err != nil {
			return pipeline.Packed{}, err
		}
	}
	return out, nil
}

// packPayload packs the payload into a file, and puts the artifact's manifest over it.
func (p packer) packPayload(ctx context.Context, name, file string, plan release.Plan, images map[string]release.Image) (graph.Node, error) {
	if err := p.payload(ctx, name, file, plan, images); err != nil {
		return graph.Node{}, err
	}
	artifactType, layerType := plan.Family.Artifacts[name].Types()
	layer, err := p.store(ctx, layerType, file)
	if err != nil {
		return graph.Node{}, err
	}
	return graph.PackArtifact(ctx, p.layout, artifactType, []graph.Node{layer}, nil)
}

// payload stages the tree with profile.env and SHA256SUMS, where the inspection finds it, and
// packs it into a file.
func (p packer) payload(ctx context.Context, name, file string, plan release.Plan, images map[string]release.Image) error {
	stage := p.stage(name)
	if err := os.RemoveAll(stage); err != nil {
		return fault.Wrap(err, fault.Environment, "clearing", stage)
	}
	if err := os.CopyFS(stage, os.DirFS(filepath.Join(p.root, plan.Family.Artifacts[name].Path))); err != nil {
		return fault.Wrap(err, fault.Invalid, "staging", name)
	}
	profile := release.Profile(p.public, plan.Family.Name, plan.Source, images)
	if err := writeFile(filepath.Join(stage, "profile.env"), bytes.NewReader(profile)); err != nil {
		return err
	}
	root, err := os.OpenRoot(stage)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "opening", stage)
	}
	defer root.Close()
	options := pack.Options{Epoch: plan.Source.Epoch}
	sums, err := pack.Sums(ctx, root.FS(), options)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(stage, "SHA256SUMS"), bytes.NewReader(sums)); err != nil {
		return err
	}
	return replaceFile(file, func(w io.Writer) error { return pack.Pack(ctx, w, root.FS(), options) })
}

// store streams a file into the layout and returns the layer it makes.
func (p packer) store(ctx context.Context, mediaType, file string) (graph.Node, error) {
	f, err := os.Open(file)
	if err != nil {
		return graph.Node{}, fault.Wrap(err, fault.Environment, "reading", file)
	}
	defer f.Close()
	hash := digest.Canonical.Digester()
	size, err := io.Copy(hash.Hash(), f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return graph.Node{}, fault.Wrap(err, fault.Environment, "reading", file)
	}
	layer := graph.Node{MediaType: mediaType, Digest: hash.Digest(), Size: size}
	there, err := p.layout.Exists(ctx, layer)
	if err == nil && !there {
		err = p.layout.Push(ctx, layer, f)
	}
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: filepath.Base(file)}
	return layer, err
}

// stage is where the tree of a payload is put together.
func (p packer) stage(name string) string { return filepath.Join(p.dist, "stage", name) }

func fileName(name string, kind family.Kind) string {
	switch kind {
	case family.Payload:
		return name + ".tar.gz"
	case family.Installer:
		return name + ".sh"
	}
	return name + ".json"
}

func writeFile(path string, content io.Reader) error {
	return replaceFile(path, func(w io.Writer) error {
		_, err := io.Copy(w, content)
		return err
	})
}

// replaceFile writes by rename, so that a file that is there is whole.
func replaceFile(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", filepath.Dir(path))
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fault.Wrap(err, fault.Environment, "writing", path)
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return fault.Wrap(err, fault.Environment, "writing", path)
}

// dist is dist/<commit>/ of one source.
type dist struct {
	dir   string
	taken bool // from an earlier job, and compared with what that job said
}

func newDist(root string, src release.Source) dist {
	return dist{dir: filepath.Join(root, "dist", src.Tag()[len("sha-"):])}
}

// hide keeps dist/ out of git: what a release writes must not make the next one's tree dirty.
func (d dist) hide() error {
	ignore := filepath.Join(filepath.Dir(d.dir), ".gitignore")
	if _, err := os.Stat(ignore); err == nil {
		return nil
	}
	return writeFile(ignore, strings.NewReader("*\n"))
}

func (d dist) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// ReadRecord returns the record an earlier run wrote. One that cannot be read counts as absent:
// then everything is built again.
func (d dist) ReadRecord() (release.Record, bool, error) {
	content, err := os.ReadFile(d.path("record.json"))
	if os.IsNotExist(err) {
		return release.Record{}, false, nil
	}
	if err != nil {
		return release.Record{}, false, fault.Wrap(err, fault.Environment, "reading", d.path("record.json"))
	}
	record, err := release.DecodeRecord(content)
	return record, err == nil, nil
}

// WriteRecord keeps what was built, and points dist/latest at it.
func (d dist) WriteRecord(r release.Record) error {
	content, err := r.Encode()
	if err != nil {
		return err
	}
	if err := writeFile(d.path("record.json"), bytes.NewReader(content)); err != nil {
		return err
	}
	link := filepath.Join(filepath.Dir(d.dir), "latest")
	temporary := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(filepath.Base(d.dir), temporary); err != nil {
		return fault.Wrap(err, fault.Environment, "linking", link)
	}
	return fault.Wrap(os.Rename(temporary, link), fault.Environment, "linking", link)
}

// WriteReports keeps the complete report of every cell, as it is attested: what the scanners
// found, and the smoke tests.
func (d dist) WriteReports(reports []evidence.Report) error {
	for _, r := range reports {
		content, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		file := filepath.Join(d.evidence(r.Cell), "report.json")
		if err := writeFile(file, bytes.NewReader(append(content, '\n'))); err != nil {
			return err
		}
	}
	return nil
}
