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

// A job that may only move a channel does so for what is whole, and makes nothing itself beside its token:
// not even what was there when the job began and vanished since.
func TestWhoOnlyMovesNeitherBuildsNorInspectsNorSigns(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		published, vanished bool
		want                error
	}{
		"nothing was published":       {want: fault.Refused},
		"what is said of app is gone": {published: true, vanished: true, want: fault.Refused},
		"it is whole":                 {published: true},
	} {
		w := bareWorld(t)
		if tt.published {
			w.publish(t, first)
		}
		if tt.vanished {
			w.strip(t, "app", w.releases[first].Record.Images["app"].Index)
			w.cache = t.TempDir() // this machine never saw it
		}
		p, plan := w.pipeline(t, "mover"), w.plan(first)
		p.Signer, p.History = w.signer(first), history{plan.Source}
		p.Builder, p.Inspect = idle{t, maker{w.layout}}, idle{t, maker{w.layout}}
		result, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moves: true})
		if !errors.Is(err, tt.want) || result.Attested > 0 || (w.shown("app", "dev") != "") != (tt.want == nil) {
			t.Errorf("%s: attested %d, dev is %q, %v; want %v", name, result.Attested, w.shown("app", "dev"), err, tt.want)
		}
	}
}

// idle must not be asked to build or to inspect.
type idle struct {
	t *testing.T
	maker
}

func (i idle) Build(ctx context.Context, p release.Plan, keep pipeline.Keep) (pipeline.Images, error) {
	i.t.Error("it was built")
	return i.maker.Build(ctx, p, keep)
}

func (i idle) Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	i.t.Error("it was inspected")
	return i.maker.Inspect(ctx, b)
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
