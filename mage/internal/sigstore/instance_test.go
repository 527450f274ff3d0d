package sigstore

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// A private repository is signed by GitHub's own instance, which runs no transparency log: what is
// signed there has none in it, verifies by the instance's thresholds, and is nothing to the public's.
func TestGitHubsOwnInstanceSignsWithoutALog(t *testing.T) {
	t.Parallel()
	l := startLocal(t, Claims{FileUnsafe: filepath.Join("testdata", "github_claims.json")})
	services := l.Services
	services.Instance = family.GitHub
	services.TrustedRoot = without(t, l.Services.TrustedRoot, "tlogs", "ctlogs")
	services.SigningConfig = without(t, l.Services.SigningConfig, "rekorTlogUrls", "rekorTlogConfig")
	s, err := NewSigner(t.Context(), services, Options{Attempts: 2, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(s.Identity(), nil))
	b, err := s.Sign(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b.JSON), "tlogEntries") {
		t.Errorf("the bundle has a log entry: %s", b.JSON)
	}
	expect := Expect{Signer: family.Signer{
		Issuer: GitHubIssuer, Workflow: ".github/workflows/release.yml", Repository: widgetRepository, Ref: "refs/heads/main", Runner: "github-hosted",
	}}
	trust, err := ParseTrust(family.GitHub, vector(t, services.TrustedRoot))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(b.JSON, st.About(), expect); err != nil {
		t.Error(err)
	}
	public, err := ParseTrust(family.Public, vector(t, l.Services.TrustedRoot))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := public.Verify(b.JSON, st.About(), expect); !errors.Is(err, Unlogged) {
		t.Errorf("the public instance's policy: %v, want Unlogged", err)
	}
}

// without copies a JSON file less some members.
func without(t *testing.T, path string, members ...string) string {
	t.Helper()
	d := document{}
	if err := json.Unmarshal(vector(t, path), &d); err != nil {
		t.Fatal(err)
	}
	for _, name := range members {
		if d[name] == nil {
			t.Fatalf("%s has no %s", path, name)
		}
		delete(d, name)
	}
	content, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	less := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(less, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return less
}

func TestTheBuiltInServicesOfGitHubAreAnAuthorityAndAClock(t *testing.T) {
	t.Parallel()
	s := &Signer{options: Options{Now: func() time.Time { return time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC) }}, trust: &Trust{instance: family.GitHub}}
	if err := s.choose(gitHubServices); err != nil {
		t.Fatal(err)
	}
	if s.fulcio.URL != "https://fulcio.githubapp.com" || len(s.authorities) != 1 || len(s.logs) != 0 {
		t.Errorf("it signs at %s, %v and %v", s.fulcio.URL, s.authorities, s.logs)
	}
}
