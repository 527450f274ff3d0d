package registry_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/rehearsal"
)

var update = flag.Bool("update", false, "write the table of docs/conformance.md")

// conformanceDoc holds the table between two marks, and around it what a person says about it.
const (
	conformanceDoc = "../../../docs/conformance.md"
	tableBegin     = "<!-- written by TestTheSpecificationsSuiteFindsWhatIsRecorded -update -->\n"
	tableEnd       = "<!-- end -->\n"
)

// TestTheSpecificationsSuiteFindsWhatIsRecorded runs the conformance suite of the OCI distribution
// specification against the registries that the other tests speak to. What it finds is recorded in
// docs/conformance.md, row by row: a change, for the better too, is seen.
func TestTheSpecificationsSuiteFindsWhatIsRecorded(t *testing.T) {
	deep(t)
	suite := filepath.Join(peers(t, "conformance", "tool"), "conformance")
	columns := []column{
		{title: "embedded (distribution " + pinned(t, "../../../go.mod", "github.com/distribution/distribution/v3") + ")",
			found: conform(t, suite, embedded(t))},
		{title: "rehearsal of GHCR", found: conform(t, suite, serve(t, rehearsal.New(rehearsal.Options{})))},
		{title: "go-containerregistry " + pinned(t, "../../../go.mod", "github.com/google/go-containerregistry") + ", referrers API on",
			found: conform(t, suite, serve(t, withAPI()))},
	}
	table := fmt.Sprintf("Suite `github.com/opencontainers/distribution-spec/conformance` %s; passed / failed / skipped checks.\n\n%s",
		pinned(t, "../../../testdata/conformance/go.mod", "github.com/opencontainers/distribution-spec/conformance"), tabulate(columns))

	content, err := os.ReadFile(conformanceDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(content), tableBegin)
	recorded, after, ended := strings.Cut(rest, tableEnd)
	if !begun || !ended {
		t.Fatalf("%s has lost the marks of its table", conformanceDoc)
	}
	for _, workflow := range columns[0].failing() {
		if !strings.Contains(after, "`"+workflow+"`") {
			t.Errorf("the embedded registry fails in %q, and %s does not say why", workflow, conformanceDoc)
		}
	}
	if *update {
		if err := os.WriteFile(conformanceDoc, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(recorded, "\n"), strings.Split(table, "\n")); diff != "" {
		t.Errorf("recorded and found differ (-recorded +found); if it is meant, run with -update and say why:\n%s", diff)
	}
}

// column is what the suite found on one registry, by workflow.
type column struct {
	title string
	found map[string]tally
}

func (c column) failing() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.found)) {
		if c.found[name].failed > 0 {
			names = append(names, name)
		}
	}
	return names
}

// tally counts the outcomes of checks.
type tally struct{ passed, failed, skipped int }

func (a tally) plus(b tally) tally {
	return tally{a.passed + b.passed, a.failed + b.failed, a.skipped + b.skipped}
}

func (a tally) String() string { return fmt.Sprintf("%d / %d / %d", a.passed, a.failed, a.skipped) }

// conform runs the suite against a registry, for version 1.1 of the specification and with every
// default. It exits with 1 when a check failed, which is a finding here and no error.
func conform(t *testing.T, suite, host string) map[string]tally {
	t.Helper()
	results := t.TempDir()
	c := exec.CommandContext(t.Context(), suite)
	c.Dir = results
	c.Env = []string{"OCI_REGISTRY=" + host, "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_RESULTS_DIR=" + results}
	out, err := c.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("the suite did not run: %v\n%s", err, out)
	}
	report, err := os.ReadFile(filepath.Join(results, "junit.xml"))
	if err != nil {
		t.Fatalf("the suite left no report: %v\n%s", err, out)
	}
	return decodeReport(t, report)
}

// decodeReport counts the checks of a JUnit report by workflow. A check is called
// "OCI Conformance Test/workflow/…/check".
func decodeReport(t *testing.T, report []byte) map[string]tally {
	t.Helper()
	var suites struct {
		Checks []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(report, &suites); err != nil {
		t.Fatal(err)
	}
	counts := map[string]tally{}
	for _, check := range suites.Checks {
		_, below, _ := strings.Cut(check.Name, "/")
		workflow, _, _ := strings.Cut(below, "/")
		one, known := map[string]tally{"passed": {passed: 1}, "failure": {failed: 1}, "error": {failed: 1}, "skipped": {skipped: 1}}[check.Status]
		if !known {
			t.Fatalf("check %q ended as %q", check.Name, check.Status)
		}
		counts[workflow] = counts[workflow].plus(one)
	}
	return counts
}

// tabulate prints a row for each workflow and their sum.
func tabulate(columns []column) string {
	var b strings.Builder
	b.WriteString("| workflow |")
	sums := make([]tally, len(columns))
	workflows := map[string]bool{}
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.title)
		for name := range c.found {
			workflows[name] = true
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, name := range slices.Sorted(maps.Keys(workflows)) {
		fmt.Fprintf(&b, "| %s |", name)
		for i, c := range columns {
			fmt.Fprintf(&b, " %s |", c.found[name])
			sums[i] = sums[i].plus(c.found[name])
		}
		b.WriteString("\n")
	}
	b.WriteString("| **all** |")
	for _, sum := range sums {
		fmt.Fprintf(&b, " **%s** |", sum)
	}
	b.WriteString("\n")
	return b.String()
}

// pinned returns the version at which a go.mod requires a module.
func pinned(t *testing.T, gomod, module string) string {
	t.Helper()
	content, err := os.ReadFile(gomod)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(fields) > 1 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1]
		}
	}
	t.Fatalf("%s does not require %s", gomod, module)
	return ""
}
