package verify

import (
	"context"
	"slices"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Served is what a verified channel serves to an installer.
type Served struct {
	State     release.State
	Payload   graph.Node // manifests
	Installer graph.Node
}

// artifactChecks are made on the record where only payload and installer are wanted.
func artifactChecks() []channelCheck {
	return []channelCheck{
		(*walk).recordAgrees,
		(*walk).artifactsAreProved,
	}
}

// Artifacts verifies what an installer takes from a channel at the time now: the channels document,
// its record, and the evidence of payload, installer and record. The images that the payload pins
// by digest are left to [Verifier.Channel]: their number may have changed since the family file was
// written that an installer carries. Its errors are those of Channel.
func (v *Verifier) Artifacts(ctx context.Context, channel string, now time.Time) (Result, Served, error) {
	w, err := v.walk(ctx, channel, now, artifactChecks())
	if err != nil {
		return *w.result, Served{}, err
	}
	artifacts := w.record.Artifacts
	return *w.result, Served{w.state, artifacts[v.Family.ArtifactOf(family.Payload)], artifacts[v.Family.ArtifactOf(family.Installer)]}, nil
}

// artifactsAreProved demands the evidence of payload, installer and record, and that all are there.
func (w *walk) artifactsAreProved(ctx context.Context) error {
	wanted := []string{w.Family.ArtifactOf(family.Metadata)}
	for _, kind := range []family.Kind{family.Payload, family.Installer} {
		name := w.Family.ArtifactOf(kind)
		if _, ok := w.record.Artifacts[name]; !ok {
			return refuse(fault.Refused, "record", Incomplete, "it has no %s", kind)
		}
		wanted = append(wanted, name)
	}
	claims := release.Claims(w.Family, w.record, w.recordAt)
	claims = slices.DeleteFunc(claims, func(c release.Claim) bool { return !slices.Contains(wanted, c.Member) })
	subjects, nodes := w.Verifier.subjects(w.record, w.recordAt, claims)
	return w.proves(ctx, subjects, nodes, w.result)
}
