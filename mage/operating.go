package mage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

// intent is what an operator asks for: which channel, what, why; and whether to do it.
type intent struct {
	channel    string // empty is prod
	to         string
	reason     string
	bad        bool // deny what is served now, for good
	urgent     bool // it takes -breakglass
	breakglass bool // commit unsigned when nobody can sign
	apply      bool
	out        string // file that keeps the plan
	command    string // the target, as people call it
	again      string // the command line of this very intent, without -apply
}

const rollbackCommand = "mage ops:rollback"

// ask reads the optional flags of an operation.
func ask(command string, channel, to, reason, out *string, apply *bool) intent {
	in := intent{channel: text(channel), to: text(to), reason: text(reason), out: text(out), apply: given(apply), command: command, again: command}
	if in.channel == "" {
		in.channel = "prod"
	}
	for _, flag := range []struct{ name, value string }{{"channel", text(channel)}, {"to", in.to}, {"reason", in.reason}} {
		if flag.value != "" {
			in.again += fmt.Sprintf(" -%s=%s", flag.name, tool.Quote(flag.value))
		}
	}
	return in
}

// emergency reads the flags of operations that cannot wait.
func (in intent) emergency(bad, breakglass *bool) intent {
	in.urgent, in.bad, in.breakglass = true, given(bad), given(breakglass)
	if in.bad {
		in.again += " -bad"
	}
	if in.breakglass {
		in.again += " -breakglass"
	}
	return in
}

func text(flag *string) string {
	if flag == nil {
		return ""
	}
	return *flag
}

// planner makes the plan of an operation.
type planner func(ctx context.Context, p *pipeline.Pipeline, m release.Moved) (pipeline.Change, error)

// operate prints what a plan would do, keeps it in a file if asked, and does it with -apply.
func operate(in intent, plan planner) command {
	return func(ctx context.Context, s *session) error {
		w, p, _, err := s.openPipeline(ctx, true)
		if err == nil {
			err = w.mayWrite(in.apply)
		}
		if err != nil {
			return err
		}
		if in.breakglass && in.reason == "" {
			return fault.New(fault.Invalid, "reading", "-breakglass", "it needs a -reason: the history will show both")
		}
		m := w.moved(in.reason)
		m.Unsigned = in.breakglass
		change, err := plan(ctx, p, m)
		if err != nil {
			return err
		}
		return w.carryOut(ctx, in, change, p.Apply)
	}
}

// applier does what a change says.
type applier func(context.Context, pipeline.Change) (release.Head, []pipeline.TagMove, error)

// ofChannel is a planner for a channel that the family has.
func ofChannel(in intent, plan planner) planner {
	return func(ctx context.Context, p *pipeline.Pipeline, m release.Moved) (pipeline.Change, error) {
		if _, ok := p.Family.Channels[in.channel]; !ok {
			return pipeline.Change{}, fault.New(fault.Invalid, "reading", "-channel="+in.channel, "%s", p.Family.Meant(in.channel))
		}
		return plan(ctx, p, m)
	}
}

// operation is what an operation prints with -json.
type operation struct {
	pipeline.Change
	Steps    []string           `json:"steps"`
	Unproved map[string]string  `json:"unproved,omitempty"` // channel that is not adopted → why
	Applied  bool               `json:"applied"`
	Moved    []pipeline.TagMove `json:"moved"` // tags that were moved
}

// carryOut shows a change, and with -apply makes it.
func (w *workshop) carryOut(ctx context.Context, in intent, change pipeline.Change, apply applier) error {
	return w.carryOutBeside(ctx, in, operation{Change: change}, apply)
}

// carryOutBeside is carryOut for an operation that says more than its change.
func (w *workshop) carryOutBeside(ctx context.Context, in intent, done operation, apply applier) error {
	change := done.Change
	if in.out != "" {
		if err := savePlan(in.out, change); err != nil {
			return err
		}
	}
	done.Steps, done.Moved = append([]string{}, change.Steps()...), []pipeline.TagMove{} // lists in JSON, if empty
	done.Tags = append([]pipeline.TagMove{}, done.Tags...)
	if in.apply && !change.Empty() {
		if err := w.mayApply(ctx, in); err != nil {
			return err
		}
		w.say(planText(change))
		_, moved, err := apply(ctx, change)
		if err != nil {
			return resumeHint(w.wayOut(err, in), "applying", strings.TrimPrefix(in.command, "mage "))
		}
		done.Applied, done.Moved = true, append(done.Moved, moved...)
	}
	w.progress.settle()
	return w.print(done, func() string { return doneText(done, in) })
}

// say writes a line for people while a command works.
func (w *workshop) say(line string) {
	if w.face == people {
		fmt.Fprint(w.env.stderr, line)
	}
}

// maxListed bounds what a plan lists of one kind; -json has all.
const maxListed = 12

func planText(c pipeline.Change) string {
	var b strings.Builder
	fmt.Fprintln(&b, term.Escape(c.Summary))
	for i, step := range c.Steps() {
		fmt.Fprintf(&b, "  %2d  %s\n", i+1, term.Escape(step))
	}
	b.WriteString(report.Differences(c.Differences, maxListed, term.Escape))
	return b.String()
}

func doneText(o operation, in intent) string {
	switch {
	case o.Empty():
		return term.Escape(o.Summary) + ": nothing to do\n"
	case o.Applied:
		return fmt.Sprintf("done: %d tags moved\n", len(o.Moved))
	case in.out != "":
		return planText(o.Change) + "nothing was done; to do exactly this: mage ops:apply " + tool.Quote(in.out) + "\n"
	}
	return planText(o.Change) + "nothing was done; to do it: " + term.Escape(in.again) + " -apply\n"
}

// wayOut tells somebody who cannot sign who can, and how the same is done without.
func (w *workshop) wayOut(err error, in intent) error {
	if in.breakglass || !errors.Is(err, pipeline.ErrUnsigned) {
		return err
	}
	kind, _ := fault.KindOf(err)
	out := &fault.Error{Op: "applying", Subject: strings.TrimPrefix(in.command, "mage "), Kind: kind, Err: err}
	switch {
	case errors.Is(err, pipeline.ErrNotMover) && !w.client.Base().Loopback():
		out.Err = fmt.Errorf("%w; it may be signed by %s", err, strings.Join(w.movers(), ", or by "))
		if in.command == rollbackCommand {
			out.Err, out.Hint = errors.New(out.Err.Error()), dispatch(in) // which is more use than the hint of the cause
		}
	case errors.Is(err, fault.Unavailable) && in.urgent:
		out.Err, out.Hint = errors.New(err.Error()), "when signing works, run the same again; if it cannot wait: "+in.again+" -breakglass -apply"
	default:
		return err
	}
	return out
}

// movers names who may sign the channels document, by the policy of any channel.
func (w *workshop) movers() []string {
	var all []string
	for _, channel := range slices.Sorted(maps.Keys(w.fam.Channels)) {
		for _, mover := range w.fam.Policy(channel).MayMove() {
			if name := mover.String(); !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// dispatch is the command that asks a workflow, which may sign, for a rollback.
func dispatch(in intent) string {
	command := "gh workflow run rollback.yml -f channel=" + tool.Quote(in.channel)
	if in.to != "" {
		command += " -f to=" + tool.Quote(in.to)
	}
	if in.bad {
		command += " -f bad=true"
	}
	return command + " -f reason=" + tool.Quote(in.reason)
}

// maxPlan bounds a saved plan, in bytes.
const maxPlan = 16 << 20

// savedPlan is what -out wrote: a change of channels, or a prune.
type savedPlan struct {
	pipeline.Change
	Prune *savedPrune `json:"prune,omitempty"`
}

func savePlan(path string, plan any) error {
	content, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, bytes.NewReader(append(content, '\n')))
}

func loadPlan(path string) (savedPlan, error) {
	f, err := os.Open(path)
	if err != nil {
		return savedPlan{}, fault.Wrap(err, fault.Invalid, "reading plan", path)
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, maxPlan))
	dec.DisallowUnknownFields()
	var p savedPlan
	if err := dec.Decode(&p); err != nil {
		return savedPlan{}, &fault.Error{Op: "reading plan", Subject: path, Kind: fault.Invalid, Err: err, Hint: "only what -out wrote is a plan"}
	}
	return p, nil
}

// applyPlan does what a saved plan says.
func applyPlan(path string) command {
	return func(ctx context.Context, s *session) error {
		saved, err := loadPlan(path)
		if err != nil {
			return err
		}
		if saved.Prune != nil {
			return prune(pruning{allow: saved.Prune.Allow, apply: true, saved: saved.Prune})(ctx, s)
		}
		w, p, _, err := s.openPipeline(ctx, true)
		if err == nil {
			err = w.mayWrite(true)
		}
		if err != nil {
			return err
		}
		return w.carryOut(ctx, intent{apply: true, command: "mage ops:apply"}, saved.Change, p.ApplySaved)
	}
}

func promote(in intent) command {
	return operate(in, ofChannel(in, func(ctx context.Context, p *pipeline.Pipeline, m release.Moved) (pipeline.Change, error) {
		if in.to == "" {
			return pipeline.Change{}, fault.New(fault.Invalid, "promoting to", in.channel, "it was not said what").
				WithHint("add -to= with a commit, a version, a record's digest or another channel")
		}
		head, err := p.Ledger.Head(ctx)
		if err != nil {
			return pipeline.Change{}, err
		}
		pub, version, err := p.Find(ctx, head, in.to)
		if err != nil {
			return pipeline.Change{}, err
		}
		return p.PlanPromotion(ctx, head, pipeline.Promotion{Published: pub, Channel: in.channel, Version: version, Moved: m})
	}))
}

func rollback(in intent) command {
	if in.reason == "" {
		in.again += " -reason='…'"
	}
	return operate(in, ofChannel(in, func(ctx context.Context, p *pipeline.Pipeline, m release.Moved) (pipeline.Change, error) {
		if m.Reason == "" && !in.apply && in.out == "" { // what is kept in a file is applied as it is
			m.Reason = "(the reason given with -reason)"
		}
		return p.PlanRollback(ctx, in.channel, in.to, m, in.bad)
	}))
}

func hold(in intent, frozen bool) command {
	return operate(in, ofChannel(in, func(ctx context.Context, p *pipeline.Pipeline, m release.Moved) (pipeline.Change, error) {
		return p.PlanHold(ctx, in.channel, m, frozen)
	}))
}

func refresh(in intent, early bool) command {
	if early {
		in.again += " -early"
	}
	return operate(in, func(ctx context.Context, p *pipeline.Pipeline, _ release.Moved) (pipeline.Change, error) {
		if early {
			return p.PlanReissue(ctx)
		}
		return p.PlanRefresh(ctx)
	})
}

func reconcile(in intent) command {
	return operate(in, func(ctx context.Context, p *pipeline.Pipeline, _ release.Moved) (pipeline.Change, error) {
		return p.PlanReconcile(ctx)
	})
}

func adopt(in intent) command {
	return func(ctx context.Context, s *session) error {
		w, p, _, err := s.openPipeline(ctx, true)
		if err == nil {
			err = w.mayWrite(in.apply)
		}
		if err != nil {
			return err
		}
		adoption, err := p.PlanAdopt(ctx, w.moved(in.reason))
		for _, channel := range slices.Sorted(maps.Keys(adoption.Unproved)) {
			w.progress.Note("adopt", channel, "left out: "+adoption.Unproved[channel])
		}
		if err != nil {
			return err
		}
		return w.carryOutBeside(ctx, in, operation{Change: adoption.Change, Unproved: adoption.Unproved}, p.Apply)
	}
}

// retag gives the whole family another movable name; no channel, no ledger, no document.
func retag(in intent, from string) command {
	return operate(in, func(ctx context.Context, p *pipeline.Pipeline, _ release.Moved) (pipeline.Change, error) {
		return p.PlanRetag(ctx, from, in.to)
	})
}
