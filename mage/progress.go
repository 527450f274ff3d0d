package mage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/term"
)

// progress is the one stream of events of a run: shown on standard error, and recorded in
// dist/<commit>/events.jsonl from the moment that directory is known.
type progress struct {
	mu      sync.Mutex
	printer *term.Printer
	shown   term.Sink // the printer, with the job's groups
	fold    *folding  // nil outside of a job
	watch   term.Stopwatch
	sink    term.Sink
	file    *os.File
	lines   *term.Lines
	env     environment
	checked map[string]checks
	quiet   bool // BuildKit runs smoke tests: its steps are nobody's news
}

func newProgress(env environment, console *actions.Console) *progress {
	p := &progress{env: env, printer: term.New(env.stderr, env.terminal), checked: map[string]checks{}}
	p.shown = p.printer
	if env.job.Running() {
		p.fold = &folding{console: console, to: p.printer}
		p.shown = p.fold
	}
	p.sink = term.Hiding(env.secrets, term.Stamp(env.now, term.Multi(p.shown, &p.watch)))
	return p
}

// folding opens a group of a job's log for each stage that begins: who reads it unfolds one.
type folding struct {
	console *actions.Console
	to      term.Sink

	mu    sync.Mutex
	stage string // whose group is open; empty: none is
}

func (f *folding) Emit(e term.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.State == term.Started && e.Stage != f.stage {
		f.console.Group(e.Stage) // which ends the one before
		f.stage = e.Stage
	}
	f.to.Emit(e)
}

// end closes the group that is open: what follows is for everybody.
func (f *folding) end() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stage != "" {
		f.console.EndGroup()
		f.stage = ""
	}
}

// record adds a file to the stream. It is appended to: a resumed release keeps one history.
func (p *progress) record(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", filepath.Dir(path))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "writing", path)
	}
	p.file, p.lines = f, term.JSONLines(f)
	p.sink = term.Hiding(p.env.secrets, term.Stamp(p.env.now, term.Multi(p.shown, &p.watch, p.lines)))
	return nil
}

// settle removes the live lines and ends the group, so that a summary can follow.
func (p *progress) settle() {
	_ = p.printer.Close()
	p.fold.end()
}

func (p *progress) close() error {
	p.settle()
	if p.file == nil {
		return nil
	}
	err := p.lines.Err()
	if closing := p.file.Close(); err == nil {
		err = closing
	}
	return fault.Wrap(err, fault.Environment, "recording", "events")
}

func (p *progress) emit(state term.State, stage, subject, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sink.Emit(term.Event{Stage: stage, Subject: subject, State: state, Detail: detail})
}

// Start, Note and Done are the pipeline's port.
func (p *progress) Start(stage, subject string)        { p.emit(term.Started, stage, subject, "") }
func (p *progress) Note(stage, subject, detail string) { p.emit(term.Noted, stage, subject, detail) }
func (p *progress) Done(stage, subject, detail string) { p.emit(term.Finished, stage, subject, detail) }

// Sent makes it a pipeline.Meter.
func (p *progress) Sent(stage, subject string, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sink.Emit(term.Event{Stage: stage, Subject: subject, State: term.Progressed, Done: bytes, Unit: term.Bytes})
}

// build shows BuildKit's steps as one growing line; a notice stands for itself.
func (p *progress) build(e buildkit.Event) {
	if e.Image == "" {
		p.Note("build", "", e.Step)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	p.sink.Emit(term.Event{
		Stage: "build", Subject: "family", State: term.Progressed, Done: int64(e.Done), Total: int64(e.Total),
		Detail: stepText(e),
	})
}

// stepText names a step, where it runs, and that it did not have to.
func stepText(e buildkit.Event) string {
	words := []string{e.Image, e.Platform, e.Step}
	if e.Platform == "" {
		words = []string{e.Image, e.Step}
	}
	if e.Cached && e.Finished {
		words = append(words, "(cached)")
	}
	return strings.Join(words, " ")
}

// hush turns BuildKit's steps off or on.
func (p *progress) hush(quiet bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = quiet
}

// checks are how many of a cell's checks are made, some of them before the cell begins.
type checks struct {
	made  int64
	begun bool
}

// check counts a check of a cell that was made, or, without one, begins the cell. What is told of a cell that
// is not being inspected is no news.
func (p *progress) check(subject, made string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.checked[subject]
	if made == "" {
		c.begun = true
	} else {
		c.made++
	}
	p.checked[subject] = c
	if c.begun && c.made > 0 {
		p.sink.Emit(term.Event{
			Stage: "inspect", Subject: subject, State: term.Progressed, Done: c.made, Total: int64(len(inspect.Checks())), Detail: made,
		})
	}
}

// inspect shows what the worker says.
func (p *progress) inspect(e inspect.Event) {
	subject := e.Cell.String()
	if e.Cell.Image == "" {
		subject = ""
	}
	switch e.Kind {
	case inspect.Started:
		if subject != "" {
			p.Start("inspect", subject)
			p.check(subject, "")
		}
	case inspect.Checked:
		p.check(subject, string(e.Check))
	case inspect.Done:
		if subject != "" {
			p.mu.Lock()
			delete(p.checked, subject)
			p.mu.Unlock()
			p.Done("inspect", subject, fmt.Sprintf("%.1f s", e.Duration.Seconds()))
		}
	case inspect.Reused:
		p.Done("inspect", subject, "inspected already")
	case inspect.Failed:
		p.emit(term.Failed, "inspect", subject, e.Message)
	case inspect.Log:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.lines != nil {
			term.Hiding(p.env.secrets, p.lines).Emit(term.Event{Time: p.env.now(), Stage: "inspect", State: term.Noted, Detail: e.Message})
		}
	}
}
