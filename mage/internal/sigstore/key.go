package sigstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// KeySigner signs statements with a key pair: no certificate, no log and no time, for places that
// reach no services. What its provenance says of the build is its owner's word.
type KeySigner struct {
	key      keyPair
	identity evidence.Identity
	trust    *Trust
}

// The PEM types of cosign's encrypted private keys (`cosign generate-key-pair`), new and old.
const (
	sigstoreKey = "ENCRYPTED SIGSTORE PRIVATE KEY"
	cosignKey   = "ENCRYPTED COSIGN PRIVATE KEY"
)

// NewKeySigner reads one ECDSA P-256 private key in PEM: encrypted as cosign does, or plain PKCS #8.
// The identity is what provenance will say; it has no issuer.
func NewKeySigner(content, password []byte, identity evidence.Identity) (*KeySigner, error) {
	private, err := parsePrivateKey(content, password)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", "private key")
	}
	pair, err := newKeyPair(private)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", "private key")
	}
	return &KeySigner{pair, identity, &Trust{instance: family.Key}}, nil
}

// Identity is what the signer's provenance says.
func (s *KeySigner) Identity() evidence.Identity { return s.identity }

// Sign makes a bundle of a statement and verifies it as a consumer would.
func (s *KeySigner) Sign(ctx context.Context, st evidence.Statement) (evidence.Bundle, error) {
	content, err := s.sign(ctx, st)
	if err != nil {
		return evidence.Bundle{}, fault.Wrap(err, fault.Invalid, "signing "+st.PredicateType+" of", st.Subject[0].Name)
	}
	want := Expect{Signer: family.Signer{Key: s.key.public, Repository: s.identity.Repository}, Commit: s.identity.Commit}
	if _, err := s.trust.Verify(content, st.About(), want); err != nil {
		return evidence.Bundle{}, fault.Wrap(err, fault.Forged, "verifying what was signed about", st.Subject[0].Name)
	}
	return evidence.Bundle{Subject: st.About(), PredicateType: st.PredicateType, JSON: content}, nil
}

func (s *KeySigner) sign(ctx context.Context, st evidence.Statement) ([]byte, error) {
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	signed, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: evidence.PayloadT}, s.key, sign.BundleOptions{Context: ctx})
	if err != nil {
		return nil, err
	}
	content, err := protojson.Marshal(signed)
	if err != nil {
		return nil, err
	}
	return compact(content)
}

// compact removes the blanks that protojson puts at random.
func compact(content []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Compact(&out, content)
	return out.Bytes(), err
}

func parsePrivateKey(content, password []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(content)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one PEM block")
	}
	der := block.Bytes
	switch block.Type {
	case sigstoreKey, cosignKey:
		var err error
		if der, err = encrypted.Decrypt(der, password); err != nil {
			return nil, fmt.Errorf("decrypting: %w", err)
		}
	case "PRIVATE KEY":
	default:
		return nil, fmt.Errorf("a %q is no key that signs here", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("it is not an ECDSA key on the curve P-256")
	}
	return private, nil
}

// keyPair is a sign.Keypair over a key that lasts. Its hint is cosign's: the public key's SHA-256.
type keyPair struct {
	private *ecdsa.PrivateKey
	public  string // PEM
	hint    string
}

func newKeyPair(private *ecdsa.PrivateKey) (keyPair, error) {
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return keyPair{}, err
	}
	sum := sha256.Sum256(der)
	return keyPair{
		private: private,
		public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		hint:    base64.StdEncoding.EncodeToString(sum[:]),
	}, nil
}

func (k keyPair) GetHashAlgorithm() common.HashAlgorithm { return common.HashAlgorithm_SHA2_256 }
func (k keyPair) GetSigningAlgorithm() common.PublicKeyDetails {
	return common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}
func (k keyPair) GetHint() []byte                  { return []byte(k.hint) }
func (k keyPair) GetKeyAlgorithm() string          { return "ECDSA" }
func (k keyPair) GetPublicKey() crypto.PublicKey   { return k.private.Public() }
func (k keyPair) GetPublicKeyPem() (string, error) { return k.public, nil }

// SignData returns the signature and the digest that was signed. The signature is RFC 6979's, which
// needs no randomness: the same statement is the same bundle, and signing it again attaches nothing.
func (k keyPair) SignData(_ context.Context, data []byte) (signature, digest []byte, err error) {
	sum := sha256.Sum256(data)
	signature, err = k.private.Sign(nil, sum[:], crypto.SHA256)
	return signature, sum[:], err
}
