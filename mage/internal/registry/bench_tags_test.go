package registry_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

// roundTrip is what a request to a registry far away costs at least.
const roundTrip = 50 * time.Millisecond

// BenchmarkMoveTags moves the tag of an index in nine repositories to another index and back,
// behind a round trip of 50 ms per request: the command lines one process after another, as people
// script it, ours all nine at once. Warm is a client that has read the manifest before, as one that
// verified it has; cold is one that knows nothing.
func BenchmarkMoveTags(b *testing.B) {
	bin := peers(b, "peers", "github.com/google/go-containerregistry/cmd/crane", "oras.land/oras/cmd/oras")
	near, stop := benchRegistry(b, b.TempDir())
	b.Cleanup(func() {
		if err := stop(); err != nil {
			b.Error(err)
		}
	})
	nine := newNine(b, near)
	far, requests := behind(b, near, roundTrip)

	var oras time.Duration
	for _, m := range movers(b, bin, nine, far) {
		b.Run(m.name, func(b *testing.B) {
			if m.missing != "" {
				b.Skip(m.missing)
			}
			before := requests.Load()
			for b.Loop() {
				if err := m.move(nine.images[0].Digest, nine.images[1]); err != nil {
					b.Fatal(err)
				}
				nine.swap()
			}
			once := b.Elapsed() / time.Duration(b.N)
			each := float64(requests.Load()-before) / float64(b.N*len(nine.names))
			if m.name == "oras tag" {
				oras = once
			}
			b.ReportMetric(each, "requests/repo")
			if oras > 0 { // -bench may have left it out
				b.ReportMetric(oras.Seconds()/once.Seconds(), "x-oras")
			}
			if m.most > 0 && each > m.most {
				b.Errorf("%.2f requests for a repository, want %v at most", each, m.most)
			}
			nine.check(b, near)
		})
	}
}

// mover moves the tag of all nine repositories.
type mover struct {
	name    string
	move    func(from digest.Digest, to graph.Node) error
	most    float64 // requests for a repository; zero means any number
	missing string  // why it cannot run here
}

func movers(b *testing.B, bin string, nine *nine, far string) []mover {
	warm, buildx := nine.open(b, far), builtBuildx()
	nine.read(b, warm)
	missing := ""
	if buildx == "" {
		missing = "no release has built Buildx on this machine"
	}
	return []mover{
		{name: "oras tag", move: nine.scripted(far, func(repo string, to digest.Digest) error {
			return command(b, bin+"/oras", "tag", "--plain-http", repo+"@"+to.String(), "dev")
		})},
		{name: "crane tag", move: nine.scripted(far, func(repo string, to digest.Digest) error {
			return command(b, bin+"/crane", "tag", "--insecure", repo+"@"+to.String(), "dev")
		})},
		{name: "imagetools create", missing: missing, move: nine.scripted(far, func(repo string, to digest.Digest) error {
			return command(b, buildx, "imagetools", "create", "--tag", repo+":dev", repo+"@"+to.String())
		})},
		{name: "ours cold", move: func(from digest.Digest, to graph.Node) error {
			return moveAll(b.Context(), nine.open(b, far), from, to)
		}},
		{name: "ours warm", most: 3, move: func(from digest.Digest, to graph.Node) error {
			return moveAll(b.Context(), warm, from, to)
		}},
	}
}

// nine are the repositories of a family. All hold the same two images, and dev names the first.
type nine struct {
	names  []string
	images [2]graph.Node
}

func newNine(b *testing.B, host string) *nine {
	b.Helper()
	src := memory.New()
	n := &nine{images: [2]graph.Node{benchImage(b, src, pushNoise(b, src, 1, 1<<10)), benchImage(b, src, pushNoise(b, src, 2, 1<<10))}}
	for i := range 9 {
		n.names = append(n.names, fmt.Sprintf("member-%d", i))
	}
	for _, r := range n.open(b, host) {
		for _, image := range n.images {
			if err := r.CopyFrom(b.Context(), src, image); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := r.MoveTag(b.Context(), move(r, "dev", "", n.images[0])); err != nil {
			b.Fatal(err)
		}
	}
	return n
}

// open opens the nine with a client of their own.
func (n *nine) open(b *testing.B, host string) []*registry.Repository {
	b.Helper()
	c, err := registry.New(host+"/family", registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var all []*registry.Repository
	for _, name := range n.names {
		r, err := c.Repo(name)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// read lets the repositories read both images, as a verification does.
func (n *nine) read(b *testing.B, repositories []*registry.Repository) {
	b.Helper()
	for _, r := range repositories {
		for _, image := range n.images {
			if _, there, err := r.ByDigest(b.Context(), image.Digest); err != nil || !there {
				b.Fatalf("%s has %s: %v, %v", r.Name(), image.Digest, there, err)
			}
		}
	}
}

// scripted moves one repository after another.
func (n *nine) scripted(host string, moveOne func(repo string, to digest.Digest) error) func(digest.Digest, graph.Node) error {
	return func(_ digest.Digest, to graph.Node) error {
		for _, name := range n.names {
			if err := moveOne(host+"/family/"+name, to.Digest); err != nil {
				return err
			}
		}
		return nil
	}
}

func (n *nine) swap() { n.images[0], n.images[1] = n.images[1], n.images[0] }

// check makes sure that every tag is where the last move brought it.
func (n *nine) check(b *testing.B, host string) {
	b.Helper()
	for _, r := range n.open(b, host) {
		if now, _, err := r.Resolve(b.Context(), "dev"); err != nil || now.Digest != n.images[0].Digest {
			b.Errorf("%s:dev is %s, want %s (%v)", r.Name(), now.Digest, n.images[0].Digest, err)
		}
	}
}

func moveAll(ctx context.Context, repositories []*registry.Repository, from digest.Digest, to graph.Node) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range repositories {
		group.Go(func() error {
			_, err := r.MoveTag(ctx, move(r, "dev", from, to))
			return err
		})
	}
	return group.Wait()
}

// behind serves a registry behind a slow wire: every request takes a round trip longer, and is counted.
func behind(b *testing.B, host string, roundTrip time.Duration) (far string, requests *atomic.Int64) {
	b.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 16}
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	requests = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		requests.Add(1)
		select {
		case <-time.After(roundTrip):
			proxy.ServeHTTP(w, req)
		case <-req.Context().Done():
		}
	}))
	b.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), requests
}

// builtBuildx returns the Buildx that a release on this machine has built, or "".
func builtBuildx() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(cache, "containai", "programs", "buildx-*", "buildx")) // the pattern is well formed
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}
