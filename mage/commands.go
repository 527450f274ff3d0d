package mage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
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
		w, err := s.openWorkshop(ctx, true)
		if err != nil {
			return err
		}
		plan, err := w.plan(ctx)
		if err != nil {
			return err
		}
		p, err := w.pipeline(ctx, plan)
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
		m.Moves = append(m.Moves, move.String())
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

// buildAll builds and packs, and loads the images into Docker if there is an engine.
func buildAll() command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx)
		if err != nil {
			return err
		}
		built, err := p.Build(ctx, plan)
		if err != nil {
			return err
		}
		if err := w.loadIntoEngine(ctx, p, built); err != nil {
			return err
		}
		return w.report(pipeline.Result{Source: plan.Source, Record: built.Record, Reached: pipeline.UntilBuild}, "")
	}
}

// openPipeline opens a workshop for writing, plans, and wires the stages.
func (s *session) openPipeline(ctx context.Context) (*workshop, *pipeline.Pipeline, release.Plan, error) {
	w, err := s.openWorkshop(ctx, true)
	if err != nil {
		return nil, nil, release.Plan{}, err
	}
	plan, err := w.plan(ctx)
	if err != nil {
		return nil, nil, release.Plan{}, err
	}
	p, err := w.pipeline(ctx, plan)
	return w, p, plan, err
}

// packArtifacts packs kinds of artifacts; what they pin is built first when it is not there.
func packArtifacts(kinds ...family.Kind) command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx)
		if err != nil {
			return err
		}
		built, err := p.Build(ctx, plan)
		if err != nil {
			return err
		}
		d := newDist(w.root, plan.Source)
		files := map[string]string{}
		for _, kind := range kinds {
			name := w.fam.ArtifactOf(kind)
			if name == "" {
				continue
			}
			file := d.path(fileName(name, kind))
			if kind == family.Metadata {
				if err := w.writeDocument(ctx, p, file, built); err != nil {
					return err
				}
			}
			files[name] = file
		}
		w.progress.settle()
		return w.print(files, func() string { return fileList(files, w.root) })
	}
}

// writeDocument writes the channels document as it stands, or, before the first release, as it
// would be if dev took what was just built.
func (w *workshop) writeDocument(ctx context.Context, p *pipeline.Pipeline, file string, built release.Built) error {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return err
	}
	content := head.Content
	if head.ID == "" {
		if content, err = firstDocument(p, built, w.moved("artifacts:metadata")); err != nil {
			return err
		}
	}
	return writeFile(file, bytes.NewReader(content))
}

// localServe runs the embedded registry until it is interrupted.
func localServe(addr *string) command {
	return func(ctx context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		state, err := local.OpenState(s.env.state)
		if err != nil {
			return err
		}
		at := local.DefaultAddr
		if addr != nil {
			at = *addr
		}
		serving, err := local.Serve(ctx, state, at)
		if err != nil {
			return err
		}
		s.onClose(serving.Close)
		fmt.Fprintf(s.env.stdout, "registry: %s\n", serving.Host)
		fmt.Fprintf(s.env.stderr, "serving %s/%s until interrupted; trust root: %s\n", serving.Host, fam.Name, filepath.Join(state.SigstoreDir(), "trusted_root.json"))
		if err := serving.Wait(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	}
}

// localReset forgets everything the embedded default keeps.
func localReset() command {
	return func(ctx context.Context, s *session) error {
		if _, err := os.Stat(s.env.state); os.IsNotExist(err) {
			return nil
		}
		state, err := local.OpenState(s.env.state)
		if err != nil {
			return err
		}
		if err := state.Lock(); err != nil {
			return err
		}
		defer state.Close()
		if err := os.RemoveAll(s.env.state); err != nil {
			return fault.Wrap(err, fault.Environment, "removing", s.env.state)
		}
		fmt.Fprintf(s.env.stderr, "forgot %s\n", s.env.state)
		return nil
	}
}

// familyCheck validates the family file.
func familyCheck() command {
	return func(_ context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		return s.print(fam, func() string {
			return fmt.Sprintf("%s: %d images, %d artifacts, %d channels: valid\n", filepath.Base(s.env.family), len(fam.Images), len(fam.Artifacts), len(fam.Channels))
		})
	}
}

func firstDocument(p *pipeline.Pipeline, built release.Built, m release.Moved) ([]byte, error) {
	node, err := pipeline.RecordNode(built.Record)
	if err != nil {
		return nil, err
	}
	m.At = built.Record.Source.Epoch
	d, _, err := release.PlanMove(release.Document{}, "", p.Family.Name, "dev", release.Candidate{Record: built.Record, Digest: node.Digest}, m)
	if err != nil {
		return nil, err
	}
	return d.Encode()
}
