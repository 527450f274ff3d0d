package rehearsal_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/containai/containai/mage/rehearsal"
)

// tag names dev of the package acme/base at a server.
func tag(url string) name.Tag {
	t, err := name.NewTag(strings.TrimPrefix(url, "http://") + "/acme/base:dev")
	if err != nil {
		panic(err)
	}
	return t
}

// A client that is given the URL of the model's server talks to GHCR, and to its REST API.
func ExampleNew() {
	github := rehearsal.New(rehearsal.Options{})
	server := httptest.NewServer(github)
	defer server.Close()

	fmt.Println("push:", remote.Write(tag(server.URL), empty.Image))
	err := remote.Delete(tag(server.URL))
	fmt.Println("delete:", strings.Contains(err.Error(), "UNSUPPORTED"))
	res, err := http.Get(server.URL + "/orgs/acme/packages/container/base/versions")
	fmt.Println("versions:", res.StatusCode, err)
	fmt.Print(string(github.Snapshot()))
	// Output:
	// push: <nil>
	// delete: true
	// versions: 200 <nil>
	// repository acme/base
	// blob sha256:5b943e2b943f6c81dbbd4e2eca5121f4fcc39139e3d1219d6d89bd925b77d9fe
	// manifest sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4 264 application/vnd.docker.distribution.manifest.v2+json
	// tag dev sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4
}

// The two reads after a write are answered as before it.
func ExampleOptions() {
	server := httptest.NewServer(rehearsal.New(rehearsal.Options{Lag: 2}))
	defer server.Close()
	if err := remote.Write(tag(server.URL), empty.Image); err != nil {
		fmt.Println(err)
	}
	for range 3 {
		_, err := remote.Head(tag(server.URL))
		fmt.Println(err == nil)
	}
	// Output:
	// false
	// false
	// true
}

// A package is private until a person publishes it on its settings page.
func ExampleGitHub_Publish() {
	github := rehearsal.New(rehearsal.Options{Tokens: []rehearsal.Token{{Secret: "s", Login: "octocat", Scopes: []string{"write:packages"}}}})
	fmt.Println(github.Publish("acme/base")) // nobody has pushed it
	// Output: false
}

// The third call is answered with GHCR's rate limit, whose hint stands in the body.
func ExampleNewInjector() {
	injector, err := rehearsal.NewInjector(rehearsal.New(rehearsal.Options{}),
		rehearsal.Rule{Method: "GET", Path: "^/v2/", Call: 2, Fault: rehearsal.RateLimited()})
	if err != nil {
		fmt.Println(err)
	}
	for range 2 {
		answer := httptest.NewRecorder()
		injector.ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), "GET", "/v2/", nil))
		fmt.Print(answer.Code, " ", answer.Body)
	}
	fmt.Println(injector.Calls(), injector.Fired())
	// Output:
	// 200 {}
	// 429 {"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 10.305464ms, allowed: 2000/minute"}]}
	// [GET /v2/ GET /v2/] [1]
}

// Faults print themselves, as the names of EveryCall's subtests do.
func ExampleFault() {
	for _, f := range []rehearsal.Fault{
		rehearsal.Answer(http.StatusBadGateway),
		rehearsal.HangUp(),
		rehearsal.LoseAnswer(),
		rehearsal.CutUpload(4096),
		rehearsal.CutAnswer(100),
		rehearsal.Outdated(),
		rehearsal.RetryAfter(time.Minute),
		{Delay: 3 * time.Second},
		{Kill: func() {}, After: true},
	} {
		fmt.Println(f)
	}
	// Output:
	// answered 502
	// reset
	// answer lost
	// reset at byte 4096 of its body
	// answer cut at byte 100
	// stale
	// answered 429
	// delayed 3s
	// killed, after it took effect
}

// A test of another repository: wherever one fault strikes, a push that is run again ends as an
// undisturbed one does.
func ExampleEveryCall() {
	var t *testing.T // the test's own

	faults := []rehearsal.Fault{rehearsal.Answer(http.StatusServiceUnavailable), rehearsal.LoseAnswer()}
	rehearsal.EveryCall(t, faults, func(t *testing.T, inject func(http.Handler) http.Handler) []byte {
		github := rehearsal.New(rehearsal.Options{Lag: 1})
		server := httptest.NewServer(inject(github))
		t.Cleanup(server.Close)
		err := remote.Write(tag(server.URL), empty.Image)
		if err != nil {
			err = remote.Write(tag(server.URL), empty.Image)
		}
		if err != nil {
			t.Error(err)
		}
		return github.Snapshot()
	})
}
