package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// Rows of the catalogue that need a login, limits or another host, against the rehearsal of GHCR.
// What the waits are to the second is shown without a network in retry_test.go.

// member is a token that may publish.
func member() rehearsal.Token {
	return rehearsal.Token{Secret: "canary-7f3a", Login: "octocat", Scopes: []string{"write:packages"}}
}

// asMember returns a client that knows the member's token.
func asMember(t *testing.T, host string) *registry.Client {
	t.Helper()
	c, err := registry.New(host+"/family", registry.Options{
		Pause: time.Millisecond, Credential: auth.StaticCredential(host, auth.Credential{Username: "octocat", Password: member().Secret}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestB1ARateLimitIsWaitedFor(t *testing.T) {
	for name, f := range map[string]rehearsal.Fault{
		"with a hint of milliseconds":    rehearsal.RateLimited(),
		"with a hint of microseconds":    rehearsal.RateLimitedPull(),
		"with a header of a second":      rehearsal.RetryAfter(time.Second),
		"B2 that calls itself forbidden": rehearsal.SecondaryLimited(),
		"that calls itself overloaded":   rehearsal.Answer(http.StatusServiceUnavailable),
		"that calls itself a timeout":    rehearsal.Answer(http.StatusRequestTimeout),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := []rehearsal.Rule{
				{Method: http.MethodPost, Call: 2, Fault: f}, {Method: http.MethodPut, Path: "/manifests/", Call: 1, Fault: f}, {Method: http.MethodGet, Path: "/manifests/", Call: 1, Fault: f},
			}
			w := ghcr(t, rehearsal.Options{}, rules...)
			c, err := registry.New(w.host+"/family", registry.Options{Pause: time.Millisecond, Budget: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			r := repo(t, c, "app")
			_, n := copied(t, r, 1)
			if _, err := r.TagImmutable(t.Context(), "v1", n); err != nil {
				t.Fatal(err)
			}
			if c.Counts().Repeats != len(rules) {
				t.Errorf("%d calls were repeated, want %d; fired %v", c.Counts().Repeats, len(rules), w.Fired())
			}
		})
	}
}

func TestB2ADenialIsNotRepeated(t *testing.T) {
	w := ghcr(t, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodPost, Fault: rehearsal.Denied()})
	src := memory.New()
	n := image(t, src, 1)
	err := repo(t, client(t, w.host), "app").CopyFrom(t.Context(), src, n)
	if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "write:packages") {
		t.Errorf("CopyFrom = %v, hint %q", err, fault.HintOf(err))
	}
	if posts := w.calls(http.MethodPost, "/uploads/"); posts > 4 { // one for each blob that was under way
		t.Errorf("it was asked %d times", posts)
	}
}

func TestB6AnUploadIsNeverInChunks(t *testing.T) {
	w := ghcr(t, rehearsal.Options{})
	src := memory.New()
	n := image(t, src, 1, layer(t, src, 7, 3*rehearsal.MaxChunk))
	if err := repo(t, client(t, w.host), "app").CopyFrom(t.Context(), src, n); err != nil {
		t.Fatal(err)
	}
	if patches := w.calls(http.MethodPatch, ""); patches > 0 {
		t.Errorf("%d chunks were sent", patches)
	}
}

func TestB13BlobsOnAnotherHostAreReadWithoutTheLogin(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Tokens: []rehearsal.Token{member()}})
	_, n := copied(t, repo(t, asMember(t, w.host), "app"), 1)
	w.RedirectBlobs("http://" + serve(t, w.BlobHost())) // refuses a request that carries Authorization
	if err := registry.Verify(t.Context(), repo(t, asMember(t, w.host), "app"), n); err != nil {
		t.Error(err)
	}
}

func TestB14ALoginThatEndsIsRenewed(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Tokens: []rehearsal.Token{member()}, BearerUses: 10})
	r := repo(t, asMember(t, w.host), "app")
	_, n := copied(t, r, 1)
	attachOne(t, r, n, "evidence")
	if _, err := r.TagImmutable(t.Context(), "v1", n); err != nil {
		t.Fatal(err)
	}
	if err := registry.Verify(t.Context(), repo(t, asMember(t, w.host), "app"), n); err != nil {
		t.Error(err)
	}
}

func TestB14ALoginThatIsTakenAwayStopsBeforeAnyTag(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Tokens: []rehearsal.Token{member()}})
	r := repo(t, asMember(t, w.host), "app")
	_, n := copied(t, r, 1)
	before := string(w.Snapshot())
	w.Revoke(member().Secret)
	w.Revoke("")
	_, err := r.TagImmutable(t.Context(), "v1", n)
	if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "docker login") || strings.Contains(err.Error(), member().Secret) {
		t.Errorf("TagImmutable = %v, hint %q", err, fault.HintOf(err))
	}
	if after := string(w.Snapshot()); after != before {
		t.Error("the registry changed")
	}
}
