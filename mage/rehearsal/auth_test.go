package rehearsal_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/rehearsal"
)

// tokens are one of each kind.
func tokens() []rehearsal.Token {
	return []rehearsal.Token{
		{Secret: "owner", Login: "octocat", Scopes: []string{"write:packages", "delete:packages"}},
		{Secret: "reader", Login: "octocat", Scopes: []string{"read:packages"}},
		{Secret: "workflow", Login: "github-actions[bot]", Repository: "acme/family", Scopes: []string{"write:packages", "id-token:write", "attestations:write"}},
		{Secret: "other", Login: "github-actions[bot]", Repository: "acme/other", Scopes: []string{"write:packages"}},
	}
}

// as is the same world under another token; "" is nobody.
func (w *world) as(secret string) *world {
	other := *w
	other.secret = secret
	return &other
}

// bearer asks for a registry token, with the world's secret.
func (w *world) bearer(scope string) response {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+"/token?service=x&scope="+scope, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.secret != "" {
		r.SetBasicAuth("anyone", w.secret)
	}
	return w.as("").request("GET", "/token?service=x&scope="+scope, "", "Authorization: "+r.Header.Get("Authorization"))
}

func TestTheRegistrySaysWhereToLogIn(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	got := w.request("GET", "/v2/acme/base/manifests/dev", "").wants(t, 401, "UNAUTHORIZED").header.Get("WWW-Authenticate")
	host := strings.TrimPrefix(w.url, "http://")
	if want := `Bearer realm="http://` + host + `/token",service="` + host + `",scope="repository:acme/base:pull"`; got != want {
		t.Errorf("challenge %s\nwant      %s", got, want)
	}
}

func TestWhoMayPullAndPush(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	w.as("workflow").push("acme/linked", "dev", "a")
	w.as("owner").push("acme/unlinked", "dev", "a")
	w.as("owner").push("acme/public", "dev", "a")
	if !w.github.Publish("acme/public") || w.github.Publish("acme/nothing") {
		t.Fatal("Publish does not know its packages")
	}
	for fact, test := range map[string]struct {
		secret, repo string
		pulls        bool
		denied       bool
	}{
		"nobody pulls what was just pushed: it is private":        {"", "acme/linked", false, true},
		"anybody pulls what is public, and pushes nothing":        {"", "acme/public", true, true},
		"a token that reads, reads":                               {"reader", "acme/linked", true, true},
		"the workflow that pushed a package first may push again": {"workflow", "acme/linked", true, false},
		"a workflow may not push to a package that is not linked": {"workflow", "acme/unlinked", false, true},
		"a workflow of another repository may neither":            {"other", "acme/linked", false, true},
		"a person with the scope may do both":                     {"owner", "acme/linked", true, false},
		"an unknown secret opens nothing":                         {"forged", "acme/public", false, true},
		"a workflow makes a package of a name that is free":       {"other", "acme/fresh", true, false},
	} {
		t.Run(fact, func(t *testing.T) {
			r := w.as(test.secret).repository(test.repo)
			_, err := push(t.Context(), r, "next", "b")
			if (err == nil) == test.denied {
				t.Errorf("push: %v, want it denied: %v", err, test.denied)
			}
			tag := "next"
			if test.denied {
				tag = "dev"
			}
			_, err = w.as(test.secret).repository(test.repo).Resolve(t.Context(), tag)
			if (err == nil) != test.pulls {
				t.Errorf("pull: %v, want it to work: %v", err, test.pulls)
			}
		})
	}
}

func TestARoleIsGrantedByAPersonAlone(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	w.as("owner").push("acme/base", "dev", "a")
	if _, err := push(t.Context(), w.as("workflow").repository("acme/base"), "dev", "b"); err == nil {
		t.Fatal("a workflow pushes without a role")
	}
	w.github.Grant("acme/base", "acme/family", rehearsal.RoleWrite)
	w.as("workflow").push("acme/base", "dev", "b")
}

func TestATokenWithoutTheScopeIsDeniedAtThePush(t *testing.T) { // fault row B2
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	w.as("owner").push("acme/base", "dev", "a")
	for secret, text := range map[string]string{"reader": "does not match expected scopes", "workflow": "write_package"} {
		w.github.Grant("acme/base", "acme/family", rehearsal.RoleRead)
		var got struct{ Token string }
		decodeInto(t, w.as(secret).bearer("repository:acme/base:pull,push").wants(t, 200, "token").body, &got)
		w.as(got.Token).request("POST", "/v2/acme/base/blobs/uploads/", "").wants(t, 403, text)
		w.as(got.Token).request("POST", "/v2/acme/other/blobs/uploads/", "").wants(t, 401, "UNAUTHORIZED")
	}
	w.bearer("repository:acme/base:pull").wants(t, 403, "DENIED")
	w.bearer("registry:catalog:*").wants(t, 200, "token")
}

func TestABearerTokenEndsAfterItsUsesAndOrasFetchesAnother(t *testing.T) { // fault row B14
	w := newWorld(t, rehearsal.Options{Tokens: tokens(), BearerUses: 2})
	w.as("owner").push("acme/base", "dev", "a")
	var got struct{ Token string }
	decodeInto(t, w.as("owner").bearer("repository:acme/base:pull").body, &got)
	for _, want := range []int{200, 200, 401} {
		w.as(got.Token).request("HEAD", manifests+"dev", "", "Accept: application/vnd.oci.image.manifest.v1+json").wants(t, want, "")
	}
	r := w.as("owner").repository("acme/base")
	for range 5 {
		if _, err := r.Resolve(t.Context(), "dev"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestARevokedTokenEndsInMidRelease(t *testing.T) { // fault row B14
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	r := w.as("owner").repository("acme/base")
	if _, err := push(t.Context(), r, "dev", "a"); err != nil {
		t.Fatal(err)
	}
	w.github.Revoke("") // the bearers alone: another one can be had
	if _, err := push(t.Context(), r, "dev", "b"); err != nil {
		t.Errorf("after the bearers ended: %v", err)
	}
	w.github.Revoke("owner")
	if _, err := push(t.Context(), r, "dev", "c"); err == nil {
		t.Error("a revoked token pushes")
	}
	if _, err := w.as("reader").repository("acme/base").Resolve(t.Context(), "dev"); err != nil {
		t.Errorf("another token's holder: %v", err)
	}
}

func TestAMountFromWhatOneMayNotReadIsAnUpload(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	w.as("owner").push("acme/secret", "dev", "a")
	var got struct{ Token string }
	decodeInto(t, w.as("workflow").bearer("repository:acme/base:pull,push").body, &got)
	empty := digest.FromString("{}").String()
	w.as(got.Token).request("POST", "/v2/acme/base/blobs/uploads/?from=acme/secret&mount="+empty, "").wants(t, 202, "")
	w.github.Publish("acme/secret")
	w.as(got.Token).request("POST", "/v2/acme/base/blobs/uploads/?from=acme/secret&mount="+empty, "").wants(t, 201, "")
}

func TestGoContainerRegistryLogsIn(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag := w.repo(t, "acme/base").Tag("dev")
	if err := ggcr.Write(tag, img); err == nil {
		t.Error("it pushes without a login")
	}
	login := ggcr.WithAuth(&authn.Basic{Username: "octocat", Password: "owner"})
	if err := ggcr.Write(tag, img, login); err != nil {
		t.Error(err)
	}
	if _, err := ggcr.Image(tag, login); err != nil {
		t.Error(err)
	}
}
