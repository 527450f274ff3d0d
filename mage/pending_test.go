package mage_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// F10: a Sigstore that is down leaves a release published and attest pending; no channel moves and
// nothing unsigned takes the place of what is missing. The next run attests it, and nothing twice.
func TestF10ASigstoreThatIsDownLeavesTheReleaseAttestPending(t *testing.T) {
	t.Parallel()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "try later", http.StatusServiceUnavailable)
	}))
	t.Cleanup(broken.Close)
	f := newSignedFamily(t, 2)
	f.release(t, pipeline.UntilPublish)
	for name, services := range map[string]sigstore.Services{
		"the certificate authority": f.elsewhere(t, "caUrls", broken.URL),
		"the log":                   f.elsewhere(t, "rekorTlogUrls", broken.URL),
		"the timestamp authority":   f.elsewhere(t, "tsaUrls", broken.URL),
		"the log does not listen":   f.elsewhere(t, "rekorTlogUrls", "http://127.0.0.1:1"),
		"the issuer of identities":  f.withToken(sigstore.ActionsToken(broken.URL+"/?", "x")),
	} {
		f.stages.Signer = f.signer(services)
		if r := f.pends(t, name); r.Attested != 0 {
			t.Errorf("%s: %d statements were attached", name, r.Attested)
		}
	}
	f.stages.Signer = f.signer(f.local.Services)
	f.settles(t, len(f.claims(t)))
}

// F10: what was signed before the Sigstore went away is not signed again.
func TestF10AReleaseThatWasHalfSignedIsContinued(t *testing.T) {
	t.Parallel()
	const before = 5
	f := newSignedFamily(t, 2)
	whole := f.signer(f.local.Services)
	var made atomic.Int64
	f.stages.Signer = func(ctx context.Context) (pipeline.Signer, error) {
		s, err := whole(ctx)
		return failing{s, &made, before}, err
	}
	if r := f.pends(t, "after some statements"); r.Attested != before {
		t.Errorf("%d statements were attached, want %d", r.Attested, before)
	}
	f.stages.Signer = whole
	f.settles(t, len(f.claims(t))-before)
}

// failing signs so many statements and then finds the services gone.
type failing struct {
	pipeline.Signer
	made *atomic.Int64
	of   int64
}

func (s failing) Sign(ctx context.Context, st evidence.Statement) (evidence.Bundle, error) {
	if s.made.Add(1) > s.of {
		return evidence.Bundle{}, fault.New(fault.Unavailable, "signing", st.Subject[0].Name, "the log went away")
	}
	return s.Signer.Sign(context.WithoutCancel(ctx), st)
}

// F9: that a job says it is GitHub's proves nothing. Who signs is what the token says and the
// certificate proves; a job of another commit signs nothing of this one.
func TestF9AJobOfAnotherCommitSignsNothing(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 2)
	f.release(t, pipeline.UntilPublish)
	other := startSigstore(t, filepath.Join(t.TempDir(), "sigstore"), sigstore.Claims{
		Repository: signedSource, Ref: "refs/heads/main", Commit: strings.Repeat("2", 40), Workflow: "family.yaml",
	})
	f.stages.Signer = f.signer(other.Services)
	_, err := f.promote(t)
	if !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" {
		t.Errorf("Release = %v with hint %q, want Refused and a hint", err, fault.HintOf(err))
	}
	f.isUnserved(t, "a job of another commit")
}

func (f *signedFamily) promote(t *testing.T) (pipeline.Result, error) {
	t.Helper()
	return f.stages.Release(t.Context(), f.plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: release.Moved{By: "alice", Run: "1"}})
}

// pends releases while something is down.
func (f *signedFamily) pends(t *testing.T, what string) pipeline.Result {
	t.Helper()
	r, err := f.promote(t)
	if !errors.Is(err, fault.Unavailable) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), "attest pending") {
		t.Errorf("%s: %v with hint %q, want Unavailable, attest pending, and a hint", what, err, fault.HintOf(err))
	}
	if r.Reached != pipeline.UntilPublish {
		t.Errorf("%s: it reached %q", what, r.Reached)
	}
	f.isUnserved(t, what)
	return r
}

func (f *signedFamily) isUnserved(t *testing.T, after string) {
	t.Helper()
	head, err := f.stages.Ledger.Head(t.Context())
	if err != nil || head.Document.Generation != 0 {
		t.Errorf("%s: the ledger is at generation %d, %v", after, head.Document.Generation, err)
	}
	for _, name := range f.fam.Members() {
		for _, tag := range []string{"dev", release.ChannelsTag} {
			if _, found, err := f.stages.Registry.Repository(name).Resolve(t.Context(), tag); found || err != nil {
				t.Errorf("%s: %s:%s is there: %v, %v", after, name, tag, found, err)
			}
		}
	}
}

// settles releases twice with everything up: the first run signs what is missing, the second nothing.
func (f *signedFamily) settles(t *testing.T, missing int) {
	t.Helper()
	for run, want := range []int{missing, 0} {
		if r := f.release(t, pipeline.UntilPromote); r.Attested != want || run == 1 && !r.Unchanged() {
			t.Errorf("run %d attested %d statements, want %d; unchanged: %v", run+1, r.Attested, want, r.Unchanged())
		}
	}
	for _, c := range f.claims(t) {
		if n := len(f.bundles(t, c)); n != 1 {
			t.Errorf("%d bundles say %s of %s %s, want 1", n, c.Predicate, c.Member, c.Platform)
		}
	}
}

// elsewhere points one service of the signing config at another address.
func (f *signedFamily) elsewhere(t *testing.T, service, url string) sigstore.Services {
	t.Helper()
	services := f.local.Services
	services.SigningConfig = elsewhere(t, services.SigningConfig, service, url)
	return services
}

func elsewhere(t *testing.T, config, service, url string) (path string) {
	t.Helper()
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`("` + service + `":\[\{"url":")[^"]+`)
	if !pattern.Match(content) {
		t.Fatalf("no %s in %s", service, content)
	}
	path = filepath.Join(t.TempDir(), "signing_config.json")
	if err := os.WriteFile(path, pattern.ReplaceAll(content, []byte("${1}"+url)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (f *signedFamily) withToken(token func(context.Context) (string, error)) sigstore.Services {
	services := f.local.Services
	services.Token = token
	return services
}

// What a release reads to see that nothing is missing is what its promotion goes by.
func TestAReleaseThatAttestsNothingVerifiesItsEvidenceOnce(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 2)
	f.release(t, pipeline.UntilAttest)
	asked := &counting{Verifier: f.stages.Verifier, of: map[digest.Digest]int{}}
	f.stages.Verifier = asked
	if r := f.release(t, pipeline.UntilPromote); r.Attested != 0 || !r.Outcome.Moved {
		t.Fatalf("attested %d statements, moved %v", r.Attested, r.Outcome.Moved)
	}
	bundles := map[digest.Digest]int{}
	for _, c := range f.claims(t) {
		bundles[c.Subject.Digest]++
		if c.Member == f.fam.ArtifactOf(family.Metadata) {
			bundles[c.Subject.Digest]++ // the record's is asked once before: whoever cannot sign may have put it there
		}
	}
	for d, n := range bundles {
		if asked.of[d] != n {
			t.Errorf("%d bundles of %s were verified, it has %d", asked.of[d], d, n)
		}
	}
}

// counting counts what was verified about each digest.
type counting struct {
	pipeline.Verifier
	mu sync.Mutex
	of map[digest.Digest]int
}

func (v *counting) Verify(bundle []byte, subject digest.Digest, commit, channel string) (evidence.Statement, error) {
	v.mu.Lock()
	v.of[subject]++
	v.mu.Unlock()
	return v.Verifier.Verify(bundle, subject, commit, channel)
}

// Whoever reads a provenance sees every build argument of the image, as its bake file gives it.
func TestProvenanceRecordsTheBuildArguments(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 1)
	f.release(t, pipeline.UntilAttest)
	found, err := pipeline.Collect(t.Context(), f.stages.Registry, f.stages.Verifier, f.claims(t), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, c := range f.claims(t) {
		if _, isImage := f.fam.Images[c.Member]; c.Predicate != evidence.Provenance || !isImage {
			continue
		}
		var p evidence.SLSA
		if err := json.Unmarshal(found[pipeline.KeyOf(c)].Predicate, &p); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{"FLAVOUR": "plain"}, p.BuildDefinition.InternalParameters["buildArguments"]); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.Member, c.Platform, diff)
		}
		seen++
	}
	if seen != 3 {
		t.Errorf("%d provenances of an image on two platforms, want 3", seen)
	}
}
