package report_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
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
		SBOM: digest.FromString("sbom"), Secrets: evidence.Scanned, Vulnerabilities: coverage, Reason: "no database", Findings: findings,
	}
}

// judged is a model with the verdict of a strict channel, whose waivers hold for a day.
func judged(r evidence.Report, waivers ...family.Waiver) report.Model {
	m := model(r)
	r.Digest = graph.NewNode("", []byte("content")).Digest
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	for i := range waivers {
		waivers[i].Expires = now.Add(24 * time.Hour)
	}
	gate := release.Gate{Channel: "dev", Rules: family.Channel{Gate: family.Gate{Severities: []string{"CRITICAL", "HIGH"}, Waivers: waivers}}}
	node := graph.NewNode("", []byte("content"))
	record := release.Record{Images: map[string]release.Image{"tiny": {Index: node, Platforms: map[string]graph.Node{"linux/amd64": node}}}}
	m.Verdict = gate.Judge(release.Evidenced{Built: release.Built{Record: record}, Reports: []evidence.Report{r}}, now)
	return m
}

func TestF7EveryCellAndCheckIsListed(t *testing.T) {
	r := scan(evidence.Scanned)
	r.Checks = []evidence.Check{{Name: "sbom", Took: 1500 * time.Millisecond}, {Name: "secrets", Cached: true}}
	var got []string
	for _, c := range model(r, scan(evidence.NotScanned)).Checks {
		got = append(got, c.Image+" "+c.Check+" "+c.Took()+" "+c.Result)
	}
	want := []string{
		"tiny sbom 1.5s 0 packages", "tiny secrets cached none", "tiny vulnerabilities attested none", "tiny smoke attested 0 of 0 passed",
		"tiny sbom attested 0 packages", "tiny secrets attested none", "tiny vulnerabilities attested NOT SCANNED: no database", "tiny smoke attested 0 of 0 passed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

func TestARefusalIsTheFirstThingTheSummarySays(t *testing.T) {
	var findings []evidence.Finding
	for i := range 12 {
		findings = append(findings, evidence.Finding{Kind: evidence.Vulnerability, ID: fmt.Sprintf("CVE-2026-%d", i), Severity: "HIGH", Package: "openssl", FixedIn: "2"})
	}
	summary := string(judged(scan(evidence.Scanned, findings...)).Markdown(plain))
	gate, members := strings.Index(summary, "The gate of dev said no:** 12 findings"), strings.Index(summary, "| member |")
	if gate < 0 || gate > members || strings.Count(summary, "CVE-2026-") != 10 || !strings.Contains(summary, "and 2 more") {
		t.Errorf("the summary says:\n%s", summary)
	}
}

// Who opens a run's page sees each cell in one line, and each reason once.
func TestTheSummaryIsForReading(t *testing.T) {
	fast, other := scan(evidence.Scanned), scan(evidence.NotScanned)
	fast.Checks = []evidence.Check{{Name: "sbom", Took: time.Second}, {Name: "secrets", Took: 500 * time.Millisecond}, {Name: "vulnerabilities", Took: time.Second, Cached: true}}
	m := model(fast, other)
	for i, why := range []string{"it is the same", "it is the same", "it was another"} {
		m.Members = append(m.Members, report.Member{Name: fmt.Sprintf("image-%d", i), Kept: why})
	}
	summary := string(m.Markdown(plain))
	for _, want := range []string{
		"| tiny | linux/amd64 | 0 | none | none | 0 of 0 | 1.5s, cached, attested | `sha256:", "| NOT SCANNED | 0 of 0 | attested | `sha256:",
		"\nKept image-0, image-1: it is the same.\n", "\nKept image-2: it was another.\n", "\n- NOT SCANNED: no database (tiny linux/amd64)\n",
	} {
		if !strings.Contains(summary, want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary)
		}
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
	m := judged(scan(evidence.Scanned, evil))
	page, err := m.HTML()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Error("the page does not show the finding")
	}
	for _, bad := range []string{"<script>alert", "<img"} {
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

// hostile is a model in which every text from outside tries to be more than text.
func hostile() report.Model {
	const evil = `</style></script><script>alert(1)</script><img src=https://example.com/x onerror=alert(1)>"'` + "\u202e{{.}}"
	long := strings.Repeat("long", 40)
	r := scan(evidence.Scanned, evidence.Finding{Kind: evidence.Vulnerability, ID: evil, Severity: evil, Title: evil, Package: long, Version: evil, FixedIn: evil, Path: evil})
	r.Layers = []evidence.Layer{{Digest: digest.FromString("layer"), Instruction: evil}}
	m := judged(r)
	m.Family, m.Channel, m.Registry, m.Tag, m.Alone = evil, evil, long+evil, evil, evil
	m.Materials, m.Tools = map[string]string{"os-base" + evil: "javascript:" + evil}, map[string]string{evil: long}
	m.Moves, m.Verify = []string{evil}, []string{evil, long + long}
	m.Stages = []report.Stage{{Name: evil, Seconds: 3}}
	m.History = []release.Step{{Channel: evil, State: release.State{Tag: evil, Version: long, Hold: evil, Moved: release.Moved{By: evil, Reason: long, Action: release.Action(evil)}}}}
	m.Members = []report.Member{{Name: long, Kind: "image", Size: 7, Kept: evil, Platforms: []report.Platform{{Platform: evil, Size: 7, Layers: []report.Layer{{Digest: digest.FromString("layer"), Size: 7, From: evil, Instruction: evil}}}}}}
	for i := range 12 { // a chain that is deeper than any window is wide
		m.Members = append(m.Members, report.Member{Name: fmt.Sprintf("%s%d", evil, i), Kind: "image", From: m.Members[i].Name})
	}
	c := compared()
	m.Compared = &c
	m.Verdict.Refusals = []release.Refusal{{Why: evil + long}}
	m.Verdict.Warnings = []string{evil}
	return m
}
