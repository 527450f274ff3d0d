package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

func TestALyingRegistryIsNotBelieved(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`)
	n := graph.NewNode(ocispec.MediaTypeImageManifest, manifest)
	blob := graph.NewNode(ocispec.MediaTypeImageLayer, noise(1, 4096))
	other := bytes.Replace(manifest, []byte("2"), []byte("3"), 1)
	lies := []struct {
		name   string
		node   graph.Node
		answer http.Handler
	}{
		{"another manifest", n, body(ocispec.MediaTypeImageManifest, other)},
		{"another manifest with the right digest header", n, withHeader("Docker-Content-Digest", n.Digest.String(), body(ocispec.MediaTypeImageManifest, other))},
		{"a manifest under another media type", n, body(ocispec.MediaTypeImageIndex, manifest)},
		{"a page for a manifest", n, body("text/html", []byte("<html>"))},
		{"a short blob", blob, body("application/octet-stream", noise(1, 4095))},
		{"a long blob", blob, body("application/octet-stream", append(noise(1, 4096), 0))},
		{"another blob", blob, body("application/octet-stream", noise(2, 4096))},
	}
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			t.Parallel()
			r := repo(t, client(t, serve(t, lie.answer)), "app")
			if got, err := graph.Fetch(t.Context(), r, lie.node, 1<<20); !errors.Is(err, fault.Forged) {
				t.Errorf("Fetch = %q, %v, want Forged", got, err)
			}
			layout, err := registry.OpenLayout(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if body, err := r.Fetch(t.Context(), lie.node); err == nil {
				if err := layout.Push(t.Context(), lie.node, body); !errors.Is(err, fault.Forged) {
					t.Errorf("Push = %v, want Forged", err)
				}
			}
			if there, _ := layout.Exists(t.Context(), lie.node); there {
				t.Error("it was stored")
			}
		})
	}
}

func TestATagIsWhatItsBytesAre(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`)
	truth := graph.NewNode(ocispec.MediaTypeImageManifest, manifest)
	lie := graph.NewNode(ocispec.MediaTypeImageManifest, []byte("x"))
	r := repo(t, client(t, serve(t, withHeader("Docker-Content-Digest", lie.Digest.String(), body(truth.MediaType, manifest)))), "app")
	if n, _, err := r.Resolve(t.Context(), "dev"); n.Digest != truth.Digest || err != nil {
		t.Errorf("Resolve = %s, %v, want %s", n.Digest, err, truth.Digest)
	}
	if n, there, err := r.ByDigest(t.Context(), lie.Digest); !errors.Is(err, fault.Forged) {
		t.Errorf("ByDigest = %s, %v, %v", n.Digest, there, err)
	}
	r = repo(t, client(t, serve(t, body(ocispec.MediaTypeImageIndex, manifest))), "app")
	if n, _, err := r.Resolve(t.Context(), "dev"); !errors.Is(err, fault.Forged) {
		t.Errorf("a document of another type: %s, %v", n.Digest, err)
	}
	r = repo(t, client(t, serve(t, body(truth.MediaType, bytes.Repeat([]byte(" "), graph.MaxManifest+1)))), "app")
	if n, _, err := r.Resolve(t.Context(), "dev"); !errors.Is(err, fault.Refused) {
		t.Errorf("a document beyond the limit: %s, %v", n.Digest, err)
	}
}

func TestEveryFailureHasItsKindAndItsNextStep(t *testing.T) {
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	dead := httptest.NewServer(nil)
	dead.Close()
	tests := []struct {
		name string
		host string
		kind fault.Kind
	}{
		{"nobody is logged in", serve(t, status(http.StatusUnauthorized)), fault.Environment},
		{"the login may not", serve(t, status(http.StatusForbidden)), fault.Environment},
		{"the disk is full", serve(t, status(http.StatusInsufficientStorage)), fault.Environment},
		{"the registry is ill", serve(t, status(http.StatusInternalServerError)), fault.Unavailable},
		{"the registry is gone", strings.TrimPrefix(dead.URL, "http://"), fault.Unavailable},
		{"the registry hangs up", serve(t, http.HandlerFunc(hangUp)), fault.Unavailable},
	}
	src := memory.New()
	n := image(t, src, 1)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := repo(t, client(t, test.host), "app")
			_, _, resolveErr := r.Resolve(t.Context(), "dev")
			_, listErr := r.Referrers(t.Context(), n)
			for op, err := range map[string]error{"Resolve": resolveErr, "Referrers": listErr, "CopyFrom": r.CopyFrom(t.Context(), src, n)} {
				kind, _ := fault.KindOf(err)
				if kind != test.kind || fault.HintOf(err) == "" {
					t.Errorf("%s: %v (%v, hint %q)", op, err, kind, fault.HintOf(err))
				}
			}
		})
	}
}

func TestAnInterruptedCopySaysSo(t *testing.T) {
	src := memory.New()
	n := image(t, src, 1)
	ctx, cancel := context.WithCancel(t.Context())
	r := repo(t, client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
	}))), "app")
	if err := r.CopyFrom(ctx, src, n); !errors.Is(err, fault.Interrupted) {
		t.Errorf("CopyFrom = %v", err)
	}
}

func TestPassingFailuresAreRepeated(t *testing.T) {
	var failures atomic.Int32
	inner := withoutAPI()
	r := repo(t, client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/uploads/") && failures.CompareAndSwap(0, 1):
			io.CopyN(io.Discard, req.Body, 1024)
			hangUp(w, req) // in the middle of a blob
		case req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") && failures.CompareAndSwap(1, 2):
			w.WriteHeader(http.StatusBadGateway)
		default:
			inner.ServeHTTP(w, req)
		}
	}))), "app")
	_, n := copied(t, r, 1)
	if err := registry.Verify(t.Context(), r, n); err != nil || failures.Load() != 2 {
		t.Errorf("Verify = %v after %d failures", err, failures.Load())
	}
}

func TestALayerThatASiblingHasIsMounted(t *testing.T) {
	for name, mounts := range map[string]bool{"the registry mounts": true, "the registry answers 202": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			host := embedded(t)
			inner := proxy(host)
			c := client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !mounts {
					req.URL.RawQuery = dropMount(req.URL.RawQuery)
				}
				sent.Add(max(req.ContentLength, 0))
				inner.ServeHTTP(w, req)
			})))
			src := memory.New()
			base := layer(t, src, 99, 1<<20)
			var wait sync.WaitGroup
			for i := range 4 {
				wait.Go(func() {
					r := repo(t, c, fmt.Sprintf("app-%d", i))
					n := image(t, src, uint64(i), base)
					if err := r.CopyFrom(t.Context(), src, n); err != nil {
						t.Error(err)
					}
					if err := registry.Verify(t.Context(), r, n); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			if once := sent.Load() < 2<<20; once != mounts {
				t.Errorf("%d bytes were sent; mounted: %v", sent.Load(), mounts)
			}
		})
	}
}

func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	var asked atomic.Bool
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.Store(true)
		http.Redirect(w, req, "http://registry.invalid"+req.URL.Path, http.StatusTemporaryRedirect)
	}))
	_, _, err := repo(t, client(t, host), "app").Resolve(t.Context(), "dev")
	if !errors.Is(err, fault.Environment) || !asked.Load() {
		t.Errorf("following a redirect to plain HTTP elsewhere: %v", err)
	}
}

func TestCredentialsStayWithTheRegistryTheyAreFor(t *testing.T) {
	var stolen atomic.Value
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		stolen.Store(req.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNotFound)
	}))
	var seen atomic.Value
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		seen.Store(req.Header.Get("Authorization"))
		http.Redirect(w, req, "http://"+elsewhere+req.URL.Path, http.StatusTemporaryRedirect)
	}))
	c, err := registry.New(host+"/family", registry.Options{Credential: auth.StaticCredential(host, auth.Credential{Username: "me", Password: "secret"})})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := repo(t, c, "app").Resolve(t.Context(), "dev"); err != nil {
		t.Fatal(err)
	}
	if seen.Load() == nil || seen.Load() == "" || stolen.Load() != "" {
		t.Errorf("the registry saw %v, the other host %v", seen.Load(), stolen.Load())
	}
}

func TestAllPagesOfTagsAreRead(t *testing.T) {
	s := repo(t, client(t, embedded(t)), "app")
	_, n := copied(t, s, 1)
	var want []string
	for i := range 12 {
		want = append(want, fmt.Sprintf("v%02d", i))
		if _, err := s.TagImmutable(t.Context(), want[i], n); err != nil {
			t.Fatal(err)
		}
	}
	paged := proxy(s.Name().Host)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/tags/list") {
			q := req.URL.Query()
			q.Set("n", "5")
			req.URL.RawQuery = q.Encode()
		}
		paged.ServeHTTP(w, req)
	}))
	c := client(t, host)
	got, err := repo(t, c, "app").Tags(t.Context())
	if err != nil || !slices.Equal(got, want) || c.Counts().Calls["GET tags"] < 3 {
		t.Errorf("Tags = %v, %v after %+v", got, err, c.Counts())
	}
}

func TestDockerMediaTypesAreRefusedNotMissed(t *testing.T) {
	doc := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[]}`)
	r := repo(t, client(t, serve(t, body("application/vnd.docker.distribution.manifest.v2+json", doc))), "app")
	n, there, err := r.Resolve(t.Context(), "dev")
	if !there || err != nil {
		t.Fatalf("Resolve = %v, %v, %v", n, there, err)
	}
	if err := registry.Copy(t.Context(), r, memory.New(), n); !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" {
		t.Errorf("Copy = %v", err)
	}
}

func hangUp(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	conn.(*net.TCPConn).SetLinger(0) // RST
	conn.Close()
}

func withHeader(key, value string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set(key, value)
		next.ServeHTTP(w, req)
	})
}

// proxy passes requests to a registry on this machine.
func proxy(host string) http.Handler {
	transport := &http.Transport{}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		out := req.Clone(req.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = "http", host, ""
		resp, err := transport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for key, values := range resp.Header {
			w.Header()[key] = values
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}

func dropMount(query string) string {
	if strings.Contains(query, "mount=") {
		return ""
	}
	return query
}

func TestErrorsShowNoQuery(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.RawQuery == "" {
			http.Redirect(w, req, req.URL.Path+"?signature=secret", http.StatusTemporaryRedirect)
			return
		}
		if strings.Contains(req.URL.Path, "/blobs/") {
			hangUp(w, req)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	r := repo(t, client(t, host), "app")
	_, _, resolveErr := r.Resolve(t.Context(), "dev")
	_, fetchErr := r.Fetch(t.Context(), graph.NewNode(ocispec.MediaTypeImageLayer, []byte("x")))
	for _, err := range []error{resolveErr, fetchErr} {
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("the error says %v", err)
		}
	}
}

// E7: a registry that refuses says why in its own words, which are one line of ours at most.
func TestE7WhatARegistrySaysIsOneLine(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED\n::error::a","message":"no\n::set-output name=a::b\n\u001b[2Jverified","detail":{"a":"b\n::add-mask::c"}},{"code":"DENIED"}]}`)
	}))
	r := repo(t, client(t, host), "app")
	layer := []byte("x")
	_, _, resolveErr := r.Resolve(t.Context(), "dev")
	_, fetchErr := r.Fetch(t.Context(), graph.NewNode(ocispec.MediaTypeImageLayer, layer))
	pushErr := r.Push(t.Context(), graph.NewNode(ocispec.MediaTypeImageLayer, layer), bytes.NewReader(layer))
	_, tagsErr := r.Tags(t.Context())
	for call, err := range map[string]error{"Resolve": resolveErr, "Fetch": fetchErr, "Push": pushErr, "Tags": tagsErr} {
		if !errors.Is(err, fault.Environment) || strings.ContainsAny(err.Error(), "\n\x1b") || !strings.Contains(err.Error(), "verified") {
			t.Errorf("%s says %q", call, err)
		}
	}
}

// B3: whichever request meets an ill registry once, nobody notices but the count of repetitions.
// An upload is begun anew by its owner; it counts as an upload more.
func TestB3EveryRequestMayFailOnce(t *testing.T) {
	src := memory.New()
	n := image(t, src, 1)
	failing := func(at int64, code int) (calls int64, c registry.Counts, err error) {
		var asked atomic.Int64
		inner := withoutAPI()
		client := client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if asked.Add(1) == at {
				w.WriteHeader(code)
				return
			}
			inner.ServeHTTP(w, req)
		})))
		r := repo(t, client, "app")
		if err := publish(t, r, src, n); err != nil {
			return 0, registry.Counts{}, err
		}
		calls, c = asked.Load(), client.Counts()
		return calls, c, registry.Verify(t.Context(), r, n)
	}
	undisturbed, _, err := failing(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := range undisturbed {
		code := []int{500, 502, 503, 429, 408}[at%5]
		calls, c, err := failing(at+1, code)
		if err != nil || calls < undisturbed+1 || c.Repeats > 1 || c.WaitedMS < int64(c.Repeats) {
			t.Errorf("request %d answered %d: %d requests, %+v, %v", at+1, code, calls, c, err)
		}
	}
}

func TestB3AnEndpointThatStaysIllIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		method, path string
		want         string
	}{
		"reads of manifests":  {http.MethodHead, "/manifests/", "HEAD manifests of family/app"},
		"reads of blobs":      {http.MethodHead, "/blobs/", "HEAD blobs of family/app"},
		"new uploads":         {http.MethodPost, "/blobs/uploads/", "POST blobs/uploads of family/app"},
		"uploads":             {http.MethodPut, "/blobs/uploads/", "PUT blobs/uploads of family/app"},
		"writes of manifests": {http.MethodPut, "/manifests/", "PUT manifests of family/app"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: test.method, Path: test.path, Fault: rehearsal.Answer(http.StatusBadGateway)})
			r := repo(t, client(t, w.host), "app")
			src := memory.New()
			n := image(t, src, 1)
			err := publish(t, r, src, n)
			if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), test.want) || !strings.Contains(fault.HintOf(err), "safe") {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
			if tags, err := r.Tags(t.Context()); len(tags) != 0 || err != nil {
				t.Errorf("tags %v, %v", tags, err)
			}
		})
	}
}

// B6: GHCR takes at most 4 MiB in a PATCH, and no Content-Range in a PUT. We send a blob in one
// PUT, whatever its size.
func TestB6ABlobIsSentInOnePiece(t *testing.T) {
	var puts atomic.Int32
	inner := withoutAPI()
	r := repo(t, client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPatch || req.Header.Get("Content-Range") != "" {
			t.Errorf("%s with Content-Range %q", req.Method, req.Header.Get("Content-Range"))
		}
		if sends(req) {
			puts.Add(1)
			if req.ContentLength < 0 {
				t.Error("the size of a blob is not said")
			}
		}
		inner.ServeHTTP(w, req)
	}))), "app")
	src := memory.New()
	n, err := graph.PackArtifact(t.Context(), src, "application/vnd.example", []graph.Node{layer(t, src, 1, 9<<20)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CopyFrom(t.Context(), src, n); err != nil {
		t.Fatal(err)
	}
	if err := registry.Verify(t.Context(), r, n); err != nil || puts.Load() != 2 {
		t.Errorf("%d uploads, want the layer and the configuration; %v", puts.Load(), err)
	}
}
