package sigstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// Trust is a trusted root: the certificate authorities, logs and timestamp authorities that count.
// Only ParseTrust makes one. It is safe for concurrent use and needs no network.
type Trust struct{ verifier *verify.Verifier }

// ParseTrust reads the content of a trusted_root.json.
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto
func ParseTrust(content []byte) (*Trust, error) {
	if len(content) > maxConfig {
		return nil, fault.New(fault.Invalid, "parsing", "trusted root", "it is larger than %d bytes", maxConfig)
	}
	material, err := root.NewTrustedRootFromJSON(content)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "parsing", "trusted root")
	}
	verifier, err := verify.NewVerifier(material,
		verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "parsing", "trusted root")
	}
	return &Trust{verifier}, nil
}

// Expect is who must have signed. All comparisons are exact; the first four are required, except
// that the local issuer's ref may be empty and then accepts any: on a laptop every branch is built.
type Expect struct {
	Issuer     string // OIDC issuer
	BuilderID  string // certificate subject and BuildSignerURI: a workflow at a ref, or LocalBuilder
	Repository string // URL
	Ref        string // refs/heads/main; empty accepts any of LocalIssuer, and is Invalid for every other
	Commit     string // 40 hex digits; empty accepts any
	Runner     string // runner environment, "github-hosted"; empty accepts any
}

// Verified is what a bundle proves.
type Verified struct {
	Statement evidence.Statement
	Identity  evidence.Identity // from the certificate; without Internal
	SignedAt  time.Time         // by a timestamp authority, or by the log where there is none
}

// Verify checks a bundle offline: one signature by a certificate of the trusted authority that the
// certificate log promised, an entry of the transparency log, a timestamp within the certificate's
// life, exactly the expected identity, and a statement about exactly this subject. What does not
// match is fault.Forged with a [Reason]; an incomplete question is fault.Invalid.
func (t *Trust) Verify(bundleJSON []byte, subject digest.Digest, want Expect) (Verified, error) {
	identity, err := want.policy(subject)
	if err != nil {
		return Verified{}, fault.Wrap(err, fault.Invalid, "verifying bundle of", subject.String())
	}
	v, err := t.verify(bundleJSON, subject, identity)
	if err != nil {
		return Verified{}, fault.Wrap(err, fault.Forged, "verifying bundle of", subject.String())
	}
	return v, nil
}

func (t *Trust) verify(content []byte, subject digest.Digest, want verify.PolicyOption) (Verified, error) {
	b, err := decodeBundle(content)
	if err != nil {
		return Verified{}, err
	}
	// The subject is checked below, more strictly than sigstore-go would: exactly one, exactly sha256.
	result, err := t.verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), want))
	if err != nil {
		var other *verify.ErrNoMatchingCertificateIdentity
		if errors.As(err, &other) {
			return Verified{}, fmt.Errorf("%w: %w", WrongIdentity, err)
		}
		return Verified{}, fmt.Errorf("%w: %w", Untrusted, err)
	}
	leaf, err := leafOf(b)
	if err != nil {
		return Verified{}, err
	}
	identity, err := identityOfCertificate(leaf)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %w", WrongIdentity, err)
	}
	statement, err := decodeStatement(b.GetDsseEnvelope().GetPayload(), result.Statement)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %w", Malformed, err)
	}
	if statement.About() != subject {
		return Verified{}, fmt.Errorf("%w: %s, not %s", WrongSubject, statement.About(), subject)
	}
	return Verified{Statement: statement, Identity: identity, SignedAt: signedAt(result.VerifiedTimestamps)}, nil
}

// policy is the exact identity as sigstore-go compares it with the certificate.
func (e Expect) policy(subject digest.Digest) (verify.PolicyOption, error) {
	if err := subject.Validate(); err != nil || subject.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("the subject %q is not a SHA-256 digest", subject)
	}
	anyRef := e.Ref == "" && e.Issuer == LocalIssuer
	if e.Issuer == "" || e.BuilderID == "" || e.Repository == "" || e.Ref == "" && !anyRef {
		return nil, fmt.Errorf("issuer %q, builder %q, repository %q and ref %q must all be given", e.Issuer, e.BuilderID, e.Repository, e.Ref)
	}
	san, err := verify.NewSANMatcher(e.BuilderID, "")
	if err != nil {
		return nil, err
	}
	issuer, err := verify.NewIssuerMatcher(e.Issuer, "")
	if err != nil {
		return nil, err
	}
	identity, err := verify.NewCertificateIdentity(san, issuer, certificate.Extensions{
		BuildSignerURI:         e.BuilderID,
		SourceRepositoryURI:    e.Repository,
		SourceRepositoryRef:    e.Ref,
		SourceRepositoryDigest: e.Commit,
		RunnerEnvironment:      e.Runner,
	})
	return verify.WithCertificateIdentity(identity), err
}

// decodeBundle reads a bundle and refuses what lacks a part, before anything is computed over it.
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto
func decodeBundle(content []byte) (*bundle.Bundle, error) {
	if len(content) > maxBundle {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", Malformed, maxBundle)
	}
	message := new(bundlepb.Bundle)
	if err := protojson.Unmarshal(content, message); err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	switch envelope := message.GetDsseEnvelope(); {
	case message.GetMediaType() != evidence.BundleType:
		return nil, fmt.Errorf("%w: its media type is %q", Malformed, message.GetMediaType())
	case envelope.GetPayloadType() != evidence.PayloadT || len(envelope.GetSignatures()) != 1:
		return nil, fmt.Errorf("%w: %d signatures of a %q", Malformed, len(envelope.GetSignatures()), envelope.GetPayloadType())
	case message.GetVerificationMaterial().GetCertificate() == nil:
		return nil, fmt.Errorf("%w: no certificate comes with it", Malformed)
	case len(message.GetVerificationMaterial().GetTlogEntries()) == 0:
		return nil, Unlogged
	case len(message.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()) == 0 && !integrated(message):
		return nil, Undated
	}
	b, err := bundle.NewBundle(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	return b, nil
}

// integrated reports whether a log entry brings its own time, as those of Rekor v1 do.
func integrated(b *bundlepb.Bundle) bool {
	for _, entry := range b.GetVerificationMaterial().GetTlogEntries() {
		if entry.GetIntegratedTime() > 0 {
			return true
		}
	}
	return false
}

func leafOf(b *bundle.Bundle) (*x509.Certificate, error) {
	content, err := b.VerificationContent()
	if err != nil || content.Certificate() == nil {
		return nil, fmt.Errorf("%w: no certificate comes with it", Malformed)
	}
	return content.Certificate(), nil
}

func signedAt(times []verify.TimestampVerificationResult) time.Time {
	at := times[0].Timestamp // the verifier demanded one
	for _, t := range times {
		if t.Type == "TimestampAuthority" {
			return t.Timestamp.UTC()
		}
	}
	return at.UTC()
}
