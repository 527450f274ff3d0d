package mage_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/attestations"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// gitHub keeps the evidence of a signed family, and counts what it is sent.
type gitHub struct {
	url   string
	mu    sync.Mutex
	posts int
	after int // refuses every bundle after so many; 0: none
}

const gitHubRepository = "https://github.com/acme/widget"

func newGitHub(t *testing.T, o rehearsal.Options) *gitHub {
	t.Helper()
	g, model := &gitHub{}, rehearsal.New(o)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && g.full() {
			http.Error(w, `{"message":"we are down"}`, http.StatusServiceUnavailable)
			return
		}
		model.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// full counts a bundle that is taken, and reports whether none is.
func (g *gitHub) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.after > 0 && g.posts >= g.after {
		return true
	}
	g.posts++
	return false
}

func (g *gitHub) archive(t *testing.T, token string) pipeline.Archive {
	t.Helper()
	return must(attestations.NewArchive(g.url, gitHubRepository, token, attestations.Options{Pause: time.Microsecond}))
}

func workflowToken(scopes ...string) rehearsal.Token {
	return rehearsal.Token{Secret: "ghs_ours", Repository: "acme/widget", Scopes: scopes}
}

// What is signed is kept by GitHub as well: whoever asks its API for a digest, as `gh attestation
// verify` does, gets what our verifier and @sigstore/verify accept. A second run stores nothing.
func TestWhatIsSignedIsKeptByGitHubAsWell(t *testing.T) {
	t.Parallel()
	js := installSigstoreJS(t)
	f := newSignedFamily(t, 2)
	g := newGitHub(t, rehearsal.Options{BundlesApart: true, Tokens: []rehearsal.Token{workflowToken("attestations:write")}})
	f.stages.Archive = g.archive(t, "ghs_ours")
	f.release(t, pipeline.UntilPromote)
	claims := f.claims(t)
	if g.posts != len(claims) {
		t.Errorf("%d bundles were stored, want one for each of %d claims", g.posts, len(claims))
	}
	f.isKept(t, g, js, claims)
	f.release(t, pipeline.UntilAttest)
	if g.posts != len(claims) {
		t.Errorf("a second run stored %d more", g.posts-len(claims))
	}
}

// isKept reads every claim's proof back, without login, and has two verifiers judge it.
func (f *signedFamily) isKept(t *testing.T, g *gitHub, js sigstoreJS, claims []release.Claim) {
	t.Helper()
	public := must(verify.Attestations(g.url, gitHubRepository))
	dir := t.TempDir()
	var pairs []string
	want := map[digest.Digest]map[string]bool{}
	for _, c := range claims {
		if want[c.Subject.Digest] == nil {
			want[c.Subject.Digest] = map[string]bool{}
		}
		want[c.Subject.Digest][c.Predicate] = true
	}
	for subject, predicates := range want {
		bundles, err := public.Bundles(t.Context(), subject)
		if err != nil || len(bundles) != len(predicates) {
			t.Fatalf("GitHub keeps %d bundles about %s, %v; want %d", len(bundles), subject, err, len(predicates))
		}
		for _, b := range bundles {
			verified, err := f.trust.Verify(b, subject, sigstore.Expect{Signer: f.policy.Signer, Commit: f.plan.Source.Commit})
			if err != nil || !predicates[verified.Statement.PredicateType] {
				t.Errorf("what GitHub keeps about %s states %q, %v", subject, verified.Statement.PredicateType, err)
			}
			file := filepath.Join(dir, digest.FromBytes(b).Encoded()+".json")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, subject.String()+"="+file)
		}
	}
	for i, v := range js.judge(t, f.local.Services.TrustedRoot, sigstore.LocalBuilder, pairs) {
		if v.Refused != "" {
			t.Errorf("sigstore-js refuses %s: %s", pairs[i], v.Refused)
		}
	}
}

// A GitHub that goes away while bundles are stored stops the release before its channel. Everything is
// in the registry by then, and the next run stores what is missing and nothing twice.
func TestAnArchiveThatWasInterruptedIsContinued(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 2)
	g := newGitHub(t, rehearsal.Options{})
	g.after = 5
	f.stages.Archive = g.archive(t, "")
	_, err := f.stages.Release(t.Context(), f.plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote})
	if !errors.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Fatalf("Release = %v with hint %q, want Unavailable", err, fault.HintOf(err))
	}
	if head, err := f.stages.Ledger.Head(t.Context()); err != nil || head.ID != "" {
		t.Errorf("a channel moved: %+v, %v", head, err)
	}
	claims := f.claims(t)
	pub, _, err := f.stages.Adopt(t.Context(), f.plan.Source)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.stages.Unattested(t.Context(), pub, "dev"); n != len(claims)-5 || err != nil {
		t.Errorf("Unattested = %d, %v; the registry has all, GitHub 5 of %d", n, err, len(claims))
	}
	g.after = 0
	if r := f.release(t, pipeline.UntilPromote); r.Attested != 0 || g.posts != len(claims) {
		t.Errorf("%d were signed again, %d stored in all; want 0 and %d", r.Attested, g.posts, len(claims))
	}
}

func TestAJobWithoutTheRightToStoreIsToldWhichItNeeds(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 1)
	g := newGitHub(t, rehearsal.Options{Tokens: []rehearsal.Token{workflowToken("write:packages")}})
	f.stages.Archive = g.archive(t, "ghs_ours")
	r, err := f.stages.Release(t.Context(), f.plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilAttest})
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" || r.Attested != len(f.claims(t)) {
		t.Errorf("Release = %v with hint %q after %d statements, want Environment after all", err, fault.HintOf(err), r.Attested)
	}
}

// What hangs in the registry and was signed by somebody else is not GitHub's to keep for us.
func TestAStrangersBundleIsNotStored(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 1)
	f.release(t, pipeline.UntilAttest)
	claims := f.claims(t)
	c := claims[0]
	junk := readdressed(t, f.bundles(t, c)[0], c.Subject.Digest, digest.FromString("something else"))
	if err := f.stages.Registry.Repository(c.Member).Attach(t.Context(), c.Subject, evidence.BundleType, junk, map[string]string{evidence.BundlePredicate: c.Predicate}); err != nil {
		t.Fatal(err)
	}
	g := newGitHub(t, rehearsal.Options{})
	f.stages.Archive = g.archive(t, "")
	f.release(t, pipeline.UntilAttest)
	if g.posts != len(claims) {
		t.Errorf("%d bundles were stored, want %d", g.posts, len(claims))
	}
}
