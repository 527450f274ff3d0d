package mage_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// example is what a page shows of a command: its exit status and what it prints.
type example struct {
	command string
	status  string
	lines   []string
}

// examplesOf are the commands of a page's console blocks, each with what is shown below it. A status is shown
// as a user asks for it, by `echo $?`.
func examplesOf(page string) []example {
	var all []example
	for _, block := range fence.FindAllStringSubmatch(page, -1) {
		if block[1] != "console" {
			continue
		}
		text := "\n" + strings.ReplaceAll(continued.ReplaceAllString(block[2], " "), "\n   ", "\n")
		for part := range strings.SplitSeq(text, "\n$ ") {
			command, printed, _ := strings.Cut(part, "\n")
			if command == "echo $?" && len(all) > 0 {
				all[len(all)-1].status = strings.TrimSpace(printed)
			} else if command != "" {
				all = append(all, example{spelled(command), "0", slices.Collect(strings.Lines(printed))})
			}
		}
	}
	return all
}

// spelled is a command without what a shell takes away, and as it is called where `mage` is a program.
func spelled(command string) string {
	return strings.TrimPrefix(strings.ReplaceAll(command, "'", ""), "go tool ")
}

// differs says what a command printed and its example does not show, or the reverse; "" if it is the same.
// "(…)" in an example stands for lines that are left out. Lines may come in another order, as tags do that are
// moved at once; what differs from run to run is not compared.
func (e example) differs(printed string) string {
	got := map[string]bool{}
	for line := range strings.Lines(printed) {
		got[steady(line)] = true
	}
	want := map[string]bool{"": true}
	folded := false
	for _, line := range e.lines {
		if strings.HasPrefix(strings.TrimSpace(line), "(…") {
			folded = true
			continue
		}
		want[steady(line)] = true
		if line = steady(line); line != "" && !got[line] {
			return "the page shows what is not printed: " + line
		}
	}
	for line := range got {
		if !folded && !want[line] && !unshown.MatchString(line) {
			return "the page does not show: " + line
		}
	}
	return ""
}

// unshown are lines that no page shows: a step begins, and what was asked of the registry.
var unshown = regexp.MustCompile(`^(▸|registry) `)

// steady is a line without its digests, durations, platform, branches, the width of its columns, and numbers but
// those of what is counted alike on every machine.
func steady(line string) string {
	line = regexp.MustCompile(`\b[0-9a-f]{7,}\b…?`).ReplaceAllString(line, "#")
	line = regexp.MustCompile(`\b[0-9.]+(m[0-9]+s|ms|µs|s)\b`).ReplaceAllString(line, "")
	line = regexp.MustCompile(`linux/\w+`).ReplaceAllString(line, "linux/#")
	line = regexp.MustCompile(`[0-9]+( (checks|cells|members|tags))?`).ReplaceAllStringFunc(line, func(number string) string {
		if strings.Contains(number, " ") {
			return number
		}
		return "0"
	})
	return strings.TrimSpace(regexp.MustCompile(`[\s│├└─]+`).ReplaceAllString(line, " "))
}

// asShown holds a command's exit status and output to what a page shows of it; one of its examples must be it.
func asShown(page, command, status, printed string) error {
	why := errors.New("the page does not show this command")
	for _, e := range examplesOf(page) {
		if e.command != spelled(command) {
			continue
		}
		differs := e.differs(printed)
		if e.status != status {
			differs = "it exits " + status + ", the page says " + e.status
		}
		if differs == "" {
			return nil
		}
		why = errors.New(differs)
	}
	return why
}

// wantShown: a page shows this of a command that ended well.
func wantShown(t *testing.T, page, command string, printed []byte) {
	t.Helper()
	if err := asShown(read(t, "../"+page), command, "0", string(printed)); err != nil {
		t.Errorf("%s, %s: %v; it printed:\n%s", page, command, err, printed)
	}
}

// shownIn PAGE COMMAND… is a command of scripts: it runs a command that a page shows, and compares.
func shownIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: shown PAGE COMMAND [ARG …]")
	}
	status := "0"
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = strings.TrimPrefix(exit.Error(), "exit status ")
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	page, err := os.ReadFile(filepath.Join(ts.Getenv("LIBRARY"), args[0]))
	ts.Check(err)
	command := strings.Join(args[1:], " ")
	if err := asShown(string(page), command, status, ts.ReadFile("stdout")+ts.ReadFile("stderr")); err != nil {
		ts.Fatalf("%s, %s: %v", args[0], command, err)
	}
}

// TestNoOutputIsShownThatNothingPrints: what a page shows of a command is compared with what the command
// prints, by `shown PAGE COMMAND` in a script or by a test, as often as it is shown.
func TestNoOutputIsShownThatNothingPrints(t *testing.T) {
	compared := map[string]int{}
	for _, command := range notCompared() {
		compared["docs/runbook.md "+command]++
	}
	for _, command := range regexp.MustCompile(`(?m)^shown (.*)$`).FindAllStringSubmatch(read(t, "../testdata/script/runbook.txtar"), -1) {
		compared[spelled(command[1])]++
	}
	wanted := regexp.MustCompile(`wantShown\(t, "([^"]+)", "([^"]+)"`)
	for _, s := range sources(t) {
		for _, command := range wanted.FindAllStringSubmatch(read(t, filepath.Join("..", s.dir, s.name)), -1) {
			compared[command[1]+" "+spelled(command[2])]++
		}
	}
	for page, content := range pages(t) {
		for _, e := range examplesOf(content) {
			key := page + " " + e.command
			if compared[key]--; compared[key] < 0 && len(e.lines) > 0 {
				t.Errorf("%s shows what %q prints, which nothing compares", page, e.command)
			}
		}
	}
}

// notCompared are commands whose outputs in docs/runbook.md were copied once: of a generation that somebody pushed
// to the ledger, and of a registry with weeks of releases. retention.txtar and the tests of mage/pipeline run both.
func notCompared() []string {
	return []string{
		"mage ops:reconcile -apply",
		"mage ops:prune -allow=share -out=plan.json",
		"mage ops:apply plan.json",
		"mage ops:prune",
		"mage ops:undelete -what=sha-189caa0cec74ed0243a5c45e9cb2e15c1a8afb44",
		"mage ops:undelete -what=sha-189caa0cec74ed0243a5c45e9cb2e15c1a8afb44 -apply",
		"mage ops:rollback -channel=dev -to=sha-189caa0cec74ed0243a5c45e9cb2e15c1a8afb44",
	}
}

// What a page shows and a command does not print is found, and the reverse.
func TestChecksOfOutputsComplain(t *testing.T) {
	t.Parallel()
	const page = "```console\n$ mage x -reason='it is'\n✓ gate  4 cells of sha256:0123456789ab…\n(… 2 more)\ndone: 3 tags moved at 12:00\n$ echo $?\n40\n```\n" +
		"```console\n$ mage y\nnothing to do\n```\n"
	const printed = "✓ gate       4 cells of sha256:ffff456789abcdef\nleft out\ndone: 3 tags moved at 11:59\nregistry  127.0.0.1:5555/x: 4 reads\n"
	for name, c := range map[string]struct {
		command, status, printed string
		same                     bool
	}{
		"other digests and numbers":     {"mage x -reason=it is", "40", printed, true},
		"lines in another order":        {"mage x -reason=it is", "40", "done: 3 tags moved at 12:00\n✓ gate 4 cells of sha256:0123456789ab\n", true},
		"more than is shown":            {"mage x -reason=it is", "40", strings.Replace(printed, "3 tags", "10 tags", 1), false},
		"another status":                {"mage x -reason=it is", "0", printed, false},
		"a line that is not printed":    {"mage x -reason=it is", "40", "done: 3 tags moved at 12:00\n", false},
		"another word in a line":        {"mage x -reason=it is", "40", strings.Replace(printed, "moved", "left", 1), false},
		"a line that is not shown":      {"mage y", "0", "nothing to do\nbut this\n", false},
		"nothing more than is shown":    {"mage y", "0", "nothing to do\nregistry  127.0.0.1:5555/x: 4 reads\n", true},
		"a command that is not there":   {"mage z", "0", "nothing to do\n", false},
		"another reason in the command": {"mage x -reason=none", "40", printed, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := asShown(page, c.command, c.status, c.printed); (err == nil) != c.same {
				t.Errorf("asShown = %v", err)
			}
		})
	}
}
