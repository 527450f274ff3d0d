package pipeline_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// The yard of the retention tests: a small family with years of releases, on either of the two kinds
// of registries, and a keeper who prunes it. The registries are real; the ledger is a list.

const day = 24 * time.Hour

// yard is a registry and what was released into it.
type yard struct {
	t       *testing.T
	backend string
	server  *httptest.Server
	github  *rehearsal.GitHub // nil on the embedded registry
	state   *local.State      // of the keeper, and of the embedded registry
	fam     *family.Family
	client  *registry.Client
	rows    ledgerOf
	count   atomic.Int64

	mu   sync.Mutex
	now  time.Time // of the model
	door func(w http.ResponseWriter, req *http.Request, next http.Handler)
	seen []string // requests
}

// onBoth runs a test on OCI DELETE and on the GHCR model.
func onBoth(t *testing.T, test func(t *testing.T, y *yard)) {
	for _, backend := range []string{"OCI", "GHCR"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, newYard(t, backend))
		})
	}
}

// newYard releases four commits: dev served all of them, prod the second; dev keeps two. The first
// and the third are 40 days old as everything is.
func newYard(t *testing.T, backend string) *yard {
	t.Helper()
	return newYardOf(t, backend, rehearsal.Options{})
}

func newYardOf(t *testing.T, backend string, o rehearsal.Options) *yard {
	t.Helper()
	y := &yard{t: t, backend: backend, now: rehearsal.Epoch()}
	var err error
	if y.state, err = local.OpenState(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if y.fam, err = family.Parse("family.yaml", []byte(yardFamily)); err != nil {
		t.Fatal(err)
	}
	y.server = httptest.NewServer(y.newBackend(o))
	t.Cleanup(y.server.Close)
	y.client = y.newClient()
	for i := range 4 {
		y.release(i, "dev")
	}
	y.serve(1, "prod")
	y.age(40*day + time.Hour) // far from where an age is told as another number of days
	return y
}

const yardFamily = `
schema: 1
name: widget
source: https://example.com/acme/widget
bake: images/docker-bake.hcl
platforms: [linux/amd64]
os: {image: "debian@sha256:0000000000000000000000000000000000000000000000000000000000000000", suite: bookworm}
images:
  base: {}
  app: {from: base}
artifacts:
  metadata: {kind: metadata}
channels:
  dev: {gate: {severities: [], unscanned: allow, local-base: allow}, keep: {releases: 2}}
  prod: {gate: {severities: [], unscanned: allow, local-base: allow}, keep: {releases: 1}}
retention: {records: 2d, share: 100}
`

func (y *yard) newBackend(o rehearsal.Options) http.Handler {
	var inner http.Handler
	switch y.backend {
	case "GHCR":
		o.Now = y.clock
		y.github = rehearsal.New(o)
		inner = y.github
	case "another": // with the referrers API, no list of manifests, and no ages
		base := ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
		inner = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Date", y.clock().UTC().Format(http.TimeFormat))
			base.ServeHTTP(w, req)
		})
	default:
		served, err := local.OpenRegistry(y.t.Context(), y.state)
		if err != nil {
			y.t.Fatal(err)
		}
		y.t.Cleanup(func() { served.Close() })
		inner = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: served.Host})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		y.mu.Lock()
		y.seen = append(y.seen, req.Method+" "+req.URL.RequestURI())
		door := y.door
		y.mu.Unlock()
		if door != nil {
			door(w, req, inner)
			return
		}
		inner.ServeHTTP(w, req)
	})
}

// guard puts somebody at the door of the registry, who may answer instead of it.
func (y *yard) guard(door func(w http.ResponseWriter, req *http.Request, next http.Handler)) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.door = door
}

func (y *yard) clock() time.Time {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.now
}

// age makes everything that is there older.
func (y *yard) age(d time.Duration) {
	y.t.Helper()
	if y.backend == "another" {
		_, err := y.keeper().Scan(y.t.Context()) // what was never seen has no age
		y.must(err)
	}
	if y.backend != "OCI" {
		y.mu.Lock()
		y.now = y.now.Add(d)
		y.mu.Unlock()
		return
	}
	err := filepath.WalkDir(y.state.RegistryDir(), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.Name() != "link" {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		at := info.ModTime().Add(-d)
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) host() string { return strings.TrimPrefix(y.server.URL, "http://") }

func (y *yard) newClient() *registry.Client {
	y.t.Helper()
	c, err := registry.New(y.host()+"/acme", registry.Options{Pause: time.Microsecond, Budget: time.Millisecond})
	if err != nil {
		y.t.Fatal(err)
	}
	return c
}

// keeper is somebody who cares for the yard and remembers nothing of what others read.
func (y *yard) keeper() *pipeline.Keeper {
	y.t.Helper()
	client := y.newClient()
	api, err := ghcr.New("acme", ghcr.Options{API: y.server.URL, Pause: time.Microsecond})
	if err != nil {
		y.t.Fatal(err)
	}
	journal, err := y.state.Journal()
	if err != nil {
		y.t.Fatal(err)
	}
	k := &pipeline.Keeper{Family: y.fam, Base: client.Base(), Host: "yard", Shelves: map[string]pipeline.Shelf{}, Ledger: &y.rows, Vouched: anyHead, Journal: journal, Progress: silence{}}
	port := registryPort{}
	for _, member := range y.fam.Members() {
		repo, err := client.Repo(member)
		if err != nil {
			y.t.Fatal(err)
		}
		port[member] = repositoryPort{repo}
		switch y.backend {
		case "GHCR":
			k.Shelves[member] = api.Shelf(member, repo)
		case "another":
			k.Shelves[member] = registry.NewShelf(repo, nil)
		default:
			k.Shelves[member] = registry.NewShelf(repo, y.embedded)
		}
	}
	k.Registry = port
	return k
}

// anyHead answers for a yard's ledger, which nobody signs.
func anyHead(context.Context, release.Head) error { return nil }

// shelf is a member's repository, for those who push.
func (y *yard) shelf(member string) *registry.Repository {
	y.t.Helper()
	r, err := y.client.Repo(member)
	if err != nil {
		y.t.Fatal(err)
	}
	return r
}

func (y *yard) must(err error) {
	y.t.Helper()
	if err != nil {
		y.t.Fatal(err)
	}
}

// push puts a manifest of its own into a repository: an artifact that is told apart by its text.
func (y *yard) push(member, text string) graph.Node {
	y.t.Helper()
	n, err := graph.PackArtifact(y.t.Context(), y.shelf(member), "application/vnd.test.v1", nil, map[string]string{"text": text})
	y.must(err)
	return n
}

// index puts an index over manifests into a repository.
func (y *yard) index(member string, children ...graph.Node) graph.Node {
	y.t.Helper()
	content, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children, Versioned: specs.Versioned{SchemaVersion: 2}, Annotations: map[string]string{"n": fmt.Sprint(y.next())}})
	y.must(err)
	n, err := graph.PushBytes(y.t.Context(), y.shelf(member), ocispec.MediaTypeImageIndex, content)
	y.must(err)
	return n
}

func (y *yard) next() int64 { return y.count.Add(1) }

func (y *yard) tag(member, tag string, n graph.Node) {
	y.t.Helper()
	content, err := graph.Fetch(y.t.Context(), y.shelf(member), n, graph.MaxManifest)
	y.must(err)
	req := httptest.NewRequest(http.MethodPut, y.server.URL+"/v2/acme/"+member+"/manifests/"+tag, bytes.NewReader(content))
	req.Header.Set("Content-Type", n.MediaType)
	y.send(req, http.StatusCreated)
}

// send sends a request as somebody does who knows nothing of us.
func (y *yard) send(req *http.Request, want int) []byte {
	y.t.Helper()
	out, err := http.NewRequestWithContext(context.WithoutCancel(y.t.Context()), req.Method, req.URL.String(), req.Body)
	y.must(err)
	out.Header = req.Header
	resp, err := http.DefaultClient.Do(out)
	y.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	y.must(err)
	if resp.StatusCode != want {
		y.t.Fatalf("%s %s: %d %s, want %d", req.Method, req.URL.Path, resp.StatusCode, body, want)
	}
	return body
}

// attach hangs evidence on a subject, listed under the referrers tag.
func (y *yard) attach(member string, subject graph.Node, text string) graph.Node {
	y.t.Helper()
	n, _, err := y.shelf(member).Attach(y.t.Context(), subject, evidence.BundleType, registry.Layer{MediaType: evidence.BundleType, Content: []byte(text)}, nil)
	y.must(err)
	return n
}

// commitOf is the i-th commit, which every test names by its number.
func commitOf(i int) string { return strings.Repeat(fmt.Sprint(i), 40) }

// release pushes a release with its evidence, and lets a channel serve it.
func (y *yard) release(i int, channel string) {
	y.t.Helper()
	r := y.publish(i)
	y.enter(r, channel)
}

func (y *yard) publish(i int) release.Candidate {
	y.t.Helper()
	ctx := y.t.Context()
	r := release.Record{Schema: 1, Family: y.fam.Name, Source: release.Source{Commit: commitOf(i), Epoch: rehearsal.Epoch()}, Images: map[string]release.Image{}}
	for _, member := range []string{"base", "app"} {
		child := y.push(member, fmt.Sprint(member, " on a platform of ", i))
		top := y.index(member, child)
		y.attach(member, child, fmt.Sprint("sbom ", i))
		y.attach(member, top, fmt.Sprint("signature ", i))
		r.Images[member] = release.Image{Index: top, Platforms: map[string]graph.Node{"linux/amd64": child}}
	}
	content, err := r.Encode()
	y.must(err)
	metadata := y.shelf("metadata")
	layer, err := graph.PushBytes(ctx, metadata, release.RecordType, content)
	y.must(err)
	record, err := graph.PackArtifact(ctx, metadata, release.RecordType, []graph.Node{layer}, nil)
	y.must(err)
	y.attach("metadata", record, fmt.Sprint("signature of record ", i))
	y.tag("metadata", r.Source.Tag(), record)
	for member, image := range r.Images {
		y.tag(member, r.Source.Tag(), image.Index)
	}
	return release.Candidate{Record: r, Digest: record.Digest}
}

// enter commits a generation and lets the tags follow.
func (y *yard) enter(c release.Candidate, channel string) {
	y.t.Helper()
	document, generation := y.commit(c, channel)
	for _, tag := range []string{release.GenerationTag(generation), channel, release.ChannelsTag} {
		y.tag("metadata", tag, document)
	}
	for member, image := range c.Record.Images {
		y.tag(member, channel, image.Index)
	}
}

// commit commits a generation and pushes its document.
func (y *yard) commit(c release.Candidate, channel string) (document graph.Node, generation uint64) {
	y.t.Helper()
	head := y.rows.now()
	next, _, err := release.PlanPromote(head, y.fam.Name, channel, c, release.Moved{By: "yard", Run: "test", At: y.clock()})
	y.must(err)
	content, err := next.Encode()
	y.must(err)
	artifactType, layerType := family.Metadata.Types()
	layer, err := graph.PushBytes(y.t.Context(), y.shelf("metadata"), layerType, content)
	y.must(err)
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: "channels.json"}
	document, err = graph.PackArtifact(y.t.Context(), y.shelf("metadata"), artifactType, []graph.Node{layer}, nil)
	y.must(err)
	y.rows.add(content, next)
	return document, next.Generation
}

// serve lets a channel serve a release that was published before.
func (y *yard) serve(i int, channel string) {
	y.t.Helper()
	y.enter(y.candidate(i), channel)
}

// candidate reads a release that was published before.
func (y *yard) candidate(i int) release.Candidate {
	y.t.Helper()
	n, found, err := y.shelf("metadata").Resolve(y.t.Context(), "sha-"+commitOf(i))
	y.must(err)
	if !found {
		y.t.Fatalf("release %d is not there", i)
	}
	r, err := pipeline.ReadRecord(y.t.Context(), y.shelf("metadata"), n)
	y.must(err)
	return release.Candidate{Record: r, Digest: n.Digest}
}

// ledgerOf is a ledger that nobody fights over.
type ledgerOf struct {
	mu    sync.Mutex
	heads []release.Head
}

func (l *ledgerOf) add(content []byte, d release.Document) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads = append(l.heads, release.Head{ID: fmt.Sprint("id-", d.Generation), Content: content, Document: d})
}

func (l *ledgerOf) now() release.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heads) == 0 {
		return release.Head{}
	}
	return l.heads[len(l.heads)-1]
}

func (l *ledgerOf) Head(context.Context) (release.Head, error) { return l.now(), nil }

func (l *ledgerOf) Append(context.Context, release.Head, []byte, string) (release.Head, error) {
	return release.Head{}, fault.New(fault.Refused, "appending to", "yard", "who prunes moves no channel")
}

func (l *ledgerOf) History(context.Context) iter.Seq2[release.Head, error] {
	l.mu.Lock()
	heads := slices.Clone(l.heads)
	l.mu.Unlock()
	slices.Reverse(heads)
	return func(yield func(release.Head, error) bool) {
		for _, h := range heads {
			if !yield(h, nil) {
				return
			}
		}
	}
}

// embedded is the list of the embedded registry.
func (y *yard) embedded(_ context.Context, repo ref.Repo) (map[digest.Digest]time.Time, error) {
	return y.state.Manifests(repo.Path)
}

// plan plans and fails the test if that is refused.
func (y *yard) plan(k *pipeline.Keeper) (retention.Facts, retention.Plan) {
	y.t.Helper()
	f, p, err := k.PlanPrune(y.t.Context(), retention.Allow{})
	y.must(err)
	return f, p
}

// prune plans and prunes.
func (y *yard) prune(k *pipeline.Keeper) ([]retention.Entry, error) {
	y.t.Helper()
	f, p := y.plan(k)
	return k.Prune(y.t.Context(), f, p)
}

// has reports whether a repository has a manifest, asked of the registry itself.
func (y *yard) has(member string, name string) bool {
	y.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(y.t.Context()), http.MethodHead, y.server.URL+"/v2/acme/"+member+"/manifests/"+name, nil)
	y.must(err)
	req.Header.Set("Accept", strings.Join(graph.ManifestTypes(), ", "))
	resp, err := http.DefaultClient.Do(req)
	y.must(err)
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// whole fails unless a release is there with everything that belongs to it.
func (y *yard) whole(i int) {
	y.t.Helper()
	n, found, err := y.shelf("metadata").Resolve(y.t.Context(), "sha-"+commitOf(i))
	y.must(err)
	if !found {
		y.t.Errorf("release %d has no record", i)
		return
	}
	r, err := pipeline.ReadRecord(y.t.Context(), y.shelf("metadata"), n)
	y.must(err)
	for member, image := range r.Images {
		for _, node := range []graph.Node{image.Index, image.Platforms["linux/amd64"]} {
			if !y.has(member, node.Digest.String()) {
				y.t.Errorf("%s@%s of release %d is gone", member, node.Digest, i)
			}
			list, err := y.newClientRepo(member).Referrers(y.t.Context(), node)
			y.must(err)
			if len(list) != 1 || list[0].Missing {
				y.t.Errorf("%s@%s of release %d has the evidence %+v", member, node.Digest, i, list)
			}
		}
	}
}

func (y *yard) newClientRepo(member string) *registry.Repository {
	y.t.Helper()
	r, err := y.newClient().Repo(member)
	y.must(err)
	return r
}

// writes returns the requests since n that are neither GET nor HEAD.
func (y *yard) writes(n int) []string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(y.seen[n:]), func(r string) bool { return strings.HasPrefix(r, "GET ") || strings.HasPrefix(r, "HEAD ") })
}

func (y *yard) requests() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.seen)
}
