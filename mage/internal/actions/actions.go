// Package actions speaks the language of a GitHub Actions job.
//
// [Variables] are what the runner says of the job, an [Event] is what started its workflow, and
// [Decide] says what that event asks for: a [Decision]. A [Console] writes workflow commands, and
// [WriteOutputs] and [WriteSummary] the files that a step leaves to the runner.
//
// Invariant: variables and payload decide what is attempted, never what is allowed: anybody can set
// them. What is not known is refused, and no text from outside becomes a command, an output or a
// heading of its own.
package actions

import "strings"

// Variables are what the runner tells a job about itself.
// https://docs.github.com/en/actions/reference/workflows-and-actions/variables
type Variables struct {
	Event      string // $GITHUB_EVENT_NAME
	Payload    string // $GITHUB_EVENT_PATH, a file
	Ref        string // $GITHUB_REF
	Commit     string // $GITHUB_SHA
	Repository string // $GITHUB_REPOSITORY, owner/name
	Output     string // $GITHUB_OUTPUT, a file
	Summary    string // $GITHUB_STEP_SUMMARY, a file

	running bool
}

// Read takes the variables from their source.
func Read(variable func(name string) string) Variables {
	return Variables{
		Event: variable("GITHUB_EVENT_NAME"), Payload: variable("GITHUB_EVENT_PATH"),
		Ref: variable("GITHUB_REF"), Commit: variable("GITHUB_SHA"), Repository: variable("GITHUB_REPOSITORY"),
		Output: variable("GITHUB_OUTPUT"), Summary: variable("GITHUB_STEP_SUMMARY"),
		running: strings.EqualFold(variable("GITHUB_ACTIONS"), "true"),
	}
}

// Running reports whether this process says that it is a step of a job.
func (v Variables) Running() bool { return v.running }
