package actions

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Output is one value that a step leaves to later ones.
type Output struct{ Name, Value string }

var outputGrammar = lazyregexp.New(`^[a-z][a-z0-9_-]{0,63}$`)

// maxOutputs bounds what one step leaves, in bytes: GitHub takes 1 MB a job.
const maxOutputs = 256 << 10

// WriteOutputs appends values to $GITHUB_OUTPUT. Each stands between delimiters that nobody can
// guess, so that no value begins another one.
// https://github.com/actions/toolkit/blob/main/packages/core/src/file-command.ts
func WriteOutputs(path string, random io.Reader, all []Output) error {
	var b strings.Builder
	for _, o := range all {
		delimiter, err := randomToken(random)
		if err != nil {
			return fault.Wrap(err, fault.Environment, "writing output", o.Name)
		}
		if !outputGrammar.MatchString(o.Name) || strings.Contains(o.Value, delimiter) || strings.ContainsRune(o.Value, 0) {
			return fault.New(fault.Invalid, "writing output", fmt.Sprintf("%q", o.Name), "its name or its value cannot be written")
		}
		fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", o.Name, delimiter, o.Value, delimiter)
	}
	if b.Len() > maxOutputs {
		return fault.New(fault.Invalid, "writing", "outputs", "%d bytes exceed the limit of %d", b.Len(), maxOutputs)
	}
	return appendTo(path, b.String())
}

// maxSummary is what a step may write; GitHub shows nothing of more, and the step stays green.
const maxSummary = 1 << 20

const cutNote = "\n\n*Cut here: GitHub shows 1 MiB of a step. The whole page is summary.md in the run's artifact.*\n"

// WriteSummary appends Markdown to $GITHUB_STEP_SUMMARY. What does not fit beside what the step wrote
// before is left out at the end of a line, and the reader is told.
func WriteSummary(path string, markdown []byte) error {
	used := int64(0)
	if info, err := os.Stat(path); err == nil {
		used = info.Size()
	}
	return appendTo(path, fit(string(markdown), max(0, maxSummary-used)))
}

// fit returns as many lines as fit into so many bytes, with what closes them.
func fit(markdown string, room int64) string {
	if int64(len(markdown)) <= room {
		return markdown
	}
	room -= int64(len(cutNote) + len("\n```\n"))
	if room <= 0 {
		return ""
	}
	kept := strings.ToValidUTF8(markdown[:room], "")
	kept = kept[:strings.LastIndexByte(kept, '\n')+1]
	if strings.Count("\n"+kept, "\n```")%2 == 1 {
		kept += "```\n"
	}
	return kept + cutNote
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "opening", path)
	}
	_, err = f.WriteString(text)
	if closing := f.Close(); err == nil {
		err = closing
	}
	return fault.Wrap(err, fault.Environment, "writing", path)
}
