package mage

import (
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/verify"
)

// The wiring of the ports, for tests that release without a builder.

func NewRegistryPort(client *registry.Client, members []string) (pipeline.Registry, error) {
	return newRegistryPort(client, members)
}

func NewLayoutPort(l *registry.Layout) pipeline.Layout { return layoutPort{l} }

func NewTrustPort(trust *verify.Trust, signer family.Signer) pipeline.Verifier {
	return &trustPort{judges: []judge{{trust, signer}}}
}
