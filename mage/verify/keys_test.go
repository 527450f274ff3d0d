package verify_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/verify"
)

// keyScene is a subject that was signed by a key pair alone.
type keyScene struct {
	*scene
	identity evidence.Identity
	key      *ecdsa.PrivateKey
	bundles  [][]byte // instead of honest ones
}

func newKeyScene() *keyScene {
	s := &keyScene{scene: newScene(), key: newKey()}
	s.identity = evidence.Identity{
		BuilderID: sigstore.LocalBuilder, BuildType: evidence.LocalBuildType, Repository: widgetRepository, Ref: "refs/heads/main",
		Commit: widgetCommit, WorkflowPath: "containai.yaml", InvocationID: "run 1",
	}
	s.policy = family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(s.key), Repository: widgetRepository, Ref: "refs/heads/main", Builder: sigstore.LocalBuilder}}
	return s
}

func publicPEM(key *ecdsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))}))
}

func privatePEM(key *ecdsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
}

func (s *keyScene) verify(t *testing.T) (verify.Result, error) {
	t.Helper()
	s.provenance = evidence.NewSLSA(s.identity, s.subject.Dependencies)
	e := verify.Evidence{Documents: [][]byte{[]byte(s.sbom)}, Bundles: s.bundles}
	for predicate, content := range map[string]any{evidence.Signature: struct{}{}, evidence.Provenance: s.provenance, evidence.SBOM: rawJSON(s.sbom), evidence.Scan: s.report} {
		if s.bundles == nil {
			e.Bundles = append(e.Bundles, signed(s.key, must(json.Marshal(must(evidence.NewStatement("widget", s.about, predicate, content))))))
		}
	}
	return verify.Verify(t.Context(), s.subject, e, must(verify.ParseTrust(family.Key, nil)), s.policy, s.now)
}

// signed makes a bundle of anything, which our own signer would not.
func signed(key *ecdsa.PrivateKey, payload []byte) []byte {
	sum := sha256.Sum256(pae(payload))
	return must(protojson.Marshal(&bundlepb.Bundle{
		MediaType: evidence.BundleType,
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content: &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: "x"}},
		},
		Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
			Payload: payload, PayloadType: evidence.PayloadT, Signatures: []*dssepb.Signature{{Sig: must(ecdsa.SignASN1(rand.Reader, key, sum[:]))}},
		}},
	}))
}

// rawJSON marshals as itself.
type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// keyForgery is a forgery of what a key signs.
type keyForgery struct {
	row, name string
	kind      fault.Kind
	reason    verify.Reason
	change    func(*keyScene)
}

func keyForgeries() []keyForgery {
	said := func(change func(*evidence.Identity)) func(*keyScene) {
		return func(s *keyScene) { change(&s.identity) }
	}
	return []keyForgery{
		{"D2", "another key", fault.Forged, sigstore.Untrusted, func(s *keyScene) { s.key = newKey() }},
		{"D2", "a key whose owner built another repository", fault.Forged, sigstore.WrongIdentity, said(func(id *evidence.Identity) { id.Repository += "A" })},
		{"D2", "a key whose owner built another branch", fault.Forged, sigstore.WrongIdentity, said(func(id *evidence.Identity) { id.Ref += "-evil" })},
		{"D2", "a key whose owner built elsewhere", fault.Forged, sigstore.WrongIdentity, said(func(id *evidence.Identity) { id.BuilderID = "https://evil.example" })},
		{"D2", "a key whose owner built another commit", fault.Forged, sigstore.WrongIdentity, func(s *keyScene) { s.subject.Commit = strings.Repeat("f", 40) }},
		{"D2", "a build type that nobody knows", fault.Forged, sigstore.WrongProvenance, said(func(id *evidence.Identity) { id.BuildType = "https://evil.example" })},
		{"D3", "a key whose owner names no builder", fault.Forged, sigstore.WrongIdentity, func(s *keyScene) { s.identity.BuilderID, s.policy.Signer.Builder = "", "" }},
		{"D3", "a key whose owner names no repository", fault.Forged, sigstore.WrongIdentity, func(s *keyScene) { s.identity.Repository, s.policy.Signer.Repository = "", "" }},
		{"D3", "a key whose owner names no commit", fault.Forged, sigstore.WrongIdentity, func(s *keyScene) { s.identity.Commit, s.subject.Commit = "", "" }},
		{"D4", "a key's statement about another digest", fault.Forged, sigstore.WrongSubject, func(s *keyScene) { s.about = digest.FromString("another") }},
		{"D8", "an age, which a key's signatures do not have", fault.Refused, verify.TooOld, func(s *keyScene) { s.policy.MaxAge = time.Hour }},
		{"D13", "a policy of keys without key", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key = "" }},
		{"D13", "a policy of keys without key, and no bundle either", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key, s.bundles = "", [][]byte{[]byte("{}")} }},
		{"D13", "a policy whose key is called otherwise", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key = strings.ReplaceAll(s.policy.Signer.Key, "PUBLIC KEY", "KEY") }},
		{"D13", "a policy whose key is not of ECDSA", fault.Invalid, "", func(s *keyScene) {
			public, _, _ := ed25519.GenerateKey(rand.Reader)
			s.policy.Signer.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))}))
		}},
		{"D13", "a policy whose key is none", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key = "x" }},
		{"D13", "a policy of two keys", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key += s.policy.Signer.Key }},
		{"D13", "a policy whose key is of another sort", fault.Invalid, "", func(s *keyScene) {
			other := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
			s.policy.Signer.Key = publicPEM(other)
		}},
		{"D13", "a private key in the policy", fault.Invalid, "", func(s *keyScene) { s.policy.Signer.Key = string(privatePEM(s.key)) }},
	}
}

func TestForgedKeys(t *testing.T) {
	if _, err := newKeyScene().verify(t); err != nil {
		t.Fatalf("the honest one: %v", err)
	}
	for _, f := range keyForgeries() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			s := newKeyScene()
			f.change(s)
			_, err := s.verify(t)
			refused(t, err, f.kind, f.reason)
		})
	}
	t.Run("D2 a certificate where a key is demanded", func(t *testing.T) {
		s := newScene()
		s.policy = newKeyScene().policy
		_, err := s.verify(t)
		refused(t, err, fault.Forged, sigstore.Malformed)
	})
	t.Run("D2 a key where a certificate is demanded", func(t *testing.T) {
		s := newKeyScene()
		b := must(must(sigstore.NewKeySigner(privatePEM(s.key), nil, s.identity)).Sign(t.Context(), must(evidence.NewStatement("widget", s.about, evidence.Signature, struct{}{}))))
		trust := must(verify.ParseTrust(family.Public, ours().trustedRoot))
		_, err := verify.Verify(t.Context(), s.subject, verify.Evidence{Bundles: [][]byte{b.JSON}}, trust, widgetPolicy(), now)
		refused(t, err, fault.Forged, sigstore.Malformed)
	})
}
