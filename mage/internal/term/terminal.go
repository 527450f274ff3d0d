package term

import (
	"os"
	"time"

	xterm "golang.org/x/term"
)

// For returns the options that suit a file and an environment: live on a terminal that can move
// its cursor and is not a CI log, coloured unless NO_COLOR is set (https://no-color.org).
// The environment is asked for NO_COLOR, TERM and CI.
func For(f *os.File, env func(name string) string, now func() time.Time) Options {
	terminal := IsTerminal(f) && env("TERM") != "dumb"
	return Options{
		Live:   terminal && env("CI") == "",
		Color:  terminal && env("NO_COLOR") == "",
		Width:  func() int { columns, _ := size(f); return columns },
		Height: func() int { _, lines := size(f); return lines },
		Now:    now,
	}
}

// IsTerminal reports whether a file is a terminal.
func IsTerminal(f *os.File) bool { return xterm.IsTerminal(int(f.Fd())) }

// size is asked anew each time, because people resize windows.
func size(f *os.File) (columns, lines int) {
	columns, lines, err := xterm.GetSize(int(f.Fd()))
	if err != nil || columns < 1 || lines < 1 {
		return 80, 24
	}
	return columns, lines
}
