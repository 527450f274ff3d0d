package sigstore

import (
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// gitHubServer is $GITHUB_SERVER_URL of GitHubIssuer.
const gitHubServer = "https://github.com"

// tokenClaims are the claims of both issuers that we use. "workflow" is a path in local tokens and a
// display name in GitHub's.
type tokenClaims struct {
	Issuer            string `json:"iss"`
	Audience          string `json:"aud"`
	Repository        string `json:"repository"` // local: URL; GitHub: owner/name
	Ref               string `json:"ref"`
	Commit            string `json:"sha"`
	RunnerEnvironment string `json:"runner_environment"`

	Builder  string `json:"builder"`  // local
	Workflow string `json:"workflow"` // local
	Run      string `json:"run"`      // local
	Dirty    string `json:"dirty"`    // local, may be empty

	JobWorkflowRef string `json:"job_workflow_ref"`
	WorkflowRef    string `json:"workflow_ref"`
	EventName      string `json:"event_name"`
	RepositoryID   string `json:"repository_id"`
	OwnerID        string `json:"repository_owner_id"`
	RunID          string `json:"run_id"`
	RunAttempt     string `json:"run_attempt"`
}

// identityOfToken reads who the bearer of a token is. The token's signature is Fulcio's to check; the
// signer compares the result with the certificate that Fulcio made of it.
func identityOfToken(token string) (evidence.Identity, error) {
	c, err := claimsOfToken(token)
	if err != nil {
		return evidence.Identity{}, err
	}
	return c.identity()
}

// claimsOfToken reads a token that is for us.
func claimsOfToken(token string) (tokenClaims, error) {
	var c tokenClaims
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return c, errors.New("it is not a JSON web token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if err != nil {
		return tokenClaims{}, fmt.Errorf("decoding its claims: %w", err)
	}
	if c.Audience != audience {
		return tokenClaims{}, fmt.Errorf("it is for %q, not for %q", c.Audience, audience)
	}
	return c, nil
}

// identity is what the claims say, when they say all of it.
func (c tokenClaims) identity() (evidence.Identity, error) {
	var id evidence.Identity
	switch c.Issuer {
	case LocalIssuer:
		id = c.local()
	case GitHubIssuer:
		id = c.gitHub()
	default:
		return evidence.Identity{}, fmt.Errorf("its issuer %q is neither %s nor the local one", c.Issuer, GitHubIssuer)
	}
	if id.BuilderID == "" || id.Repository == "" || id.Ref == "" || id.Commit == "" || id.WorkflowPath == "" || id.InvocationID == "" {
		return evidence.Identity{}, fmt.Errorf("its claims are incomplete: %+v", id)
	}
	return id, nil
}

func (c tokenClaims) local() evidence.Identity {
	internal := map[string]any{"runner_environment": c.RunnerEnvironment}
	if c.Dirty != "" {
		internal["dirty"] = c.Dirty
	}
	return evidence.Identity{
		Issuer: c.Issuer, BuilderID: c.Builder, BuildType: evidence.LocalBuildType,
		Repository: c.Repository, Ref: c.Ref, Commit: c.Commit, WorkflowPath: c.Workflow, InvocationID: c.Run,
		Runner: c.RunnerEnvironment, Internal: map[string]any{"local": internal},
	}
}

// gitHub is what actions/attest makes of the same claims, so that its consumers can read ours.
// https://github.com/actions/toolkit/blob/main/packages/attest/src/provenance.ts
func (c tokenClaims) gitHub() evidence.Identity {
	id := evidence.Identity{
		Issuer: c.Issuer, BuildType: evidence.GitHubBuildType, Ref: c.Ref, Commit: c.Commit,
		RepositoryID: c.RepositoryID, OwnerID: c.OwnerID, Runner: c.RunnerEnvironment,
		Internal: map[string]any{"github": map[string]any{
			"event_name": c.EventName, "repository_id": c.RepositoryID,
			"repository_owner_id": c.OwnerID, "runner_environment": c.RunnerEnvironment,
		}},
	}
	if c.JobWorkflowRef == "" || c.Repository == "" || c.RunID == "" || c.RunAttempt == "" {
		return id // incomplete, and seen to be by the caller
	}
	id.Repository = gitHubServer + "/" + c.Repository
	id.BuilderID = gitHubServer + "/" + c.JobWorkflowRef
	id.WorkflowPath = workflowPath(gitHubServer+"/"+c.WorkflowRef, id.Repository)
	id.InvocationID = id.Repository + "/actions/runs/" + c.RunID + "/attempts/" + c.RunAttempt
	return id
}

// identityOfCertificate reads the same from a Fulcio certificate; Internal is not in it.
// https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
func identityOfCertificate(c *x509.Certificate) (evidence.Identity, error) {
	x, err := certificate.ParseExtensions(c.Extensions)
	if err != nil {
		return evidence.Identity{}, err
	}
	for _, holds := range certificateChecks() {
		if err := holds(c, x); err != nil {
			return evidence.Identity{}, err
		}
	}
	id := evidence.Identity{
		Issuer: x.Issuer, BuilderID: c.URIs[0].String(), Repository: x.SourceRepositoryURI, Ref: x.SourceRepositoryRef,
		Commit: x.SourceRepositoryDigest, InvocationID: x.RunInvocationURI,
		WorkflowPath: workflowPath(x.BuildConfigURI, x.SourceRepositoryURI), Runner: x.RunnerEnvironment,
	}
	claimed := subjectClaim(c)
	id.RepositoryID = cmp.Or(x.SourceRepositoryIdentifier, claimed.repositoryID)
	id.OwnerID = cmp.Or(x.SourceRepositoryOwnerIdentifier, claimed.ownerID)
	switch x.Issuer {
	case GitHubIssuer:
		id.BuildType = evidence.GitHubBuildType
	case LocalIssuer:
		id.BuildType = evidence.LocalBuildType
	}
	return id, nil
}

// CheckCertificate compares a certificate whose chain was verified elsewhere with the expected signer.
func CheckCertificate(c *x509.Certificate, want Expect) ([]Fact, error) {
	id, err := identityOfCertificate(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", WrongIdentity, err)
	}
	facts := signerFacts(id, want)
	if err := agree(facts); err != nil {
		return nil, fmt.Errorf("%w: %w", WrongIdentity, err)
	}
	return facts, nil
}

// certificateCheck is one thing that a certificate must say without ambiguity.
type certificateCheck func(*x509.Certificate, certificate.Extensions) error

func certificateChecks() []certificateCheck {
	return []certificateCheck{
		namesOneURI,
		namesOneBuilder,
		namesOneRepository,
		namesOneOwner,
	}
}

func namesOneURI(c *x509.Certificate, _ certificate.Extensions) error {
	if len(c.URIs) != 1 || len(c.EmailAddresses)+len(c.DNSNames)+len(c.IPAddresses) > 0 {
		return errors.New("the certificate does not name exactly one URI as its subject")
	}
	return nil
}

// namesOneBuilder: the subject that others compare is the builder that we compare.
func namesOneBuilder(c *x509.Certificate, x certificate.Extensions) error {
	for _, uri := range c.URIs {
		if uri.String() != x.BuildSignerURI {
			return fmt.Errorf("the certificate is for %q and names the builder %q", uri, x.BuildSignerURI)
		}
	}
	return nil
}

// namesOneRepository: what the token's subject says of the repository is what its other claims say.
func namesOneRepository(c *x509.Certificate, x certificate.Extensions) error {
	claimed := subjectClaim(c)
	another := claimed.repositoryID != "" && x.SourceRepositoryIdentifier != "" && claimed.repositoryID != x.SourceRepositoryIdentifier
	if claimed.repository != "" && (claimed.repository != x.SourceRepositoryURI || another) {
		return fmt.Errorf("the certificate is of repository %s (%s), its subject claim of %s (%s)", x.SourceRepositoryURI, x.SourceRepositoryIdentifier, claimed.repository, claimed.repositoryID)
	}
	return nil
}

func namesOneOwner(c *x509.Certificate, x certificate.Extensions) error {
	claimed := subjectClaim(c)
	if claimed.ownerID != "" && x.SourceRepositoryOwnerIdentifier != "" && claimed.ownerID != x.SourceRepositoryOwnerIdentifier {
		return fmt.Errorf("the certificate is of owner %s, its subject claim of %s", x.SourceRepositoryOwnerIdentifier, claimed.ownerID)
	}
	return nil
}

// claim is what a token's "sub" says of a repository; a subject that was customized may say nothing.
type claim struct{ repository, ownerID, repositoryID string }

// subjectGrammar takes both forms: repo:owner/name:… and, for repositories since the summer of 2026,
// repo:owner@id/name@id:…
// https://docs.github.com/actions/reference/openid-connect-reference#immutable-subject-claims
var subjectGrammar = lazyregexp.New(`^repo:([^/@:]+)(?:@([0-9]+))?/([^/@:]+)(?:@([0-9]+))?(?::|$)`)

// subjectClaim reads Fulcio's extension 1.3.6.1.4.1.57264.1.24, which sigstore-go v1.3.0 does not
// know; older certificates do not have it.
func subjectClaim(c *x509.Certificate) claim {
	var sub string
	for _, x := range c.Extensions {
		if x.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 24}) {
			_, _ = asn1.UnmarshalWithParams(x.Value, &sub, "utf8") // what is no string says nothing
		}
	}
	m := subjectGrammar.FindStringSubmatch(sub)
	if m == nil {
		return claim{}
	}
	return claim{repository: gitHubServer + "/" + m[1] + "/" + m[3], ownerID: m[2], repositoryID: m[4]}
}

// identityOfProvenance reads who a provenance says it is; other statements name nobody.
func identityOfProvenance(st evidence.Statement) (evidence.Identity, error) {
	if st.PredicateType != evidence.Provenance {
		return evidence.Identity{}, nil
	}
	var p evidence.SLSA
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		return evidence.Identity{}, err
	}
	w := p.BuildDefinition.ExternalParameters.Workflow
	id := evidence.Identity{
		BuilderID: p.RunDetails.Builder.ID, BuildType: p.BuildDefinition.BuildType, Repository: w.Repository, Ref: w.Ref,
		WorkflowPath: w.Path, InvocationID: p.RunDetails.Metadata.InvocationID,
	}
	if len(p.BuildDefinition.ResolvedDependencies) > 0 {
		id.Commit = p.BuildDefinition.ResolvedDependencies[0].Digest["gitCommit"]
	}
	if id.BuilderID == "" || id.Repository == "" || id.Commit == "" {
		return evidence.Identity{}, errors.New("the provenance names no builder, repository or commit")
	}
	return id, nil
}

// workflowPath takes "<repository>/<path>@<ref>" apart; a workflow of another repository has none.
func workflowPath(uri, repository string) string {
	rest, ok := strings.CutPrefix(uri, repository+"/")
	if !ok {
		return ""
	}
	path, _, _ := strings.Cut(rest, "@")
	return path
}

// sameIdentity compares what a certificate proves with what is expected of it.
func sameIdentity(got, want evidence.Identity) error {
	return agree([]Fact{
		{"issuer", got.Issuer, want.Issuer, exactly},
		{"builder", got.BuilderID, want.BuilderID, exactly},
		{"build type", got.BuildType, want.BuildType, exactly},
		{"repository", got.Repository, want.Repository, exactly},
		{"repository id", got.RepositoryID, want.RepositoryID, exactly},
		{"owner id", got.OwnerID, want.OwnerID, exactly},
		{"ref", got.Ref, want.Ref, exactly},
		{"commit", got.Commit, want.Commit, exactly},
		{"workflow", got.WorkflowPath, want.WorkflowPath, exactly},
		{"runner", got.Runner, want.Runner, exactly},
		{"invocation", got.InvocationID, want.InvocationID, exactly},
	})
}
