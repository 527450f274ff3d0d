// Package report shows a release to people and scripts: one model, three faces.
//
// A [Model] is made once at the end of a command; [Model.JSON], [Model.Markdown] and [Model.HTML]
// print it. Invariant: the three say the same, a cell that was not scanned is never shown as
// clean, and every text that came from outside is escaped for the face it appears on.
package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/release"
)

// Model is what a release did and what it holds.
type Model struct {
	Family     string            `json:"family"`
	Tag        string            `json:"tag"`
	Commit     string            `json:"commit"`
	Channel    string            `json:"channel,omitempty"`
	Registry   string            `json:"registry"` // host[:port]/owner
	Reached    string            `json:"reached"`  // the last stage that was completed
	Unchanged  bool              `json:"unchanged"`
	Adopted    bool              `json:"adopted"`
	Generation uint64            `json:"generation,omitempty"`
	Tagged     int               `json:"tagged"`
	Attested   int               `json:"attested"`
	Moves      []string          `json:"moves"`
	Members    []Member          `json:"members"`
	Cells      []Cell            `json:"cells"`
	Checks     []Check           `json:"checks"`            // of every cell, every one
	Verdict    *release.Verdict  `json:"verdict,omitempty"` // of the channel's gate, if it was asked
	Materials  map[string]string `json:"materials"`         // name → URI and digest
	Tools      map[string]string `json:"tools"`
	Requests   Requests          `json:"requests"`
	Seconds    float64           `json:"seconds"`
}

// Requests counts what was asked of the registry: API calls are a budget.
type Requests struct {
	Reads    int            `json:"reads"`
	Writes   int            `json:"writes"`
	Calls    map[string]int `json:"calls"`     // "PUT manifests" → how many
	Repeats  int            `json:"repeats"`   // of them, sent again after a failure or a limit
	WaitedMS int64          `json:"waited_ms"` // for the registry, summed over requests
}

// String says it in a line.
func (r Requests) String() string {
	s := fmt.Sprintf("%d reads, %d writes", r.Reads, r.Writes)
	if r.Repeats > 0 {
		s += fmt.Sprintf(" (%d repeated, %s waited)", r.Repeats, time.Duration(r.WaitedMS)*time.Millisecond)
	}
	return s
}

// Member is one image or artifact of the release.
type Member struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size,omitempty"` // bytes of all layers on all platforms, as transferred
	Kept   string        `json:"kept,omitempty"` // of an earlier release: what was not done again, and why
	Anew   string        `json:"anew,omitempty"` // why it was built, where an earlier release has it
}

// Cell is the inspection of one image on one platform, in short.
type Cell struct {
	Image      string             `json:"image"`
	Platform   string             `json:"platform"`
	Packages   int                `json:"packages"`
	Secrets    string             `json:"secrets"`         // "none", "NOT SCANNED" or a count
	Vulns      string             `json:"vulnerabilities"` // by severity, "none" or "NOT SCANNED: why"
	Smoke      string             `json:"smoke"`
	NotScanned bool               `json:"notScanned"`
	Findings   []evidence.Finding `json:"findings"`
}

// New makes the model of a record and its reports; the caller adds what the run did.
func New(r release.Record, reports []evidence.Report) Model {
	m := Model{Family: r.Family, Tag: r.Source.Tag(), Commit: r.Source.Commit, Tools: map[string]string{}, Materials: map[string]string{}, Moves: []string{}, Cells: []Cell{}, Checks: []Check{}}
	maps.Copy(m.Tools, r.Tools)
	members := r.Members()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		m.Members = append(m.Members, Member{Name: name, Digest: members[name].Digest, Kept: kept(r.Images[name])})
	}
	for _, material := range r.Materials {
		m.Materials[material.Name] = material.URI
	}
	for _, report := range reports {
		for name, version := range report.Tools {
			m.Tools[name] = version
		}
		m.Cells = append(m.Cells, newCell(report))
		m.Checks = append(m.Checks, newChecks(report)...)
	}
	return m
}

// Tell adds why images were built that an earlier release has.
func (m *Model) Tell(decisions []release.Decision) {
	for _, d := range decisions {
		i := slices.IndexFunc(m.Members, func(member Member) bool { return member.Name == d.Image })
		if i >= 0 && !d.Keep {
			m.Members[i].Anew = d.Why
		}
	}
}

// kept says of an image that an earlier release made what was not done again.
func kept(i release.Image) string {
	switch {
	case i.Built == "":
		return ""
	case i.Inspected == "":
		return "what it is made from did not change since commit " + i.Built[:12] + ": not built; scanned and its scan signed again"
	}
	return "what it is made from did not change since commit " + i.Built[:12] + ": not built, not scanned, not signed"
}

func newCell(r evidence.Report) Cell {
	c := Cell{Image: r.Cell.Image, Platform: r.Cell.Platform, Packages: r.Packages, Findings: r.Findings}
	c.Secrets = count(r, evidence.Secret, r.Secrets)
	c.Vulns = count(r, evidence.Vulnerability, r.Vulnerabilities)
	if r.Vulnerabilities != evidence.Scanned {
		c.NotScanned = true
		c.Vulns = "NOT SCANNED: " + r.Reason
	}
	passed := 0
	for _, s := range r.Smoke {
		if s.Passed {
			passed++
		}
	}
	c.Smoke = fmt.Sprintf("%d of %d", passed, len(r.Smoke))
	return c
}

// notScanned reports whether a result says that nobody looked.
func notScanned(result string) bool { return strings.HasPrefix(result, "NOT SCANNED") }

// count prints findings of a kind by severity, worst first.
func count(r evidence.Report, kind evidence.FindingKind, coverage evidence.Coverage) string {
	if coverage != evidence.Scanned {
		return "NOT SCANNED"
	}
	bySeverity := map[string]int{}
	for _, f := range r.Findings {
		if f.Kind == kind {
			bySeverity[f.Severity]++
		}
	}
	var parts []string
	for _, severity := range []string{"CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"} {
		if n := bySeverity[severity]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(severity)))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Headline says in one sentence what happened.
func (m Model) Headline() string {
	switch {
	case m.Unchanged:
		return fmt.Sprintf("%s serves %s already: nothing to do, nothing written.", m.Channel, short(m.Tag))
	case m.Reached == "promote":
		return fmt.Sprintf("%s serves %s since generation %d.", m.Channel, short(m.Tag), m.Generation)
	case m.Reached == "":
		return fmt.Sprintf("%s was not built.", short(m.Tag))
	}
	return fmt.Sprintf("%s got as far as %s; nothing was promoted.", short(m.Tag), m.Reached)
}

// short cuts the commit in an immutable tag to the twelve digits people compare.
func short(tag string) string {
	rest, ok := strings.CutPrefix(tag, "sha-")
	if !ok || len(rest) < 40 {
		return tag
	}
	return "sha-" + rest[:12] + rest[40:]
}

// NotScanned returns how many cells' vulnerabilities were not scanned.
func (m Model) NotScanned() int {
	n := 0
	for _, c := range m.Cells {
		if c.NotScanned {
			n++
		}
	}
	return n
}

// Duration is the run's wall time, rounded for people.
func (m Model) Duration() time.Duration {
	return time.Duration(m.Seconds * float64(time.Second)).Round(100 * time.Millisecond)
}

// JSON returns the model as one document.
func (m Model) JSON() ([]byte, error) {
	content, err := json.MarshalIndent(m, "", "  ")
	return append(content, '\n'), err
}

// Markdown returns summary.md; escape makes text from outside safe for Markdown.
func (m Model) Markdown(escape func(string) string) []byte {
	var out bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	line("# %s %s\n\n%s\n", escape(m.Family), short(m.Tag), escape(m.Headline()))
	m.verdictMarkdown(line, escape)
	line("| member | digest |\n|---|---|")
	for _, member := range m.Members {
		line("| %s | `%s` |", escape(member.Name), member.Digest)
	}
	for _, member := range m.Members {
		if member.Kept != "" {
			line("\nKept %s: %s.", escape(member.Name), escape(member.Kept))
		}
		if member.Anew != "" {
			line("\nBuilt %s: %s.", escape(member.Name), escape(member.Anew))
		}
	}
	if len(m.Checks) > 0 {
		line("\n| image | platform | check | result | took | digest |\n|---|---|---|---|---|---|")
		for _, c := range m.Checks {
			line("| %s | %s | %s | %s | %s | `%s` |", escape(c.Image), escape(c.Platform), c.Check, escape(c.Result), c.Took(), c.Digest)
		}
	}
	if n := m.NotScanned(); n > 0 {
		line("\n**%d of %d cells: vulnerabilities NOT SCANNED.** They are not known to be clean.", n, len(m.Cells))
	}
	line("\nRegistry %s: %s in %s.", escape(m.Registry), m.Requests, m.Duration())
	return out.Bytes()
}

// maxListed is how many findings the summary lists.
const maxListed = 10

// verdictMarkdown tells why the gate said no, the worst first, and what it warned about.
func (m Model) verdictMarkdown(line func(string, ...any), escape func(string) string) {
	if m.Verdict == nil {
		return
	}
	if m.Verdict.Refuses() {
		line("**The gate of %s said no:** %d findings and %d other reasons.\n", escape(m.Channel), m.Verdict.Blocking(), len(m.Verdict.Refusals))
	}
	blocking := m.Verdict.Findings[:m.Verdict.Blocking()]
	if len(blocking) > 0 {
		line("| severity | id | where | fixed in | came in with | inherited by |\n|---|---|---|---|---|---|")
	}
	for i, f := range blocking {
		if i == maxListed {
			line("\nand %d more, in report.html and findings.sarif.", len(blocking)-maxListed)
			break
		}
		line("| %s | %s | %s | %s | %s | %s |", escape(f.Severity), escape(f.ID), escape(f.Where()), escape(f.FixedIn),
			escape(f.Cell.String()+" "+f.Instruction), escape(strings.Join(f.Inherited, ", ")))
	}
	for _, r := range m.Verdict.Refusals {
		line("\n- %s", escape(r.String()))
	}
	for _, w := range m.Verdict.Warnings {
		line("\n- warning: %s", escape(w))
	}
	line("")
}

//go:embed page.html
var page string

// HTML returns report.html: one self-contained page, no script, nothing loaded from elsewhere.
func (m Model) HTML() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"short": short, "notScanned": notScanned}).Parse(page)
	if err != nil {
		return nil, fmt.Errorf("parsing page: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, m)
	return out.Bytes(), err
}
