package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// The rows of the fault catalogue that belong to this layer, each against the rehearsal of GHCR:
// no referrers API, no DELETE, reads that lag, answers that were seen there.

// attachOne hangs one more piece of evidence on a subject.
func attachOne(t *testing.T, r *registry.Repository, subject graph.Node, content string) graph.Node {
	t.Helper()
	n, _, err := r.Attach(t.Context(), subject, proofType, registry.Layer{MediaType: proofType, Content: []byte(content)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two processes read the same empty index and write one after the other: the second overwrites
// the first, which has long gone on. Nothing but looking again can notice.
func TestA7TwoAttachersOnOneSubjectEndWithTheUnion(t *testing.T) {
	model := rehearsal.New(rehearsal.Options{})
	var reads sync.WaitGroup
	reads.Add(2)
	firstDone := make(chan struct{})
	var mu sync.Mutex
	seen := map[string]int{}
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		who, tagged := req.UserAgent(), strings.Contains(req.URL.Path, "/manifests/sha256-")
		mu.Lock()
		if tagged {
			seen[who+req.Method]++
		}
		get, put := seen[who+"GET"], seen[who+"PUT"]
		mu.Unlock()
		switch {
		case !tagged:
		case req.Method == http.MethodGet && get == 1 && who != "reader": // the read before the first write
			defer func() { reads.Done(); reads.Wait() }()
		case req.Method == http.MethodPut && put == 1 && who == "second":
			<-firstDone
		}
		model.ServeHTTP(w, req)
	}))
	named := func(name string) *registry.Repository {
		c, err := registry.New(host+"/family", registry.Options{UserAgent: name, Pause: 1})
		if err != nil {
			t.Fatal(err)
		}
		return repo(t, c, "app")
	}
	first, second := named("first"), named("second")
	_, n := copied(t, named("publisher"), 1)
	var both sync.WaitGroup
	both.Go(func() { attachOne(t, first, n, "1"); close(firstDone) })
	both.Go(func() { attachOne(t, second, n, "2") })
	both.Wait()
	if found, err := second.Referrers(t.Context(), n); len(found) != 1 || err != nil {
		t.Fatalf("the race did not happen: %d referrers, %v", len(found), err)
	}
	for _, r := range []*registry.Repository{first, second} {
		if err := r.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := named("reader").Referrers(t.Context(), n); len(found) != 2 || err != nil {
		t.Errorf("after settling: %d referrers, %v", len(found), err)
	}
}

// Two processes that share a cache, as all on one machine do, need no second look: they take turns.
// The first write is slow, so that the other process would be done and gone before it is.
func TestA7TwoProcessesOnOneSubjectTakeTurns(t *testing.T) {
	if host, who := os.Getenv("CONTAINAI_A7_HOST"), os.Getenv("CONTAINAI_A7_WHO"); host != "" {
		c, err := registry.New(host+"/family", registry.Options{Pause: time.Millisecond, Cache: os.Getenv("CONTAINAI_A7_CACHE")})
		if err != nil {
			t.Fatal(err)
		}
		attachOne(t, repo(t, c, "app"), image(t, memory.New(), 1), who)
		return
	}
	host := ghcr(t, rehearsal.Options{},
		rehearsal.Rule{Method: http.MethodPut, Path: "/manifests/sha256-", Call: 1, Fault: rehearsal.Fault{Delay: time.Second}}).host
	_, n := copied(t, repo(t, client(t, host), "app"), 1)
	cache := t.TempDir()
	var both sync.WaitGroup
	for _, who := range []string{"first", "second"} {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), "CONTAINAI_A7_HOST="+host, "CONTAINAI_A7_WHO="+who, "CONTAINAI_A7_CACHE="+cache)
		both.Go(func() {
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("the %s process: %v\n%s", who, err, out)
			}
		})
	}
	both.Wait()
	if found, err := repo(t, client(t, host), "app").Referrers(t.Context(), n); len(found) != 2 || err != nil {
		t.Errorf("%d referrers, want 2; %v", len(found), err)
	}
}

func TestA8StaleReadsAreWaitedForNotWrittenOver(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Lag: 3})
	r := repo(t, client(t, w.host), "app")
	_, n := copied(t, r, 1)
	for i := range 3 {
		attachOne(t, r, n, string(byte('a'+i)))
	}
	if puts := w.calls(http.MethodPut, "/manifests/sha256-"); puts != 3 {
		t.Errorf("the fallback tag was written %d times for 3 attachments", puts)
	}
	if found, err := r.Referrers(t.Context(), n); len(found) != 3 || err != nil {
		t.Errorf("%d referrers, %v", len(found), err)
	}
}

func TestB4AnUploadThatBreaksIsBegunAnew(t *testing.T) {
	for _, at := range []int64{1, 1000, 60_000} {
		t.Run(fmt.Sprintf("at byte %d", at), func(t *testing.T) {
			w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodPut, Path: "/blobs/uploads/", Call: 2, Fault: rehearsal.CutUpload(at)})
			r := repo(t, client(t, w.host), "app")
			_, n := copied(t, r, 1)
			if err := registry.Verify(t.Context(), repo(t, client(t, w.host), "app"), n); err != nil || w.Fired()[0] != 1 {
				t.Errorf("Verify = %v after %d broken uploads", err, w.Fired()[0])
			}
			if tags, err := r.Tags(t.Context()); len(tags) > 0 || err != nil {
				t.Errorf("tags %v, %v", tags, err)
			}
		})
	}
}

func TestB4EvidenceThatBreaksOnItsWayIsSentAgain(t *testing.T) {
	for name, f := range map[string]rehearsal.Fault{"reset": rehearsal.CutUpload(3), "503": rehearsal.Answer(http.StatusServiceUnavailable), "answer lost": rehearsal.LoseAnswer()} {
		t.Run(name, func(t *testing.T) {
			w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodPut, Path: "/blobs/uploads/", Call: 5, Fault: f})
			r := repo(t, client(t, w.host), "app")
			_, n := copied(t, r, 1) // four blobs
			attachOne(t, r, n, "evidence")
			if found, err := r.Referrers(t.Context(), n); err != nil || len(found) != 1 || w.Fired()[0] != 1 {
				t.Errorf("%d referrers, %v, after %d broken uploads", len(found), err, w.Fired()[0])
			}
		})
	}
}

func TestB4AnUploadWhoseAnswerIsLostIsNotSentAgain(t *testing.T) {
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodPut, Path: "/blobs/uploads/", Call: 2, Fault: rehearsal.LoseAnswer()})
	r := repo(t, client(t, w.host), "app")
	_, n := copied(t, r, 1)
	if err := registry.Verify(t.Context(), r, n); err != nil || w.Fired()[0] != 1 {
		t.Errorf("Verify = %v after %d lost answers", err, w.Fired()[0])
	}
	if puts := w.calls(http.MethodPut, "/blobs/uploads/"); puts != 4 { // two configurations and two layers
		t.Errorf("%d uploads for 4 blobs", puts)
	}
}

func TestB7AShortBlobNeverBecomesAFile(t *testing.T) {
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodGet, Path: "/blobs/", Fault: rehearsal.CutAnswer(100)})
	_, n := copied(t, repo(t, client(t, w.host), "app"), 1)
	dir := t.TempDir()
	layout, err := registry.OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Copy(t.Context(), repo(t, client(t, w.host), "app"), layout, n); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Copy of blobs that are cut = %v, want Unavailable", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("the layout holds %v, %v", files, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, ".ingest"))
	if err != nil || len(left) > 1 { // index.json's own place
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestB7ADownloadThatBreaksOnceIsBegunAnew(t *testing.T) {
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodGet, Path: "/blobs/", Call: 3, Fault: rehearsal.CutAnswer(100)})
	_, n := copied(t, repo(t, client(t, w.host), "app"), 1)
	layout, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Copy(t.Context(), repo(t, client(t, w.host), "app"), layout, n); err != nil || w.Fired()[0] != 1 {
		t.Fatalf("Copy = %v after %d broken downloads", err, w.Fired()[0])
	}
	if err := registry.Verify(t.Context(), layout, n); err != nil {
		t.Error(err)
	}
}

func TestB8BytesCountAndHeadersDoNot(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`)
	truth := graph.NewNode(ocispec.MediaTypeImageManifest, manifest)
	other := strings.Replace(string(manifest), "2", "3", 1)
	header := http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}, "Docker-Content-Digest": {truth.Digest.String()}}
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodGet, Path: "/manifests/", Fault: rehearsal.Fault{Status: 200, Header: header, Body: other}})
	r := repo(t, client(t, w.host), "app")
	if got, err := graph.Fetch(t.Context(), r, truth, graph.MaxManifest); !errors.Is(err, fault.Forged) {
		t.Errorf("Fetch = %s, %v", got, err)
	}
	if n, _, err := r.ByDigest(t.Context(), truth.Digest); !errors.Is(err, fault.Forged) {
		t.Errorf("ByDigest = %s, %v", n.Digest, err)
	}
	if n, _, err := r.Resolve(t.Context(), "dev"); n.Digest != digest.FromString(other) || err != nil {
		t.Errorf("Resolve = %s, %v, want the digest of the bytes", n.Digest, err)
	}
}

func TestB9AnUnknownBlobIsSentAgain(t *testing.T) {
	accepted := rehearsal.Fault{Status: http.StatusCreated, Header: http.Header{"Location": {"/"}}}
	for name, rule := range map[string]rehearsal.Rule{
		"the registry errs once":                {Method: http.MethodPut, Path: "/manifests/", Call: 1, Fault: rehearsal.UnknownBlob()},
		"the registry errs about an index":      {Method: http.MethodPut, Path: "/manifests/", Call: 3, Fault: rehearsal.UnknownBlob()},
		"it confirmed an upload that it lost":   {Method: http.MethodPut, Path: "/blobs/uploads/", Call: 1, Fault: accepted},
		"it confirmed a manifest that it lost":  {Method: http.MethodPut, Path: "/manifests/", Call: 1, Fault: accepted},
		"it confirmed the last upload for none": {Method: http.MethodPut, Path: "/blobs/uploads/", Call: 4, Fault: accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ghcr(t, rehearsal.Options{}, rule)
			r := repo(t, client(t, w.host), "app")
			src := memory.New()
			n := image(t, src, 1)
			if err := r.CopyFrom(t.Context(), src, n); err != nil {
				t.Fatal(err)
			}
			attachOne(t, r, n, "evidence")
			if err := registry.Verify(t.Context(), repo(t, client(t, w.host), "app"), n); err != nil || w.Fired()[0] != 1 {
				t.Errorf("Verify = %v after %d errors", err, w.Fired()[0])
			}
		})
	}
}

func TestB10WhatWasWrittenIsWaitedForNotTakenForAbsent(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Lag: 4})
	r := repo(t, client(t, w.host), "app")
	_, n := copied(t, r, 1)
	if _, there, err := r.ByDigest(t.Context(), n.Digest); !there || err != nil {
		t.Errorf("ByDigest of what was just pushed = %v, %v", there, err)
	}
	if written, err := r.TagImmutable(t.Context(), "v1", n); !written || err != nil {
		t.Errorf("TagImmutable = %v, %v", written, err)
	}
	if puts := w.calls(http.MethodPut, "/manifests/v1"); puts != 1 {
		t.Errorf("the tag was written %d times", puts)
	}
}

func TestB10AReadThatLagsForeverIsAFailure(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Lag: 1000})
	r := repo(t, client(t, w.host), "app")
	src := memory.New()
	n := image(t, src, 1)
	if err := r.CopyFrom(t.Context(), src, n); !errors.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("CopyFrom = %v, want Unavailable with a hint", err)
	}
	if _, err := r.TagImmutable(t.Context(), "v1", n); !errors.Is(err, fault.Unavailable) {
		t.Errorf("TagImmutable = %v, want Unavailable", err)
	}
	if puts := w.calls(http.MethodPut, "/manifests/v1"); puts != 1 {
		t.Errorf("the tag was written %d times: absence was assumed", puts)
	}
}

func TestB11AttachingWorksWhateverTheReferrersEndpointAnswers(t *testing.T) {
	answered := func(f rehearsal.Fault) world {
		return ghcr(t, rehearsal.Options{}, rehearsal.Rule{Path: "/referrers/", Fault: f})
	}
	for name, w := range map[string]world{
		"404":                 ghcr(t, rehearsal.Options{Referrers: rehearsal.ReferrersMissing}),
		"200 and empty":       ghcr(t, rehearsal.Options{Referrers: rehearsal.ReferrersEmpty}),
		"200 of another type": ghcr(t, rehearsal.Options{Referrers: rehearsal.ReferrersMistyped}),
		"200 and a page":      ghcr(t, rehearsal.Options{Referrers: rehearsal.ReferrersPage}),
		"303 to a page":       ghcr(t, rehearsal.Options{Referrers: rehearsal.ReferrersRedirect}),
		"404 without a body":  answered(rehearsal.Fault{Status: http.StatusNotFound}),
		"405":                 answered(rehearsal.Answer(http.StatusMethodNotAllowed)),
		"501":                 answered(rehearsal.Answer(http.StatusNotImplemented)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := repo(t, client(t, w.host), "app")
			_, n := copied(t, r, 1)
			attachOne(t, r, n, "1")
			attachOne(t, r, n, "2")
			if found, err := repo(t, client(t, w.host), "app").Referrers(t.Context(), n); len(found) != 2 || err != nil {
				t.Errorf("%d referrers, %v", len(found), err)
			}
		})
	}
}

func TestB12EveryPageOfTagsIsRead(t *testing.T) {
	w := ghcr(t, rehearsal.Options{TagPage: 10})
	r := repo(t, client(t, w.host), "app")
	_, n := copied(t, r, 1)
	var want []string
	for i := range 37 {
		want = append(want, fmt.Sprintf("v%02d", i))
		if _, err := r.TagImmutable(t.Context(), want[i], n); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Tags(t.Context()); err != nil || !slices.Equal(got, want) || w.calls(http.MethodGet, "/tags/list") < 4 {
		t.Errorf("Tags = %v, %v", got, err)
	}
}

func TestB12PagesThatCannotBeTrustedAreNoList(t *testing.T) {
	page := func(tags string, next string) rehearsal.Fault {
		h := http.Header{"Content-Type": {"application/json"}}
		if next != "" {
			h.Set("Link", "<"+next+`>; rel="next"`)
		}
		return rehearsal.Fault{Status: 200, Header: h, Body: `{"name":"family/app","tags":[` + tags + `]}`}
	}
	for name, rules := range map[string][]rehearsal.Rule{
		"in a circle":            {{Path: "/tags/list", Fault: page(`"a"`, "?last=a")}},
		"in an empty circle":     {{Path: "/tags/list", Fault: page(``, "?last=a")}},
		"on another host":        {{Path: "/tags/list", Fault: page(`"a"`, "http://127.0.0.1:1/v2/family/app/tags/list")}},
		"cut in the middle":      {{Path: "/tags/list", Fault: rehearsal.Fault{Status: 200, Body: `{"tags":["a","b`}}},
		"the second page is ill": {{Path: "/tags/list", Call: 1, Fault: page(`"a"`, "?last=a")}, {Path: "/tags/list", Fault: rehearsal.Answer(500)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ghcr(t, rehearsal.Options{}, rules...)
			if tags, err := repo(t, client(t, w.host), "app").Tags(t.Context()); err == nil || tags != nil {
				t.Errorf("Tags = %v, %v", tags, err)
			}
		})
	}
}

func TestB12ATagListWithoutEndIsNoList(t *testing.T) {
	var pages atomic.Int64
	model := rehearsal.New(rehearsal.Options{})
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			model.ServeHTTP(w, req)
			return
		}
		page := pages.Add(1)
		w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, page))
		fmt.Fprintf(w, `{"name":"family/app","tags":["v%d"]}`, page)
	}))
	r := repo(t, client(t, host), "app")
	if tags, err := r.Tags(t.Context()); err == nil || tags != nil || pages.Load() > 1_000 {
		t.Errorf("Tags = %d of %d pages, %v", len(tags), pages.Load(), err)
	}
}

func TestB12AListThatChangesBetweenItsPagesIsReadAgain(t *testing.T) {
	model := rehearsal.New(rehearsal.Options{TagPage: 2})
	publisher := repo(t, client(t, serve(t, model)), "app")
	_, n := copied(t, publisher, 1)
	for _, tag := range []string{"b", "c", "d", "e"} {
		if _, err := publisher.TagImmutable(t.Context(), tag, n); err != nil {
			t.Fatal(err)
		}
	}
	var once sync.Once
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		model.ServeHTTP(w, req)
		if strings.HasSuffix(req.URL.Path, "/tags/list") {
			once.Do(func() { // behind the first page's back
				if _, err := publisher.TagImmutable(t.Context(), "a", n); err != nil {
					t.Error(err)
				}
			})
		}
	}))
	if tags, err := repo(t, client(t, host), "app").Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
}

func TestB15AMountAnswered202IsAnUpload(t *testing.T) {
	w := ghcr(t, rehearsal.Options{RefuseMounts: true})
	c := client(t, w.host)
	src := memory.New()
	base := layer(t, src, 99, 1<<20)
	for i := range 3 {
		n := image(t, src, uint64(i), base)
		if err := repo(t, c, fmt.Sprintf("app-%d", i)).CopyFrom(t.Context(), src, n); err != nil {
			t.Fatal(err)
		}
		if err := registry.Verify(t.Context(), repo(t, client(t, w.host), fmt.Sprintf("app-%d", i)), n); err != nil {
			t.Error(err)
		}
	}
}

func TestB16ARegistryThatIsDownChangesNothing(t *testing.T) {
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Fault: rehearsal.Answer(http.StatusServiceUnavailable)})
	r := repo(t, client(t, w.host), "app")
	src := memory.New()
	n := image(t, src, 1)
	_, tagErr := r.TagImmutable(t.Context(), "v1", n)
	_, _, attachErr := r.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("1")}, nil)
	for op, err := range map[string]error{"CopyFrom": r.CopyFrom(t.Context(), src, n), "TagImmutable": tagErr, "Attach": attachErr} {
		if !errors.Is(err, fault.Unavailable) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), w.host) {
			t.Errorf("%s = %v, want Unavailable, with the host and a hint", op, err)
		}
	}
	if empty := rehearsal.New(rehearsal.Options{}).Snapshot(); string(w.Snapshot()) != string(empty) {
		t.Errorf("the registry holds\n%s", w.Snapshot())
	}
}

func TestE5RepositoryNamesAreRefusedNotRepaired(t *testing.T) {
	w := ghcr(t, rehearsal.Options{})
	for _, name := range []string{"", "App", "a..b", "../app", "a/../b", "a//b", "/a", "a/", "a b", "ä", "-a", "a-", strings.Repeat("a", 256)} {
		if r, err := client(t, w.host).Repo(name); !errors.Is(err, fault.Invalid) {
			t.Errorf("Repo(%q) = %v, %v", name, r, err)
		}
	}
	if calls := w.Calls(); len(calls) > 0 {
		t.Errorf("requests were sent: %v", calls)
	}
}

func TestE6ContentThatContradictsItsDescriptionIsRefused(t *testing.T) {
	src := memory.New()
	blob := push(t, src, ocispec.MediaTypeImageLayer, []byte("layer"))
	config := push(t, src, ocispec.MediaTypeImageConfig, []byte(`{}`))
	inner := pushJSON(t, src, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": config, "layers": []graph.Node{}})
	lying := blob
	lying.Data = []byte("other")
	manifest := func(config graph.Node, layers ...graph.Node) map[string]any {
		return map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": layers}
	}
	for name, doc := range map[string]map[string]any{
		"a manifest as a layer":              manifest(config, inner),
		"a manifest as the configuration":    manifest(inner, blob),
		"data that is other than its digest": manifest(config, lying),
		"a negative size":                    manifest(config, graph.Node{MediaType: blob.MediaType, Digest: blob.Digest, Size: -1}),
		"a digest that is none":              manifest(config, graph.Node{MediaType: blob.MediaType, Digest: "sha256:abc", Size: 5}),
	} {
		t.Run(name, func(t *testing.T) {
			w := ghcr(t, rehearsal.Options{})
			n := pushJSON(t, src, ocispec.MediaTypeImageManifest, doc)
			err := repo(t, client(t, w.host), "app").CopyFrom(t.Context(), src, n)
			if kind, _ := fault.KindOf(err); kind != fault.Forged && kind != fault.Refused {
				t.Errorf("CopyFrom = %v", err)
			}
			if puts := w.calls(http.MethodPut, "/manifests/"); puts > 0 {
				t.Errorf("%d manifests were pushed", puts)
			}
		})
	}
	index := pushJSON(t, src, ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []graph.Node{blob}})
	if err := repo(t, client(t, ghcr(t, rehearsal.Options{}).host), "app").CopyFrom(t.Context(), src, index); !errors.Is(err, fault.Refused) {
		t.Errorf("a layer as a manifest: %v", err)
	}
	for name, contentType := range map[string]string{"an index": ocispec.MediaTypeImageIndex, "a page": "text/html"} {
		content, _ := json.Marshal(manifest(config, blob))
		w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Path: "/manifests/", Fault: rehearsal.Fault{Status: 200, Header: http.Header{"Content-Type": {contentType}}, Body: string(content)}})
		if n, _, err := repo(t, client(t, w.host), "app").Resolve(t.Context(), "dev"); !errors.Is(err, fault.Forged) {
			t.Errorf("a manifest that is served as %s: %s, %v", name, n.MediaType, err)
		}
	}
}
