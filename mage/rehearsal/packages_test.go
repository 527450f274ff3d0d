package rehearsal_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/rehearsal"
)

const (
	basePackage  = "/orgs/acme/packages/container/base"
	baseVersions = basePackage + "/versions"
)

// versionSeen is what the tests read of a version.
type versionSeen struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	DeletedAt time.Time `json:"deleted_at"`
	Metadata  struct{ Container struct{ Tags []string } }
}

func (w *world) versions(path string) []versionSeen {
	w.t.Helper()
	var list []versionSeen
	decodeInto(w.t, w.request("GET", path, "").wants(w.t, 200, "").body, &list)
	return list
}

// version returns the path of a version by its digest.
func (w *world) version(n ocispec.Descriptor) string {
	w.t.Helper()
	for _, v := range w.versions(baseVersions + "?per_page=100") {
		if v.Name == n.Digest.String() {
			return fmt.Sprintf("%s/%d", baseVersions, v.ID)
		}
	}
	w.t.Fatalf("%s is no version", n.Digest)
	return ""
}

// clock is a time that the tests move.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func TestDeletingAVersionTakesAllItsTagsAndNothingElse(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	child := w.push("acme/base", "", "child")
	index := indexOver(child.Digest.String())
	index = strings.Replace(index, `"size":1`, fmt.Sprintf(`"size":%d`, child.Size), 1)
	for _, tag := range []string{"dev", "sha-1"} {
		w.request("PUT", manifests+tag, index, "Content-Type: "+ocispec.MediaTypeImageIndex).wants(t, 201, "")
	}
	w.push("acme/base", "prod", "other")
	deleted := w.versions(baseVersions)[1]
	if fmt.Sprint(deleted.Metadata.Container.Tags) != "[dev sha-1]" {
		t.Fatalf("version %+v", deleted)
	}
	path := fmt.Sprintf("%s/%d", baseVersions, deleted.ID)
	w.request("DELETE", path, "").wants(t, 204, "")

	for _, name := range []string{"dev", "sha-1", deleted.Name} {
		w.manifest("acme/base", name).wants(t, 404, "MANIFEST_UNKNOWN")
	}
	w.manifest("acme/base", child.Digest.String()).wants(t, 200, "")
	w.request("GET", "/v2/acme/base/tags/list", "").wants(t, 200, `"tags":["prod"]`)
	w.request("GET", path, "").wants(t, 404, "Package not found.")
	w.request("DELETE", path, "").wants(t, 404, "Package not found.")
	if strings.Contains(string(w.github.Snapshot()), deleted.Name) {
		t.Error("the snapshot shows what was deleted")
	}
}

func TestAnIndexOverADeletedManifestIsRefused(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	child := w.push("acme/base", "", "child")
	w.push("acme/base", "dev", "other")
	w.request("DELETE", w.version(child), "").wants(t, 204, "")
	w.request("PUT", manifests+"x", indexOver(child.Digest.String()), "Content-Type: "+ocispec.MediaTypeImageIndex).wants(t, 400, "MANIFEST_BLOB_UNKNOWN")
}

func TestTheRefusalsOfADeletionAreAll400(t *testing.T) { // fault row C6
	for name, test := range map[string]struct {
		also      []string // other versions: "tag=text", or "text" without a tag
		downloads int      // beside the few of the push itself
		public    bool
		status    int
		text      string
	}{
		"the last version of a package":      {nil, 0, false, 400, "the last version of a package"},
		"the last tagged version":            {[]string{"x"}, 0, false, 400, "the last tagged version of a package"},
		"a popular public version":           {[]string{"prod=x"}, 5_001, true, 400, "more than 5000 downloads"},
		"not yet a popular version":          {[]string{"prod=x"}, 4_990, true, 204, ""},
		"not a version that is only private": {[]string{"prod=x"}, 5_001, false, 204, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rehearsal.Options{})
			n := w.push("acme/base", "dev", "a")
			for _, also := range test.also {
				tag, text, ok := strings.Cut(also, "=")
				if !ok {
					tag, text = "", also
				}
				w.push("acme/base", tag, text)
			}
			if test.public {
				w.github.Publish("acme/base")
			}
			w.github.Download("acme/base", n.Digest.String(), test.downloads)
			w.request("DELETE", w.version(n), "").wants(t, test.status, test.text)
			if test.status == 400 {
				w.manifest("acme/base", "dev").wants(t, 200, "")
			}
		})
	}
}

func TestEveryGETOfAManifestIsADownload(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	n := w.push("acme/base", "dev", "a")
	w.push("acme/base", "prod", "b")
	w.github.Publish("acme/base")
	w.github.Download("acme/base", n.Digest.String(), 4_999)
	w.request("HEAD", manifests+"dev", "", "Accept: "+ocispec.MediaTypeImageManifest).wants(t, 200, "")
	w.manifest("acme/base", "dev").wants(t, 200, "")
	path := w.version(n)
	w.manifest("acme/base", n.Digest.String()).wants(t, 200, "") // the 5,001st
	w.request("DELETE", path, "").wants(t, 400, "more than 5000 downloads")
	w.request("DELETE", basePackage, "").wants(t, 400, "more than 5000 downloads")
}

func TestAVersionComesBackByItsIDWithin30Days(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(*world, *clock)
		status    int
		tags      string // of the restored version
	}{
		"at once":                    {func(*world, *clock) {}, 204, "[dev sha-1]"},
		"on the 30th day":            {func(_ *world, c *clock) { c.now = c.now.AddDate(0, 0, 30) }, 204, "[dev sha-1]"},
		"after the 30th day":         {func(_ *world, c *clock) { c.now = c.now.AddDate(0, 0, 30).Add(time.Second) }, 404, ""},
		"after a tag of it moved on": {func(w *world, _ *clock) { w.push("acme/base", "dev", "new") }, 204, "[sha-1]"},
		"after it was pushed again":  {func(w *world, _ *clock) { w.push("acme/base", "x", "a") }, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{rehearsal.Epoch()}
			w := newWorld(t, rehearsal.Options{Now: c.read})
			n := w.push("acme/base", "dev", "a")
			w.push("acme/base", "sha-1", "a")
			w.push("acme/base", "prod", "b")
			path := w.version(n)
			w.request("POST", path+"/restore", "").wants(t, 404, "") // it is not deleted
			w.request("DELETE", path, "").wants(t, 204, "")
			if list := w.versions(baseVersions + "?state=deleted"); len(list) != 1 || !list[0].DeletedAt.Equal(c.now) {
				t.Errorf("deleted versions %+v", list)
			}
			test.meanwhile(w, c)
			w.request("POST", path+"/restore", "").wants(t, test.status, "")
			if test.status != 204 {
				return
			}
			var got versionSeen
			decodeInto(t, w.request("GET", path, "").wants(t, 200, "").body, &got)
			if fmt.Sprint(got.Metadata.Container.Tags) != test.tags {
				t.Errorf("tags %v, want %s", got.Metadata.Container.Tags, test.tags)
			}
			w.manifest("acme/base", "sha-1").wants(t, 200, "")
		})
	}
}

func TestAPackageComesBackUnlessItsNameWasUsedAgain(t *testing.T) {
	c := &clock{rehearsal.Epoch()}
	w := newWorld(t, rehearsal.Options{Now: c.read})
	w.push("acme/base", "dev", "a")
	before := string(w.github.Snapshot())
	w.request("POST", basePackage+"/restore", "").wants(t, 400, "in use")
	w.request("DELETE", basePackage, "").wants(t, 204, "")
	w.manifest("acme/base", "dev").wants(t, 404, "")
	w.request("GET", basePackage, "").wants(t, 404, "")
	if got := w.github.Snapshot(); len(got) != 0 {
		t.Errorf("snapshot %s", got)
	}
	w.request("POST", basePackage+"/restore", "").wants(t, 204, "")
	if got := string(w.github.Snapshot()); got != before {
		t.Errorf("snapshot\n%s\nwant\n%s", got, before)
	}
	w.request("DELETE", basePackage, "").wants(t, 204, "")
	w.push("acme/base", "dev", "b")
	w.request("POST", basePackage+"/restore", "").wants(t, 400, "in use")
	w.request("DELETE", basePackage, "").wants(t, 204, "")
	c.now = c.now.AddDate(0, 0, 31)
	w.request("POST", basePackage+"/restore", "").wants(t, 404, "")
}

func TestListsComeInPages(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Users: []string{"octocat"}})
	for i := range 45 {
		w.push("acme/base", fmt.Sprint("t", i), fmt.Sprint(i))
		w.push("octocat/base", fmt.Sprint("t", i), fmt.Sprint(i))
	}
	first := w.request("GET", baseVersions, "").wants(t, 200, "")
	next := `<` + w.url + baseVersions + `?page=2>; rel="next", <` + w.url + baseVersions + `?page=2>; rel="last"`
	if got := first.header.Get("Link"); got != next {
		t.Errorf("Link = %s\nwant   %s", got, next)
	}
	for query, want := range map[string]int{"": 30, "?page=2": 15, "?page=3": 0, "?per_page=100": 45, "?per_page=1000": 45, "?per_page=20&page=3": 5, "?per_page=x&page=-1": 30, "?state=deleted": 0} {
		if got := w.versions(baseVersions + query); len(got) != want {
			t.Errorf("%q lists %d versions, want %d", query, len(got), want)
		}
	}
	if got := w.versions(baseVersions)[0].Metadata.Container.Tags; fmt.Sprint(got) != "[t44]" {
		t.Errorf("the newest version has tags %v", got)
	}
	users := w.request("GET", "/users/octocat/packages/container/base/versions?per_page=10", "").wants(t, 200, "")
	var all []versionSeen
	if decodeInto(t, users.body, &all); len(all) != 45 || users.header.Get("Link") != "" {
		t.Errorf("the form for users lists %d versions and links %q", len(all), users.header.Get("Link"))
	}
}

func TestPackagesAreFoundByOwnerAndEncodedName(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Users: []string{"octocat"}, Tokens: tokens()})
	w.as("workflow").push("acme/tools/base", "dev", "a")
	w.as("owner").push("acme/codex", "dev", "a")
	w.as("owner").push("octocat/mine", "dev", "a")
	w.github.Publish("acme/codex")
	for name, test := range map[string]struct {
		secret, path string
		status       int
		text         string
	}{
		"a slash is percent-encoded":                {"owner", "/orgs/acme/packages/container/tools%2Fbase", 200, `"name":"tools/base"`},
		"a plain slash names nothing":               {"owner", "/orgs/acme/packages/container/tools/base", 404, ""},
		"a linked package says where it belongs":    {"owner", "/orgs/acme/packages/container/tools%2Fbase", 200, `"full_name":"acme/family"`},
		"what was pushed first is private":          {"owner", "/orgs/acme/packages/container/tools%2Fbase", 200, `"visibility":"private"`},
		"what a person published is public":         {"owner", "/orgs/acme/packages/container/codex", 200, `"visibility":"public"`},
		"an organisation's list":                    {"owner", "/orgs/acme/packages?package_type=container", 200, `"name":"codex"`},
		"a list by visibility":                      {"owner", "/orgs/acme/packages?package_type=container&visibility=private", 200, `[{"id":`},
		"a list wants the type":                     {"owner", "/orgs/acme/packages", 422, ""},
		"a workflow sees what it may read":          {"other", "/orgs/acme/packages?package_type=container", 200, `"name":"codex"`},
		"and nothing else":                          {"other", "/orgs/acme/packages/container/tools%2Fbase", 404, "Package not found."},
		"a user is no organisation":                 {"owner", "/orgs/octocat/packages/container/mine", 404, ""},
		"an organisation is no user":                {"owner", "/users/acme/packages/container/codex", 404, ""},
		"a user's package":                          {"owner", "/users/octocat/packages/container/mine", 200, `"type":"User"`},
		"one's own package":                         {"owner", "/user/packages/container/mine", 200, `"name":"mine"`},
		"a GITHUB_TOKEN's own packages are a bot's": {"workflow", "/user/packages?package_type=container", 404, ""},
		"nobody lists packages":                     {"", "/orgs/acme/packages?package_type=container", 403, "read:packages"},
		"a secret that GitHub does not know":        {"forged", "/orgs/acme/packages?package_type=container", 401, "Bad credentials"},
		"a package that is not there":               {"owner", "/orgs/acme/packages/container/none", 404, "Package not found."},
		"a path that is none":                       {"owner", "/orgs/acme/packages/docker/base", 404, "Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			w.as(test.secret).request("GET", test.path, "").wants(t, test.status, test.text)
		})
	}
	for _, method := range []string{"PATCH", "PUT", "POST"} { // nothing sets a visibility
		w.as("owner").request(method, "/orgs/acme/packages/container/codex", `{"visibility":"public"}`).wants(t, 404, "Not Found")
	}
}

func TestWhoMayDeleteAndRestore(t *testing.T) {
	for name, test := range map[string]struct {
		secret string
		role   rehearsal.Role
		status int
		text   string
	}{
		"a person with the scope":                 {"owner", rehearsal.RoleNone, 204, ""},
		"a person without it":                     {"reader", rehearsal.RoleNone, 403, "delete:packages"},
		"a workflow with the write role":          {"workflow", rehearsal.RoleWrite, 403, "not accessible"},
		"a workflow with the admin role":          {"workflow", rehearsal.RoleAdmin, 204, ""},
		"a workflow that may not see the package": {"workflow", rehearsal.RoleNone, 404, "Package not found."},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rehearsal.Options{Tokens: tokens()})
			n := w.as("owner").push("acme/base", "dev", "a")
			w.as("owner").push("acme/base", "prod", "b")
			w.github.Grant("acme/base", "acme/family", test.role)
			path := w.as("owner").version(n)
			w.as(test.secret).request("DELETE", path, "").wants(t, test.status, test.text)
			if test.status == 204 {
				w.as("reader").request("POST", path+"/restore", "").wants(t, 403, "")
				w.as(test.secret).request("POST", path+"/restore", "").wants(t, 204, "")
			}
		})
	}
}

func TestTheHourOfCallsRunsOut(t *testing.T) {
	c := &clock{rehearsal.Epoch()}
	for _, status := range []int{http.StatusForbidden, http.StatusTooManyRequests} {
		w := newWorld(t, rehearsal.Options{Now: c.read, RateLimit: 2, RateStatus: status, Tokens: tokens()}).as("owner")
		for left := 1; left >= 0; left-- {
			got := w.request("GET", baseVersions, "").wants(t, 404, "")
			if got.header.Get("x-ratelimit-remaining") != fmt.Sprint(left) || got.header.Get("Date") != c.now.Format(http.TimeFormat) {
				t.Errorf("%v", got.header)
			}
		}
		got := w.request("GET", baseVersions, "").wants(t, status, "API rate limit exceeded")
		if got.header.Get("x-ratelimit-reset") != fmt.Sprint(c.now.Add(time.Hour).Unix()) || got.header.Get("x-ratelimit-remaining") != "0" {
			t.Errorf("%v", got.header)
		}
		w.as("reader").request("GET", baseVersions, "").wants(t, 404, "")
		c.now = c.now.Add(time.Hour)
		w.request("GET", baseVersions, "").wants(t, 404, "")
	}
}

func TestTheHourOfEachKindOfAccount(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	for secret, want := range map[string]string{"": "60", "workflow": "1000", "owner": "5000"} {
		if got := w.as(secret).request("GET", baseVersions, "").header.Get("x-ratelimit-limit"); got != want {
			t.Errorf("limit of %q is %s, want %s", secret, got, want)
		}
	}
}

func TestAllJobsOfARepositoryShareOneHour(t *testing.T) {
	job := func(secret string) rehearsal.Token {
		return rehearsal.Token{Secret: secret, Repository: "acme/family", Scopes: []string{"write:packages"}}
	}
	w := newWorld(t, rehearsal.Options{RateLimit: 1, Tokens: []rehearsal.Token{job("one"), job("two")}})
	w.as("one").request("GET", baseVersions, "").wants(t, 404, "")
	w.as("two").request("GET", baseVersions, "").wants(t, 403, "API rate limit exceeded")
}
