package inspect_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
)

// buildWorker builds the real worker once per test run, where releases keep it, too.
var buildWorker = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	library, err := filepath.Abs("../../..")
	if err != nil {
		return "", err
	}
	return inspect.Worker(library).Build(context.Background(), filepath.Join(cache, "containai", "programs"), nil)
})

func worker(t *testing.T) string {
	t.Helper()
	path, err := buildWorker()
	if err != nil {
		t.Fatalf("building the worker: %v", err)
	}
	return path
}

// inspection is one run of an Inspector with what it needs.
type inspection struct {
	job    inspect.Job
	cache  string
	db     string
	mu     sync.Mutex
	events []inspect.Event
	steps  []inspect.Step
}

func newInspection(t *testing.T, layout string, cells ...inspect.Cell) *inspection {
	t.Helper()
	return &inspection{
		job:   inspect.Job{Layout: layout, Cells: cells, Out: t.TempDir(), Epoch: 1_700_000_000},
		cache: t.TempDir(),
	}
}

func (i *inspection) run(t *testing.T) ([]evidence.Report, error) {
	t.Helper()
	i.events = nil
	var db inspect.Database
	if i.db != "" {
		var err error
		if db, err = inspect.OpenDirectory(i.db); err != nil {
			return nil, err
		}
	}
	inspector := inspect.New(worker(t), i.cache, db, func(e inspect.Event) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.events = append(i.events, e)
	})
	reports, err := inspector.Inspect(t.Context(), i.job)
	i.steps = inspector.Steps()
	return reports, err
}

func (i *inspection) mustRun(t *testing.T) []evidence.Report {
	t.Helper()
	reports, err := i.run(t)
	if err != nil {
		t.Fatal(err)
	}
	return reports
}

// count returns how many events of a kind speak of cells and of layers.
func (i *inspection) count(kind inspect.EventKind) (cells, layers int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.events {
		switch {
		case e.Kind != kind:
		case e.Layer != "":
			layers++
		default:
			cells++
		}
	}
	return cells, layers
}

func (i *inspection) file(t *testing.T, cell evidence.Cell, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(i.job.Dir(cell), name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// file is one entry of a layer; a name that begins with ".wh." deletes.
type file struct{ name, content string }

// recipe is an image to be made. Layers are gzip unless mediaType says otherwise.
type recipe struct {
	name, platform string
	layers         [][]file
	config         ocispec.ImageConfig
	history        []ocispec.History
	annotations    map[string]string
	mediaType      string
	packed         map[int][]byte // in place of a layer's own compressed content
}

// newLayout puts images into one OCI layout and returns the platform manifests.
func newLayout(t *testing.T, recipes ...recipe) (dir string, cells []inspect.Cell) {
	t.Helper()
	dir = t.TempDir()
	store, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes {
		cells = append(cells, r.build(t, store))
	}
	return dir, cells
}

func (r recipe) build(t *testing.T, store graph.Store) inspect.Cell {
	t.Helper()
	if r.platform == "" {
		r.platform = "linux/amd64"
	}
	os, arch, _ := strings.Cut(r.platform, "/")
	config := ocispec.Image{Platform: ocispec.Platform{OS: os, Architecture: arch}, Config: r.config, History: r.history}
	config.RootFS.Type = "layers"
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: r.annotations}
	for i, files := range r.layers {
		content := tarball(t, files)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(content))
		mediaType := r.mediaType
		if mediaType == "" {
			content, mediaType = compress(t, content), ocispec.MediaTypeImageLayerGzip
		}
		if packed := r.packed[i]; packed != nil {
			content = packed
			if mediaType == ocispec.MediaTypeImageLayer { // as it is
				config.RootFS.DiffIDs[i] = digest.FromBytes(packed)
			}
		}
		manifest.Layers = append(manifest.Layers, push(t, store, mediaType, content))
	}
	manifest.Config = pushJSON(t, store, ocispec.MediaTypeImageConfig, config)
	return inspect.NewCell(r.name, r.platform, pushJSON(t, store, ocispec.MediaTypeImageManifest, manifest))
}

func tarball(t *testing.T, files []file) []byte {
	t.Helper()
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.content))}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

func compress(t *testing.T, content []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func push(t *testing.T, store graph.Store, mediaType string, content []byte) graph.Node {
	t.Helper()
	n, err := graph.PushBytes(t.Context(), store, mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pushJSON(t *testing.T, store graph.Store, mediaType string, document any) graph.Node {
	t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, store, mediaType, content)
}

// blob returns the path of a blob in a layout.
func blob(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", "sha256", d.Encoded())
}

// debian is a layer of a Debian 12 with three packages.
func debian() []file {
	return debianWith(debPackage("bash", "", "5.2.15-2+b7"), debPackage("libssl3", "openssl", "3.0.11-1~deb12u2"), debPackage("zlib1g", "zlib", "1:1.2.13.dfsg-1"))
}

func debianWith(packages ...string) []file {
	return []file{
		{"etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n"},
		{"etc/debian_version", "12.5\n"},
		{"var/lib/dpkg/status", strings.Join(packages, "\n")},
	}
}

func debPackage(name, source, version string) string {
	if source != "" {
		source = "Source: " + source + "\n"
	}
	return "Package: " + name + "\nStatus: install ok installed\nPriority: required\nSection: libs\nInstalled-Size: 100\nMaintainer: Nobody <nobody@localhost>\nArchitecture: amd64\n" + source + "Version: " + version + "\nDescription: a package\n"
}

// The secrets that are planted. They are put together here so that nothing finds them in the
// source, and none of them opens anything.
func awsKey() string      { return "AKIA" + "2OGYBAH6STMMNXWQ" }
func otherAWSKey() string { return "AKIA" + "7QWERTYH6STMMNXW" }
func githubToken() string { return "ghp_" + strings.Repeat("a1B2", 9) }

func privateKey() string {
	return "-----BEGIN RSA " + "PRIVATE KEY-----\n" + strings.Repeat(strings.Repeat("MIIEpAIBAAKCAQEA", 4)+"\n", 8) + "-----END RSA " + "PRIVATE KEY-----\n"
}

func secrets(r evidence.Report) []evidence.Finding {
	var found []evidence.Finding
	for _, f := range r.Findings {
		if f.Kind == evidence.Secret {
			found = append(found, f)
		}
	}
	return found
}
