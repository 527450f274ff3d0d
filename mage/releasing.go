package mage

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
	"github.com/containai/containai/mage/verify"
)

// wish is what a release is asked to be.
type wish struct {
	channel string
	version string // v1.2.3; may be empty
	commit  string // another than the one checked out; may be empty
	until   pipeline.Stage
	purpose release.Purpose
	plan    bool // print what would be done, and stop
	rebuild bool // under the commit's next rebuild number, taking in what its steps fetch
}

// releaseOf is every release: the whole pipeline to a channel, or up to a stage.
func releaseOf(x wish) command {
	return func(ctx context.Context, s *session) error {
		if err := x.check(); err != nil {
			return err
		}
		w, p, plan, err := s.openRelease(ctx, x)
		if err != nil {
			return err
		}
		w.cache = release.CacheFor(x.purpose, w.fam.Channels[x.channel].Gate)
		if port, ok := p.Inspect.(*inspectorPort); ok {
			port.unscanned = w.fam.Channels[x.channel].Gate.Unscanned
		}
		if plan.Source, err = w.choose(ctx, p, plan.Source, x.commit); err != nil {
			return err
		}
		order := pipeline.Order{Channel: x.channel, Version: x.version, Until: x.until, Moved: w.moved("release:" + x.channel)}
		if x.plan {
			steps, err := p.Foresee(ctx, plan, order)
			if err != nil {
				return err
			}
			return w.print(steps, func() string { return stepsText(x.channel, steps) })
		}
		if order.Moves, err = w.mayRelease(ctx, p, x, plan.Source); err != nil {
			return err
		}
		if p.Archive, err = w.archiveOf(ctx, x, plan.Source); err != nil {
			return err
		}
		result, err := p.Release(ctx, plan, order)
		if closing := w.report(ctx, p, result, order, err); err == nil {
			err = closing
		}
		return resumeHint(err, "releasing", x.channel)
	}
}

// propose builds, inspects and asks the gate of the channel that a push reaches: dev's, where the family
// does not say.
func propose() command {
	return func(ctx context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		channel := fam.On(family.Push)
		if channel == "" {
			return fault.New(fault.Invalid, "asking the gate of", fam.Name, "no channel takes the event push; it has %s", strings.Join(fam.ChannelNames(), ", ")).
				WithHint("give the channel that a push to the default branch reaches `on: [push]` in the family file")
		}
		return releaseOf(wish{channel: channel, until: pipeline.UntilInspect, purpose: release.Proposal})(ctx, s)
	}
}

// releaseCommand is how people release to the channel that a push reaches.
func releaseCommand(fam *family.Family) string {
	if channel := usualChannel(fam); channel != "dev" {
		return "mage release:to " + channel
	}
	return "mage release:dev"
}

// usualChannel is the one that a push reaches, or else the family's first.
func usualChannel(fam *family.Family) string {
	return cmp.Or(fam.On(family.Push), fam.ChannelNames()[0])
}

func (x wish) check() error {
	if x.version != "" {
		if err := release.CheckVersion(x.version); err != nil {
			return err
		}
	}
	if x.rebuild && x.commit != "" {
		return fault.New(fault.Invalid, "releasing", x.commit, "what is rebuilt has to be checked out").WithHint("git switch --detach %s, then the same command without -commit", tool.Quote(x.commit))
	}
	return checkStage(x.until)
}

// openRelease is openPipeline for a release that may be a deliberate rebuild, which has a number of its
// own.
func (s *session) openRelease(ctx context.Context, x wish) (*workshop, *pipeline.Pipeline, release.Plan, error) {
	if !x.rebuild {
		return s.openPipeline(ctx, !x.plan)
	}
	w, err := s.openWorkshop(ctx, !x.plan)
	if err != nil {
		return nil, nil, release.Plan{}, err
	}
	plan, err := w.plan(ctx)
	if err != nil {
		return nil, nil, plan, err
	}
	repositories, err := verify.Connect(w.client, w.fam.Members())
	if err != nil {
		return nil, nil, plan, err
	}
	log, err := w.openLedger(ctx)
	if err != nil {
		return nil, nil, plan, err
	}
	pruned, err := w.prunedTags()
	if err != nil {
		return nil, nil, plan, err
	}
	looking := &pipeline.Pipeline{Family: w.fam, Registry: repositories, Verifier: &trustPort{workshop: w}, Ledger: log, Progress: w.progress}
	src := plan.Source
	here := func(at release.Source) (release.Record, bool, error) { return newDist(w.root, at).ReadRecord() }
	if src.Rebuild, err = looking.NextRebuild(ctx, src, pruned, here); err != nil {
		return nil, nil, plan, err
	}
	if plan, err = release.NewPlan(w.fam, src, plan.Platforms); err != nil {
		return nil, nil, plan, err
	}
	p, err := w.pipeline(ctx, plan)
	return w, p, plan, err
}

// prunedTags are the names of what prune took away, as far as the journal of this machine goes back.
func (w *workshop) prunedTags() (tags []string, err error) {
	journal, err := w.state.Journal()
	if err != nil {
		return nil, err
	}
	entries, err := journal.Entries()
	for _, e := range entries {
		tags = append(tags, e.Tags...)
	}
	return tags, err
}

// choose returns the source to release: what is checked out, or a commit that was published. A
// commit that was never published has to be checked out to be built.
func (w *workshop) choose(ctx context.Context, p *pipeline.Pipeline, here release.Source, commit string) (release.Source, error) {
	if commit == "" {
		return here, nil
	}
	full, err := w.repo.Resolve(ctx, commit)
	if err != nil || full == here.Commit && here.Dirty == "" {
		return here, err
	}
	src := release.Source{Commit: full, Ref: here.Ref}
	pub, found, err := p.Adopt(ctx, src)
	if err == nil && !found {
		err = fault.New(fault.Invalid, "releasing", full, "it was never published, and another commit is checked out").
			WithHint("git switch --detach %s, then run the same command", full)
	}
	return pub.Record.Source, err
}

func stepsText(channel string, steps []string) string {
	if len(steps) == 0 {
		return channel + " serves this release: nothing to do\n"
	}
	return "a release to " + channel + " would\n  " + term.EscapeLines(strings.Join(steps, "\n  ")) + "\nnothing was done\n"
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
func resumeHint(err error, op, subject string) error {
	if kind, ok := fault.KindOf(err); ok && kind == fault.Interrupted && fault.HintOf(err) == "" {
		return &fault.Error{Op: op, Subject: subject, Kind: fault.Interrupted, Err: err,
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
func (w *workshop) report(ctx context.Context, p *pipeline.Pipeline, result pipeline.Result, o pipeline.Order, failed error) error {
	if len(result.Record.Images) == 0 {
		return nil
	}
	m, err := w.model(result, o.Channel)
	if err != nil {
		return err
	}
	if !m.Unchanged {
		w.describe(ctx, p, result.Record, result.Reports, &m)
		w.recall(ctx, p, result, &m, mayRecall(o.Until, failed))
	}
	d := newDist(w.root, result.Source)
	if !m.Unchanged {
		if err := writeFaces(d, m, w.env.secrets); err != nil {
			return err
		}
	}
	w.progress.settle()
	if err := w.tellJob(m, d); err != nil {
		return err
	}
	return w.print(m, func() string { return summary(m, d.dir, w.root) })
}

// model is all there is to say about a release.
func (w *workshop) model(result pipeline.Result, channel string) (report.Model, error) {
	m := report.New(result.Record, result.Reports)
	m.Channel, m.Registry, m.Reached, m.Unchanged = channel, w.public, string(result.Reached), result.Unchanged()
	m.Adopted, m.Generation, m.Tagged, m.Attested = result.Adopted, result.Outcome.Generation, result.Tagged, result.Attested
	for _, move := range result.Outcome.Moves {
		m.Moves = append(m.Moves, strings.TrimPrefix(move.String(), w.client.Base().String()+"/"))
	}
	m.Tell(result.Decisions)
	m.Requests = report.Requests(w.client.Counts())
	m.Seconds = w.env.now().Sub(w.began).Seconds()
	if len(result.Reports) == 0 {
		return m, nil
	}
	gate, err := release.NewGate(w.fam, channel)
	if err != nil {
		return m, err
	}
	m.Verdict = gate.Judge(release.Evidenced{Built: release.Built{Record: result.Record}, Reports: result.Reports}, w.env.now())
	return m, nil
}

// writeFaces writes what the model says for people and for code scanning.
func writeFaces(d dist, m report.Model, secrets *term.Secrets) error {
	page, err := m.HTML()
	if err != nil {
		return err
	}
	findings, err := m.SARIF()
	if err != nil {
		return err
	}
	faces := map[string][]byte{"report.html": page, "summary.md": m.Markdown(term.EscapeMarkdown)}
	if m.Verdict != nil {
		faces["findings.sarif"] = findings
	}
	for _, name := range slices.Sorted(maps.Keys(faces)) {
		if err := writeFile(d.path(name), strings.NewReader(secrets.Hide(string(faces[name])))); err != nil {
			return err
		}
	}
	return nil
}
