package term

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Escape returns s on one line with everything visible: control characters, ANSI sequences,
// bidirectional overrides, invisible and unassigned characters and broken UTF-8 become \n, \x1b,
// \u202e and the like. Printable text and the plain blank stay as they are. (A backslash does
// too, so this is for reading, not for decoding.)
func Escape(s string) string { return withoutCommands(escape(s, "")) }

// EscapeLines is Escape for text of several lines: line ends stay.
func EscapeLines(s string) string { return withoutCommands(escape(s, "\n")) }

// withoutCommands lets no line begin with a GitHub workflow command ("::stop-commands::x"), which a
// runner obeys wherever a step prints it, blanks before it or not.
func withoutCommands(s string) string {
	return workflowCommand.ReplaceAllString(s, `${1}\x3a:`)
}

var workflowCommand = lazyregexp.New(`(?m)^(\s*)::`)

// escape keeps the control characters in keep.
func escape(s, keep string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			b.WriteString(s[:n])
		default:
			b.WriteString(visible(r))
		}
		s = s[n:]
	}
	return strings.ReplaceAll(b.String(), "##[", `##\x5b`)
}

func visible(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < 0x80:
		return fmt.Sprintf(`\x%02x`, r)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}

// EscapeCommand prepares the message of a GitHub workflow command ("::error::MESSAGE"), as
// escapeData of https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts does.
// Line breaks are kept, encoded; other control characters become visible.
func EscapeCommand(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(escape(s, "\r\n"))
}

// EscapeProperty prepares the value of a property of a workflow command ("::error file=VALUE::"),
// as escapeProperty of the same file does.
func EscapeProperty(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(EscapeCommand(s))
}

// EscapeMarkdown prepares text for one line or one table cell of GitHub's Markdown, outside of
// code spans: no emphasis, link, image, table border, HTML, formula, list or heading comes out of
// it (CommonMark 0.31, 2.4 and 2.5; GFM's tables and autolinks).
func EscapeMarkdown(s string) string {
	s = Escape(s)
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case strings.IndexByte("&<>\"'@", c) >= 0:
			fmt.Fprintf(&b, "&#%d;", c)
		case strings.IndexByte("\\`*_{}[]#!|~$^=:", c) >= 0, opensBlock(s, i):
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// opensBlock reports whether the byte would begin a list or a rule, or a link as in www.example.
// Blanks at the start need no care: four of them begin a code block, which shows text as it is.
func opensBlock(s string, i int) bool {
	before := strings.TrimLeft(s[:i], " ")
	switch s[i] {
	case '-', '+':
		return before == ""
	case ')':
		return strings.Trim(before, "0123456789") == ""
	case '.':
		return strings.Trim(before, "0123456789") == "" || strings.HasSuffix(strings.ToLower(before), "www")
	}
	return false
}
