package pipeline_test

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// The stages themselves run for real in mage/*_test.go: a whole release, killed, interrupted,
// tampered with, and repeated. Here is what needs no world.

func TestPublishRefusesWhatNoGateApproved(t *testing.T) {
	p := &pipeline.Pipeline{Family: &family.Family{Name: "tiny"}}
	if _, err := p.Publish(t.Context(), release.Approved{}); !errors.Is(err, fault.Refused) {
		t.Errorf("Publish(Approved{}) = %v, want refused", err)
	}
}

func TestReleaseRefusesAChannelTheFamilyDoesNotHave(t *testing.T) {
	p := &pipeline.Pipeline{Family: &family.Family{Name: "tiny"}}
	if _, err := p.Release(t.Context(), release.Plan{}, pipeline.Order{Channel: "stable", Until: pipeline.UntilPromote}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Release(stable) = %v, want invalid", err)
	}
}

func TestMissingNamesEveryClaimWithoutProof(t *testing.T) {
	image := release.Image{Index: graph.NewNode("", []byte("index")), Platforms: map[string]graph.Node{"linux/amd64": graph.NewNode("", []byte("amd64"))}}
	claims := release.ImageClaims("tiny", image)
	found := pipeline.Found{}
	if got := len(found.Missing(claims)); got != 6 {
		t.Errorf("%d claims are missing of an image without evidence, want 6", got)
	}
	for i, c := range claims {
		found[pipeline.KeyOf(c)] = found[pipeline.KeyOf(c)]
		if got := len(found.Missing(claims)); got != len(claims)-i-1 {
			t.Errorf("after %d proofs %d claims are missing, want %d", i+1, got, len(claims)-i-1)
		}
	}
}
