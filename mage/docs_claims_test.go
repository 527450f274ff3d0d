package mage_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNoClaimIsWithoutItsRow: what the README says of times, sizes and ratios links to the row of
// docs/benchmarks.md that was measured, and says what stands there.
func TestNoClaimIsWithoutItsRow(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, complaint := range unfounded(all["README.md"], measured(all["docs/benchmarks.md"])) {
		t.Errorf("README.md: %s", complaint)
	}
}

// measured is what ours took, by the name of the row.
func measured(benchmarks string) map[string]string {
	rows := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| <a id="([^"]+)"></a>[^|]*\| ([^|]*) \|`).FindAllStringSubmatch(benchmarks, -1) {
		rows[row[1]] = row[2]
	}
	return rows
}

var (
	rowLink = regexp.MustCompile(`\[([^\]]*)\]\(docs/benchmarks\.md#([^)]+)\)`)
	figure  = regexp.MustCompile(`(?i)\b[0-9][0-9.,]*\s?([%×]|(x|times|ns|µs|ms|s|min|h|[kmg]i?b|(second|minute|hour|day)s?)\b)`)
	ratio   = regexp.MustCompile(`(?i)\b(faster|slower|quicker|smaller|larger|lighter|cheaper|half the|twice as|instant(ly)?|in (a few )?(seconds|minutes))\b`)
)

// unfounded are the claims of a page that no row stands behind.
func unfounded(page string, rows map[string]string) []string {
	page = fence.ReplaceAllString(page, "")
	var complaints []string
	for _, l := range rowLink.FindAllStringSubmatch(page, -1) {
		ours, ok := rows[l[2]]
		switch {
		case !ok:
			complaints = append(complaints, fmt.Sprintf("%q links to %s, which is no row", l[1], l[2]))
		case figure.MatchString(l[1]) && l[1] != ours:
			complaints = append(complaints, fmt.Sprintf("it says %s, the row %s says %s", l[1], l[2], ours))
		}
	}
	rest := rowLink.ReplaceAllString(page, "")
	for _, claim := range append(figure.FindAllString(rest, -1), ratio.FindAllString(rest, -1)...) {
		complaints = append(complaints, fmt.Sprintf("%q links to no row of docs/benchmarks.md", claim))
	}
	return complaints
}

func TestChecksOfClaimsComplain(t *testing.T) {
	t.Parallel()
	rows := measured("| what | ours |\n|---|---|\n| <a id=\"cold\"></a>release it | 133 s | limit | 1 s |\n")
	for sentence, complaints := range map[string]int{
		"It takes [133 s](docs/benchmarks.md#cold).":                    0,
		"Beside a script: [a first release](docs/benchmarks.md#cold).":  0,
		"On two cores, six images in nine repositories, with Go 1.26.":  0,
		"```sh\nmage x # within 20 minutes\n```":                        0,
		"It takes [130 s](docs/benchmarks.md#cold).":                    1,
		"It takes [133 s](docs/benchmarks.md#warm).":                    1,
		"It takes [133 s](docs/adoption.md).":                           1,
		"| first run | about 14 min |":                                  1,
		"It takes 2 minutes, or 0.4 s when nothing changed.":            2,
		"A program of 20 MB, 5× what it was, or 12 % of it.":            3,
		"It is faster than a script, and the page opens instantly.":     2,
		"From a bare machine to a release in minutes.":                  1,
		"[133 s](docs/benchmarks.md#cold), which is 1.3 times as long.": 1,
	} {
		if got := unfounded(sentence, rows); len(got) != complaints {
			t.Errorf("%s: %d complaints, want %d: %v", sentence, len(got), complaints, got)
		}
	}
}

// How much two pages may share: names, titles and turns of speech are shorter than ten words, and three lines of
// commands may be what both are about.
const (
	sharedWords = 9
	sharedLines = 3
)

// TestNoPageRepeatsAnother: what is said stands on one page, the others link to it.
func TestNoPageRepeatsAnother(t *testing.T) {
	t.Parallel()
	for _, complaint := range repeats(pages(t)) {
		t.Error(complaint)
	}
}

// repeats are the passages that stand on more than one page.
func repeats(pages map[string]string) []string {
	words := regexp.MustCompile(`[\p{L}\p{N}][\p{L}\p{N}'-]*`)
	prose, code := map[string][]string{}, map[string][]string{}
	for page, content := range pages {
		prose[page] = words.FindAllString(strings.ToLower(fence.ReplaceAllString(content, "")), -1)
		for _, block := range fence.FindAllStringSubmatch(content, -1) {
			code[page] = append(code[page], strings.Split(strings.TrimSpace(block[2]), "\n")...)
			code[page] = append(code[page], "end of a block of "+page)
		}
	}
	return append(shared(prose, sharedWords+1), shared(code, sharedLines+1)...)
}

// shared are the runs of n items that two of the lists have, each told where it begins.
func shared(lists map[string][]string, n int) []string {
	var complaints []string
	first := map[string]string{}
	for _, page := range slices.Sorted(maps.Keys(lists)) {
		goesOn := false
		for i := 0; i+n <= len(lists[page]); i++ {
			run := strings.Join(lists[page][i:i+n], " ")
			if _, ok := first[run]; !ok {
				first[run] = page
			}
			repeated := first[run] != page
			if repeated && !goesOn {
				complaints = append(complaints, fmt.Sprintf("%s repeats %s: %s", page, first[run], run))
			}
			goesOn = repeated
		}
	}
	return complaints
}

func TestChecksOfRepeatsComplain(t *testing.T) {
	t.Parallel()
	const said = "A channel is an entry in a git ref, signed"
	const block = "```sh\nmage a\nmage b\nmage c\nmage d\n```\n"
	for name, c := range map[string]struct {
		one, other string
		complaints int
	}{
		"ten words in a row":           {said + " by one.", "Once more: a channel is an entry in a git ref, signed twice.", 1},
		"in other lines, as a title":   {said + ".", "# A CHANNEL is `an entry`\n\nin *a git ref*\nsigned", 1},
		"as cells of a table":          {said + ".", "| a channel | is an entry in a git ref | signed |", 1},
		"a long one is told once":      {said + " by one mover, at main.", "So " + said + " by one mover, at main.", 1},
		"nine of them":                 {said + ".", "A channel is an entry in a git ref.", 0},
		"twice on one page":            {said + ". " + said + ".", "Nothing.", 0},
		"four lines of a block":        {block, "Text.\n" + block, 1},
		"three of them":                {block, strings.Replace(block, "mage d", "mage e", 1), 0},
		"four lines, but of two":       {block, "```sh\nmage a\nmage b\n```\n```sh\nmage c\nmage d\n```\n", 0},
		"a block's words are no prose": {"```sh\n" + said + "\n```\n", said, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := repeats(map[string]string{"one.md": c.one, "other.md": c.other}); len(got) != c.complaints {
				t.Errorf("%d complaints, want %d: %q", len(got), c.complaints, got)
			}
		})
	}
}
