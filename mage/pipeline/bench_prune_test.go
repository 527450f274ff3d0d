package pipeline_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// A package of GHCR with years of history: indexes over two platforms each, every index tagged.

// history is such a package, behind a round trip, with a count of what is asked of it.
type bigPackage struct {
	github *rehearsal.GitHub
	server *httptest.Server
	trip   time.Duration

	mu    sync.Mutex
	calls map[string]int // "GET manifests", "GET versions", …
	urls  []string       // of all manifests
}

func newBigPackage(tb testing.TB, indexes int, trip time.Duration) *bigPackage {
	tb.Helper()
	p := &bigPackage{github: rehearsal.New(rehearsal.Options{Now: func() time.Time { return rehearsal.Epoch().AddDate(1, 0, 0) }}), trip: trip, calls: map[string]int{}}
	p.server = httptest.NewServer(p)
	tb.Cleanup(p.server.Close)
	p.blob(tb, ocispec.DescriptorEmptyJSON.Data)
	for i := range indexes {
		var children []graph.Node
		for _, arch := range []string{"amd64", "arm64"} {
			content, err := graph.EncodeArtifact("application/vnd.test.v1", nil, nil, map[string]string{"n": fmt.Sprint(i), "arch": arch})
			if err != nil {
				tb.Fatal(err)
			}
			children = append(children, p.manifest(tb, "", ocispec.MediaTypeImageManifest, content))
		}
		content, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children})
		if err != nil {
			tb.Fatal(err)
		}
		p.manifest(tb, fmt.Sprintf("sha-%040d", i), ocispec.MediaTypeImageIndex, content)
	}
	return p
}

func (p *bigPackage) blob(tb testing.TB, content []byte) {
	tb.Helper()
	open := httptest.NewRecorder()
	p.github.ServeHTTP(open, httptest.NewRequest(http.MethodPost, "/v2/acme/app/blobs/uploads/", nil))
	put := httptest.NewRecorder()
	where := open.Header().Get("Location")
	p.github.ServeHTTP(put, httptest.NewRequest(http.MethodPut, where+"&digest="+graph.NewNode("", content).Digest.String(), bytes.NewReader(content)))
	if put.Code != http.StatusCreated {
		tb.Fatalf("uploading: %d %s", put.Code, put.Body)
	}
}

func (p *bigPackage) manifest(tb testing.TB, tag, mediaType string, content []byte) graph.Node {
	tb.Helper()
	n := graph.NewNode(mediaType, content)
	if tag == "" {
		tag = n.Digest.String()
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/acme/app/manifests/"+tag, bytes.NewReader(content))
	req.Header.Set("Content-Type", mediaType)
	put := httptest.NewRecorder()
	p.github.ServeHTTP(put, req)
	if put.Code != http.StatusCreated {
		tb.Fatalf("pushing: %d %s", put.Code, put.Body)
	}
	p.urls = append(p.urls, "/v2/acme/app/manifests/"+n.Digest.String())
	return n
}

func (p *bigPackage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	kind := "other"
	for _, k := range []string{"manifests", "versions", "packages"} {
		if strings.Contains(req.URL.Path, "/"+k) {
			kind = k
			break
		}
	}
	if kind == "packages" && strings.HasSuffix(req.URL.Path, "/versions") {
		kind = "versions"
	}
	p.mu.Lock()
	p.calls[req.Method+" "+kind]++
	p.mu.Unlock()
	if p.trip > 0 {
		timer := time.NewTimer(p.trip)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			return
		}
	}
	p.github.ServeHTTP(w, req)
}

// count returns the calls since the last count.
func (p *bigPackage) count() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = map[string]int{}
	return calls
}

// bigKeeper is who plans over the package: a family of one image. What it read is on the disk when it is done.
func bigKeeper(tb testing.TB, url, cache, state string) (k *pipeline.Keeper, done func() error) {
	tb.Helper()
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	fam, err := family.Parse("family.yaml", []byte(strings.NewReplacer("base: {}\n  app: {from: base}", "app: {}").Replace(yardFamily)))
	check(err)
	client, err := registry.New(strings.TrimPrefix(url, "http://")+"/acme", registry.Options{Pause: time.Microsecond, Cache: cache})
	check(err)
	api, err := ghcr.New("acme", ghcr.Options{API: url})
	check(err)
	s, err := local.OpenState(state)
	check(err)
	journal, err := s.Journal()
	check(err)
	done = client.Gather()
	k = &pipeline.Keeper{Family: fam, Base: client.Base(), Host: "big", Shelves: map[string]pipeline.Shelf{}, Vouched: anyHead, Journal: journal, Progress: silence{}}
	port := registryPort{}
	for _, member := range fam.Members() {
		repo, err := client.Repo(member)
		check(err)
		port[member] = repositoryPort{repo}
		k.Shelves[member] = api.Shelf(member, repo)
	}
	k.Registry, k.Ledger = port, servedOnce(tb, fam)
	return k, done
}

// servedOnce is a ledger in which dev served one release, whose record is not in the package.
func servedOnce(tb testing.TB, fam *family.Family) pipeline.Ledger {
	tb.Helper()
	gone := graph.NewNode("", []byte("gone")).Digest
	candidate := release.Candidate{Digest: gone, Record: release.Record{Source: release.Source{Commit: commitOf(1)}, Images: map[string]release.Image{"app": {Index: graph.Node{Digest: gone}}}}}
	d, _, err := release.PlanPromote(release.Head{}, fam.Name, "dev", candidate, release.Moved{By: "bench", Run: "bench", At: rehearsal.Epoch()})
	if err != nil {
		tb.Fatal(err)
	}
	content, err := d.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	l := &ledgerOf{}
	l.add(content, d)
	return l
}

// BenchmarkPlan plans over 6,000 versions with 2,000 indexes, 20 ms away: with nothing in the cache,
// and once more. In the same run: a bare parallel fetch of the same URLs, and a shell loop of
// crane manifest over a hundred of them.
func BenchmarkPlan(b *testing.B) {
	const indexes, trip = 2_000, 20 * time.Millisecond
	p := newBigPackage(b, indexes, trip)
	b.Run("first plan, in turns with a bare parallel fetch", func(b *testing.B) {
		bare, planned := time.Hour, time.Hour // the best of all turns: what else runs here only adds
		for b.Loop() {
			for range 3 {
				bare = min(bare, timed(func() { fetchAll(b, p) }))
				p.count()
				cache := b.TempDir()
				planned = min(planned, timed(func() { planOver(b, p, cache) }))
			}
		}
		b.ReportMetric(bare.Seconds(), "s/fetch")
		b.ReportMetric(planned.Seconds(), "s/plan")
		calls := p.count()
		b.ReportMetric(float64(calls["GET versions"]), "lists")
		b.ReportMetric(float64(calls["GET manifests"]), "manifests")
		b.ReportMetric(float64(sum(calls)), "requests")
	})
	b.Run("second plan", func(b *testing.B) {
		cache := b.TempDir()
		planOver(b, p, cache)
		p.count()
		b.ResetTimer()
		for b.Loop() {
			planOver(b, p, cache)
		}
		b.ReportMetric(float64(sum(p.count()))/float64(b.N), "requests")
	})
	b.Run("crane manifest in a shell loop, 100 of them", func(b *testing.B) {
		crane := craneOf(b)
		var script strings.Builder
		for _, url := range p.urls[:100] {
			name, digest, _ := strings.Cut(strings.TrimPrefix(url, "/v2/"), "/manifests/")
			fmt.Fprintf(&script, "%s manifest --insecure %s/%s@%s >/dev/null || exit 1\n", crane, strings.TrimPrefix(p.server.URL, "http://"), name, digest)
		}
		for b.Loop() {
			if out, err := exec.CommandContext(b.Context(), "sh", "-c", script.String()).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*float64(len(p.urls))/100, "s/all-of-them")
	})
}

func planOver(tb testing.TB, p *bigPackage, cache string) {
	tb.Helper()
	k, done := bigKeeper(tb, p.server.URL, cache, filepath.Join(tb.TempDir(), "state"))
	f, _, err := k.PlanPrune(tb.Context(), retention.Allow{})
	if err = errors.Join(err, done()); err != nil || len(f.Items) != len(p.urls) {
		tb.Fatalf("%d of %d manifests, %v", len(f.Items), len(p.urls), err)
	}
}

func sum(calls map[string]int) (all int) {
	for _, n := range calls {
		all += n
	}
	return all
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// fetchAll gets the lists and the manifests, as many at once as a plan does, and does nothing else.
func fetchAll(b *testing.B, p *bigPackage) {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(32)
	get := func(url string) {
		group.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server.URL+url, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Accept", strings.Join(graph.ManifestTypes(), ", "))
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		})
	}
	for page := range (len(p.urls) + 99) / 100 {
		get(fmt.Sprintf("/orgs/acme/packages/container/app/versions?per_page=100&page=%d", page+1))
	}
	for _, url := range p.urls {
		get(url)
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// craneOf is crane, built from the pinned peers, or a skip.
func craneOf(b *testing.B) string {
	b.Helper()
	bin := filepath.Join(b.TempDir(), "crane")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", bin, "github.com/google/go-containerregistry/cmd/crane")
	build.Dir = "../../testdata/peers"
	if out, err := build.CombinedOutput(); err != nil {
		b.Skipf("crane cannot be built: %v %s", err, out)
	}
	return bin
}

// A plan over 10,000 versions, in a process of its own whose memory the kernel counts.
func TestAPlanOverTenThousandVersionsStaysBelow256MiB(t *testing.T) {
	if url := os.Getenv("PLAN_OVER"); url != "" {
		k, done := bigKeeper(t, url, t.TempDir(), t.TempDir())
		f, p, err := k.PlanPrune(context.Background(), retention.Allow{})
		err = errors.Join(err, done())
		fmt.Printf("\n%d items %d deletions %v peak=%d\n", len(f.Items), len(p.Deletes), err, peakMemory(t))
		return
	}
	if testing.Short() {
		t.Skip("it pushes 10,000 manifests")
	}
	p := newBigPackage(t, 3_334, 0)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAPlanOverTenThousandVersionsStaysBelow256MiB$")
	child.Env = append(os.Environ(), "PLAN_OVER="+p.server.URL)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, peak, ok := strings.Cut(string(out), "peak=")
	kib, err := strconv.Atoi(strings.Fields(peak)[0])
	if !ok || err != nil || !strings.Contains(string(out), "10002 items") {
		t.Fatalf("%v\n%s", err, out)
	}
	if kib > 256<<10 {
		t.Errorf("planning took %d KiB, more than 256 MiB", kib)
	}
	calls := p.count()
	if lists, manifests := calls["GET versions"], calls["GET manifests"]; lists > 102 || manifests > 10_010 {
		t.Errorf("%d lists and %d manifests", lists, manifests)
	}
	t.Logf("peak %d MiB; %v", kib>>10, calls)
}

// peakMemory is VmHWM in KiB.
func peakMemory(t *testing.T) int {
	content, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(content), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
