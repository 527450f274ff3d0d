package sigstore

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// Expect is who must have signed, and from which commit; an empty commit accepts any. The local
// issuer's ref may be empty: on a laptop every branch is built.
type Expect struct {
	family.Signer
	Commit string // 40 hex digits
}

// LocalSigner is who signs on a machine of its own: the local builder, from any ref of a
// repository. What tells two machines apart is the trusted root.
func LocalSigner(repository string) family.Signer {
	return family.Signer{Issuer: LocalIssuer, Builder: LocalBuilder, Repository: repository}
}

// Complete refuses a question that leaves open who may answer it.
func (e Expect) Complete(subject digest.Digest, instance family.Instance) error {
	if err := subject.Validate(); err != nil || subject.Algorithm() != digest.SHA256 {
		return fmt.Errorf("the subject %q is not a SHA-256 digest", subject)
	}
	if instance == family.Key {
		if e.Key == "" {
			return errors.New("no key is expected")
		}
		return nil
	}
	anyRef := e.Ref == "" && e.Issuer == LocalIssuer
	if e.Issuer == "" || e.Repository == "" || e.Ref == "" && !anyRef || e.Builder == "" && e.Workflow == "" || e.Key != "" {
		return fmt.Errorf("issuer %q, repository %q, ref %q and builder %q or workflow %q must be given, and no key", e.Issuer, e.Repository, e.Ref, e.Builder, e.Workflow)
	}
	return nil
}

// Fact is one comparison: what was found, and what must be.
type Fact struct {
	Name  string `json:"name"`
	Found string `json:"found"`
	Want  string `json:"want,omitempty"`

	how comparison
}

// comparison says when a fact holds.
type comparison int

const (
	exactly    comparison = iota // the same text, be it empty
	ifDemanded                   // the same text, unless the policy leaves it open
	byPattern                    // a name that the policy's [family.Pattern] matches
)

func (f Fact) holds() bool {
	switch f.how {
	case ifDemanded:
		return f.Want == "" || f.Found == f.Want
	case byPattern:
		return f.Found == f.Want || family.Pattern(f.Want).Match(f.Found)
	}
	return f.Found == f.Want
}

// agree returns every fact that does not hold.
func agree(facts []Fact) error {
	var all []error
	for _, f := range facts {
		if !f.holds() {
			all = append(all, fmt.Errorf("%s is %q, not %q", f.Name, f.Found, f.Want))
		}
	}
	return errors.Join(all...)
}

// signerFacts compares a certificate's identity with the expected one.
func signerFacts(c evidence.Identity, e Expect) []Fact {
	return []Fact{
		{"issuer", c.Issuer, e.Issuer, exactly},
		e.builder(c),
		{"repository", c.Repository, e.Repository, exactly},
		{"repository id", c.RepositoryID, e.RepositoryID, ifDemanded},
		{"owner id", c.OwnerID, e.OwnerID, ifDemanded},
		e.ref("ref", c),
		{"workflow", c.WorkflowPath, e.Workflow, ifDemanded},
		{"runner", c.Runner, e.Runner, ifDemanded},
		{"commit", c.Commit, e.Commit, ifDemanded},
	}
}

// keyFacts compares what a key's provenance says of its build.
func keyFacts(c evidence.Identity, e Expect) []Fact {
	return []Fact{
		{"repository, as said by the key", c.Repository, e.Repository, ifDemanded},
		e.ref("ref, as said by the key", c),
		{"builder, as said by the key", c.BuilderID, string(e.Builder), optional(e.Builder)},
		{"commit, as said by the key", c.Commit, e.Commit, ifDemanded},
	}
}

// subjectFacts compares what a statement is about with what was asked for.
func subjectFacts(st evidence.Statement, subject digest.Digest) []Fact {
	return []Fact{{"subject", st.About().String(), subject.String(), exactly}}
}

// ref is open where the question may leave it open: on a laptop, and for a key.
func (e Expect) ref(name string, c evidence.Identity) Fact {
	return Fact{name, c.Ref, string(e.Ref), optional(e.Ref)}
}

// builder compares the builder id. Without a reusable workflow of its own the builder is the started
// workflow, at the very ref that was built.
func (e Expect) builder(c evidence.Identity) Fact {
	if e.Builder != "" {
		return Fact{"builder", c.BuilderID, string(e.Builder), byPattern}
	}
	return Fact{"builder", c.BuilderID, e.Repository + "/" + e.Workflow + "@" + c.Ref, exactly}
}

func optional(p family.Pattern) comparison {
	if p == "" {
		return ifDemanded
	}
	return byPattern
}
