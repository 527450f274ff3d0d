package registry_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// Bad input of every sort gives an error of its kind that names what is wrong and what to do, and
// leaves no manifest and no tag behind.
func TestBadInputIsNamedWithItsFixAndLeavesNothing(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	nobody := strings.TrimPrefix(dead.URL, "http://")
	for name, test := range map[string]struct {
		run  func(t *testing.T, w world, src *registry.Layout, n graph.Node) (object string, err error)
		kind fault.Kind
		fix  string // part of the hint, or of the message
	}{
		"a host that does not exist": {kind: fault.Unavailable, fix: "check the host name",
			run: func(t *testing.T, _ world, src *registry.Layout, n graph.Node) (string, error) {
				return "registry.invalid", repo(t, client(t, "registry.invalid"), "app").CopyFrom(t.Context(), src, n)
			}},
		"a host where nobody listens": {kind: fault.Unavailable, fix: "check the host name",
			run: func(t *testing.T, _ world, src *registry.Layout, n graph.Node) (string, error) {
				return nobody, repo(t, client(t, nobody), "app").CopyFrom(t.Context(), src, n)
			}},
		"a wrong password": {kind: fault.Environment, fix: "docker login",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				return w.host, withPassword(t, w.host, "wrong").CopyFrom(t.Context(), src, n)
			}},
		"a login that may only read": {kind: fault.Environment, fix: "write:packages",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				return w.host, withPassword(t, w.host, "reader").CopyFrom(t.Context(), src, n)
			}},
		"a malformed registry": {kind: fault.Invalid, fix: "host[:port]/lower-case",
			run: func(*testing.T, world, *registry.Layout, graph.Node) (string, error) {
				_, err := registry.New("https://ghcr.io/Family", registry.Options{})
				return "https://ghcr.io/Family", err
			}},
		"a malformed repository": {kind: fault.Invalid, fix: "host[:port]/lower-case",
			run: func(t *testing.T, w world, _ *registry.Layout, _ graph.Node) (string, error) {
				_, err := client(t, w.host).Repo("App")
				return "App", err
			}},
		"a malformed tag": {kind: fault.Invalid, fix: "a tag is",
			run: func(t *testing.T, w world, _ *registry.Layout, n graph.Node) (string, error) {
				_, err := withPassword(t, w.host, member().Secret).TagImmutable(t.Context(), "v 1", n)
				return "v 1", err
			}},
		"a layout whose index is cut": {kind: fault.Forged, fix: "build again",
			run: func(t *testing.T, _ world, src *registry.Layout, _ graph.Node) (string, error) {
				cut(t, filepath.Join(src.Dir(), "index.json"))
				_, err := registry.OpenLayout(src.Dir())
				return src.Dir(), err
			}},
		"a layout whose manifest is cut": {kind: fault.Forged, fix: "build again",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				cut(t, filepath.Join(src.Dir(), "blobs", "sha256", n.Digest.Encoded()))
				return n.Digest.String(), withPassword(t, w.host, member().Secret).CopyFrom(t.Context(), src, n)
			}},
		"a layout whose layer is cut": {kind: fault.Forged, fix: "build again",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				blob := layer(t, src, 10, 64<<10)
				cut(t, filepath.Join(src.Dir(), "blobs", "sha256", blob.Digest.Encoded()))
				return blob.Digest.String(), withPassword(t, w.host, member().Secret).CopyFrom(t.Context(), src, n)
			}},
		"a layout that lacks a layer": {kind: fault.Conflict, fix: "run the release again",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				blob := layer(t, src, 10, 64<<10)
				if err := os.Remove(filepath.Join(src.Dir(), "blobs", "sha256", blob.Digest.Encoded())); err != nil {
					t.Fatal(err)
				}
				return blob.Digest.String(), withPassword(t, w.host, member().Secret).CopyFrom(t.Context(), src, n)
			}},
		"a media type that nobody knows": {kind: fault.Refused, fix: "OCI",
			run: func(t *testing.T, w world, src *registry.Layout, n graph.Node) (string, error) {
				n.MediaType = "application/vnd.example.unknown"
				return n.Digest.String(), withPassword(t, w.host, member().Secret).CopyFrom(t.Context(), src, n)
			}},
		"an index over what nobody knows": {kind: fault.Refused, fix: "OCI",
			run: func(t *testing.T, w world, src *registry.Layout, _ graph.Node) (string, error) {
				odd := push(t, src, "application/vnd.example.unknown", []byte("{}"))
				n := pushJSON(t, src, ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []graph.Node{odd}})
				return odd.Digest.String(), withPassword(t, w.host, member().Secret).CopyFrom(t.Context(), src, n)
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader := rehearsal.Token{Secret: "reader", Login: "octocat", Scopes: []string{"read:packages"}}
			w := ghcr(t, rehearsal.Options{Tokens: []rehearsal.Token{member(), reader}})
			src := openLayout(t, t.TempDir())
			object, err := test.run(t, w, src, image(t, src, 1))
			if kind, _ := fault.KindOf(err); kind != test.kind {
				t.Fatalf("%v is of kind %v, want %v", err, kind, test.kind)
			}
			if !strings.Contains(err.Error(), object) || !strings.Contains(err.Error()+fault.HintOf(err), test.fix) {
				t.Errorf("%q, hint %q: want %q and %q", err, fault.HintOf(err), object, test.fix)
			}
			if strings.Contains(err.Error()+fault.HintOf(err), member().Secret) {
				t.Errorf("%q tells a secret", err)
			}
			if puts := w.calls(http.MethodPut, "/manifests/"); puts > 0 {
				t.Errorf("%d manifests were written", puts)
			}
			if left, err := os.ReadDir(filepath.Join(src.Dir(), ".ingest")); len(left) > 0 || err != nil {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// cut takes the second half of a file away.
func cut(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(name, 0o600), os.Truncate(name, info.Size()/2)); err != nil {
		t.Fatal(err)
	}
}

// withPassword returns a repository for who logs in with this secret.
func withPassword(t *testing.T, host, secret string) *registry.Repository {
	t.Helper()
	c, err := registry.New(host+"/family", registry.Options{
		Pause: time.Millisecond, Credential: auth.StaticCredential(host, auth.Credential{Username: "octocat", Password: secret}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return repo(t, c, "app")
}
