package sigstore

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"github.com/containai/containai/mage/evidence"
)

// gitHubServer is $GITHUB_SERVER_URL of GitHubIssuer.
const gitHubServer = "https://github.com"

// tokenClaims are the claims of both issuers that we use. "workflow" is a path in local tokens and a
// display name in GitHub's.
type tokenClaims struct {
	Issuer            string `json:"iss"`
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
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return evidence.Identity{}, errors.New("it is not a JSON web token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return evidence.Identity{}, fmt.Errorf("decoding its claims: %w", err)
	}
	var c tokenClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return evidence.Identity{}, fmt.Errorf("decoding its claims: %w", err)
	}
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
		Internal: map[string]any{"local": internal},
	}
}

// gitHub is what actions/attest makes of the same claims, so that its consumers can read ours.
// https://github.com/actions/toolkit/blob/main/packages/attest/src/provenance.ts
func (c tokenClaims) gitHub() evidence.Identity {
	id := evidence.Identity{
		Issuer: c.Issuer, BuildType: evidence.GitHubBuildType, Ref: c.Ref, Commit: c.Commit,
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
	if len(c.URIs) != 1 || len(c.EmailAddresses)+len(c.DNSNames)+len(c.IPAddresses) > 0 {
		return evidence.Identity{}, errors.New("the certificate does not name exactly one URI as its subject")
	}
	x, err := certificate.ParseExtensions(c.Extensions)
	if err != nil {
		return evidence.Identity{}, err
	}
	id := evidence.Identity{
		Issuer: x.Issuer, BuilderID: c.URIs[0].String(), Repository: x.SourceRepositoryURI, Ref: x.SourceRepositoryRef,
		Commit: x.SourceRepositoryDigest, InvocationID: x.RunInvocationURI,
		WorkflowPath: workflowPath(x.BuildConfigURI, x.SourceRepositoryURI),
	}
	switch x.Issuer {
	case GitHubIssuer:
		id.BuildType = evidence.GitHubBuildType
	case LocalIssuer:
		id.BuildType = evidence.LocalBuildType
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

// fact is one thing that two documents say.
type fact struct{ name, got, want string }

// agree returns every fact in which the two differ.
func agree(facts ...fact) error {
	var all []error
	for _, f := range facts {
		if f.got != f.want {
			all = append(all, fmt.Errorf("%s is %q, not %q", f.name, f.got, f.want))
		}
	}
	return errors.Join(all...)
}

// sameIdentity compares what a certificate proves with what is expected of it.
func sameIdentity(got, want evidence.Identity) error {
	return agree(
		fact{"issuer", got.Issuer, want.Issuer},
		fact{"builder", got.BuilderID, want.BuilderID},
		fact{"build type", got.BuildType, want.BuildType},
		fact{"repository", got.Repository, want.Repository},
		fact{"ref", got.Ref, want.Ref},
		fact{"commit", got.Commit, want.Commit},
		fact{"workflow", got.WorkflowPath, want.WorkflowPath},
		fact{"invocation", got.InvocationID, want.InvocationID},
	)
}
