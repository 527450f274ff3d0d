// Package fault gives every failure of a release a kind, an exit status and a next step.
//
// An [Error] says what was attempted (Op), on which object (Subject), what kind of failure it is
// (Kind) and how to go on (Hint). A [Kind] is itself an error, so errors.Is(err, fault.Conflict)
// asks the one question scripts ask. Invariant: every error that leaves a target maps to exactly
// one exit status of the table in docs/exit-codes.md, which is generated from [Kinds].
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Kind classifies a failure for scripts; its number is the process exit status.
type Kind int

// The kinds. Numbers 0 to 2 belong to success, unclassified errors and mage itself.
const (
	Invalid     Kind = 10  // family file or argument wrong: edit and rerun
	Environment Kind = 11  // tool, token, permission or visibility missing
	BuildFailed Kind = 20  // an image did not build
	Refused     Kind = 30  // gate or policy said no; findings listed
	Unverified  Kind = 31  // there is no evidence to check
	Forged      Kind = 32  // evidence exists and does not match
	Conflict    Kind = 40  // state moved since the plan, channel is newer, or held
	Immutable   Kind = 41  // the name exists with other content
	Unavailable Kind = 50  // retries spent; rerun is safe
	Partial     Kind = 60  // some writes happened; rerun or reconcile
	Interrupted Kind = 130 // cancelled; rerun resumes
)

// Meaning is one row of the exit table: a kind, its name, and what a script should do.
type Meaning struct {
	Kind   Kind
	Name   string
	Advice string
}

// Kinds returns the exit table in ascending order of code.
func Kinds() []Meaning {
	return []Meaning{
		{Invalid, "Invalid", "family file or argument wrong: edit and rerun"},
		{Environment, "Environment", "tool, token, permission or visibility missing: do what the hint says"},
		{BuildFailed, "BuildFailed", "an image did not build"},
		{Refused, "Refused", "gate or policy said no; the findings are listed"},
		{Unverified, "Unverified", "there is no evidence to check"},
		{Forged, "Forged", "evidence exists and does not match"},
		{Conflict, "Conflict", "state moved since the plan, the channel is newer, or it is held: plan again"},
		{Immutable, "Immutable", "the name exists with other content"},
		{Unavailable, "Unavailable", "retries are spent; rerunning is safe"},
		{Partial, "Partial", "some writes happened; rerun or reconcile"},
		{Interrupted, "Interrupted", "cancelled; rerunning resumes"},
	}
}

// Error names the kind in words, so that a Kind can stand as an errors.Is target.
func (k Kind) Error() string {
	for _, m := range Kinds() {
		if m.Kind == k {
			return m.Name
		}
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Error is a classified failure.
//
// Op is a gerund ("parsing"), Subject the quoted object, Hint the next step a person can take.
// Err is the cause and may be nil. Only Kind is required.
type Error struct {
	Op, Subject string
	Kind        Kind
	Hint        string
	Err         error
}

// New returns an Error whose cause is a formatted message.
func New(kind Kind, op, subject, format string, args ...any) *Error {
	return &Error{Op: op, Subject: subject, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Wrap returns err classified as kind, or nil when err is nil. A cause that is already
// classified, or a cancelled context, keeps its own kind: the first border that knows wins.
func Wrap(err error, kind Kind, op, subject string) error {
	if err == nil {
		return nil
	}
	var known *Error
	switch {
	case errors.As(err, &known):
		kind = known.Kind
	case errors.Is(err, context.Canceled):
		kind = Interrupted
	}
	return &Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

// WithHint returns e with the next step set; it prints on a line of its own.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error prints "op subject: cause"; the kind is named where the message would not say it.
func (e *Error) Error() string {
	head := e.Op
	if e.Subject != "" {
		head += " " + e.Subject
	}
	if e.Err == nil {
		return head + ": " + e.Kind.Error()
	}
	return head + ": " + e.Err.Error()
}

// Unwrap gives errors.Is and errors.As both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// ExitStatus is the process exit code; mage reads it from the outermost error.
func (e *Error) ExitStatus() int { return int(e.Kind) }

// HintOf returns the hint nearest to the cause of err, or "".
func HintOf(err error) string {
	hint := ""
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		if e.Hint != "" {
			hint = e.Hint
		}
		err = e.Err
	}
	return hint
}

// KindOf returns the kind of err and whether it has one. A cancelled context is Interrupted.
func KindOf(err error) (Kind, bool) {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind, true
	case errors.Is(err, context.Canceled):
		return Interrupted, true
	}
	return 0, false
}
