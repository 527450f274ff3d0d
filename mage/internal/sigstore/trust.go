package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// Trust is what signatures are checked against: an instance's certificate authorities, logs and
// timestamp authorities, or keys alone. Only ParseTrust makes one. It is safe for concurrent use
// and needs no network.
type Trust struct {
	instance family.Instance
	material root.TrustedMaterial // nil for keys
	verifier *verify.Verifier     // nil for keys: each expected signer brings its own
}

// Instance is whose authorities they are: what has to hold of a signature depends on it.
func (t *Trust) Instance() family.Instance { return t.instance }

// Material is the instance's authorities, logs and timestamp authorities; nil for keys.
func (t *Trust) Material() root.TrustedMaterial { return t.material }

// ParseTrust reads an instance's trusted_root.json. The public instance has one built in, which
// empty content asks for; keys need none. An instance whose root is not there is
// fault.Environment: nothing can be checked, and that is not the same as nothing being wrong.
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto
func ParseTrust(instance family.Instance, content []byte) (*Trust, error) {
	switch {
	case instance == family.Key:
		return &Trust{instance: instance}, nil
	case len(content) > maxConfig:
		return nil, fault.New(fault.Invalid, "parsing", "trusted root", "it is larger than %d bytes", maxConfig)
	case len(bytes.TrimSpace(content)) == 0 && instance == family.Public:
		content = publicRoot
	case len(bytes.TrimSpace(content)) == 0:
		return nil, fault.New(fault.Environment, "verifying with instance", string(instance), "its trusted root is missing").
			WithHint("give its trusted_root.json; the root of another instance cannot stand in for it")
	}
	material, err := root.NewTrustedRootFromJSON(content)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "parsing", "trusted root")
	}
	if len(material.RekorLogs()) > 0 && instance == family.GitHub {
		return nil, fault.New(fault.Environment, "verifying with instance", string(instance), "the trusted root is another instance's: it has transparency logs").
			WithHint("give the root of fulcio.githubapp.com; an instance that has logs is not trusted without them")
	}
	verifier, err := verify.NewVerifier(material, thresholds(instance)...)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "parsing", "trusted root")
	}
	return &Trust{instance, material, verifier}, nil
}

// thresholds are how many authorities of each sort must have spoken for a signature.
func thresholds(instance family.Instance) []verify.VerifierOption {
	if instance == family.GitHub { // it runs no log, and its certificates promise none
		return []verify.VerifierOption{verify.WithSignedTimestamps(1)}
	}
	return []verify.VerifierOption{
		verify.WithSignedCertificateTimestamps(1),
		verify.WithTransparencyLog(1),
		verify.WithObserverTimestamps(1),
	}
}

//go:embed public/trusted_root.json
var publicRoot []byte

//go:embed public/signing_config.json
var publicServices []byte

//go:embed public/github_signing_config.json
var gitHubServices []byte

// keyVerifier trusts one public key at any time, whatever hint a bundle gives for it.
func keyVerifier(content string) (*verify.Verifier, error) {
	public, err := parsePublicKey([]byte(content))
	if err != nil {
		return nil, err
	}
	checker, err := signature.LoadECDSAVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	always := root.NewExpiringKey(checker, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return always, nil })
	return verify.NewVerifier(material, verify.WithNoObserverTimestamps())
}

// parsePublicKey reads one PEM block of an ECDSA P-256 key in PKIX, RFC 5280 section 4.1.
func parsePublicKey(content []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one PEM block of type PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("it is not an ECDSA key on the curve P-256")
	}
	return public, nil
}
