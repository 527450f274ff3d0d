package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// What lies on the disk between the inspection and the signing is not signed unless it was approved.
func TestAnSBOMThatTheReportDoesNotSpeakOfIsNotSigned(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	p, plan := w.pipeline(t, "maker"), w.plan(first)
	p.Signer, p.History, p.Inspect = w.signer(first), history{plan.Source}, swapped{maker{w.layout}}
	result, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilAttest})
	if !errors.Is(err, fault.Forged) || result.Attested > 0 {
		t.Errorf("attested %d, %v; want Forged", result.Attested, err)
	}
}

// Two images may be the same bytes; what is said of one is not said of the other.
func TestAScanIsAttestedOfItsOwnCell(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	p, plan := w.pipeline(t, "maker"), w.plan(first)
	p.Signer, p.History, p.Builder = w.signer(first), history{plan.Source}, twins{maker{w.layout}}
	result, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilAttest})
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"base", "app"} {
		attached, err := pipeline.Attachments(t.Context(), p.Registry.Repository(image), result.Record.Images[image].Platforms["linux/amd64"], evidence.BundleType)
		if err != nil {
			t.Fatal(err)
		}
		for _, bundle := range attached.Bundles {
			var report evidence.Report
			st, err := p.Verifier.Verify(bundle, result.Record.Images[image].Platforms["linux/amd64"].Digest, first, "dev")
			if err == nil && st.PredicateType == evidence.Scan {
				err = json.Unmarshal(st.Predicate, &report)
			}
			if err != nil || report.Cell.Image != "" && report.Cell.Image != image {
				t.Errorf("the scan of %s speaks of %s, %v", image, report.Cell, err)
			}
		}
	}
}

// twins makes app the same bytes as base.
type twins struct{ maker }

func (m twins) Build(ctx context.Context, p release.Plan, keep pipeline.Keep) (pipeline.Images, error) {
	out, err := m.maker.Build(ctx, p, keep)
	out.Images["app"] = out.Images["base"]
	return out, err
}

// swapped gives another SBOM than the one that it inspected.
type swapped struct{ maker }

func (s swapped) SBOM(ctx context.Context, b release.Built, subject, platform string) ([]byte, error) {
	content, err := s.maker.SBOM(ctx, b, subject, platform)
	return append(content, '\n'), err
}
