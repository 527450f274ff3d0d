package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

var _ graph.Store = (*memory.Store)(nil)

func TestFetchRefusesWrongBytes(t *testing.T) {
	right := []byte("the right bytes")
	n := graph.NewNode("text/plain", right)
	for name, test := range map[string]struct {
		store graph.Store
		node  graph.Node
		limit int64
		want  fault.Kind
	}{
		"other bytes of the same size": {lying{content: []byte("the WRONG bytes")}, n, 100, fault.Forged},
		"fewer bytes":                  {lying{content: right[:3]}, n, 100, fault.Forged},
		"more bytes":                   {lying{content: append(bytes.Clone(right), '!')}, n, 100, fault.Forged},
		"no bytes":                     {lying{}, n, 100, fault.Forged},
		"a node larger than the limit": {lying{content: right}, n, 14, fault.Refused},
		"a node of a negative size":    {lying{content: right}, graph.Node{Digest: n.Digest, Size: -1}, 100, fault.Forged},
		"a node without a digest":      {lying{content: right}, graph.Node{Size: n.Size}, 100, fault.Forged},
		"a connection that breaks":     {lying{err: io.ErrUnexpectedEOF}, n, 100, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := graph.Fetch(t.Context(), test.store, test.node, test.limit); !errors.Is(err, test.want) || got != nil {
				t.Errorf("Fetch = %q, %v, want %v", got, err, test.want)
			}
		})
	}
	t.Run("and reads no further than it must", func(t *testing.T) {
		endless := &counting{}
		if _, err := graph.Fetch(t.Context(), lying{reader: endless}, n, 100); !errors.Is(err, fault.Forged) {
			t.Errorf("Fetch = %v, want Forged", err)
		}
		if endless.n > 4096 {
			t.Errorf("it read %d bytes for a node of %d", endless.n, n.Size)
		}
	})
	t.Run("and returns the right ones", func(t *testing.T) {
		if got, err := graph.Fetch(t.Context(), lying{content: right}, n, n.Size); err != nil || !bytes.Equal(got, right) {
			t.Errorf("Fetch = %q, %v, want %q", got, err, right)
		}
	})
}

// lying is a store that returns what it likes.
type lying struct {
	content []byte
	err     error
	reader  io.Reader
}

func (l lying) Fetch(context.Context, graph.Node) (io.ReadCloser, error) {
	switch {
	case l.reader != nil:
		return io.NopCloser(l.reader), nil
	case l.err != nil:
		return io.NopCloser(io.MultiReader(bytes.NewReader(l.content), broken{l.err})), nil
	}
	return io.NopCloser(bytes.NewReader(l.content)), nil
}

func (lying) Exists(context.Context, graph.Node) (bool, error)  { return true, nil }
func (lying) Push(context.Context, graph.Node, io.Reader) error { return nil }

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

type counting struct{ n int }

func (c *counting) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func TestPushBytesWritesOnce(t *testing.T) {
	s := &recorder{Store: memory.New()}
	for range 3 {
		if _, err := graph.PushBytes(t.Context(), s, "text/plain", []byte("content")); err != nil {
			t.Fatal(err)
		}
	}
	if s.pushes != 1 {
		t.Errorf("%d writes, want 1", s.pushes)
	}
}

type recorder struct {
	graph.Store
	pushes int
}

func (r *recorder) Push(ctx context.Context, n graph.Node, content io.Reader) error {
	r.pushes++
	return r.Store.Push(ctx, n, content)
}

func TestAssembleIsDeterministic(t *testing.T) {
	platforms := []string{"linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "windows/amd64"}
	var manifests []graph.Node
	for i, p := range platforms {
		n := graph.NewNode(ocispec.MediaTypeImageManifest, []byte{byte(i)})
		n.Platform = platform(p)
		n.Annotations = map[string]string{"com.docker.official-images.bashbrew.arch": p}
		manifests = append(manifests, n)
	}
	s := memory.New()
	want, err := graph.Assemble(t.Context(), s, manifests, nil)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(10) {
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(manifests), func(i, j int) { manifests[i], manifests[j] = manifests[j], manifests[i] })
		got, err := graph.Assemble(t.Context(), memory.New(), manifests, nil)
		if err != nil || got.Digest != want.Digest {
			t.Errorf("in another order the index is %s (%v), want %s", got.Digest, err, want.Digest)
		}
	}

	index, err := graph.Index(t.Context(), s, want)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, child := range index.Manifests {
		order = append(order, graph.PlatformName(child.Platform))
		if child.Annotations != nil {
			t.Errorf("%s carries %v", child.Digest, child.Annotations)
		}
	}
	if diff := cmp.Diff(platforms, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestAssembleRefusesAManifestWithoutAPlatform(t *testing.T) {
	n := graph.NewNode(ocispec.MediaTypeImageManifest, []byte("m"))
	if _, err := graph.Assemble(t.Context(), memory.New(), []graph.Node{n}, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("Assemble = %v, want Invalid", err)
	}
}

func platform(name string) *ocispec.Platform {
	parts := append(strings.Split(name, "/"), "")
	return &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

func TestCheckLineage(t *testing.T) {
	for name, test := range map[string]struct {
		base, child string
		built       bool
	}{
		"a child with one layer more":        {"ab", "abc", true},
		"the base itself":                    {"ab", "ab", true},
		"a child of another base":            {"ab", "xbc", false},
		"a child that changed a layer":       {"ab", "axc", false},
		"a child with its layers turned":     {"ab", "bac", false},
		"a child with fewer layers":          {"ab", "a", false},
		"a child with a layer below":         {"ab", "xab", false},
		"a child that ends with the base":    {"ab", "cab", false},
		"a child with a layer in the middle": {"ab", "acb", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := graph.CheckLineage(manifest(test.base), manifest(test.child))
			if (err == nil) != test.built {
				t.Errorf("CheckLineage = %v, want built on it: %v", err, test.built)
			}
		})
	}
}

// manifest has one layer for each letter.
func manifest(layers string) ocispec.Manifest {
	var m ocispec.Manifest
	for _, l := range layers {
		m.Layers = append(m.Layers, graph.NewNode(ocispec.MediaTypeImageLayerGzip, []byte(string(l))))
	}
	return m
}

func TestChildrenAreWhatAManifestNames(t *testing.T) {
	s := memory.New()
	config, layer := graph.NewNode(ocispec.MediaTypeImageConfig, []byte("{}")), graph.NewNode(ocispec.MediaTypeImageLayerGzip, []byte("l"))
	m := push(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []graph.Node{layer}})
	m.Platform = platform("linux/amd64")
	index, err := graph.Assemble(t.Context(), s, []graph.Node{m}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		node graph.Node
		want []graph.Node
	}{
		"of an index":   {index, []graph.Node{m}},
		"of a manifest": {m, []graph.Node{config, layer}},
		"of a layer":    {layer, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := graph.Children(t.Context(), s, test.node)
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("Children: %v (-want +got):\n%s", err, diff)
			}
		})
	}
	t.Run("of a broken manifest there are none", func(t *testing.T) {
		n := graph.NewNode(ocispec.MediaTypeImageManifest, []byte("{"))
		if got, err := graph.Children(t.Context(), lying{content: []byte("{")}, n); !errors.Is(err, fault.Forged) || got != nil {
			t.Errorf("Children = %v, %v, want Forged", got, err)
		}
	})
}

func push(t *testing.T, s graph.Store, mediaType string, v any) graph.Node {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	n, err := graph.PushBytes(t.Context(), s, mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPlatformNames(t *testing.T) {
	for want, p := range map[string]*ocispec.Platform{"": nil, "linux/amd64": platform("linux/amd64"), "linux/arm/v7": platform("linux/arm/v7")} {
		if got := graph.PlatformName(p); got != want {
			t.Errorf("PlatformName = %q, want %q", got, want)
		}
	}
}

func ExampleFetch() {
	store, content := memory.New(), []byte("evidence")
	n, err := graph.PushBytes(context.Background(), store, "text/plain", content)
	fmt.Println(n.Digest == digest.FromBytes(content), err)
	_, err = graph.Fetch(context.Background(), store, n, 4)
	fmt.Println(errors.Is(err, fault.Refused))
	// Output:
	// true <nil>
	// true
}

func ExampleCheckLineage() {
	layer := func(s string) graph.Node { return graph.NewNode(ocispec.MediaTypeImageLayerGzip, []byte(s)) }
	base := ocispec.Manifest{Layers: []graph.Node{layer("os")}}
	child := ocispec.Manifest{Layers: []graph.Node{layer("os"), layer("agent")}}
	fmt.Println(graph.CheckLineage(base, child))
	fmt.Println(graph.CheckLineage(child, base))
	// Output:
	// <nil>
	// it has 1 layers, its base has 2
}
