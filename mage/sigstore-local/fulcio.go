package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/sigstore/fulcio/pkg/ca"
	"github.com/sigstore/fulcio/pkg/ca/baseca"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/fulcio/pkg/config"
	"github.com/sigstore/fulcio/pkg/generated/protobuf"
	"github.com/sigstore/fulcio/pkg/identity"
	"github.com/sigstore/fulcio/pkg/server"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc/metadata"
)

// newFulcio is Fulcio's HTTP face, POST /api/v2/signingCert and its siblings.
func newFulcio(ctx context.Context, dir string, k keys, i *issuer) (http.Handler, error) {
	certificates, err := newCertificateLog(ctx, dir, k)
	if err != nil {
		return nil, fmt.Errorf("starting certificate log: %w", err)
	}
	algorithms, err := signature.NewAlgorithmRegistryConfig([]common.PublicKeyDetails{common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256})
	if err != nil {
		return nil, err
	}
	authority := &persistentCA{baseca.BaseCA{SignerWithChain: &ca.SignerCerts{Signer: k.fulcio.key, Certs: k.fulcio.chain}}}
	fulcio := server.NewGRPCCAServer(certificates, authority, algorithms, identity.IssuerPool{i})
	mux := runtime.NewServeMux(runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
		return metadata.Pairs(server.MetadataOIDCTokenKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}))
	return mux, protobuf.RegisterCAHandlerServer(ctx, mux, configured{fulcio, issuers(i.name)})
}

// issuers tells Fulcio how the claims of the one issuer become a certificate.
func issuers(name string) *config.FulcioConfig {
	provider, shape := "local", localShape()
	if name == gitHubIssuer {
		provider, shape = "github-workflow", gitHubShape()
	}
	return &config.FulcioConfig{
		OIDCIssuers: map[string]config.OIDCIssuer{name: {
			IssuerURL: name, ClientID: audience, Type: config.IssuerTypeCIProvider, CIProvider: provider,
		}},
		CIIssuerMetadata: map[string]config.IssuerMetadata{provider: shape},
	}
}

// localShape says honestly what is known here: who builds, from which source, in which run.
func localShape() config.IssuerMetadata {
	return config.IssuerMetadata{
		SubjectAlternativeNameTemplate: "{{ .builder }}",
		ExtensionTemplates: certificate.Extensions{
			BuildSignerURI:         "builder",
			RunnerEnvironment:      "runner_environment",
			SourceRepositoryURI:    "repository",
			SourceRepositoryDigest: "sha",
			SourceRepositoryRef:    "ref",
			BuildConfigURI:         "{{ .repository }}/{{ .workflow }}@{{ .ref }}",
			BuildConfigDigest:      "sha",
			BuildTrigger:           "event_name",
			RunInvocationURI:       "run",
		},
	}
}

// gitHubShape is the entry "github-workflow" of the public Fulcio, for rehearsals.
// https://github.com/sigstore/fulcio/blob/v1.8.8/config/identity/config.yaml
func gitHubShape() config.IssuerMetadata {
	return config.IssuerMetadata{
		DefaultTemplateValues:          map[string]string{"url": "https://github.com", "environment": ""},
		SubjectAlternativeNameTemplate: "{{ .url }}/{{ .job_workflow_ref }}",
		ExtensionTemplates: certificate.Extensions{
			GithubWorkflowTrigger:               "event_name",
			GithubWorkflowSHA:                   "sha",
			GithubWorkflowName:                  "workflow",
			GithubWorkflowRepository:            "repository",
			GithubWorkflowRef:                   "ref",
			BuildSignerURI:                      "{{ .url }}/{{ .job_workflow_ref }}",
			BuildSignerDigest:                   "job_workflow_sha",
			RunnerEnvironment:                   "runner_environment",
			SourceRepositoryURI:                 "{{ .url }}/{{ .repository }}",
			SourceRepositoryDigest:              "sha",
			SourceRepositoryRef:                 "ref",
			SourceRepositoryIdentifier:          "repository_id",
			SourceRepositoryOwnerURI:            "{{ .url }}/{{ .repository_owner }}",
			SourceRepositoryOwnerIdentifier:     "repository_owner_id",
			BuildConfigURI:                      "{{ .url }}/{{ .workflow_ref }}",
			BuildConfigDigest:                   "workflow_sha",
			BuildTrigger:                        "event_name",
			RunInvocationURI:                    "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}",
			SourceRepositoryVisibilityAtSigning: "repository_visibility",
			DeploymentEnvironment:               "environment",
		},
	}
}

// persistentCA signs with the directory's intermediate, and embeds the log's promise.
type persistentCA struct{ baseca.BaseCA }

func (p *persistentCA) TrustBundle(context.Context) ([][]*x509.Certificate, error) {
	chain, _ := p.GetSignerWithChain()
	return [][]*x509.Certificate{chain}, nil
}

func (p *persistentCA) Close() error { return nil }

// configured gives each call the configuration, as Fulcio's own HTTP server does.
type configured struct {
	protobuf.CAServer
	config *config.FulcioConfig
}

func (c configured) CreateSigningCertificate(ctx context.Context, r *protobuf.CreateSigningCertificateRequest) (*protobuf.SigningCertificate, error) {
	return c.CAServer.CreateSigningCertificate(config.With(ctx, c.config), r)
}

func (c configured) GetConfiguration(ctx context.Context, r *protobuf.GetConfigurationRequest) (*protobuf.Configuration, error) {
	return c.CAServer.GetConfiguration(config.With(ctx, c.config), r)
}
