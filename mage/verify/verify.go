// Package verify is the consumer's side: it checks that a channel, an image or an SBOM is what a
// policy says, from a registry or an evidence file and a trust root alone. It needs no login for
// public content, no builder and no scanner.
//
// [Verify] decides about one [Subject] from its [Evidence], a [Trust] and a policy; it is pure. A
// [Verifier] finds subjects and evidence, for a channel or an image, and asks Verify about each; a
// [Result] lists everything that was compared. An evidence [File] stands in for the registry.
//
// Every check stands in a list, one line each, so that a test can take each of them away and see
// that something wrong is then accepted. Invariant: a Result without an error has at least one
// check, and every check in it was made on content addressed by digest; a tag is resolved once.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
)

// Trust is what signatures are checked against: the trusted root of a Sigstore instance, or keys.
type Trust = sigstore.Trust

// ParseTrust reads the trusted_root.json of an instance. The public instance has one built in,
// which empty content asks for, and keys need none; any other that is missing is
// fault.Environment.
func ParseTrust(instance family.Instance, content []byte) (*Trust, error) {
	return sigstore.ParseTrust(instance, content)
}

// Subject is content by digest, and what is known of it.
type Subject struct {
	Name         string // member of the family
	Kind         family.SubjectKind
	Platform     string // of a platform manifest
	Digest       digest.Digest
	Commit       string              // what it must have been built from; empty accepts any
	Inspected    string              // the commit of who inspected it, when that was not who built it
	Dependencies []evidence.Material // what its provenance must name, at least
}

// commits are those whose jobs say something about the subject.
func (s Subject) commits() []string {
	if s.Inspected == "" || s.Inspected == s.Commit {
		return []string{s.Commit}
	}
	return []string{s.Commit, s.Inspected}
}

// commitOf is the one whose job makes a statement: what was found in it is who inspected it's to say.
func (s Subject) commitOf(predicate string) string {
	if s.Inspected != "" && (predicate == evidence.SBOM || predicate == evidence.Scan) {
		return s.Inspected
	}
	return s.Commit
}

func (s Subject) String() string {
	if s.Platform == "" {
		return s.Name
	}
	return s.Name + " " + s.Platform
}

// Evidence is what was found about a subject, and nothing of it is believed yet.
type Evidence struct {
	Bundles   [][]byte // Sigstore bundles v0.3
	Documents [][]byte // CycloneDX documents that hang beside them
	Unread    []error  // why something that hangs there was left out
}

// Check is one thing that held.
type Check struct {
	Subject  string          `json:"subject"` // member, with platform where there is one
	What     string          `json:"what"`
	Found    string          `json:"found"`
	Compared []sigstore.Fact `json:"compared,omitempty"`
}

// Result is everything that was checked about one subject.
type Result struct {
	Subject    string        `json:"subject"`
	Digest     digest.Digest `json:"digest"`
	Generation uint64        `json:"generation,omitempty"` // of the channels document
	Commit     string        `json:"commit,omitempty"`     // that the signer worked from
	Checks     []Check       `json:"checks"`

	statements statements
	reports    []evidence.Report
}

// Reports are the scans that were verified of an image's platforms: what was found when it was
// released, by the database that each of them names.
func (r Result) Reports() []evidence.Report { return r.reports }

func (r *Result) hold(subject, what, format string, args ...any) {
	r.Checks = append(r.Checks, Check{Subject: subject, What: what, Found: fmt.Sprintf(format, args...)})
}

// Verify decides whether the evidence says about a subject all that the policy demands, at the
// time now. It reads nothing but its arguments.
//
// It fails with fault.Unverified where a demanded statement is missing, fault.Forged where one is
// there and does not hold, fault.Refused where the policy says no to what is genuine (denied, too
// old), each with a [Reason], and with fault.Invalid when the question is incomplete.
func Verify(ctx context.Context, s Subject, e Evidence, trust *Trust, p family.Policy, now time.Time) (Result, error) {
	result := Result{Subject: s.String(), Digest: s.Digest, Commit: s.Commit, statements: statements{}}
	demanded := demands(p, s.Kind)
	if err := s.Digest.Validate(); err != nil || trust == nil || len(demanded) == 0 {
		return result, fault.New(fault.Invalid, "verifying", s.String(), "digest %q of kind %q has %d demands, with a trusted root: %v", s.Digest, s.Kind, len(demanded), trust != nil)
	}
	if trust.Instance() != p.Instance {
		return result, fault.New(fault.Invalid, "verifying", s.String(), "the policy's instance is %q, the trusted root was read as one of %q", p.Instance, trust.Instance())
	}
	t := trial{subject: s, evidence: e, policy: p, now: now}
	if err := t.admit(); err != nil {
		return result, err
	}
	if err := t.hear(ctx, trust); err != nil {
		return result, err
	}
	for _, demand := range demanded {
		proof, err := t.prove(demand)
		if err != nil {
			return result, err
		}
		result.statements[demand] = proof.Statement
		if result.Commit == "" || demand == family.DemandProvenance {
			result.Commit = proof.Identity.Commit
		}
		result.Checks = append(result.Checks, Check{s.String(), title(demand), "signed for " + s.Digest.String(), proof.Facts})
	}
	if err := t.compare(result.statements, &result); err != nil {
		return result, err
	}
	return result, result.closed()
}

// closed refuses a result that checked nothing.
func (r Result) closed() error {
	if len(r.Checks) == 0 {
		return fault.New(fault.Unverified, "verifying", r.Subject, "nothing was checked")
	}
	return nil
}

// demands is what a policy wants said about a kind of subject.
func demands(p family.Policy, kind family.SubjectKind) []family.Demand {
	if own, ok := p.Require[kind]; ok {
		return own
	}
	return defaultDemands()[kind]
}

// defaultDemands is what release.Claims makes of a release.
func defaultDemands() map[family.SubjectKind][]family.Demand {
	return map[family.SubjectKind][]family.Demand{
		family.PlatformManifest: {family.DemandSignature, family.DemandProvenance, family.DemandSBOM, family.DemandScan},
		family.ImageIndex:       {family.DemandSignature, family.DemandProvenance},
		family.PayloadManifest:  {family.DemandSignature, family.DemandProvenance, family.DemandSBOM},
		family.InstallManifest:  {family.DemandSignature, family.DemandProvenance},
		family.RecordManifest:   {family.DemandSignature},
		family.ChannelsDocument: {family.DemandSignature},
	}
}

// predicate is the predicate type that answers a demand.
func predicate(d family.Demand) string {
	switch d {
	case family.DemandSignature:
		return evidence.Signature
	case family.DemandProvenance:
		return evidence.Provenance
	case family.DemandSBOM:
		return evidence.SBOM
	case family.DemandScan:
		return evidence.Scan
	}
	return ""
}

func title(d family.Demand) string {
	switch d {
	case family.DemandSBOM:
		return "SBOM attestation"
	case family.DemandScan:
		return "scan attestation"
	}
	return string(d)
}

// Reason is why something is refused; errors.Is finds it beside the kind of fault.
type Reason = sigstore.Reason

// The reasons beside those of a single bundle.
const (
	Missing           Reason = "evidence is missing"
	Endless           Reason = "it does not arrive whole within the limits"
	Denied            Reason = "the policy denies it"
	TooOld            Reason = "its signature is older than the policy allows"
	WrongCommit       Reason = "its signer worked from another commit than the record says"
	NotYet            Reason = "its signature is from the future"
	WrongDependencies Reason = "its provenance does not name what it was made from"
	WrongSBOM         Reason = "the SBOM is not this subject's"
	WrongScan         Reason = "the scan is not this subject's"
	Replayed          Reason = "an older channels document stands where a newer one was seen"
	Split             Reason = "two channels documents have the same generation"
	Jumped            Reason = "the channels document is further ahead than the policy allows"
	Expired           Reason = "the channels document has expired"
	WrongFamily       Reason = "the channels document is another family's"
	Unserved          Reason = "the channel serves nothing"
	Contradicted      Reason = "the record and the channels document do not say the same"
	Incomplete        Reason = "the release is not the whole family"
	WrongIndex        Reason = "the index does not name the record's platforms"
	WrongLineage      Reason = "the image does not stand on its parent"
	WrongTag          Reason = "a tag shows something else"
)

// refuse is a fault with a reason.
func refuse(kind fault.Kind, subject string, reason Reason, format string, args ...any) *fault.Error {
	return &fault.Error{Op: "verifying", Subject: subject, Kind: kind, Err: fmt.Errorf("%w: %w", reason, fmt.Errorf(format, args...))}
}

// reasonOf finds the reason in an error's chain.
func reasonOf(err error) Reason {
	var reason Reason
	if errors.As(err, &reason) {
		return reason
	}
	return ""
}
