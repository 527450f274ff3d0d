package rehearsal

import (
	"net/url"
	"strings"
	"testing"
)

// The path of a target is put together again from its parts.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"/v2/acme/base/manifests/dev", "/v2/acme/blobs/manifests/dev", "/v2/a/b/blobs/uploads/", "/v2/a/manifests/x", "/v2//manifests/x", "/v2/a/b/tags/list"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := parseTarget(path)
		if !ok {
			return
		}
		if again := "/v2/" + got.repo + "/" + got.kind + "/" + got.name; again != path {
			t.Errorf("%q is read as %+v", path, got)
		}
		if !strings.Contains(got.repo, "/") {
			t.Errorf("%q has no owner and name in %q", path, got.repo)
		}
	})
}

// An address that is read names an owner and no more than its path holds.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"/orgs/acme/packages", "/user/packages/container/a%2Fb/versions/1", "/users/o/packages/container/a/versions/1/restore", "/orgs/%zz/packages", "/orgs/a/packages/container/a/versions/restore"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		a, ok := parseAddress(escaped)
		if !ok {
			return
		}
		if (a.owner == "") != (a.form == "user") || a.version != "" && a.name == "" || a.list && (a.version != "" || a.restore) {
			t.Errorf("%q is read as %+v", escaped, a)
		}
		if a.name != "" && !strings.Contains(escaped, "/packages/container/") {
			t.Errorf("%q names package %q", escaped, a.name)
		}
		if plain, err := url.PathUnescape(escaped); err == nil && !strings.Contains(plain, a.name) {
			t.Errorf("%q holds no %q", escaped, a.name)
		}
	})
}

func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{"repository:acme/base:pull,push", "repository:a:b:pull", "registry:catalog:*", "repository::", "repository:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, scope string) {
		if repo, actions, ok := parseScope(scope); ok && (repo == "" || len(actions) == 0 || !strings.HasPrefix(scope, "repository:"+repo+":")) {
			t.Errorf("%q is read as %q %v", scope, repo, actions)
		}
	})
}

func FuzzParseAttestation(f *testing.F) {
	f.Add([]byte(`{"bundle":{"mediaType":"a","verificationMaterial":{},"dsseEnvelope":{"payload":"e30="}}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if a, err := parseAttestation(content); err == nil && (len(a.subjects) == 0 || len(a.bundle) == 0) {
			t.Errorf("%q is read as %+v", content, a)
		}
	})
}
