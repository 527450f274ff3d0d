package mage

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

// newConsole writes workflow commands in a job, and nothing elsewhere.
func newConsole(env environment) *actions.Console {
	if !env.job.Running() {
		return actions.NewConsole(io.Discard, rand.Reader)
	}
	return actions.NewConsole(env.stderr, rand.Reader)
}

// annotate shows on the run's page why a command failed: the findings that stop a release one by one,
// before all else.
func (s *session) annotate(err error) {
	if err == nil {
		return
	}
	title, message := s.told(err)
	all := []actions.Annotation{{Level: actions.Error, Title: title, Message: message}}
	var verdict *release.Verdict
	if errors.As(err, &verdict) {
		for _, f := range verdict.Findings[:verdict.Blocking()] {
			all = append(all, actions.Annotation{Level: actions.Error, Title: s.env.secrets.Hide(strings.TrimSpace(f.Severity + " " + f.ID)), Message: s.env.secrets.Hide(f.String())})
		}
	}
	s.console.Annotate(all)
}

// told is a failure for a page: its exit code, and what happened with the next step.
func (s *session) told(err error) (title, message string) {
	title = "exit 1"
	if kind, ok := fault.KindOf(err); ok {
		title = fmt.Sprintf("exit %d, %s", int(kind), kind)
	}
	message = err.Error()
	if hint := fault.HintOf(err); hint != "" {
		message += "\n→ " + hint
	}
	return title, s.env.secrets.Hide(message)
}

// maxTold is how many lines of a failure a page shows; the log and the report have all.
const maxTold = 40

// tellFailure ends the job's page with why the command failed.
func (s *session) tellFailure(err error) error {
	if err == nil || !s.env.job.Running() || s.env.job.Summary == "" {
		return nil
	}
	title, message := s.told(err)
	var out strings.Builder
	fmt.Fprintf(&out, "\n**It failed: %s**\n\n", term.EscapeMarkdown(title))
	lines := strings.Split(strings.TrimSpace(message), "\n")
	for i, line := range lines {
		if i == maxTold {
			fmt.Fprintf(&out, "> and %d lines more, in the log\n", len(lines)-maxTold)
			break
		}
		fmt.Fprintf(&out, "> %s  \n", term.EscapeMarkdown(strings.TrimSpace(line)))
	}
	return actions.WriteSummary(s.env.job.Summary, []byte(out.String()))
}

// tellJob leaves to the job what it hands over, and to its page what was released.
func (w *workshop) tellJob(m report.Model, d dist) error {
	if !w.env.job.Running() {
		return nil
	}
	if !m.Adopted {
		sum, err := d.handover()
		if err == nil {
			err = w.leave([]actions.Output{{Name: "handover", Value: sum.String()}})
		}
		if err != nil {
			return err
		}
	}
	if w.env.job.Summary == "" {
		return nil
	}
	return actions.WriteSummary(w.env.job.Summary, []byte(w.env.secrets.Hide(string(jobPage(m, w.fam)))))
}

// jobPage is the page of a run: what was released, how it hangs together, how to check it.
func jobPage(m report.Model, f *family.Family) []byte {
	var out bytes.Buffer
	out.Write(m.Markdown(term.EscapeMarkdown))
	out.WriteString("\n```mermaid\n" + graphOf(m, f) + "```\n")
	if m.Reached == string(pipeline.UntilPromote) {
		fmt.Fprintf(&out, "\nTo check it, without a login:\n\n```sh\nexport CONTAINAI_REGISTRY=%s\n%s\n```\n", word(m.Registry), strings.Join(verifyCommands(m, f), "\n"))
	}
	return out.Bytes()
}

// verifyCommands check a channel and every image that it serves.
func verifyCommands(m report.Model, f *family.Family) []string {
	commands := []string{"go tool mage verify:channel " + word(m.Channel)}
	for _, member := range m.Members {
		if _, ok := f.Images[member.Name]; ok {
			commands = append(commands, "go tool mage verify:image "+word(member.Name+"@"+member.Digest.String()))
		}
	}
	return commands
}

// word is one word of a command that people copy.
func word(s string) string { return tool.Quote(term.Escape(s)) }

// graphOf draws how the members stand on each other, inside of the channel that serves them. The names are
// those of the family file, whose grammar leaves no character that Mermaid would take for its own.
func graphOf(m report.Model, f *family.Family) string {
	var out strings.Builder
	out.WriteString("flowchart LR\n  commit([" + quoteNode(m.ShortTag()) + "])\n")
	served := m.Reached == string(pipeline.UntilPromote)
	if served {
		fmt.Fprintf(&out, "  subgraph channel[%s]\n", quoteNode(fmt.Sprintf("%s, generation %d", m.Channel, m.Generation)))
	}
	nodes := map[string]string{}
	for i, member := range m.Members {
		nodes[member.Name] = fmt.Sprintf("m%d", i)
		fmt.Fprintf(&out, "  m%d[%s]\n", i, quoteNode(member.Name))
	}
	if served {
		out.WriteString("  end\n")
	}
	for _, member := range m.Members {
		from := "commit"
		if image, ok := f.Images[member.Name]; ok && nodes[image.From] != "" {
			from = nodes[image.From]
		}
		fmt.Fprintf(&out, "  %s --> %s\n", from, nodes[member.Name])
	}
	return out.String()
}

// quoteNode is a label of a Mermaid node: https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters
func quoteNode(s string) string {
	return `"` + strings.NewReplacer("&", "&amp;", `"`, "&quot;", "<", "&lt;", ">", "&gt;", "#", "&num;", "`", "&grave;").Replace(term.Escape(s)) + `"`
}
