package term

import (
	"io"
	"strings"
)

// Table is a closing summary: aligned columns that say the same without colour. Cells are
// escaped when it prints.
type Table struct {
	Head []string // none, or one per column
	Rows [][]string
}

// gutter separates columns.
const gutter = "  "

// String prints the table, every line with a line end and no blanks at it.
func (t Table) String() string {
	rows := t.Rows
	if len(t.Head) > 0 {
		rows = append([][]string{t.Head}, t.Rows...)
	}
	widths := columnWidths(rows)
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			cell = Escape(cell)
			line.WriteString(cell + strings.Repeat(" ", widths[i]-columns(cell)) + gutter)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// WriteTo prints the table to w.
func (t Table) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, t.String())
	return int64(n), err
}

func columnWidths(rows [][]string) []int {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(Escape(cell)))
		}
	}
	return widths
}

// columns is how wide a terminal shows printable text, at most: letters of the scripts from
// Hangul on count as two, which is right for the East Asian ones and on the safe side elsewhere.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	const hangul, punctuation, radicals = 0x1100, 0x2000, 0x2e80 // first of their Unicode blocks
	if r >= hangul && (r < punctuation || r >= radicals) {
		return 2
	}
	return 1
}

// cut shortens printable text to a number of columns and marks that it did.
func cut(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeColumns(r); n > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}
