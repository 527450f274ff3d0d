package registry_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

// BenchmarkPushFamily pushes three images of 1 GiB together, of which 300 MiB are their common
// base, from one OCI layout to an empty embedded registry: to a repository each, as a family is
// released, and to one repository, where nobody has anything to mount and all send the same bytes.
func BenchmarkPushFamily(b *testing.B) {
	bin := peers(b, "peers", "github.com/google/go-containerregistry/cmd/crane", "oras.land/oras/cmd/oras")
	f := newFamily(b)
	for _, spread := range []struct {
		name string
		to   func(image string) (repo, tag string)
	}{
		{"to three repositories", func(image string) (string, string) { return image, "dev" }},
		{"to one repository", func(image string) (string, string) { return "app", image }},
	} {
		for _, client := range []struct {
			name string
			push func(host string) error
		}{
			{"crane push", f.scripted(func(host, image string) error {
				repo, tag := spread.to(image)
				return command(b, bin+"/crane", "push", "--insecure", f.view(image), host+"/family/"+repo+":"+tag)
			})},
			{"oras cp", f.scripted(func(host, image string) error {
				repo, tag := spread.to(image)
				return command(b, bin+"/oras", "cp", "-r", "--no-tty", "--from-oci-layout", "--to-plain-http",
					f.layout.Dir()+":"+image, host+"/family/"+repo+":"+tag)
			})},
			{"ours", func(host string) error { return f.push(b, host, spread.to) }},
		} {
			b.Run(spread.name+"/"+client.name, func(b *testing.B) {
				b.SetBytes(familySize)
				onFreshRegistries(b, client.push)
			})
		}
	}
}

// familySize is the size of the family's layers, in bytes, each counted once.
const familySize = 1 << 30

// family is a layout with three images that share a base, and for tools that take a layout of one
// image a view of each.
type family struct {
	layout *registry.Layout
	views  string
	names  []string
	images map[string]graph.Node
}

func newFamily(b *testing.B) *family {
	b.Helper()
	layout, err := registry.OpenLayout(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	f := &family{layout: layout, views: b.TempDir(), names: []string{"base", "app", "cli"}, images: map[string]graph.Node{}}
	seed, total := 0, 0
	layers := func(sizes ...int) []graph.Node {
		var nodes []graph.Node
		for _, size := range sizes {
			seed, total = seed+1, total+size<<20
			nodes = append(nodes, pushNoise(b, layout, seed, size<<20))
		}
		return nodes
	}
	base := layers(150, 100, 30, 20)
	f.add(b, "base", base)
	f.add(b, "app", append(base[:4:4], layers(140, 120, 80, 24)...))
	f.add(b, "cli", append(base[:4:4], layers(130, 110, 70, 50)...))
	if total != familySize {
		b.Fatalf("the layers have %d bytes, want %d", total, familySize)
	}
	return f
}

// add makes an image, names it in the layout, and makes the view that holds only it.
func (f *family) add(b *testing.B, name string, layers []graph.Node) {
	b.Helper()
	n := benchManifest(b, f.layout, "amd64", layers)
	if err := f.layout.Name(b.Context(), n, name); err != nil {
		b.Fatal(err)
	}
	f.images[name] = n
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []graph.Node{n}})
	if err != nil {
		b.Fatal(err)
	}
	view := f.view(name)
	for _, err := range []error{
		os.Mkdir(view, 0o755),
		os.WriteFile(filepath.Join(view, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(view, ocispec.ImageIndexFile), index, 0o644),
		os.Symlink(filepath.Join(f.layout.Dir(), ocispec.ImageBlobsDir), filepath.Join(view, ocispec.ImageBlobsDir)),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
}

func (f *family) view(name string) string { return filepath.Join(f.views, name) }

// scripted pushes one image after another.
func (f *family) scripted(pushOne func(host, image string) error) func(host string) error {
	return func(host string) error {
		for _, name := range f.names {
			if err := pushOne(host, name); err != nil {
				return err
			}
		}
		return nil
	}
}

// push is ours: one client for the family, image after image.
func (f *family) push(b *testing.B, host string, to func(image string) (repo, tag string)) error {
	c, err := registry.New(host+"/family", registry.Options{})
	if err != nil {
		return err
	}
	for _, name := range f.names {
		repo, tag := to(name)
		r, err := c.Repo(repo)
		if err != nil {
			return err
		}
		if err := r.CopyFrom(b.Context(), f.layout, f.images[name]); err != nil {
			return err
		}
		if _, err := r.MoveTag(b.Context(), move(r, tag, "", f.images[name])); err != nil {
			return err
		}
	}
	return nil
}

// benchImage makes an index over two platforms.
func benchImage(b *testing.B, s graph.Store, layers ...graph.Node) graph.Node {
	b.Helper()
	var manifests []graph.Node
	for _, arch := range []string{"amd64", "arm64"} {
		m := benchManifest(b, s, arch, layers)
		m.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		manifests = append(manifests, m)
	}
	n, err := graph.Assemble(b.Context(), s, manifests, nil)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func benchManifest(b *testing.B, s graph.Store, arch string, layers []graph.Node) graph.Node {
	b.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	}
	return benchJSON(b, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: benchJSON(b, s, ocispec.MediaTypeImageConfig, config), Layers: layers,
	})
}

func benchJSON(b *testing.B, s graph.Store, mediaType string, doc any) graph.Node {
	b.Helper()
	content, err := json.Marshal(doc)
	if err != nil {
		b.Fatal(err)
	}
	n, err := graph.PushBytes(b.Context(), s, mediaType, content)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func command(b *testing.B, program string, args ...string) error {
	_, err := try(b.Context(), program, args...)
	return err
}
