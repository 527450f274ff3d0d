package verify

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
)

// statements are what was proved about a subject, by demand.
type statements map[family.Demand]evidence.Statement

// trial is the hearing of one subject's evidence.
type trial struct {
	subject  Subject
	evidence Evidence
	policy   family.Policy
	now      time.Time

	proved  []sigstore.Verified // bundles that hold
	refused []refusal           // bundles that do not
}

// refusal is a bundle that does not hold, and what it claims to be.
type refusal struct {
	predicate string
	err       error
}

// clockSkew is how far an authority's clock may be ahead of ours.
const clockSkew = 5 * time.Minute

// subjectCheck is made before any evidence is heard, proofCheck on each bundle that verifies.
type (
	subjectCheck func(*trial) error
	proofCheck   func(*trial, sigstore.Verified) error
)

func subjectChecks() []subjectCheck {
	return []subjectCheck{
		(*trial).digestIsNotDenied,
		(*trial).commitIsNotDenied,
	}
}

func proofChecks() []proofCheck {
	return []proofCheck{
		(*trial).signerIsNotDenied,
		(*trial).commitMayTell,
		(*trial).isNotTooOld,
		(*trial).isNotFromTheFuture,
		(*trial).provenanceAgrees,
		(*trial).provenanceNamesItsDependencies,
		(*trial).sbomIsOne,
		(*trial).sbomIsOfTheSubject,
		(*trial).scanIsOne,
		(*trial).scanIsOfTheSubject,
		(*trial).scanIsOfThePlatform,
	}
}

// admit makes the checks that no evidence can answer.
func (t *trial) admit() error {
	for _, check := range subjectChecks() {
		if err := check(t); err != nil {
			return err
		}
	}
	return nil
}

// hear verifies every bundle. One that does not hold proves nothing and spoils nothing: anybody may
// attach something to public content.
func (t *trial) hear(ctx context.Context, trust *Trust) error {
	signers := []family.Signer{t.policy.Signer}
	if t.subject.Kind == family.ChannelsDocument {
		signers = t.policy.MayMove()
	}
	for _, err := range t.evidence.Unread {
		t.refused = append(t.refused, refusal{err: err})
	}
	for _, bundle := range t.evidence.Bundles {
		if err := ctx.Err(); err != nil {
			return fault.Wrap(err, fault.Unavailable, "verifying", t.subject.String())
		}
		verified, err := t.believe(trust, bundle, signers)
		if errors.Is(err, fault.Invalid) {
			return err
		}
		if err != nil {
			t.refused = append(t.refused, refusal{claimedPredicate(bundle), err})
			continue
		}
		t.proved = append(t.proved, verified)
	}
	return nil
}

// believe verifies one bundle for the first signer that it satisfies.
func (t *trial) believe(trust *Trust, bundle []byte, signers []family.Signer) (v sigstore.Verified, err error) {
	if v, err = t.recognise(trust, bundle, signers); err != nil {
		return v, err
	}
	for _, check := range proofChecks() {
		if err := check(t, v); err != nil {
			return v, err
		}
	}
	return v, nil
}

// recognise finds the signer and the commit that a bundle is of.
func (t *trial) recognise(trust *Trust, bundle []byte, signers []family.Signer) (v sigstore.Verified, err error) {
	for _, signer := range signers {
		for _, commit := range t.subject.commits() {
			v, err = trust.Verify(bundle, t.subject.Digest, sigstore.Expect{Signer: signer, Commit: commit})
			if err == nil {
				return v, nil
			}
		}
	}
	return v, err
}

// prove finds the statement that answers a demand, or says why there is none: what came nearest.
func (t *trial) prove(d family.Demand) (sigstore.Verified, error) {
	want := predicate(d)
	for _, v := range t.proved {
		if v.Statement.PredicateType == want {
			return v, nil
		}
	}
	for _, claimed := range []string{want, ""} {
		i := slices.IndexFunc(t.refused, func(r refusal) bool { return r.predicate == claimed })
		if i >= 0 {
			return sigstore.Verified{}, t.nearest(d, t.refused[i].err)
		}
	}
	return sigstore.Verified{}, refuse(fault.Unverified, t.subject.String(), Missing, "there is no %s of %s", title(d), t.subject.Digest).
		WithHint("releasing the same commit again attests what is missing")
}

// nearest is the refusal of the evidence that came nearest to answering a demand.
func (t *trial) nearest(d family.Demand, cause error) error {
	kind, _ := fault.KindOf(cause)
	hint := fault.HintOf(cause)
	if hint == "" {
		hint = "do not use it; compare the policy in the family file with who releases"
	}
	return &fault.Error{Op: "verifying " + title(d) + " of", Subject: t.subject.String(), Kind: kind, Err: cause, Hint: hint}
}

// claimedPredicate reads what a bundle that was refused says it is; "" when it does not say.
func claimedPredicate(bundle []byte) string {
	var b struct {
		DsseEnvelope struct {
			Payload string `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	var st struct {
		PredicateType string `json:"predicateType"`
	}
	if json.Unmarshal(bundle, &b) != nil {
		return ""
	}
	payload, err := base64.StdEncoding.DecodeString(b.DsseEnvelope.Payload)
	if err != nil || json.Unmarshal(payload, &st) != nil {
		return ""
	}
	return st.PredicateType
}

func (t *trial) digestIsNotDenied() error {
	if reason, denied := t.policy.Denied(t.subject.Digest, ""); denied {
		return refuse(fault.Refused, t.subject.String(), Denied, "%s: %s", t.subject.Digest, reason)
	}
	return nil
}

func (t *trial) commitIsNotDenied() error {
	for _, commit := range t.subject.commits() {
		if reason, denied := t.policy.Denied("", commit); denied {
			return refuse(fault.Refused, t.subject.String(), Denied, "commit %s: %s", commit, reason)
		}
	}
	return nil
}

// commitMayTell: of an image that a release kept, the commit that built it does not say what a later
// one found in it, nor the other way round. A key's statements name no commit, but for provenance.
func (t *trial) commitMayTell(v sigstore.Verified) error {
	want := t.subject.commitOf(v.Statement.PredicateType)
	if want != "" && v.Identity.Commit != "" && v.Identity.Commit != want {
		return refuse(fault.Forged, t.subject.String(), WrongCommit, "commit %s, want %s", v.Identity.Commit, want)
	}
	return nil
}

// signerIsNotDenied looks at the commit that the signer worked from, also where none is asked for.
func (t *trial) signerIsNotDenied(v sigstore.Verified) error {
	if reason, denied := t.policy.Denied("", v.Identity.Commit); denied {
		return refuse(fault.Refused, t.subject.String(), Denied, "commit %s: %s", v.Identity.Commit, reason)
	}
	return nil
}

func (t *trial) isNotTooOld(v sigstore.Verified) error {
	if age := t.now.Sub(v.SignedAt); t.policy.MaxAge > 0 && age > t.policy.MaxAge {
		return refuse(fault.Refused, t.subject.String(), TooOld, "%s, at most %s", age.Round(time.Second), t.policy.MaxAge)
	}
	return nil
}

func (t *trial) isNotFromTheFuture(v sigstore.Verified) error {
	if v.SignedAt.After(t.now.Add(clockSkew)) {
		return refuse(fault.Forged, t.subject.String(), NotYet, "%s, now is %s", v.SignedAt.Format(time.RFC3339), t.now.UTC().Format(time.RFC3339)).
			WithHint("if this is unexpected, set this machine's clock")
	}
	return nil
}
