package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// table is the part of the page between the markers.
func table(rows []row, where place) string {
	var b strings.Builder
	said := where.String()
	if !slices.ContainsFunc(rows, func(r row) bool { return r.measured }) {
		said = "Nothing of this was measured yet; earlier runs are below."
	}
	fmt.Fprintf(&b, "\n%s\n\n![What ours takes, as a part of what the peer takes](benchmarks.svg)\n\n", said)
	b.WriteString("| what | ours | against | theirs | ours ÷ theirs | claimed |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| <a id=\"%s\"></a>%s | %s | %s | %s | %s | %s |\n", r.id, cell(r.what), r.show(r.our, r.ours), cell(r.against), r.show(r.their, r.theirs), r.ratio(), r.claimed())
	}
	return b.String() + "\n"
}

func (r row) show(n float64, v value) string {
	switch {
	case !r.measured:
		return "–"
	case v.shows == count:
		return fmt.Sprintf("%.0f", n)
	case v.shows == mebibytes:
		return fmt.Sprintf("%.0f MiB", n)
	case n < 1:
		return figures(n*1000) + " ms"
	}
	return figures(n) + " s"
}

func (r row) ratio() string {
	switch {
	case !r.measured:
		return "not measured"
	case r.holds() && r.most > 0:
		return "**" + figures(r.part()) + "**"
	}
	return figures(r.part())
}

func (r row) claimed() string {
	switch {
	case r.most == 0:
		return "nothing"
	case r.measured && !r.holds():
		return fmt.Sprintf("≤ %v, **missed**", r.most)
	}
	return fmt.Sprintf("≤ %v", r.most)
}

// figures shows a number with two significant figures, and whole numbers from ten on.
func figures(n float64) string {
	if n >= 10 || n <= 0 {
		return fmt.Sprintf("%.0f", n)
	}
	digits := 1 - int(math.Floor(math.Log10(n)))
	return fmt.Sprintf("%.*f", digits, n)
}

// cell is text in a column of its own, whatever it holds.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
