package mage_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// unchanging is a maker of images whose inputs are always the same: what it is asked to keep it does not
// make.
type unchanging struct {
	maker
	stale           bool // the vulnerability database is another than that of every scan
	made, inspected int
}

func (m *unchanging) Build(ctx context.Context, p release.Plan, keep pipeline.Keep) (pipeline.Images, error) {
	inputs := map[string]release.Inputs{}
	for _, name := range p.Family.ImageNames() {
		d := digest.FromString(name)
		inputs[name] = release.Inputs{release.InputTarget: d, release.InputContexts: d, release.InputBase: d, release.InputTests: d, release.InputTools: d}
	}
	kept, err := keep(ctx, inputs)
	if err != nil {
		return pipeline.Images{}, err
	}
	out, err := m.maker.Build(ctx, p, nil)
	for name, image := range out.Images {
		image.Inputs = inputs[name]
		if old, ok := kept[name]; ok {
			image = old
		} else {
			m.made++
		}
		out.Images[name] = image
	}
	return out, err
}

func (m *unchanging) Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	m.inspected += len(b.Record.Cells())
	return m.maker.Inspect(ctx, b)
}

func (m *unchanging) Holds(context.Context, evidence.Report) (bool, error) { return !m.stale, nil }

// A verdict is not older than its database: an image whose inputs did not change is kept, scanned again by
// the job of the commit that keeps it, and verified from exactly those two commits.
func TestAKeptImageIsInspectedAgainWhenTheDatabaseChanged(t *testing.T) {
	t.Parallel()
	f := newSignedFamily(t, 2)
	m := &unchanging{maker: f.stages.Builder.(maker)}
	f.stages.Builder, f.stages.Inspect, f.stages.Verifier = m, m, anyMover{f.stages.Verifier}
	first, second, third := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	const own = 3 + 2 + 1 // statements about payload, installer and record
	for _, step := range []struct {
		commit                    string
		stale                     bool
		made, inspected, attested int
		built, scanned            string
	}{
		{first, false, 2, 4, own + 2*(2+2*4), "", ""},
		{second, true, 0, 4, own + 2*2*2, first, ""}, // SBOM and scan of two images on two platforms
		{third, false, 0, 0, own, first, second},
	} {
		f.signAt(t, step.commit)
		m.stale, m.made, m.inspected = step.stale, 0, 0
		result, err := f.promote(t)
		if err != nil {
			t.Fatal(err)
		}
		if m.made != step.made || m.inspected != step.inspected || result.Attested != step.attested {
			t.Errorf("at %.4s: %d built, %d inspected, %d attested, want %d, %d, %d", step.commit, m.made, m.inspected, result.Attested, step.made, step.inspected, step.attested)
		}
		for name, image := range result.Record.Images {
			if image.Built != step.built || image.Inspected != step.scanned {
				t.Errorf("at %.4s %s is built by %q and inspected by %q, want %q and %q", step.commit, name, image.Built, image.Inspected, step.built, step.scanned)
			}
		}
		v := verify.Verifier{Family: f.fam, Registry: f.stages.Registry, Trust: f.trust, Policy: f.policy}
		if r, err := v.Channel(t.Context(), "dev", time.Now()); err != nil {
			t.Errorf("at %.4s after %d checks: %v", step.commit, len(r.Checks), err)
		}
		for _, name := range f.fam.ImageNames() {
			if r, err := v.Image(t.Context(), name, "dev", time.Now()); err != nil || r.Commit != first {
				t.Errorf("at %.4s %s is of %.4s after %d checks: %v", step.commit, name, r.Commit, len(r.Checks), err)
			}
		}
	}
}

// signAt makes the family's Sigstore, the same root and log, certify a job of another commit, from which
// the family is then released.
func (f *signedFamily) signAt(t *testing.T, commit string) {
	t.Helper()
	if f.plan.Source.Commit != commit {
		dir := filepath.Dir(f.local.Services.TrustedRoot)
		if err := f.local.Close(); err != nil {
			t.Fatal(err)
		}
		f.local = startSigstore(t, dir, sigstore.Claims{Repository: signedSource, Ref: f.plan.Source.Ref, Commit: commit, Workflow: "family.yaml"})
	}
	f.plan.Source.Commit = commit
	f.stages.History, f.stages.Signer = checkout{f.plan.Source}, f.signer(f.local.Services)
}
