package sigstore

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// publicGood was signed by a person on the public instance; see testdata/bundles/README.md.
const publicGood = "../../../testdata/bundles/public-good.sigstore.json"

func TestTheBuiltInRootVerifiesWhatThePublicInstanceIssued(t *testing.T) {
	t.Parallel()
	trust, err := ParseTrust(family.Public, nil)
	if err != nil {
		t.Fatal(err)
	}
	content := vector(t, publicGood)
	message := new(bundlepb.Bundle)
	if err := protojson.Unmarshal(content, message); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.NewBundle(message)
	if err != nil {
		t.Fatal(err)
	}
	result, err := trust.checkSignature(b, Expect{})
	if err != nil {
		t.Fatal(err)
	}
	if at := signedAt(result.VerifiedTimestamps); at.Format(time.DateOnly) != "2025-02-28" {
		t.Errorf("signed at %v", at)
	}
	// A genuine signature of a stranger, over a statement of an old version: not ours.
	expect := Expect{Signer: family.Signer{Issuer: GitHubIssuer, Repository: widgetRepository, Ref: "refs/heads/main", Workflow: "x.yml"}}
	about := digest.Digest("sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4")
	if _, err := trust.Verify(content, about, expect); !errors.Is(err, Malformed) || !errors.Is(err, fault.Forged) {
		t.Errorf("Verify = %v, want Malformed", err)
	}
}

// The signing config was written by hand: it must be readable, and name services that the root knows.
func TestTheBuiltInServicesAreTheRootsOwn(t *testing.T) {
	t.Parallel()
	s := &Signer{options: Options{Now: func() time.Time { return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) }}, trust: &Trust{instance: family.Public}}
	if err := s.choose(publicServices); err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(publicRoot)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, log := range trusted.RekorLogs() {
		known[log.BaseURL] = true
	}
	for _, ca := range trusted.FulcioCertificateAuthorities() {
		known[ca.(*root.FulcioCertificateAuthority).URI] = true
	}
	for _, tsa := range trusted.TimestampingAuthorities() {
		known[tsa.(*root.SigstoreTimestampingAuthority).URI] = true
	}
	for _, service := range append(append(s.logs, s.authorities...), s.fulcio) {
		if !known[service.URL] {
			t.Errorf("%s is not in the trusted root: %v", service.URL, known)
		}
	}
}

func TestAnInstanceWithoutRootIsRefusedAndNotSkipped(t *testing.T) {
	t.Parallel()
	for _, instance := range []family.Instance{family.GitHub, family.Local} {
		if _, err := ParseTrust(instance, []byte("\n")); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v with hint %q, want Environment and a hint", instance, err, fault.HintOf(err))
		}
		if _, err := NewSigner(t.Context(), Services{Instance: instance}, Options{}); !errors.Is(err, fault.Environment) {
			t.Errorf("signing with %s: %v, want Environment", instance, err)
		}
	}
	services := Services{Instance: family.Local, TrustedRoot: vectorRoot}
	if _, err := NewSigner(t.Context(), services, Options{}); !errors.Is(err, fault.Environment) {
		t.Errorf("signing with an instance of this machine without signing config: %v, want Environment", err)
	}
}

func FuzzParseTrust(f *testing.F) {
	content, err := os.ReadFile(vectorRoot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, instance := range []family.Instance{family.Public, family.GitHub} {
			trust, err := ParseTrust(instance, content)
			if _, classified := fault.KindOf(err); err != nil && !classified || err == nil && trust == nil {
				t.Errorf("%v, %v", trust, err)
			}
		}
	})
}

func TestOnlyPatternsMatchByPattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fact Fact
		want bool
	}{
		{Fact{Found: "a", Want: "a"}, true},
		{Fact{Found: "ab", Want: "a*"}, false},
		{Fact{Found: "a", Want: ""}, false},
		{Fact{Found: "", Want: "a"}, false},
		{Fact{Found: "a", Want: "", how: ifDemanded}, true},
		{Fact{Found: "ab", Want: "a*", how: ifDemanded}, false},
		{Fact{Found: "ab", Want: "a*", how: byPattern}, true},
		{Fact{Found: "a/b", Want: "a*", how: byPattern}, false},
		{Fact{Found: "a", Want: "", how: byPattern}, false},
	} {
		if got := c.fact.holds(); got != c.want {
			t.Errorf("%+v holds: %v", c.fact, got)
		}
	}
	if err := agree([]Fact{{Name: "a", Found: "1", Want: "2"}, {Name: "b", Found: "3", Want: "4"}}); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("agree = %v, want both facts", err)
	}
}
