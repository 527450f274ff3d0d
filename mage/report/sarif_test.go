package report_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/report"
)

// readSARIF holds a log to the official schema.
func readSARIF(t *testing.T, m report.Model) *sarif.Run {
	t.Helper()
	content, err := m.SARIF()
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := officialSchema(t).Validate(document); err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	log, err := sarif.FromBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	return log.Runs[0]
}

// officialSchema is the schema of SARIF 2.1.0 as OASIS publishes it, out of the source of a library
// that carries it and exports only a check of what it writes itself.
func officialSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "schema.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var literal string // of the file's one constant
	ast.Inspect(source, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok {
			literal = l.Value
		}
		return true
	})
	text, err := strconv.Unquote(literal)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("sarif.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestTheOfficialSchemaRefuses: a schema that accepts everything would prove nothing.
func TestTheOfficialSchemaRefuses(t *testing.T) {
	for _, bad := range []string{`{}`, `{"version":"2.1.0","runs":[{}]}`, `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"message":{"text":"x"},"level":"fatal"}]}]}`} {
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
		if err != nil {
			t.Fatal(err)
		}
		if officialSchema(t).Validate(document) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestFindingsAreValidSARIF(t *testing.T) {
	findings := []evidence.Finding{
		{Kind: evidence.Secret, ID: "aws-access-key-id", Severity: "CRITICAL", Title: "AWS key", Path: "root/.aws/a b", Line: 7},
		{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "HIGH", Title: "it bleeds", Package: "openssl", Version: "1", FixedIn: "2"},
		{Kind: evidence.Vulnerability, ID: "CVE-2026-2", Severity: "HIGH", Package: "openssl", Version: "1", FixedIn: "2"},
		{Kind: evidence.Vulnerability, ID: "CVE-2026-3", Severity: "LOW", Package: "openssl", Version: "1"},
		{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "HIGH", Title: "it bleeds", Package: "libssl", Version: "1", FixedIn: "2"},
	}
	r := scan(evidence.NotScanned, findings...)
	run := readSARIF(t, judged(r, family.Waiver{ID: "CVE-2026-2", Package: "openssl", Source: "containai.yaml:7"}))
	var got []string
	for _, result := range run.Results {
		line := *result.RuleID + " " + result.Level + " " + *result.Locations[0].PhysicalLocation.ArtifactLocation.URI
		for _, s := range result.Suppressions {
			line += " " + *s.Justification
		}
		if rule := run.Tool.Driver.Rules[result.RuleIndex]; *rule.ID != *result.RuleID {
			t.Errorf("result %s has the rule %s", *result.RuleID, *rule.ID)
		}
		got = append(got, line)
	}
	want := []string{
		"aws-access-key-id error tiny/root/.aws/a%20b",
		"CVE-2026-1 error tiny/libssl",
		"CVE-2026-1 error tiny/openssl",
		"CVE-2026-2 warning tiny/openssl waived: containai.yaml:7",
		"CVE-2026-3 note tiny/openssl",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if line := *run.Results[0].Locations[0].PhysicalLocation.Region.StartLine; line != 7 {
		t.Errorf("the secret is in line %d, want 7", line)
	}
	if n := len(run.Tool.Driver.Rules); n != 4 {
		t.Errorf("%d rules, want each once", n)
	}
	notes := run.Invocations[0].ToolExecutionNotifications
	if len(notes) != 1 || !strings.Contains(*notes[0].Message.Text, "NOT SCANNED") {
		t.Errorf("what is no finding is not told: %v", notes)
	}
}

// E7: the names of files and packages come out of an image. None of them leads to a file of the
// repository, which is where code scanning looks for what an address names.
func TestE7AFindingsPlaceStaysInItsImage(t *testing.T) {
	for name, want := range map[string]string{
		"../../etc/passwd": "tiny/etc/passwd", "/etc/passwd": "tiny/etc/passwd", "a/../../../b": "tiny/b", "..": "tiny/", "a//./b": "tiny/a/b",
		"%2e%2e/x": "tiny/%252e%252e/x", `..\x`: "tiny/..%5Cx", "a?b#c": "tiny/a%3Fb%23c", "https://evil.example/": "tiny/https:/evil.example", "a\nb": "tiny/a%0Ab",
	} {
		for _, finding := range []evidence.Finding{
			{Kind: evidence.Secret, ID: "private-key", Severity: "HIGH", Path: name},
			{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "HIGH", Package: name, Version: "1", FixedIn: "2"},
		} {
			run := readSARIF(t, judged(scan(evidence.Scanned, finding)))
			if got := *run.Results[0].Locations[0].PhysicalLocation.ArtifactLocation.URI; got != want {
				t.Errorf("%s of %q is placed at %s, want %s", finding.Kind, name, got, want)
			}
		}
	}
}

func TestSARIFHoldsTheWorstThatGitHubTakes(t *testing.T) {
	var findings []evidence.Finding
	for range 5001 {
		findings = append(findings, evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "LOW", Package: strings.Repeat("x", len(findings)%70+1), Line: len(findings)})
	}
	findings = append(findings, evidence.Finding{Kind: evidence.Secret, ID: "private-key", Severity: "HIGH", Path: "a"})
	run := readSARIF(t, judged(scan(evidence.Scanned, findings...)))
	if len(run.Results) != 5000 || *run.Results[0].RuleID != "private-key" {
		t.Errorf("%d results, the first %s", len(run.Results), *run.Results[0].RuleID)
	}
	if omitted := run.Properties.Properties["omittedResults"]; omitted != float64(2) {
		t.Errorf("%v are said to be left out, want 2", omitted)
	}
}

func TestNoFindingsAreValidSARIF(t *testing.T) {
	if run := readSARIF(t, model(scan(evidence.Scanned))); len(run.Results) != 0 {
		t.Errorf("%d results", len(run.Results))
	}
}
