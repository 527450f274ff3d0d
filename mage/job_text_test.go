package mage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
)

// A job as its runner sees one: what commands it obeyed, and which outputs it read.
type obedient struct {
	env environment
	log bytes.Buffer
}

func newObedient(t *testing.T, event string, payload map[string]any) *obedient {
	t.Helper()
	dir := t.TempDir()
	payload["repository"] = map[string]any{"full_name": ourRepository, "default_branch": "main"}
	content, err := json.Marshal(payload)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "event.json"), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &obedient{}
	o.env = environment{stderr: &o.log, stdout: &o.log, now: time.Now, secrets: &term.Secrets{}, terminal: term.Options{Width: func() int { return 80 }}, job: actions.Read(func(name string) string {
		return map[string]string{
			"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": filepath.Join(dir, "event.json"), "GITHUB_REF": "refs/heads/main",
			"GITHUB_SHA": ourCommit, "GITHUB_REPOSITORY": ourRepository, "GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary.md"),
		}[name]
	})}
	return o
}

var runnerCommand = regexp.MustCompile(`^\s*::([A-Za-z0-9-]+)( [^:]*)?::(.*)$`)

// obeyed are the commands that a runner takes from the log, "name message", as its ActionCommandManager
// reads lines: none between stop-commands and its token.
func (o *obedient) obeyed() []string {
	var all []string
	stopped := ""
	for line := range strings.SplitSeq(strings.ReplaceAll(o.log.String(), "\r", "\n"), "\n") {
		m := runnerCommand.FindStringSubmatch(line)
		switch {
		case m == nil:
		case stopped != "":
			if m[1] == stopped {
				stopped = ""
			}
		case m[1] == "stop-commands":
			stopped = m[3]
		default:
			all = append(all, m[1])
		}
	}
	if stopped != "" {
		all = append(all, "(silent for the next step)")
	}
	return all
}

func hostileTexts() []string {
	return []string{
		"::error::x", "x\n::set-env name=PATH::/tmp", "x\r\n::add-mask::a", "x%0A::error::y", "\x1b[2J::warning::x", "::stop-commands::x\n::x::",
		"##[error]x", "  ::notice::x", "::endgroup::", "x\nchannel=prod", "<img src=x>", "`id`$(id)\n## x",
	}
}

// E7, F4: what a stranger can write into an event (a branch, an input) stays text in the log, in the
// annotations, on the page and in the outputs, of a command that refuses it and of one that shows it.
func TestE7F4HostileTextOfAnEventIsObeyedByNoRunner(t *testing.T) {
	for _, text := range hostileTexts() {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			o := newObedient(t, "workflow_dispatch", map[string]any{"inputs": map[string]string{"channel": text, "version": text, "commit": text}})
			err := perform(t.Context(), o.env, people, releaseEvent())
			if err == nil {
				t.Fatal("it was accepted")
			}
			o.log.WriteString(err.Error() + "\n") // as mage prints it
			o.wants(t, "error")

			o = newObedient(t, "workflow_dispatch", map[string]any{})
			err = perform(t.Context(), o.env, people, func(_ context.Context, s *session) error {
				s.progress.Start("build", text)
				s.progress.Note(text, text, text)
				s.progress.Start("inspect", text)
				s.progress.Done("inspect", text, text)
				fmt.Fprintln(s.env.stderr, text) // a program that prints as it likes
				if err := actions.WriteOutputs(s.env.job.Output, bytes.NewReader(make([]byte, 64)), []actions.Output{{Name: "reason", Value: text}}); err != nil {
					return err
				}
				return s.print(text, func() string { return term.EscapeLines(text) + "\n" })
			})
			if err != nil {
				t.Fatal(err)
			}
			o.wants(t, "group", "group", "endgroup")
			if got := o.outputs(t); len(got) != 1 || got["reason"] != strings.ReplaceAll(text, "\r\n", "\n") && got["reason"] != text {
				t.Errorf("the runner reads the outputs %q", got)
			}
		})
	}
}

// E7, F5, F7: so does what comes out of an image, a cache or a scanner: findings with such names, a
// gate's refusal of a report that lies.
func TestE7F7HostileTextOfAScanIsObeyedByNoRunner(t *testing.T) {
	for _, text := range hostileTexts() {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			verdict := &release.Verdict{
				Findings: []release.Found{{Blocking: true, Finding: evidence.Finding{Kind: evidence.Secret, ID: text, Severity: text, Title: text, Path: text, Package: text}}},
				Warnings: []string{text},
			}
			o := newObedient(t, "push", map[string]any{"ref": "refs/heads/main"})
			err := perform(t.Context(), o.env, people, func(context.Context, *session) error {
				return fault.Wrap(errors.Join(verdict, errors.New("the cache says "+text)), fault.Refused, "approving", text)
			})
			if kind, _ := fault.KindOf(err); err == nil || kind != 0 {
				t.Fatalf("perform = %v", err)
			}
			o.log.WriteString(err.Error() + "\n")
			o.wants(t, "error", "error")
			page, readErr := os.ReadFile(o.env.job.Summary)
			if readErr != nil {
				t.Fatal(readErr)
			}
			for line := range strings.Lines(string(page)) {
				if strings.HasPrefix(strings.TrimSpace(line), "#") || strings.Contains(line, "<img") || strings.ContainsRune(line, 0x1b) {
					t.Errorf("the page acts: %q", line)
				}
			}
		})
	}
}

func (o *obedient) wants(t *testing.T, commands ...string) {
	t.Helper()
	if got := o.obeyed(); fmt.Sprint(got) != fmt.Sprint(commands) {
		t.Errorf("the runner obeyed %q, want %q:\n%s", got, commands, o.log.String())
	}
}

// outputs are what the runner reads from $GITHUB_OUTPUT.
func (o *obedient) outputs(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile(o.env.job.Output)
	if err != nil {
		t.Fatal(err)
	}
	return OutputsOf(string(content))
}
