package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/release"
)

// Comparison is how one release differs from another that its channel served.
type Comparison struct {
	Channel     string               `json:"channel"`
	From        string               `json:"from"` // tags
	To          string               `json:"to"`
	Differences []release.Difference `json:"differences"` // of the cells that do, and of those of which it is not known
}

// Totals sum a comparison's cells up. A package of a base counts in every image that has it.
type Totals struct {
	Added, Removed, Bumped int // packages
	Introduced, Fixed      int // vulnerabilities
	Unknown                int
	Size                   int64
}

// Totals counts what changes.
func (c Comparison) Totals() Totals {
	var t Totals
	for _, d := range c.Differences {
		for _, p := range d.Packages {
			switch {
			case p.Before == "":
				t.Added++
			case p.After == "":
				t.Removed++
			default:
				t.Bumped++
			}
		}
		t.Introduced += len(d.Introduced)
		t.Fixed += len(d.Fixed)
		t.Unknown += len(d.Unknown)
		t.Size += d.SizeAfter - d.SizeBefore
	}
	return t
}

// String says it in a line.
func (t Totals) String() string {
	return fmt.Sprintf("packages: %d added, %d removed, %d with another version; vulnerabilities: %d come, %d go; size: %s", t.Added, t.Removed, t.Bumped, t.Introduced, t.Fixed, signed(t.Size))
}

// Text is the comparison for a terminal; escape makes text from outside safe for it.
func (c Comparison) Text(escape func(string) string) string {
	head := fmt.Sprintf("%s: %s → %s\n", escape(c.Channel), escape(short(c.From)), escape(short(c.To)))
	if len(c.Differences) == 0 {
		return head + "the same packages, vulnerabilities and sizes\n"
	}
	return head + c.Totals().String() + "\n" + Differences(c.Differences, 0, escape)
}

// Differences lists what changes in each cell, and once what the evidence does not tell. Of one kind it
// lists as many as most, or all of them for 0.
func Differences(all []release.Difference, most int, escape func(string) string) string {
	var b strings.Builder
	unknown := map[string][]string{} // what is not known → of what
	for _, d := range all {
		cell := strings.TrimSpace(d.Member + " " + d.Platform)
		if d.SizeBefore != d.SizeAfter {
			fmt.Fprintf(&b, "      %s: size: %s\n", escape(cell), SizeChange(d))
		}
		for _, line := range []struct {
			what string
			list []string
		}{{"packages", packageLines(d)}, {"vulnerabilities that come", d.Introduced}, {"vulnerabilities that go", d.Fixed}} {
			if len(line.list) > 0 {
				fmt.Fprintf(&b, "      %s: %s: %s\n", escape(cell), line.what, escape(listed(line.list, most)))
			}
		}
		for _, why := range d.Unknown {
			unknown[why] = append(unknown[why], cell)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(unknown)) {
		fmt.Fprintf(&b, "      not known of %s: %s\n", escape(listed(unknown[why], most)), escape(why))
	}
	return b.String()
}

func packageLines(d release.Difference) []string {
	var lines []string
	for _, p := range d.Packages {
		lines = append(lines, p.String())
	}
	return lines
}

// listed joins a list, and says how much of it is left out.
func listed(list []string, most int) string {
	if more := len(list) - most; most > 0 && more > 0 {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(list, ", ")
}

// SizeChange says how large a cell was, is, and what that differs.
func SizeChange(d release.Difference) string {
	switch {
	case d.SizeBefore == 0:
		return Bytes(d.SizeAfter) + ", new"
	case d.SizeAfter == 0:
		return Bytes(d.SizeBefore) + ", gone"
	}
	return fmt.Sprintf("%s → %s (%s)", Bytes(d.SizeBefore), Bytes(d.SizeAfter), signed(d.SizeAfter-d.SizeBefore))
}

func signed(n int64) string {
	switch {
	case n > 0:
		return "+" + Bytes(n)
	case n < 0:
		return "−" + Bytes(-n)
	}
	return "unchanged"
}

// Bytes prints a size for people, in powers of ten as registries do.
func Bytes(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}
