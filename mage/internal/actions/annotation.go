package actions

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containai/containai/mage/internal/term"
)

// Level says how much an annotation matters.
type Level string

// The levels. What blocks a release is an error, and nothing else is.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Notice  Level = "notice"
)

// Annotation is one remark on the run's page, or beside a line of a file.
type Annotation struct {
	Level   Level
	File    string // relative to the repository; empty: none
	Line    int
	Title   string
	Message string
}

// Limits of a step; what exceeds them GitHub drops without a word. A job shows 50 of all its steps.
// https://github.com/actions/toolkit/blob/main/docs/problem-matchers.md#limitations
const (
	maxOfLevel = 10
	maxMessage = 4 << 10 // bytes; ours: a page is for reading
)

// Aggregate returns what fits into a step, errors first: the same remark about several things becomes
// one, and what is too much of one level is counted in its last.
func Aggregate(all []Annotation) []Annotation {
	var out []Annotation
	for _, level := range []Level{Error, Warning, Notice} {
		out = append(out, bounded(level, merged(level, all))...)
	}
	return out
}

// merged returns the remarks of a level, one for each title and place, in their first order.
func merged(level Level, all []Annotation) []Annotation {
	type key struct {
		title, file string
		line        int
	}
	var out []Annotation
	at := map[key]int{}
	for _, a := range all {
		if cmp.Or(a.Level, Notice) != level {
			continue
		}
		a.Level = level
		k := key{a.Title, a.File, a.Line}
		i, known := at[k]
		switch {
		case !known:
			at[k] = len(out)
			out = append(out, a)
		case !slices.Contains(strings.Split(out[i].Message, "\n"), a.Message):
			out[i].Message += "\n" + a.Message
		}
	}
	return out
}

func bounded(level Level, all []Annotation) []Annotation {
	if len(all) <= maxOfLevel {
		return all
	}
	rest := all[maxOfLevel-1:]
	var titles []string
	for _, a := range rest {
		titles = append(titles, cmp.Or(a.Title, a.Message))
	}
	return append(slices.Clip(all[:maxOfLevel-1]), Annotation{
		Level: level, Title: fmt.Sprintf("%d more", len(rest)), Message: strings.Join(titles, "\n"),
	})
}

// command is the workflow command of an annotation.
func (a Annotation) command() string {
	var properties []string
	if a.File != "" {
		properties = append(properties, "file="+term.EscapeProperty(a.File))
		if a.Line > 0 {
			properties = append(properties, fmt.Sprintf("line=%d", a.Line))
		}
	}
	if a.Title != "" {
		properties = append(properties, "title="+term.EscapeProperty(cut(a.Title, maxMessage)))
	}
	return strings.TrimSuffix("::"+string(a.Level)+" "+strings.Join(properties, ","), " ") +
		"::" + term.EscapeCommand(cut(a.Message, maxMessage)) + "\n"
}

// cut shortens a text to so many bytes, at a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
}
