package evidence

import (
	"maps"
	"slices"
	"time"
)

// SLSA is the SLSA provenance v1 predicate, https://slsa.dev/spec/v1.0/provenance.
type SLSA struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was built from what.
type BuildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   ExternalParams `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters,omitempty"`
	ResolvedDependencies []Material     `json:"resolvedDependencies"`
}

// ExternalParams has GitHub's shape: the workflow that was asked to run.
type ExternalParams struct {
	Workflow Workflow `json:"workflow"`
}

// Names reports whether a dependency is among those of a build.
func (b BuildDefinition) Names(want Material) bool {
	return slices.ContainsFunc(b.ResolvedDependencies, func(m Material) bool {
		return m.Name == want.Name && m.URI == want.URI && maps.Equal(m.Digest, want.Digest)
	})
}

// Workflow names what defined the build: a ref of a repository and a path in it.
type Workflow struct {
	Ref        string `json:"ref"`
	Repository string `json:"repository"`
	Path       string `json:"path"`
}

// Material is a resolved dependency; Digest maps an algorithm ("gitCommit", "sha256") to hex.
type Material struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

// RunDetails says who built it.
type RunDetails struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder is the trusted control plane; ID is a URI.
type Builder struct {
	ID string `json:"id"`
}

// Metadata identifies the run.
type Metadata struct {
	InvocationID string     `json:"invocationId"`
	StartedOn    *time.Time `json:"startedOn,omitempty"`
}

// Identity is what the signer's token says about itself: who builds, from which source.
// On GitHub it comes from the OIDC claims, locally from the local issuer's.
type Identity struct {
	Issuer       string // OIDC issuer URL
	BuilderID    string // the certificate's subject: a workflow URI or the local builder URI
	BuildType    string
	Repository   string // URL of the source repository
	Ref          string // refs/heads/main
	Commit       string // 40 hex digits
	WorkflowPath string
	InvocationID string
	RepositoryID string // decimal, GitHub only
	OwnerID      string // decimal, GitHub only
	Runner       string // runner environment: local, github-hosted, self-hosted
	Internal     map[string]any
}

// BuildTypes of the two builders.
const (
	GitHubBuildType = "https://actions.github.io/buildtypes/workflow/v1"
	LocalBuildType  = "https://containai.dev/buildtypes/local/v1"
)

// NewSLSA writes the provenance of one digest. The source commit is always the first dependency.
func NewSLSA(id Identity, dependencies []Material) SLSA {
	source := Material{
		URI:    "git+" + id.Repository + "@" + id.Ref,
		Digest: map[string]string{"gitCommit": id.Commit},
	}
	return SLSA{
		BuildDefinition: BuildDefinition{
			BuildType:            id.BuildType,
			ExternalParameters:   ExternalParams{Workflow{Ref: id.Ref, Repository: id.Repository, Path: id.WorkflowPath}},
			InternalParameters:   id.Internal,
			ResolvedDependencies: append([]Material{source}, dependencies...),
		},
		RunDetails: RunDetails{Builder: Builder{ID: id.BuilderID}, Metadata: Metadata{InvocationID: id.InvocationID}},
	}
}

// WithArguments records build arguments among the internal parameters: they are the source's own,
// and nobody outside can give others.
func (s SLSA) WithArguments(arguments map[string]string) SLSA {
	if len(arguments) == 0 {
		return s
	}
	internal := map[string]any{"buildArguments": arguments}
	maps.Copy(internal, s.BuildDefinition.InternalParameters)
	s.BuildDefinition.InternalParameters = internal
	return s
}
