package registry_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

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
	n := zeroLayer(t, size)
	inLittleMemory(t, func() error { return r.Push(t.Context(), n, io.LimitReader(zeroes{}, size)) })
}

// The whole way of a layer, with the registry in this process: from a layout to the embedded
// registry and back to another layout.
func TestALayerOf4GiBGoesThereAndBackInLittleMemory(t *testing.T) {
	deep(t)
	const size = 4 << 30
	n := zeroLayer(t, size)
	here, back := openLayout(t, t.TempDir()), openLayout(t, t.TempDir())
	blob := filepath.Join(here.Dir(), "blobs", "sha256", n.Digest.Encoded())
	if err := errors.Join(os.WriteFile(blob, nil, 0o600), os.Truncate(blob, size)); err != nil {
		t.Fatal(err)
	}
	root, err := graph.PackArtifact(t.Context(), here, "application/vnd.example", []graph.Node{n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := repo(t, client(t, embedded(t)), "app")
	inLittleMemory(t, func() error { return r.CopyFrom(t.Context(), here, root) })
	inLittleMemory(t, func() error { return registry.Copy(t.Context(), r, back, root) })
	if there, err := back.Exists(t.Context(), n); !there || err != nil {
		t.Errorf("it came back: %v, %v", there, err)
	}
}

// inLittleMemory fails if f allocates 64 MiB, all added up: then it has never held that much.
func inLittleMemory(t *testing.T, f func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	if used >= 64<<20 {
		t.Errorf("%d MiB were allocated", used>>20)
	}
	t.Logf("%.1f MiB were allocated, all added up", float64(used)/(1<<20))
}

func zeroLayer(t *testing.T, size int64) graph.Node {
	t.Helper()
	hash := sha256.New()
	if _, err := io.CopyN(hash, zeroes{}, size); err != nil {
		t.Fatal(err)
	}
	return graph.Node{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.NewDigest(digest.SHA256, hash), Size: size}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkPush copies an image of 300 MiB from a layout to the embedded registry, beside the
// library that the client is built on.
func BenchmarkPush(b *testing.B) {
	const layers, size = 6, 50 << 20
	from, err := registry.OpenLayout(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	var nodes []graph.Node
	for i := range layers {
		nodes = append(nodes, pushNoise(b, from, i, size))
	}
	root, err := graph.PackArtifact(b.Context(), from, "application/vnd.example", nodes, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct {
		name string
		push func(ctx context.Context, host string) error
	}{
		{"ours", func(ctx context.Context, host string) error {
			return benchRepo(b, host, "app").CopyFrom(ctx, from, root)
		}},
		{"oras-go", func(ctx context.Context, host string) error {
			r, err := remote.NewRepository(host + "/family/app")
			if err != nil {
				return err
			}
			r.PlainHTTP = true
			return oras.CopyGraph(ctx, from, r, root, oras.CopyGraphOptions{Concurrency: 4})
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(layers * size)
			onFreshRegistries(b, func(host string) error { return way.push(b.Context(), host) })
		})
	}
}

// onFreshRegistries times f against an embedded registry that is empty each time, begins with a
// disk that has nothing left to write, and leaves nothing behind. It also reports the processor
// time of this process, the registry in it, and the processes it waited for: that is what can be
// compared when the machine has something else to do.
func onFreshRegistries(b *testing.B, f func(host string) error) {
	b.Helper()
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		dir, err := os.MkdirTemp(b.TempDir(), "state")
		if err != nil {
			b.Fatal(err)
		}
		host, stop := benchRegistry(b, dir)
		syscall.Sync()
		before := processorTime(b)
		b.StartTimer()
		err = f(host)
		b.StopTimer()
		spent += processorTime(b) - before
		if err := errors.Join(err, stop(), os.RemoveAll(dir)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op")
}

// processorTime is what this process and the children it waited for have used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var used syscall.Rusage
		if err := syscall.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		sum += used.Utime.Nano() + used.Stime.Nano()
	}
	return time.Duration(sum)
}

func benchRegistry(b *testing.B, dir string) (host string, stop func() error) {
	b.Helper()
	state, err := local.OpenState(dir)
	if err != nil {
		b.Fatal(err)
	}
	server, err := local.OpenRegistry(b.Context(), state)
	if err != nil {
		b.Fatal(err)
	}
	return server.Host, server.Close
}

// benchRepo opens a repository with a client of its own, which knows nothing yet.
func benchRepo(b *testing.B, host, name string) *registry.Repository {
	b.Helper()
	c, err := registry.New(host+"/family", registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	r, err := c.Repo(name)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func pushNoise(b *testing.B, s graph.Store, seed, size int) graph.Node {
	b.Helper()
	n, err := graph.PushBytes(b.Context(), s, ocispec.MediaTypeImageLayer, noise(uint64(seed), size))
	if err != nil {
		b.Fatal(err)
	}
	return n
}
