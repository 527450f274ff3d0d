package mage

import (
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/verify"
)

// The wiring of the ports, for tests that release without a builder.

func NewRegistryPort(client *registry.Client, members []string) (pipeline.Registry, error) {
	return verify.Connect(client, members)
}

func NewLayoutPort(l *registry.Layout) pipeline.Layout { return layoutPort{l} }

// NewTrustPort trusts one signer, who releases and may move every channel.
func NewTrustPort(trust *verify.Trust, signer family.Signer) pipeline.Verifier {
	return onlySigner{&trustPort{judges: []judge{{trust, signer}}}}
}

type onlySigner struct{ *trustPort }

func (o onlySigner) VerifyMover(bundle []byte, subject digest.Digest, _ string) (evidence.Statement, error) {
	return o.Verify(bundle, subject, "")
}
