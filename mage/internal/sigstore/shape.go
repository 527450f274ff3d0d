package sigstore

import (
	"fmt"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// decodeBundle reads a bundle and refuses what lacks a part, before anything is computed over it.
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto
func decodeBundle(content []byte, instance family.Instance) (*bundle.Bundle, error) {
	if len(content) > maxBundle {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", Malformed, maxBundle)
	}
	message := new(bundlepb.Bundle)
	if err := protojson.Unmarshal(content, message); err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	for _, c := range append(shape(), material(instance)...) {
		if found, holds := c.look(message); !holds {
			return nil, fmt.Errorf("%w: its %s is %s", c.otherwise, c.part, found)
		}
	}
	b, err := bundle.NewBundle(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", Malformed, err)
	}
	return b, nil
}

// part is one part of a bundle that must be there, and why the bundle is refused otherwise.
type part struct {
	part      string
	otherwise Reason
	look      func(*bundlepb.Bundle) (found string, holds bool)
}

// shape is what every bundle is.
func shape() []part {
	return []part{
		{"media type", Malformed, func(b *bundlepb.Bundle) (string, bool) {
			return quoted(b.GetMediaType()), b.GetMediaType() == evidence.BundleType
		}},
		{"payload type", Malformed, func(b *bundlepb.Bundle) (string, bool) {
			t := b.GetDsseEnvelope().GetPayloadType()
			return quoted(t), t == evidence.PayloadT
		}},
		{"number of signatures", Malformed, func(b *bundlepb.Bundle) (string, bool) {
			n := len(b.GetDsseEnvelope().GetSignatures())
			return counted(n), n == 1
		}},
	}
}

// material is what an instance's bundles bring to be verified.
func material(instance family.Instance) []part {
	switch instance {
	case family.Key:
		return []part{{"key hint", Malformed, hasKey}}
	case family.GitHub:
		return []part{{"certificate", Malformed, hasCertificate}, {"timestamp", Undated, hasTimestamp}}
	}
	return []part{
		{"certificate", Malformed, hasCertificate},
		{"log entry", Unlogged, hasLogEntry},
		{"timestamp", Undated, hasTime},
	}
}

func hasKey(b *bundlepb.Bundle) (string, bool) {
	return "missing", b.GetVerificationMaterial().GetPublicKey() != nil
}

// hasCertificate: exactly one. Roots and chains come from the trusted root, never with a bundle.
func hasCertificate(b *bundlepb.Bundle) (string, bool) {
	return "missing", b.GetVerificationMaterial().GetCertificate() != nil
}

func hasLogEntry(b *bundlepb.Bundle) (string, bool) {
	return "missing", len(b.GetVerificationMaterial().GetTlogEntries()) > 0
}

func hasTimestamp(b *bundlepb.Bundle) (string, bool) {
	return "missing", len(b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()) > 0
}

// hasTime accepts the time that a log entry brings, as those of Rekor v1 do.
func hasTime(b *bundlepb.Bundle) (string, bool) {
	for _, entry := range b.GetVerificationMaterial().GetTlogEntries() {
		if entry.GetIntegratedTime() > 0 {
			return "", true
		}
	}
	return hasTimestamp(b)
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }
func counted(n int) string   { return fmt.Sprint(n) }
