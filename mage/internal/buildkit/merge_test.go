package buildkit

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// counted counts what is written.
type counted struct {
	graph.Store
	pushes map[digest.Digest]int
}

func (c counted) Push(ctx context.Context, n graph.Node, content io.Reader) error {
	c.pushes[n.Digest]++
	return c.Store.Push(ctx, n, content)
}

// imageLayout writes a layout of one image, as BuildKit exports it, and returns the image's layers.
func imageLayout(t *testing.T, dir, architecture string, layers ...string) []graph.Node {
	t.Helper()
	store, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	push := func(mediaType string, content []byte) graph.Node {
		n, err := graph.PushBytes(t.Context(), store, mediaType, content)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: architecture}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		m.Layers = append(m.Layers, push(ocispec.MediaTypeImageLayer, []byte(layer)))
	}
	m.Config = push(ocispec.MediaTypeImageConfig, encode(t, config))
	push(ocispec.MediaTypeImageManifest, encode(t, m))
	return m.Layers
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// twoImages are a family of a base and an image on it, exported by two nodes.
func twoImages(t *testing.T, childLayers ...string) (release.Plan, []solve) {
	t.Helper()
	f := &family.Family{
		Name: "test", Platforms: []string{"linux/amd64", "linux/arm64"},
		Images: map[string]family.Image{"base": {}, "app": {From: "base"}},
	}
	plan, err := release.NewPlan(f, request(t, testFamily(f.Platforms)).Plan.Source, f.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{nodes: make([]node, 2)}
	solves := b.solves(f.Platforms, t.TempDir())
	for i, architecture := range []string{"amd64", "arm64"} {
		imageLayout(t, solves[i].layout("base"), architecture, architecture, "on both")
		imageLayout(t, solves[i].layout("app"), architecture, append([]string{architecture}, childLayers...)...)
	}
	return plan, solves
}

func TestWhatImagesShareIsStoredOnce(t *testing.T) {
	plan, solves := twoImages(t, "on both", "the app")
	dir, store := newLayout(t)
	into := counted{store, map[digest.Digest]int{}}
	built, err := collect(t.Context(), plan, []string{"base", "app"}, nil, solves, into, copyImage)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range []string{"amd64", "arm64", "on both", "the app"} {
		if n := into.pushes[digest.FromString(layer)]; n != 1 {
			t.Errorf("the layer %q was written %d times", layer, n)
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if want := 4 + 2 + 4 + 2; err != nil || len(files) != want { // layers, configurations, manifests, indexes
		t.Errorf("the layout has %d blobs, want %d: %v", len(files), want, err)
	}
	for name, image := range built {
		children, err := graph.Children(t.Context(), store, image.Index)
		if err != nil || len(children) != 2 {
			t.Errorf("the index of %s names %v, %v", name, children, err)
		}
	}
}

func TestADamagedLayerIsNotCollected(t *testing.T) {
	plan, solves := twoImages(t, "on both", "the app")
	file := filepath.Join(solves[1].layout("base"), "blobs", "sha256", digest.FromString("arm64").Encoded())
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, file, "ARM64")
	_, store := newLayout(t)
	if built, err := collect(t.Context(), plan, []string{"base", "app"}, nil, solves, store, copyImage); err == nil {
		t.Errorf("collected %v", built)
	}
}
