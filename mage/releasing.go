package mage

import (
	"bytes"
	"context"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

// releaseTo is every release: the whole pipeline to a channel, or up to a stage.
func releaseTo(channel string, until pipeline.Stage) command {
	return func(ctx context.Context, s *session) error {
		if err := checkStage(until); err != nil {
			return err
		}
		w, p, plan, err := s.openPipeline(ctx, true)
		if err != nil {
			return err
		}
		result, err := p.Release(ctx, plan, channel, until, w.moved("release:"+channel))
		if closing := w.report(result, channel); err == nil {
			err = closing
		}
		return resumeHint(err, channel)
	}
}

func checkStage(until pipeline.Stage) error {
	stages := []pipeline.Stage{pipeline.UntilBuild, pipeline.UntilInspect, pipeline.UntilPublish, pipeline.UntilAttest, pipeline.UntilPromote}
	var names []string
	for _, s := range stages {
		if s == until {
			return nil
		}
		names = append(names, string(s))
	}
	return fault.New(fault.Invalid, "reading", "-until="+string(until), "a release stops after one of %s", strings.Join(names, ", "))
}

// resumeHint says how to go on after an interruption.
func resumeHint(err error, channel string) error {
	if kind, ok := fault.KindOf(err); ok && kind == fault.Interrupted && fault.HintOf(err) == "" {
		return &fault.Error{Op: "releasing", Subject: channel, Kind: fault.Interrupted, Err: err,
			Hint: "run the same command again: it continues where this run stopped"}
	}
	return err
}

// moved says who moves a channel; it goes into the channels document.
func (w *workshop) moved(reason string) release.Moved {
	return release.Moved{By: w.env.actor, Run: w.env.run, Reason: reason, At: w.env.now()}
}

// report writes the release's files under dist/ and prints the closing summary. A run that
// failed before it had a record has nothing to report.
func (w *workshop) report(result pipeline.Result, channel string) error {
	if len(result.Record.Images) == 0 {
		return nil
	}
	d := newDist(w.root, result.Source)
	m := report.New(result.Record, result.Reports)
	m.Channel, m.Registry, m.Reached, m.Unchanged = channel, w.public, string(result.Reached), result.Unchanged()
	m.Adopted, m.Generation, m.Tagged, m.Attested = result.Adopted, result.Outcome.Generation, result.Tagged, result.Attested
	for _, move := range result.Outcome.Moves {
		m.Moves = append(m.Moves, strings.TrimPrefix(move.String(), w.client.Base().String()+"/"))
	}
	counts := w.client.Counts()
	m.Requests = report.Requests{Reads: counts.Reads, Writes: counts.Writes}
	m.Seconds = w.env.now().Sub(w.began).Seconds()
	page, err := m.HTML()
	if err != nil {
		return err
	}
	if !m.Unchanged {
		if err := writeFile(d.path("report.html"), bytes.NewReader(page)); err != nil {
			return err
		}
		if err := writeFile(d.path("summary.md"), bytes.NewReader(m.Markdown(term.EscapeMarkdown))); err != nil {
			return err
		}
	}
	w.progress.settle()
	return w.print(m, func() string { return summary(m, d.dir, w.root) })
}
