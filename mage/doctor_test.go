package mage

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// patient is a workshop at a registry.
func patient(t *testing.T, h http.Handler, env environment, trust family.Policy) *workshop {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client, err := registry.New(strings.TrimPrefix(server.URL, "http://")+"/acme", registry.Options{Pause: time.Microsecond, Budget: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if env.github == "" {
		env.github = server.URL
	}
	return &workshop{session: &session{env: env}, client: client, fam: &family.Family{
		Source: "https://github.com/acme/family", Images: map[string]family.Image{"app": {}}, Trust: trust,
	}}
}

// pushArtifactTo publishes something into a member's repository.
func pushArtifactTo(t *testing.T, w *workshop, member string) graph.Node {
	t.Helper()
	repo, err := w.client.Repo(member)
	if err != nil {
		t.Fatal(err)
	}
	n, err := graph.PackArtifact(t.Context(), repo, "application/vnd.test.v1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func at(now time.Time) environment { return environment{now: func() time.Time { return now }} }

func TestDoctorMeasuresTheClockAgainstTheRegistrys(t *testing.T) {
	for skew, want := range map[time.Duration]health{0: well, -20 * time.Second: well, 2 * time.Minute: weak, -24 * time.Hour: ill} {
		w := patient(t, rehearsal.New(rehearsal.Options{}), at(rehearsal.Epoch().Add(skew)), family.Policy{})
		if d := w.diagnoseClock(t.Context()); d.Health != want || (d.Fix == "") != (want == well) {
			t.Errorf("a skew of %s: %+v, want %s", skew, d, want)
		}
	}
	w := patient(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), at(rehearsal.Epoch()), family.Policy{})
	if d := w.diagnoseClock(t.Context()); d.Health != ill || d.What != "registry" {
		t.Errorf("a registry that does not answer: %+v", d)
	}
}

func TestDoctorLooksForPackagesThatAreNotLinked(t *testing.T) {
	github := rehearsal.New(rehearsal.Options{})
	w := patient(t, github, environment{}, family.Policy{})
	if d := w.diagnosePackages(t.Context()); d.Health != weak || !strings.Contains(d.Fix, "ops:visibility") {
		t.Errorf("before the first release: %+v", d)
	}
	pushArtifactTo(t, w, "app")
	if d := w.diagnosePackages(t.Context()); d.Health != weak || !strings.Contains(d.Fix, "link app") {
		t.Errorf("a package that somebody pushed by hand: %+v", d)
	}
	w = patient(t, github, environment{github: "https://api.github.com"}, family.Policy{})
	if d := w.diagnosePackages(t.Context()); d.Health != well {
		t.Errorf("a registry that is not GitHub's: %+v", d)
	}
}

// loggedIn is a workshop at the model, with a login whose secret is one of its tokens, or not.
func loggedIn(t *testing.T, secret string) *workshop {
	t.Helper()
	github := rehearsal.New(rehearsal.Options{Tokens: []rehearsal.Token{
		{Secret: "all", Login: "octocat", Scopes: []string{"write:packages", "delete:packages"}},
		{Secret: "writer", Login: "octocat", Scopes: []string{"write:packages"}},
		{Secret: "reader", Login: "octocat", Scopes: []string{"read:packages"}},
		{Secret: "job", Login: "github-actions[bot]", Repository: "acme/family", Scopes: []string{"write:packages"}},
	}})
	w := patient(t, github, environment{}, family.Policy{})
	client, err := registry.New(w.client.Base().String(), registry.Options{Pause: time.Microsecond, Credential: func(context.Context, string) (auth.Credential, error) {
		return auth.Credential{Username: "octocat", Password: secret}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.client = client
	return w
}

func TestDoctorReadsWhatTheTokenMayDo(t *testing.T) {
	for secret, test := range map[string]struct {
		want health
		says string
	}{
		"all":              {well, "delete:packages"},
		"writer":           {weak, "may not prune"},
		"reader":           {ill, "may not push"},
		"job":              {well, "packages: write"},
		"revoked":          {ill, "Bad credentials"},
		"github_pat_12345": {ill, "fine-grained"},
	} {
		d := loggedIn(t, secret).diagnoseLogin(t.Context())
		if d.Health != test.want || (d.Fix == "") != (test.want == well) || !strings.Contains(d.Found+d.Fix, test.says) || strings.Contains(d.Found+d.Fix, secret) && len(secret) > 6 {
			t.Errorf("%s: %+v, want %s with %q", secret, d, test.want, test.says)
		}
	}
}

// No API tells the role: it is never said to be well where it matters.
func TestDoctorNamesTheRoleThatDeletingNeeds(t *testing.T) {
	if d := loggedIn(t, "all").diagnoseRole(); d.Health != weak || !strings.Contains(d.Fix, "Manage Actions access") {
		t.Errorf("at GitHub: %+v", d)
	}
	if d := patient(t, rehearsal.New(rehearsal.Options{}), environment{github: "https://api.github.com"}, family.Policy{}).diagnoseRole(); d.Health != well {
		t.Errorf("elsewhere: %+v", d)
	}
}

func TestDoctorSaysWhoWouldSign(t *testing.T) {
	issuer := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "bearer good" || req.URL.Query().Get("audience") != "sigstore" {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(rw, `{"value":"a.token.of-it"}`)
	}))
	defer issuer.Close()
	public, key := family.Policy{Instance: "public"}, family.Policy{Instance: family.Key}
	pem := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(pem, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		policy family.Policy
		a      authorities
		want   health
	}{
		"a key":                                   {key, authorities{key: pem, root: "r"}, well},
		"the key itself for its file":             {key, authorities{key: "-----BEGIN of-it", root: "r"}, ill},
		"a family of a key without one":           {key, authorities{root: "r"}, ill},
		"a key, though the family trusts none":    {public, authorities{key: "key.pem", root: "r"}, ill},
		"a workflow":                              {public, authorities{tokenURL: issuer.URL + "/?x=1", token: "good", root: "r"}, well},
		"a workflow without id-token: write":      {public, authorities{tokenURL: issuer.URL + "/?x=1", token: "bad", root: "r"}, ill},
		"a workflow whose issuer does not answer": {public, authorities{tokenURL: "http://127.0.0.1:1/?x=1", token: "good", root: "r"}, ill},
		"this machine, for its own registry":      {public, authorities{}, well},
		"nobody, where another root is named":     {public, authorities{root: "r"}, ill},
	} {
		w := patient(t, rehearsal.New(rehearsal.Options{}), environment{}, test.policy)
		if d := w.diagnoseIdentity(t.Context(), test.a); d.Health != test.want || (d.Fix == "") != (test.want == well) || strings.Contains(d.Found, "of-it") {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestDoctorKnowsTheDiskTheLoginAndTheDatabase(t *testing.T) {
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := patient(t, rehearsal.New(rehearsal.Options{}), at(rehearsal.Epoch()), family.Policy{})
	w.state = state
	if d := w.diagnoseDisk(); !strings.Contains(d.Found, state.Dir()) || (d.Fix == "") != (d.Health == well) {
		t.Errorf("disk: %+v", d)
	}
	if d := w.diagnoseDatabase(t.Context()); d.Health != weak || !strings.Contains(d.Found, "NOT SCANNED") {
		t.Errorf("no database: %+v", d)
	}
	w.env.database = t.TempDir()
	if d := w.diagnoseDatabase(t.Context()); d.Health != ill || d.Fix == "" {
		t.Errorf("a directory that is no database: %+v", d)
	}
	if d := w.diagnoseLogin(t.Context()); d.Health != well {
		t.Errorf("a registry on this machine: %+v", d)
	}
	if d := w.diagnoseGo(); d.Health != well || !strings.HasPrefix(d.Found, "go1.") {
		t.Errorf("Go: %+v", d)
	}
}

// What it says fits on one screen, and says in words what colour would.
func TestDoctorEndsInOneScreen(t *testing.T) {
	var all []diagnosis
	for range 10 {
		all = append(all, diagnosis{"what", ill, "found", "fix"})
	}
	text := doctorText(all)
	if n := strings.Count(text, "\n"); n > 24 {
		t.Errorf("it has %d lines", n)
	}
	if !strings.Contains(text, "fail  what  found") || !strings.Contains(text, "→ fix") {
		t.Errorf("it prints\n%s", text)
	}
}
