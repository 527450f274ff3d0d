package sigstore

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// Verified is what a bundle proves.
type Verified struct {
	Statement evidence.Statement
	Identity  evidence.Identity // from the certificate, without Internal; of a key, what its provenance says
	SignedAt  time.Time         // by a timestamp authority, or by the log where there is none; zero of a key
	Facts     []Fact            // everything about the signer that was compared
}

// Verify checks a bundle offline: its shape; the signature by a certificate of the trusted
// authority or by the expected key, and what the instance demands beside it (certificate promise,
// log entry, time within the certificate's life); exactly the expected signer; and a statement
// about exactly this subject. What does not match is fault.Forged with a [Reason]; an incomplete
// question is fault.Invalid.
func (t *Trust) Verify(bundleJSON []byte, subject digest.Digest, want Expect) (Verified, error) {
	if err := want.Complete(subject, t.instance); err != nil {
		return Verified{}, fault.Wrap(err, fault.Invalid, "verifying bundle of", subject.String())
	}
	v, err := t.verify(bundleJSON, subject, want)
	if err != nil {
		return Verified{}, fault.Wrap(err, fault.Forged, "verifying bundle of", subject.String())
	}
	return v, nil
}

func (t *Trust) verify(content []byte, subject digest.Digest, want Expect) (Verified, error) {
	b, err := decodeBundle(content, t.instance)
	if err != nil {
		return Verified{}, err
	}
	result, err := t.checkSignature(b, want)
	if err != nil {
		return Verified{}, err
	}
	statement, err := decodeStatement(b.GetDsseEnvelope().GetPayload(), result.Statement)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %w", Malformed, err)
	}
	v := Verified{Statement: statement, SignedAt: signedAt(result.VerifiedTimestamps)}
	if v.Identity, err = t.identity(b, statement); err != nil {
		return Verified{}, fmt.Errorf("%w: %w", WrongIdentity, err)
	}
	v.Facts = t.facts(v.Identity, want)
	if err := agree(v.Facts); err != nil {
		return Verified{}, fmt.Errorf("%w: %w", WrongIdentity, err)
	}
	if err := agree(subjectFacts(statement, subject)); err != nil {
		return Verified{}, fmt.Errorf("%w: %w", WrongSubject, err)
	}
	return v, nil
}

// checkSignature is all of the cryptography. Identity and subject are compared by the caller,
// field by field and more strictly than sigstore-go would.
func (t *Trust) checkSignature(b *bundle.Bundle, want Expect) (*verify.VerificationResult, error) {
	verifier, who := t.verifier, verify.WithoutIdentitiesUnsafe()
	if t.instance == family.Key {
		var err error
		if verifier, err = keyVerifier(want.Key); err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "parsing", "public key")
		}
		who = verify.WithKey()
	}
	result, err := verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), who))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", Untrusted, err)
	}
	return result, nil
}

// identity is what the certificate proves. A key proves nothing but itself: of its provenance,
// the identity is what the key's owner says, to be compared with the policy all the same.
func (t *Trust) identity(b *bundle.Bundle, st evidence.Statement) (evidence.Identity, error) {
	if t.instance == family.Key {
		return identityOfProvenance(st)
	}
	leaf, err := leafOf(b)
	if err != nil {
		return evidence.Identity{}, err
	}
	return identityOfCertificate(leaf)
}

// facts are the comparisons of a signer. A key's statements name nobody, but for provenance.
func (t *Trust) facts(id evidence.Identity, want Expect) []Fact {
	switch {
	case t.instance != family.Key:
		return signerFacts(id, want)
	case id.BuilderID != "":
		return keyFacts(id, want)
	}
	return []Fact{{"key", "the policy's", "the policy's", exactly}}
}

func leafOf(b *bundle.Bundle) (*x509.Certificate, error) {
	content, err := b.VerificationContent()
	if err != nil || content.Certificate() == nil {
		return nil, fmt.Errorf("%w: no certificate comes with it", Malformed)
	}
	return content.Certificate(), nil
}

// signedAt prefers an authority's time to a log's.
func signedAt(times []verify.TimestampVerificationResult) (at time.Time) {
	for _, t := range times {
		if at.IsZero() || t.Type == "TimestampAuthority" {
			at = t.Timestamp.UTC()
		}
	}
	return at
}
