package registry_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

// B14: whichever request of a release is the first after the token's end, the release goes on
// with a new token, and nothing is lost.
func TestB14ATokenThatEndsInMidReleaseIsRefreshedOnce(t *testing.T) {
	src := memory.New()
	var family []graph.Node
	for seed := range uint64(5) {
		n, err := graph.PackArtifact(t.Context(), src, "application/vnd.example", []graph.Node{layer(t, src, seed, 4<<10)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		family = append(family, n)
	}
	undisturbed := &issuer{}
	if err := publish(t, loggedIn(t, undisturbed), src, family...); err != nil {
		t.Fatal(err)
	}
	uploads := 0
	for at := 1; at <= undisturbed.asked; at++ {
		i := &issuer{endsAt: at}
		r := loggedIn(t, i)
		if err := publish(t, r, src, family...); err != nil {
			t.Errorf("the token ends before request %d: %v", at, err)
		}
		for _, n := range family {
			if err := registry.Verify(t.Context(), r, n); err != nil {
				t.Errorf("the token ends before request %d: %v", at, err)
			}
		}
		if i.tokens > undisturbed.tokens+4 { // two scopes, and two transfers on their way with the old one
			t.Errorf("the token ends before request %d: %d tokens, %d when undisturbed", at, i.tokens, undisturbed.tokens)
		}
		uploads += i.refusedUploads
	}
	if uploads == 0 {
		t.Error("no upload was ever refused: this test shows too little")
	}
}

// B14: a blob that was refused on its way is sent again, whole, in a session of its own.
func TestB14EveryBlobIsRefusedItsLoginOnceAndArrives(t *testing.T) {
	src := memory.New()
	n := image(t, src, 1)
	once := map[string]bool{}
	i := &issuer{refuses: func(req *http.Request) bool { // called under the issuer's lock
		d := req.URL.Query().Get("digest")
		first := sends(req) && !once[d]
		once[d] = true
		return first
	}}
	r := loggedIn(t, i)
	if err := publish(t, r, src, n); err != nil {
		t.Fatal(err)
	}
	if err := registry.Verify(t.Context(), r, n); err != nil || i.refusedUploads != 4 {
		t.Errorf("%d blobs were refused, want two configurations and two layers; %v", i.refusedUploads, err)
	}
}

// B14: when the new token is refused too, the release stops there and says how to log in.
func TestB14ATokenThatIsRefusedAgainEndsTheRelease(t *testing.T) {
	for name, refuses := range map[string]func(req *http.Request) bool{
		"every read":          func(req *http.Request) bool { return req.Method == http.MethodHead },
		"every new upload":    func(req *http.Request) bool { return req.Method == http.MethodPost },
		"every blob":          sends,
		"every manifest sent": func(req *http.Request) bool { return req.Method == http.MethodPut && !sends(req) },
		"everything":          func(*http.Request) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := memory.New()
			n := image(t, src, 1)
			i := &issuer{refuses: refuses}
			r := loggedIn(t, i)
			err := publish(t, r, src, n)
			if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "docker login 127.0.0.1") {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
			i.mu.Lock() // what was under way when the release ended
			defer i.mu.Unlock()
			if i.tokens > 20 {
				t.Errorf("%d tokens were asked for", i.tokens)
			}
			if _, tagged := i.seen["PUT sha-0"]; tagged {
				t.Error("the tag was written")
			}
		})
	}
}

func TestB14AWrongPasswordIsNotRepeated(t *testing.T) {
	i := &issuer{password: "changed"}
	_, _, err := loggedIn(t, i).Resolve(t.Context(), "dev")
	if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "docker login") || i.asked != 1 {
		t.Errorf("after %d requests: %v, hint %q", i.asked, err, fault.HintOf(err))
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the password: %v", err)
	}
}

// publish brings nodes one after another, and tags each.
func publish(t *testing.T, r *registry.Repository, src graph.Store, nodes ...graph.Node) error {
	t.Helper()
	for i, n := range nodes {
		if err := r.CopyFrom(t.Context(), src, n); err != nil {
			return err
		}
		if _, err := r.TagImmutable(t.Context(), fmt.Sprint("sha-", i), n); err != nil {
			return err
		}
	}
	return nil
}

// issuer is a registry behind a token service, as the distribution project specifies it in "Token
// Authentication Specification".
type issuer struct {
	next     http.Handler
	password string                       // empty is the right one
	endsAt   int                          // the request before which tokens end, but for those just issued; zero is never
	refuses  func(req *http.Request) bool // whatever the token

	mu             sync.Mutex
	tokens         int
	issued         map[string]int // valid tokens, by the number of requests before
	seen           map[string]bool
	asked          int // requests below /v2/
	refusedUploads int
}

// young is the age, in requests, of a token that does not end yet: who waited for it has not sent
// it. Nothing waits longer than the transfer of one artifact takes.
const young = 8

func (i *issuer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.URL.Path == "/token":
		i.issue(w, req)
	case i.admits(req):
		i.next.ServeHTTP(w, req)
	default:
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, req.Host))
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	}
}

func (i *issuer) issue(w http.ResponseWriter, req *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	want := i.password
	if want == "" {
		want = "secret"
	}
	if name, password, _ := req.BasicAuth(); name != "me" || password != want {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.tokens++
	token := fmt.Sprint("token-", i.tokens)
	i.issued[token] = i.asked
	_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
}

func (i *issuer) admits(req *http.Request) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.asked++; i.asked == i.endsAt {
		maps.DeleteFunc(i.issued, func(_ string, at int) bool { return i.asked-at > young })
	}
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	_, valid := i.issued[token]
	ok := valid && (i.refuses == nil || !i.refuses(req))
	if !ok && sends(req) {
		i.refusedUploads++
	}
	if ok {
		i.seen[req.Method+" "+req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]] = true
	}
	return ok
}

// sends reports whether a request carries the bytes of a blob.
func sends(req *http.Request) bool {
	return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/uploads/")
}

// loggedIn returns a repository behind an issuer.
func loggedIn(t *testing.T, i *issuer) *registry.Repository {
	t.Helper()
	i.next, i.issued, i.seen = withoutAPI(), map[string]int{}, map[string]bool{}
	host := serve(t, i)
	c, err := registry.New(host+"/family", registry.Options{
		Pause:      time.Millisecond,
		Credential: auth.StaticCredential(host, auth.Credential{Username: "me", Password: "secret"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return repo(t, c, "app")
}
