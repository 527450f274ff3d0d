package report_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

func model(reports ...evidence.Report) report.Model {
	node := graph.NewNode("", []byte("content"))
	m := report.New(release.Record{
		Schema: 1, Family: "tiny", Source: release.Source{Commit: strings.Repeat("a", 40)},
		Images: map[string]release.Image{"tiny": {Index: node, Platforms: map[string]graph.Node{"linux/amd64": node}}},
	}, reports)
	m.Channel, m.Registry, m.Reached, m.Generation = "dev", "localhost:5555/tiny", "promote", 3
	return m
}

func scan(coverage evidence.Coverage, findings ...evidence.Finding) evidence.Report {
	return evidence.Report{
		Cell: evidence.Cell{Image: "tiny", Platform: "linux/amd64"}, Digest: digest.FromString("x"),
		Secrets: evidence.Scanned, Vulnerabilities: coverage, Reason: "no database", Findings: findings,
	}
}

func plain(s string) string { return s }

func TestACellThatWasNotScannedIsNeverShownAsClean(t *testing.T) {
	m := model(scan(evidence.NotScanned))
	page, err := m.HTML()
	if err != nil {
		t.Fatal(err)
	}
	document, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for face, content := range map[string][]byte{"HTML": page, "Markdown": m.Markdown(plain), "JSON": document} {
		if !strings.Contains(string(content), "NOT SCANNED: no database") {
			t.Errorf("%s does not say NOT SCANNED:\n%s", face, content)
		}
	}
	if m.NotScanned() != 1 {
		t.Errorf("NotScanned() = %d, want 1", m.NotScanned())
	}
}

func TestE7TextFromOutsideCannotActOnThePage(t *testing.T) {
	evil := evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-1", Severity: "HIGH", Title: `<script>alert(1)</script>`, Package: `"><img src=x onerror=alert(1)>`}
	page, err := model(scan(evidence.Scanned, evil)).HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script>", "<img"} {
		if strings.Contains(string(page), bad) {
			t.Errorf("the page holds %s", bad)
		}
	}
	if !strings.Contains(string(page), "1 high") {
		t.Error("the finding is not counted")
	}
}

func TestHeadlineSaysWhatHappened(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*report.Model)
		want   string
	}{
		"a release":    {func(*report.Model) {}, "dev serves sha-aaaaaaaaaaaa since generation 3."},
		"a second run": {func(m *report.Model) { m.Unchanged = true }, "dev serves sha-aaaaaaaaaaaa already: nothing to do, nothing written."},
		"a build":      {func(m *report.Model) { m.Reached = "build" }, "sha-aaaaaaaaaaaa got as far as build; nothing was promoted."},
		"a dirty tree": {func(m *report.Model) { m.Tag += "-dirty-deadbeef" }, "dev serves sha-aaaaaaaaaaaa-dirty-deadbeef since generation 3."},
	} {
		t.Run(name, func(t *testing.T) {
			m := model()
			tt.change(&m)
			if got := m.Headline(); got != tt.want {
				t.Errorf("Headline() = %q, want %q", got, tt.want)
			}
		})
	}
}

func ExampleModel_Markdown() {
	fmt.Println(strings.Split(string(model().Markdown(plain)), "\n")[2])
	// Output: dev serves sha-aaaaaaaaaaaa since generation 3.
}
