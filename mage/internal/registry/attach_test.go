package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

func TestTheFallbackIndexSaysWhatItsManifestsSay(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, n := copied(t, r, 1)
	evidence, _, err := r.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte(`{}`)}, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	// What any other client sees: distribution specification v1.1.1, "Referrers Tag Schema".
	resp, err := http.Get("http://" + host + "/v2/family/app/manifests/sha256-" + n.Digest.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got ocispec.Index
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: evidence.Digest, Size: evidence.Size,
		ArtifactType: sbomType, Annotations: map[string]string{"k": "v"},
	}}
	if diff := cmp.Diff(want, got.Manifests); diff != "" || got.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("%s index: %s", got.MediaType, diff)
	}
}

// Two processes read the same empty index and write one after the other: the second overwrites
// the first, which has long gone on. Nothing but looking again can notice.
func TestWhatAnotherWritersIndexLeftOutIsListedAgain(t *testing.T) {
	inner := withoutAPI()
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
		case req.Method == http.MethodGet && get == 2: // the read before the first write; Attach lists once before
			defer func() { reads.Done(); reads.Wait() }()
		case req.Method == http.MethodPut && put == 1 && who == "second":
			<-firstDone
		}
		inner.ServeHTTP(w, req)
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
	attach := func(r *registry.Repository, content string) {
		if _, _, err := r.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte(content)}, nil); err != nil {
			t.Error(err)
		}
	}
	var both sync.WaitGroup
	both.Go(func() { attach(first, "1"); close(firstDone) })
	both.Go(func() { attach(second, "2") })
	both.Wait()
	if found, err := second.Referrers(t.Context(), n); len(found) != 1 || err != nil {
		t.Fatalf("the race did not happen: %d referrers, %v", len(found), err)
	}
	if err := first.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, err := named("reader").Referrers(t.Context(), n); len(found) != 2 || err != nil {
		t.Errorf("after settling: %d referrers, %v", len(found), err)
	}
}

func TestStaleReadsAreWaitedForNotWrittenOver(t *testing.T) {
	inner := &lagging{next: withoutAPI(), by: 3, old: map[string][]*httptest.ResponseRecorder{}}
	r := repo(t, client(t, serve(t, inner)), "app")
	_, n := copied(t, r, 1)
	for i := range 3 {
		if _, _, err := r.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte{byte('a' + i)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if inner.puts != 3 {
		t.Errorf("the fallback tag was written %d times for 3 attachments", inner.puts)
	}
	if found, err := r.Referrers(t.Context(), n); len(found) != 3 || err != nil {
		t.Errorf("%d referrers, %v", len(found), err)
	}
	if written, err := r.TagImmutable(t.Context(), "v1", n); !written || err != nil {
		t.Errorf("TagImmutable = %v, %v", written, err)
	}
}

// lagging answers the first reads of a tag after a write as if the write had not been.
type lagging struct {
	next http.Handler
	by   int
	mu   sync.Mutex
	old  map[string][]*httptest.ResponseRecorder // answers still to give
	puts int                                     // of fallback tags
}

func (l *lagging) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := req.URL.Path
	tag := strings.Contains(path, "/manifests/") && !strings.Contains(path, "/manifests/sha256:")
	if tag && req.Method == http.MethodPut {
		before := httptest.NewRecorder()
		l.next.ServeHTTP(before, httptest.NewRequest(http.MethodGet, path, nil))
		for range l.by {
			l.old[path] = append(l.old[path], before)
		}
		if strings.Contains(path, "/manifests/sha256-") {
			l.puts++
		}
	}
	if stale := l.old[path]; tag && req.Method == http.MethodGet && len(stale) > 0 {
		l.old[path] = stale[1:]
		for key, values := range stale[0].Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(stale[0].Code)
		w.Write(stale[0].Body.Bytes())
		return
	}
	l.next.ServeHTTP(w, req)
}

func TestAttachingWorksWhateverTheReferrersEndpointAnswers(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"404":                  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"405":                  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) },
		"a page":               func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"a redirect to a page": func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, "/", http.StatusSeeOther) },
		"another document": func(w http.ResponseWriter, req *http.Request) {
			body("application/json", []byte(`[]`)).ServeHTTP(w, req)
		},
		"404 of GitHub's wording": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inner := withoutAPI()
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.Contains(req.URL.Path, "/referrers/") {
					answer(w, req)
					return
				}
				inner.ServeHTTP(w, req)
			}))
			r := repo(t, client(t, host), "app")
			_, n := copied(t, r, 1)
			if _, _, err := r.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("1")}, nil); err != nil {
				t.Fatal(err)
			}
			if found, err := repo(t, client(t, host), "app").Referrers(t.Context(), n); len(found) != 1 || err != nil {
				t.Errorf("%d referrers, %v", len(found), err)
			}
		})
	}
}

func TestAListedManifestThatIsGoneIsReportedAndDoesNotBlock(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, n := copied(t, r, 1)
	gone, _, err := r.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte("1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, fmt.Sprintf("http://%s/v2/family/app/manifests/%s", host, gone.Digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("deleting: %v, %v", resp, err)
	}
	fresh := repo(t, client(t, host), "app")
	found, err := fresh.Referrers(t.Context(), n)
	if err != nil || len(found) != 1 || !found[0].Missing || found[0].ArtifactType != "" {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
	// distribution refuses an index that names what is not there.
	if _, _, err := fresh.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("2")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, written, err := fresh.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte("1")}, nil); !written || err != nil {
		t.Errorf("attaching the lost one again: %v, %v", written, err)
	}
	if found, err := fresh.Referrers(t.Context(), n); len(found) != 2 || err != nil {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAReferrerOfSomethingElseIsForged(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, a := copied(t, r, 1)
	_, b := copied(t, r, 2)
	if _, _, err := r.Attach(t.Context(), a, proofType, registry.Layer{MediaType: proofType, Content: []byte("good")}, nil); err != nil {
		t.Fatal(err)
	}
	// An attacker lists a's evidence for b.
	index, err := http.Get("http://" + host + "/v2/family/app/manifests/sha256-" + a.Digest.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	defer index.Body.Close()
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+"/v2/family/app/manifests/sha256-"+b.Digest.Encoded(), index.Body)
	if err != nil {
		t.Fatal(err)
	}
	put.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
	if resp, err := http.DefaultClient.Do(put); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("listing: %v, %v", resp, err)
	}
	if found, err := repo(t, client(t, host), "app").Referrers(t.Context(), b); !errors.Is(err, fault.Forged) {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAManifestWithASubjectIsListedHoweverItArrives(t *testing.T) {
	from, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := image(t, from, 1)
	evidence, _, err := from.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := repo(t, client(t, embedded(t)), "app")
	for _, root := range []graph.Node{n, evidence} {
		if err := r.CopyFrom(t.Context(), from, root); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := r.Referrers(t.Context(), n); err != nil || len(found) != 1 || found[0].Node.Digest != evidence.Digest {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAnArtifactTypeIsAMediaType(t *testing.T) {
	l, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, artifactType := range []string{"", "sbom", "a b/c", "a/b\n"} {
		if _, err := graph.PackArtifact(t.Context(), l, artifactType, nil, nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("PackArtifact(%q) = %v", artifactType, err)
		}
	}
}
