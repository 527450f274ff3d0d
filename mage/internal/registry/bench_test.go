package registry_test

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
)

// A layer is never wholly in memory, here and on the wire.
func TestALargeLayerMovesInLittleMemory(t *testing.T) {
	const size = 512 << 20
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.Method {
		case http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case http.MethodPost:
			w.Header().Set("Location", req.URL.Path)
			w.WriteHeader(http.StatusAccepted)
		default:
			io.Copy(io.Discard, req.Body)
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer sink.Close()
	r := repo(t, client(t, strings.TrimPrefix(sink.URL, "http://")), "app")
	hash := sha256.New()
	io.CopyN(hash, zeroes{}, size)
	n := graph.Node{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.NewDigest(digest.SHA256, hash), Size: size}

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := r.Push(t.Context(), n, io.LimitReader(zeroes{}, size)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MiB were allocated", used>>20)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkPush copies an image of 300 MiB from a layout to the embedded registry.
func BenchmarkPush(b *testing.B) {
	const layers, size = 6, 50 << 20
	dir := b.TempDir()
	from, err := registry.OpenLayout(dir)
	if err != nil {
		b.Fatal(err)
	}
	var nodes []graph.Node
	for i := range layers {
		n, err := graph.PushBytes(b.Context(), from, ocispec.MediaTypeImageLayer, noise(uint64(i), size))
		if err != nil {
			b.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	root, err := graph.PackArtifact(b.Context(), from, "application/vnd.example", nodes, nil)
	if err != nil {
		b.Fatal(err)
	}
	push := map[string]func(ctx context.Context, host string) error{
		"ours": func(ctx context.Context, host string) error {
			c, err := registry.New(host+"/family", registry.Options{})
			if err != nil {
				return err
			}
			r, err := c.Repo("app")
			if err != nil {
				return err
			}
			return r.CopyFrom(ctx, from, root)
		},
		"oras-go": func(ctx context.Context, host string) error {
			r, err := remote.NewRepository(host + "/family/app")
			if err != nil {
				return err
			}
			r.PlainHTTP = true
			return oras.CopyGraph(ctx, from, r, root, oras.CopyGraphOptions{Concurrency: 4})
		},
	}
	for _, name := range []string{"ours", "oras-go"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(layers * size)
			for b.Loop() {
				b.StopTimer()
				state, err := local.OpenState(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				server, err := local.OpenRegistry(b.Context(), state)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := push[name](b.Context(), server.Host); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				server.Close()
				b.StartTimer()
			}
		})
	}
}
