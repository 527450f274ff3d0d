package mage

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

// maxSteps is how much of a channel's history a page shows.
const maxSteps = 10

// describe adds what the family and the manifests say of each member. A manifest that cannot be read,
// in a run that was interrupted, leaves its layers out.
func (w *workshop) describe(ctx context.Context, p *pipeline.Pipeline, r release.Record, reports []evidence.Report, m *report.Model) {
	for i := range m.Members {
		member := &m.Members[i]
		member.Kind = string(w.fam.Artifacts[member.Name].Kind)
		platforms := map[string]graph.Node{"": r.Artifacts[member.Name]}
		if image, ok := r.Images[member.Name]; ok {
			member.Kind, member.From, platforms = "image", w.fam.Images[member.Name].From, image.Platforms
		}
		for _, name := range slices.Sorted(maps.Keys(platforms)) {
			manifest, err := graph.Manifest(ctx, p.Nearest(ctx, member.Name, platforms[name]), platforms[name])
			if err != nil {
				continue
			}
			on := report.Platform{Platform: name}
			for _, layer := range manifest.Layers {
				on.Size += layer.Size
				on.Layers = append(on.Layers, report.Layer{Digest: layer.Digest, Size: layer.Size})
			}
			member.Size += on.Size
			member.Platforms = append(member.Platforms, on)
		}
	}
	m.Settle(reports)
	if m.Reached == string(pipeline.UntilPromote) {
		m.Verify = verifyCommands(*m, w.fam)
		if !w.embedded { // which the targets find by themselves
			m.Verify = append([]string{"export CONTAINAI_REGISTRY=" + word(m.Registry)}, m.Verify...)
			m.Verify = append(m.Verify, "containai-verify channel "+word(m.Channel)+" -family "+word(filepath.Base(w.env.family))+" -registry "+word(m.Registry))
		}
	}
	for _, span := range w.progress.watch.Spans() {
		m.Stages = append(m.Stages, report.Stage{Name: span.Stage, After: span.Began.Sub(w.began).Seconds(), Seconds: span.End.Sub(span.Began).Seconds()})
	}
}

// mayRecall reports whether a run asked the registry, which an inspection does not do, and got answers.
func mayRecall(until pipeline.Stage, failed error) bool {
	return until != pipeline.UntilBuild && until != pipeline.UntilInspect &&
		!errors.Is(failed, fault.Unavailable) && !errors.Is(failed, fault.Interrupted)
}

// recall adds the channel's history, and what changed against what it served before. The page is not
// worth failing a release for: what cannot be read is said on it.
func (w *workshop) recall(ctx context.Context, p *pipeline.Pipeline, result pipeline.Result, m *report.Model, may bool) {
	if !may {
		m.Alone = "this run did not ask the registry; mage release:diff compares"
		return
	}
	node, err := pipeline.RecordNode(result.Record)
	if err == nil {
		m.History, err = recent(ctx, p, m.Channel)
	}
	if err != nil {
		m.Alone = "the channel's history was not read: " + err.Error()
		return
	}
	before, found := servedBefore(m.History, node.Digest)
	if !found {
		m.Alone = m.Channel + " served nothing before"
		return
	}
	c := report.Comparison{Channel: m.Channel, From: before.Tag, To: result.Source.Tag()}
	if m.Reached == string(pipeline.UntilAttest) || m.Reached == string(pipeline.UntilPromote) {
		c.Differences, err = p.Compare(ctx, before.Record, node.Digest)
	} else {
		c.Differences, err = p.CompareBuilt(ctx, before.Record, release.Built{Record: result.Record}, result.Reports)
	}
	if err != nil {
		m.Alone = "what " + m.Channel + " served before could not be compared: " + err.Error()
		return
	}
	m.Compared = &c
}

// recent is the newest of a channel's history, newest first.
func recent(ctx context.Context, p *pipeline.Pipeline, channel string) ([]release.Step, error) {
	steps := []release.Step{}
	for head, err := range release.Chain(p.Ledger.History(ctx)) {
		if err != nil {
			return steps, err
		}
		if slices.Contains(head.Document.Changed(), channel) {
			steps = append(steps, release.Step{Generation: head.Document.Generation, Channel: channel, State: head.Document.Channels[channel]})
		}
		if len(steps) == maxSteps {
			break
		}
	}
	return steps, nil
}

// servedBefore is the newest state with another record.
func servedBefore(steps []release.Step, record digest.Digest) (release.State, bool) {
	for _, s := range steps {
		if s.State.Record != record && s.State.Record != "" {
			return s.State, true
		}
	}
	return release.State{}, false
}
