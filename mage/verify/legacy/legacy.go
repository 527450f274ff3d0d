// Package legacy reads what cosign signed before there were bundles: the tags sha256-….sig and
// sha256-….att beside a digest. It is for families that signed that way once; nothing of ours signs
// so, and no program of ours links it, because cosign's Go API weighs more than all the rest of a
// verifier and promises no stability.
//
// [Read] verifies the signatures and attestations of one digest and returns what counts. Invariant:
// what counts is signed by exactly the policy's signer, at a time that somebody else attests, and
// speaks about the digest that was asked for and nothing else.
package legacy

import (
	"cmp"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/ref"
)

// Found is what verified about a digest.
type Found struct {
	Signatures   int                  // at least one
	Attestations []evidence.Statement // in the registry's order; of type v0.1 or v1
}

// maxAttached bounds the signatures of a digest, and its attestations.
const maxAttached = 64

// Read verifies the legacy signatures and attestations of a digest. Public content needs no login.
// The public instance's signatures need a log entry, the local one's a timestamp, because entries of
// Rekor v2 have no place in this format; GitHub's own instance never signed so.
//
// Errors: fault.Unverified when there is no signature, fault.Forged when none of those that are
// there counts, or an attestation does not; fault.Refused when the policy denies the digest, or the
// commit that the certificate names; fault.Invalid when the policy asks for more than these
// signatures answer; fault.Unavailable when the registry does not answer.
func Read(ctx context.Context, subject ref.Pinned, trust *sigstore.Trust, policy family.Policy) (Found, error) {
	r, err := newReader(ctx, subject, trust, policy)
	if err != nil {
		return Found{}, fault.Wrap(err, fault.Invalid, "reading legacy signatures of", subject.String())
	}
	found, err := r.read(ctx)
	return found, fault.Wrap(err, fault.Forged, "reading legacy signatures of", subject.String())
}

// reader is one digest in a registry, and how its signatures are judged.
type reader struct {
	policy  family.Policy
	digest  name.Digest
	hash    v1.Hash
	options cosign.CheckOpts
	remote  []ociremote.Option
	want    sigstore.Expect
	stamped bool // a timestamp stands for the log entry
	keyed   bool // signed by a key, which has no certificate and no time
}

func newReader(ctx context.Context, subject ref.Pinned, trust *sigstore.Trust, policy family.Policy) (*reader, error) {
	r := &reader{policy: policy, want: sigstore.Expect{Signer: policy.Signer}, remote: []ociremote.Option{ociremote.WithRemoteOptions(remote.WithContext(ctx))}}
	var err error
	var names []name.Option
	if subject.Repo.Loopback() {
		names = append(names, name.Insecure)
	}
	if r.digest, err = name.NewDigest(subject.String(), names...); err != nil {
		return nil, err
	}
	if r.hash, err = v1.NewHash(subject.Digest.String()); err != nil {
		return nil, err
	}
	if err := errors.Join(r.want.Complete(subject.Digest, policy.Instance), answerable(policy)); err != nil {
		return nil, err
	}
	if trust.Instance() != policy.Instance {
		return nil, fmt.Errorf("the policy's instance is %q, the trusted root was read as one of %q", policy.Instance, trust.Instance())
	}
	r.options = cosign.CheckOpts{Offline: true, TrustedMaterial: trust.Material()}
	switch policy.Instance {
	case family.Public:
	case family.Local:
		r.stamped, r.options.UseSignedTimestamps, r.options.IgnoreTlog = true, true, true
	case family.Key:
		r.keyed, r.options.IgnoreTlog, r.options.TrustedMaterial = true, true, nil
		r.options.SigVerifier, err = keyVerifier(policy.Signer.Key)
	default:
		err = fmt.Errorf("the instance %q never signed so", policy.Instance)
	}
	return r, err
}

// answerable refuses a policy of which a part is not looked at here: to leave it out would accept
// what the policy refuses.
func answerable(p family.Policy) error {
	if p.MaxAge > 0 {
		return errors.New("the policy has a max-age, which is not checked of what was signed before bundles")
	}
	if p.Instance == family.Key && slices.ContainsFunc(p.Deny, func(d family.Denial) bool { return d.Commit != "" }) {
		return errors.New("the policy denies a commit, and a key's old signature names none")
	}
	return nil
}

func keyVerifier(content string) (signature.Verifier, error) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(content))
	if err != nil {
		return nil, err
	}
	return signature.LoadVerifier(key, crypto.SHA256)
}

func (r *reader) read(ctx context.Context) (Found, error) {
	var found Found
	if err := r.denied(digest.Digest(r.hash.String()), ""); err != nil {
		return found, err
	}
	_, signatures, err := r.attached(ociremote.SignatureTag)
	if err != nil {
		return found, err
	}
	if len(signatures) == 0 {
		return found, fault.New(fault.Unverified, "looking for", "a legacy signature", "no tag %s.sig", r.hash.Algorithm+"-"+r.hash.Hex)
	}
	r.options.ClaimVerifier = cosign.SimpleClaimVerifier
	var refused []error
	for _, s := range signatures {
		if err := r.signature(ctx, s); err != nil {
			refused = append(refused, err)
			continue
		}
		found.Signatures++
	}
	if found.Signatures == 0 {
		return found, errors.Join(refused...)
	}
	found.Attestations, err = r.statements(ctx)
	return found, err
}

func (r *reader) signature(ctx context.Context, s oci.Signature) error {
	if err := r.dated(s); err != nil {
		return err
	}
	if _, err := cosign.VerifyImageSignature(ctx, s, r.hash, &r.options); err != nil {
		return fmt.Errorf("%w: %w", sigstore.Untrusted, err)
	}
	return r.signed(s)
}

// statements verifies every attestation. One that does not count is an error here: its tag belongs
// to the family alone.
func (r *reader) statements(ctx context.Context) ([]evidence.Statement, error) {
	list, all, err := r.attached(ociremote.AttestationTag)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	for _, a := range all {
		if err := r.dated(a); err != nil {
			return nil, err
		}
	}
	r.options.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
	good, _, err := cosign.VerifyImageAttestation(ctx, list, r.hash, &r.options)
	if err != nil || len(good) < len(all) {
		return nil, errors.Join(fmt.Errorf("%w: %d of %d attestations verify", sigstore.Untrusted, len(good), len(all)), err)
	}
	var out []evidence.Statement
	for _, a := range good {
		if err := r.signed(a); err != nil {
			return nil, err
		}
		st, err := r.statement(a)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// attached reads what hangs on the digest under a tag; no tag is nothing.
func (r *reader) attached(tagOf func(name.Reference, ...ociremote.Option) (name.Tag, error)) (oci.Signatures, []oci.Signature, error) {
	tag, err := tagOf(r.digest, r.remote...)
	if err != nil {
		return nil, nil, err
	}
	list, err := ociremote.Signatures(tag, r.remote...)
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.Unavailable, "reading", tag.String())
	}
	all, err := list.Get()
	if err != nil {
		return nil, nil, err
	}
	if len(all) > maxAttached {
		return nil, nil, fault.New(fault.Refused, "reading", tag.String(), "it has %d layers, at most %d", len(all), maxAttached)
	}
	return list, all, nil
}

// dated wants a timestamp of a trusted authority, before cosign looks: without one it would take its
// own clock, and on one of a stranger v2.6.5 panics (VerifyRFC3161Timestamp takes the first of none).
func (r *reader) dated(s oci.Signature) error {
	if !r.stamped {
		return nil
	}
	stamp, err := s.RFC3161Timestamp()
	if err != nil || stamp == nil {
		return errors.Join(sigstore.Undated, err)
	}
	encoded, err := s.Base64Signature()
	if err != nil {
		return errors.Join(sigstore.Malformed, err)
	}
	of, err := base64.StdEncoding.DecodeString(encoded)
	if encoded == "" { // of an attestation, whose signature is in its payload
		of, err = s.Payload()
	}
	if err != nil {
		return errors.Join(sigstore.Malformed, err)
	}
	refused := []error{sigstore.Untrusted}
	for _, authority := range r.options.TrustedMaterial.TimestampingAuthorities() {
		if _, err = authority.Verify(stamp.SignedRFC3161Timestamp, of); err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// signed compares who signed, exactly, which is left open by cosign.
func (r *reader) signed(s oci.Signature) error {
	if r.keyed {
		return nil
	}
	leaf, err := s.Cert()
	if err != nil || leaf == nil {
		return errors.Join(sigstore.Malformed, err)
	}
	facts, err := sigstore.CheckCertificate(leaf, r.want)
	if err != nil {
		return err
	}
	for _, fact := range facts {
		if fact.Name == "commit" {
			return r.denied("", fact.Found)
		}
	}
	return fmt.Errorf("%w: its commit was not looked at", sigstore.WrongIdentity)
}

// denied asks the policy about a digest or a commit.
func (r *reader) denied(d digest.Digest, commit string) error {
	if reason, denied := r.policy.Denied(d, commit); denied {
		return fault.New(fault.Refused, "verifying", cmp.Or(d.String(), "commit "+commit), "the policy denies it: %s", reason)
	}
	return nil
}

// statement reads an attestation that verified. It must speak about the digest and nothing else.
func (r *reader) statement(a oci.Signature) (evidence.Statement, error) {
	var st evidence.Statement
	content, err := a.Payload()
	if err != nil {
		return st, err
	}
	var envelope struct {
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(content, &envelope); err != nil {
		return st, err
	}
	payload, err := base64.StdEncoding.DecodeString(envelope.Payload)
	if err != nil {
		return st, err
	}
	var many struct {
		Subject []evidence.Subject `json:"subject"`
	}
	if err := errors.Join(json.Unmarshal(payload, &many), json.Unmarshal(payload, &st)); err != nil {
		return st, err
	}
	if len(many.Subject) != 1 || st.About() != digest.Digest(r.hash.String()) {
		return st, fmt.Errorf("%w: it has %d subjects, the first is %s", sigstore.WrongSubject, len(many.Subject), st.About())
	}
	return st, nil
}
