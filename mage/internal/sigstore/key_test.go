package sigstore

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// newKeys makes a P-256 key as PKCS #8, and encrypted the way cosign generate-key-pair does.
func newKeys(t *testing.T, password string) (plain, sealed []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	box, err := encrypted.Encrypt(der, []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: sigstoreKey, Bytes: box})
}

func TestAKeyIsTheThirdWayToSign(t *testing.T) {
	t.Parallel()
	plain, sealed := newKeys(t, "secret")
	trust, err := ParseTrust(family.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ content, password []byte }{"plain": {plain, nil}, "encrypted": {sealed, []byte("secret")}} {
		s, err := NewKeySigner(c.content, c.password, proven)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(proven, nil))
		b, err := s.Sign(t.Context(), st)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := Expect{Commit: widgetCommit, Signer: family.Signer{Key: s.key.public, Repository: widgetRepository, Ref: "refs/heads/main", Builder: LocalBuilder}}
		v, err := trust.Verify(b.JSON, st.About(), want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := CheckProvenance(v.Statement, v.Identity); err != nil || !v.SignedAt.IsZero() || len(v.Facts) != 4 {
			t.Errorf("%s: %v, signed at %v, %v", name, err, v.SignedAt, v.Facts)
		}
	}
}

func TestAPrivateKeyThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	plain, sealed := newKeys(t, "secret")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	asPEM := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	for name, c := range map[string]struct{ content, password []byte }{
		"nothing":          {nil, nil},
		"a wrong password": {sealed, []byte("wrong")},
		"two keys":         {append(append([]byte{}, plain...), plain...), nil},
		"another curve":    {asPEM(p384), nil},
		"another sort":     {asPEM(edwards), nil},
		"a certificate":    {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}), nil},
		"broken DER":       {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := NewKeySigner(c.content, c.password, proven); !errors.Is(err, fault.Environment) {
				t.Errorf("NewKeySigner = %v, want Environment", err)
			}
		})
	}
}
