package rehearsal_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/rehearsal"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// world is a model behind a server, and a client of plain HTTP.
type world struct {
	t      *testing.T
	github *rehearsal.GitHub
	url    string
	secret string // sent as Bearer to the REST API
}

func newWorld(t *testing.T, o rehearsal.Options) *world {
	t.Helper()
	return serve(t, rehearsal.New(o), nil)
}

func serve(t *testing.T, g *rehearsal.GitHub, inject func(http.Handler) http.Handler) *world {
	t.Helper()
	var h http.Handler = g
	if inject != nil {
		h = inject(g)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return &world{t: t, github: g, url: server.URL}
}

// response is an answer that was read whole.
type response struct {
	status int
	header http.Header
	body   string
}

// request sends a request; headers are "Name: value". It follows no redirects.
func (w *world) request(method, path, body string, headers ...string) response {
	w.t.Helper()
	got, err := w.try(method, path, body, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) try(method, path, body string, headers ...string) (response, error) {
	if !strings.HasPrefix(path, "http://") {
		path = w.url + path
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	if w.secret != "" {
		r.Header.Set("Authorization", "Bearer "+w.secret)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(content)}, err
}

// wants fails unless the answer has this status and its body holds this text.
func (r response) wants(t *testing.T, status int, text string) response {
	t.Helper()
	if r.status != status || !strings.Contains(r.body, text) {
		t.Errorf("answered %d %s\nwant %d with %q", r.status, r.body, status, text)
	}
	return r
}

// push puts an artifact that is told apart by its text under a tag, or none, and returns its node.
func (w *world) push(repo, tag, text string) ocispec.Descriptor {
	w.t.Helper()
	n, err := push(w.t.Context(), w.repository(repo), tag, text)
	if err != nil {
		w.t.Fatalf("pushing %s:%s: %v", repo, tag, err)
	}
	return n
}

func push(ctx context.Context, r *remote.Repository, tag, text string) (ocispec.Descriptor, error) {
	n, err := graph.PackArtifact(ctx, r, "application/vnd.test.v1", nil, map[string]string{"text": text})
	if err != nil || tag == "" {
		return n, err
	}
	return n, r.Tag(ctx, n, tag)
}

// repository is oras-go's client of a repository, logged in with the world's secret.
func (w *world) repository(name string) *remote.Repository {
	w.t.Helper()
	host := strings.TrimPrefix(w.url, "http://")
	r, err := remote.NewRepository(host + "/" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	r.PlainHTTP = true
	client := &auth.Client{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, Cache: auth.NewCache()}
	if w.secret != "" {
		client.Credential = auth.StaticCredential(host, auth.Credential{Username: "octocat", Password: w.secret})
	}
	r.Client = client
	return r
}

// manifest asks for a manifest by tag or digest.
func (w *world) manifest(repo, name string) response {
	w.t.Helper()
	return w.request("GET", "/v2/"+repo+"/manifests/"+name, "", "Accept: "+ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex)
}

// upload begins an upload and returns its URL.
func (w *world) upload(repo string) string {
	w.t.Helper()
	got := w.request("POST", "/v2/"+repo+"/blobs/uploads/", "").wants(w.t, http.StatusAccepted, "")
	return w.url + got.header.Get("Location")
}

func withDigest(location, content string) string {
	u, err := url.Parse(location)
	if err != nil {
		panic(err)
	}
	q := u.Query()
	q.Set("digest", digest.FromString(content).String())
	u.RawQuery = q.Encode()
	return u.String()
}

func decodeInto(t *testing.T, body string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}
