package mage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
)

// command is what a target does, with everything it needs in a session.
type command func(ctx context.Context, s *session) error

// face is how a command answers: for people on standard error, or as JSON on standard output.
type face bool

const (
	people face = false
	script face = true
)

// run opens a session, runs a command in it, and turns what went wrong into one message and one
// exit status. It is the only place that prints errors.
func run(parent context.Context, f face, c command) error {
	ctx, stop := interruptible(parent)
	defer stop()
	env, err := readEnvironment()
	if err != nil {
		return exit(err, nil)
	}
	return perform(ctx, env, f, c)
}

// perform runs a command in a session of its own. In a job nothing that is printed meanwhile is obeyed
// as a command of the runner, but for the session's own.
func perform(ctx context.Context, env environment, f face, c command) error {
	s := newSession(env, f)
	s.console.Silence()
	err := c(ctx, s)
	if closing := s.close(); err == nil {
		err = closing
	}
	s.annotate(err)
	if telling := s.tellFailure(err); telling != nil {
		err = errors.Join(err, telling)
	}
	s.console.Resume()
	return exit(err, env.secrets)
}

// exit makes the outermost error, the one mage prints and takes the exit status from.
func exit(err error, secrets *term.Secrets) error {
	if err == nil {
		return nil
	}
	text, code := term.Explain(err, secrets)
	return failure{text, code}
}

type failure struct {
	text string
	code int
}

func (f failure) Error() string   { return f.text }
func (f failure) ExitStatus() int { return f.code }

// orphanCheck is how often a target looks whether mage still lives: a killed mage would leave it
// working for nobody.
const orphanCheck = 500 * time.Millisecond

var (
	errSignal = errors.New("interrupted")
	errOrphan = errors.New("the mage process that started this target is gone")
)

// interruptible ends with SIGINT, SIGTERM or SIGHUP, and when the parent process dies.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ticker := time.NewTicker(orphanCheck)
	started := os.Getppid()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-signals:
				cancel(fault.Wrap(errSignal, fault.Interrupted, "running", "target"))
			case <-ticker.C:
				if os.Getppid() != started {
					cancel(fault.Wrap(errOrphan, fault.Interrupted, "running", "target"))
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		ticker.Stop()
		cancel(nil)
		<-done
	}
}

// print writes a result: JSON for scripts, text for people.
func (s *session) print(value any, text func() string) error {
	if s.face == people {
		_, err := fmt.Fprint(s.env.stderr, s.env.secrets.Hide(text()))
		return err
	}
	content, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		_, err = fmt.Fprintln(s.env.stdout, s.env.secrets.Hide(string(content)))
	}
	return err
}

func output(json *bool) face { return face(given(json)) }

func given(flag *bool) bool { return flag != nil && *flag }

// stage reads -until; an unknown stage is kept and refused by the command.
func stage(until *string) pipeline.Stage {
	if until == nil {
		return pipeline.UntilPromote
	}
	return pipeline.Stage(*until)
}
