package mage

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/sigstore"
)

func containaiFamily(t *testing.T) *family.Family {
	t.Helper()
	content, err := os.ReadFile("../containai.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := family.Parse("containai.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWhoseSignaturesCountDependsOnWhereReleasesGo(t *testing.T) {
	f := containaiFamily(t)
	for name, c := range map[string]struct {
		authorities authorities
		loopback    bool
		want        family.Instance
		issuer      string
	}{
		"a registry on this machine":                     {authorities{}, true, family.Local, sigstore.LocalIssuer},
		"a public registry":                              {authorities{}, false, family.Public, sigstore.GitHubIssuer},
		"a rehearsal on this machine, with a named root": {authorities{root: "root.json"}, true, family.Public, sigstore.GitHubIssuer},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.authorities.policy(f, "dev", c.loopback)
			if p.Instance != c.want || p.Signer.Issuer != c.issuer {
				t.Errorf("policy = %+v, want instance %s of issuer %s", p, c.want, c.issuer)
			}
		})
	}
	f.Trust = family.Policy{Instance: family.Key, Signer: family.Signer{Key: "pem"}}
	if p := (authorities{}).policy(f, "", true); p.Instance != family.Key || p.Signer.Key != "pem" {
		t.Errorf("a family of keys trusts %+v", p)
	}
}

func TestD13ATrustedRootThatIsNotThereStopsVerification(t *testing.T) {
	f := containaiFamily(t)
	missing := filepath.Join(t.TempDir(), "trusted_root.json")
	for name, c := range map[string]struct {
		authorities authorities
		loopback    bool
	}{
		"this machine never signed anything": {authorities{}, true},
		"the named file is not there":        {authorities{root: missing}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.authorities.trust(c.authorities.policy(f, "dev", c.loopback), missing)
			if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
				t.Errorf("trust = %v with hint %q, want Environment and a hint", err, fault.HintOf(err))
			}
		})
	}
	if _, err := (authorities{}).trust(f.Policy("dev"), missing); err != nil {
		t.Errorf("the public instance's root is built in: %v", err)
	}
}

// What is kept of an earlier release is to be served for a third of the time that its signatures count.
func TestWhatIsKeptHasTimeLeft(t *testing.T) {
	client, err := registry.New("ghcr.io/containai", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := containaiFamily(t)
	prod := f.Channels["prod"]
	prod.Trust.MaxAge = 90 * 24 * time.Hour
	f.Channels["prod"] = prod
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	served := &trustPort{workshop: &workshop{session: &session{}, fam: f, client: client, state: state}}
	kept, ok := served.Enduring().(*trustPort)
	if !ok {
		t.Fatalf("it is %T", served.Enduring())
	}
	for port, want := range map[*trustPort]time.Duration{served: 90 * 24 * time.Hour, kept: 60 * 24 * time.Hour} {
		judges, err := port.open("prod")
		if err != nil || len(judges) != 1 || judges[0].maxAge != want {
			t.Errorf("judges %+v, %v, want one that takes %s", judges, err, want)
		}
	}
}

func TestWhatGitHubKeepsIsAskedForWhereGitHubSigns(t *testing.T) {
	f, a := containaiFamily(t), authorities{gitHub: "https://api.github.com"}
	if s, err := a.elsewhere(a.policy(f, "dev", false)); s == nil || err != nil {
		t.Errorf("elsewhere of GitHub's releases = %v, %v", s, err)
	}
	if s, err := a.elsewhere(a.policy(f, "dev", true)); s != nil || err != nil {
		t.Errorf("elsewhere of this machine's releases = %v, %v", s, err)
	}
}

func TestOnLoopback(t *testing.T) {
	for registry, want := range map[string]bool{"": true, "127.0.0.1:5555/tiny": true, "localhost:5000/a": true, "ghcr.io/containai": false, "ghcr.io": false} {
		if got := onLoopback(registry); got != want {
			t.Errorf("onLoopback(%q) = %v, want %v", registry, got, want)
		}
	}
}

// F9: what says that a run is GitHub's is the token that its job can show, not the variables that
// anybody can set. Without one nothing is signed for a registry that other people read.
func TestF9AFakedJobSignsNothing(t *testing.T) {
	for name, value := range map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "containai/containai", "GITHUB_REF": "refs/heads/main", "GITHUB_SHA": "0123456789012345678901234567890123456789",
		"GITHUB_WORKFLOW_REF": "containai/containai/.github/workflows/release.yml@refs/heads/main", "ACTIONS_ID_TOKEN_REQUEST_URL": "", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "",
	} {
		t.Setenv(name, value)
	}
	client, err := registry.New("ghcr.io/containai", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	port := &signerPort{workshop: &workshop{fam: containaiFamily(t), client: client}}
	signer, err := port.open(t.Context())
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" || signer != nil {
		t.Errorf("open = %v, %v with hint %q, want Environment and a hint", signer, err, fault.HintOf(err))
	}
}

// Whoever puts the key itself where its file's name belongs learns that nothing was read, and does
// not find the key in a log.
func TestAKeyInPlaceOfItsFileIsNotPrinted(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	t.Setenv("CONTAINAI_SIGNING_KEY", key)
	f := containaiFamily(t)
	f.Trust = family.Policy{Instance: family.Key}
	_, err = (&signerPort{workshop: &workshop{fam: f}}).open(t.Context())
	text := exit(err, nil).Error()
	if !errors.Is(err, fault.Environment) || !strings.Contains(text, "CONTAINAI_SIGNING_KEY") {
		t.Errorf("open = %v, want Environment and the variable's name", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(key), "\n") {
		if strings.Contains(text, line) {
			t.Errorf("it printed %q of the key", line)
		}
	}
}
