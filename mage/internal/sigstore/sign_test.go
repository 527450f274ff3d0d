package sigstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

func TestWhatIsSignedVerifies(t *testing.T) {
	t.Parallel()
	l := startLocal(t, widget)
	s := newSigner(t, l)
	id := s.Identity()
	if id.InvocationID == "" {
		t.Error("the run has no name")
	}
	want := evidence.Identity{
		Issuer: LocalIssuer, BuilderID: LocalBuilder, BuildType: evidence.LocalBuildType, Repository: widgetRepository,
		Ref: "refs/heads/main", Commit: widgetCommit, WorkflowPath: "containai.yaml", InvocationID: id.InvocationID,
		Runner: "local", Internal: map[string]any{"local": map[string]any{"runner_environment": "local"}},
	}
	if diff := cmp.Diff(want, id); diff != "" {
		t.Errorf("the local identity (-want +got):\n%s", diff)
	}
	st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(id, nil))
	b, err := s.Sign(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Minute)
	v, err := trustOf(t, l).Verify(b.JSON, st.About(), widgetExpect())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(st, v.Statement, cmp.Transformer("JSON", func(m json.RawMessage) (value any) {
		_ = json.Unmarshal(m, &value)
		return value
	})); diff != "" {
		t.Errorf("statement (-signed +verified):\n%s", diff)
	}
	if v.SignedAt.Before(before) || v.SignedAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("signed at %v", v.SignedAt)
	}
	if err := CheckProvenance(v.Statement, v.Identity); err != nil {
		t.Error(err)
	}
}

// A release of six images on two platforms has about 45 statements.
func TestOneCertificateSignsFortyFiveStatementsAtOnce(t *testing.T) {
	t.Parallel()
	const statements, bound = 45, 20
	s := newSigner(t, startLocal(t, widget))
	bundles := make([]evidence.Bundle, statements)
	slots := make(chan struct{}, bound)
	var wait sync.WaitGroup
	began := time.Now()
	for n := range statements {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			var err error
			if bundles[n], err = s.Sign(t.Context(), statementAbout(t, n, evidence.Signature, struct{}{})); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	t.Logf("%d statements, %d at a time: %v", statements, bound, time.Since(began).Round(time.Millisecond))
	certificates := map[string]bool{}
	for _, b := range bundles {
		certificates[certificateIn(t, b.JSON)] = true
	}
	if len(certificates) != 1 {
		t.Errorf("%d certificates, want 1", len(certificates))
	}
}

func certificateIn(t *testing.T, content []byte) string {
	t.Helper()
	var b struct {
		VerificationMaterial struct{ Certificate struct{ RawBytes string } }
	}
	if err := json.Unmarshal(content, &b); err != nil || b.VerificationMaterial.Certificate.RawBytes == "" {
		t.Fatalf("no certificate in the bundle: %v", err)
	}
	return b.VerificationMaterial.Certificate.RawBytes
}

func TestACertificateNearItsEndIsRenewed(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s, err := NewSigner(t.Context(), startLocal(t, widget).Services, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		same  bool
	}{{7 * time.Minute, true}, {9 * time.Minute, false}} {
		ahead.Store(int64(c.after))
		later, err := s.credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(first.certificate, later.certificate) && first.key == later.key; same != c.same {
			t.Errorf("after %v the credential is the same: %v, want %v", c.after, same, c.same)
		}
	}
}

// elsewhere copies a signing config with one service pointed at a port where nothing answers.
func elsewhere(t *testing.T, services Services, service string) Services {
	t.Helper()
	content, err := os.ReadFile(services.SigningConfig)
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`("` + service + `":\[\{"url":")[^"]+`)
	if !pattern.Match(content) {
		t.Fatalf("no %s in %s", service, content)
	}
	services.SigningConfig = filepath.Join(t.TempDir(), "signing_config.json")
	if err := os.WriteFile(services.SigningConfig, pattern.ReplaceAll(content, []byte("${1}http://127.0.0.1:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	return services
}

func TestNothingLeavesUnsignedWhenAServiceIsDown(t *testing.T) {
	t.Parallel()
	l := startLocal(t, widget)
	options := Options{Attempts: 2, Pause: time.Millisecond}
	for _, service := range []string{"rekorTlogUrls", "tsaUrls"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			s, err := NewSigner(t.Context(), elsewhere(t, l.Services, service), options)
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Sign(t.Context(), statementAbout(t, 1, evidence.Signature, struct{}{}))
			if !errors.Is(err, fault.Unavailable) || b.JSON != nil {
				t.Errorf("Sign = %q, %v, want Unavailable and nothing", b.JSON, err)
			}
		})
	}
	t.Run("caUrls", func(t *testing.T) {
		t.Parallel()
		if _, err := NewSigner(t.Context(), elsewhere(t, l.Services, "caUrls"), options); !errors.Is(err, fault.Unavailable) {
			t.Errorf("NewSigner = %v, want Unavailable", err)
		}
	})
}

func TestASignerRefusesServicesThatItsTrustedRootDoesNotKnow(t *testing.T) {
	t.Parallel()
	here, there := startLocal(t, widget), startLocal(t, widget)
	mixed := here.Services
	mixed.TrustedRoot = there.Services.TrustedRoot
	s, err := NewSigner(t.Context(), mixed, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Sign(t.Context(), statementAbout(t, 1, evidence.Signature, struct{}{})); !errors.Is(err, Untrusted) || b.JSON != nil {
		t.Errorf("Sign = %q, %v, want Untrusted", b.JSON, err)
	}
}

func TestACancelledSigningIsInterrupted(t *testing.T) {
	t.Parallel()
	s := newSigner(t, startLocal(t, widget))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sign(ctx, statementAbout(t, 1, evidence.Signature, struct{}{})); !errors.Is(err, fault.Interrupted) {
		t.Errorf("Sign = %v, want Interrupted", err)
	}
}

func TestAWrongBearerTokenIsAnEnvironmentFault(t *testing.T) {
	t.Parallel()
	services := startLocal(t, widget).Services
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(issuer.Close)
	services.Token = ActionsToken(issuer.URL+"/?api-version=2.0", "wrong")
	_, err := NewSigner(t.Context(), services, Options{})
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("NewSigner = %v with hint %q, want Environment and a hint", err, fault.HintOf(err))
	}
}

func TestAGitHubIdentityGivesGitHubsPredicate(t *testing.T) {
	t.Parallel()
	l := startLocal(t, Claims{FileUnsafe: filepath.Join("testdata", "github_claims.json")})
	s := newSigner(t, l)
	const workflow = "https://github.com/acme/widget/.github/workflows/release.yml@refs/heads/main"
	want := evidence.Identity{
		Issuer: GitHubIssuer, BuilderID: workflow, BuildType: evidence.GitHubBuildType, Repository: widgetRepository,
		Ref: "refs/heads/main", Commit: widgetCommit, WorkflowPath: ".github/workflows/release.yml",
		InvocationID: "https://github.com/acme/widget/actions/runs/1001/attempts/1",
		RepositoryID: "4242", OwnerID: "77", Runner: "github-hosted",
		Internal: map[string]any{"github": map[string]any{
			"event_name": "push", "repository_id": "4242", "repository_owner_id": "77", "runner_environment": "github-hosted",
		}},
	}
	if diff := cmp.Diff(want, s.Identity()); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(s.Identity(), nil))
	b, err := s.Sign(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	expect := Expect{Signer: family.Signer{
		Issuer: GitHubIssuer, Workflow: ".github/workflows/release.yml", Repository: widgetRepository, RepositoryID: "4242", OwnerID: "77",
		Ref: "refs/heads/*", Runner: "github-hosted",
	}}
	v, err := trustOf(t, l).Verify(b.JSON, st.About(), expect)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckProvenance(v.Statement, v.Identity); err != nil {
		t.Error(err)
	}
	expect.Runner = "self-hosted"
	if _, err := trustOf(t, l).Verify(b.JSON, st.About(), expect); !errors.Is(err, WrongIdentity) {
		t.Errorf("another runner environment: %v, want WrongIdentity", err)
	}
}
