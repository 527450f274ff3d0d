package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// store is what a repository and a layout have in common.
type store interface {
	graph.Store
	Resolve(ctx context.Context, tag string) (graph.Node, bool, error)
	Tags(ctx context.Context) ([]string, error)
	TagImmutable(ctx context.Context, tag string, n graph.Node) (bool, error)
	MoveTag(ctx context.Context, m release.Move) (bool, error)
	Attach(ctx context.Context, subject graph.Node, artifactType string, layer registry.Layer, annotations map[string]string) (graph.Node, bool, error)
	Referrers(ctx context.Context, subject graph.Node) ([]registry.Referrer, error)
}

// target opens one more handle on the same content with each call.
type target struct {
	name string
	open func(t *testing.T) func() (s store, counts func() registry.Counts)
}

// targets are the stores that every promise is kept on.
func targets() []target {
	return []target{
		{"an OCI layout", layoutTarget},
		{"the embedded registry", func(t *testing.T) func() (store, func() registry.Counts) { return remoteTarget(t, embedded(t)) }},
		{"a registry with the referrers API", func(t *testing.T) func() (store, func() registry.Counts) {
			return remoteTarget(t, serve(t, withAPI()))
		}},
		{"a registry whose referrers API is always empty", func(t *testing.T) func() (store, func() registry.Counts) {
			return remoteTarget(t, serve(t, emptyAPI(withAPI())))
		}},
		{"GHCR", func(t *testing.T) func() (store, func() registry.Counts) {
			return remoteTarget(t, ghcr(t, rehearsal.Options{}).host)
		}},
	}
}

func layoutTarget(t *testing.T) func() (store, func() registry.Counts) {
	dir := t.TempDir()
	return func() (store, func() registry.Counts) {
		l, err := registry.OpenLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		return l, func() registry.Counts { return registry.Counts{} }
	}
}

func remoteTarget(t *testing.T, host string) func() (store, func() registry.Counts) {
	return func() (store, func() registry.Counts) {
		c := client(t, host)
		return repo(t, c, "app"), c.Counts
	}
}

// embedded starts the registry that local:serve and every local release use.
func embedded(t *testing.T) string {
	t.Helper()
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r.Host
}

// withAPI is go-containerregistry's registry. Its referrers API calls the configuration's media
// type the artifact type, so nobody may rely on what a list says.
func withAPI() http.Handler {
	return ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
}

func withoutAPI() http.Handler {
	return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
}

// emptyAPI answers 200 and an empty list to every listing, as was seen on a large registry.
func emptyAPI(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "/referrers/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, ocispec.MediaTypeImageIndex)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// world is a rehearsal of GHCR behind a server, with rules before it.
type world struct {
	*rehearsal.GitHub
	*rehearsal.Injector
	host string
}

func ghcr(t *testing.T, o rehearsal.Options, rules ...rehearsal.Rule) world {
	t.Helper()
	model := rehearsal.New(o)
	injector, err := rehearsal.NewInjector(model, rules...)
	if err != nil {
		t.Fatal(err)
	}
	return world{model, injector, serve(t, injector)}
}

// calls counts the calls of a method whose path contains a text.
func (w world) calls(method, path string) int {
	n := 0
	for _, c := range w.Calls() {
		if c.Method == method && strings.Contains(c.Path, path) {
			n++
		}
	}
	return n
}

func serve(t *testing.T, h http.Handler) (host string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func client(t *testing.T, host string) *registry.Client {
	t.Helper()
	c, err := registry.New(host+"/family", registry.Options{Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func repo(t *testing.T, c *registry.Client, name string) *registry.Repository {
	t.Helper()
	r, err := c.Repo(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// image puts an index over two platforms into a store: layers of its own and the given ones.
func image(t *testing.T, s graph.Store, seed uint64, shared ...graph.Node) graph.Node {
	t.Helper()
	var manifests []graph.Node
	for i, arch := range []string{"amd64", "arm64"} {
		layers := append(append([]graph.Node{}, shared...), layer(t, s, seed*10+uint64(i), 64<<10))
		config := push(t, s, ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"seed":%d}`, arch, seed))
		m := pushJSON(t, s, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": layers})
		m.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		manifests = append(manifests, m)
	}
	n, err := graph.Assemble(t.Context(), s, manifests, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func layer(t *testing.T, s graph.Store, seed uint64, size int) graph.Node {
	t.Helper()
	return push(t, s, ocispec.MediaTypeImageLayer, noise(seed, size))
}

// noise is random, and the same for the same seed.
func noise(seed uint64, size int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(content)
	return content
}

func push(t *testing.T, s graph.Store, mediaType string, content []byte) graph.Node {
	t.Helper()
	n, err := graph.PushBytes(t.Context(), s, mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pushJSON(t *testing.T, s graph.Store, mediaType string, doc any) graph.Node {
	t.Helper()
	content, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, s, mediaType, content)
}

// copied returns a memory store with an image and the image's copy in s.
func copied(t *testing.T, s graph.Store, seed uint64) (graph.Store, graph.Node) {
	t.Helper()
	src := memory.New()
	n := image(t, src, seed)
	if err := registry.Copy(t.Context(), src, s, n); err != nil {
		t.Fatal(err)
	}
	return src, n
}

// body answers a request with fixed content.
func body(mediaType string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
	})
}
