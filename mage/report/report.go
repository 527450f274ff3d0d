// Package report shows a release to people and scripts: one model, three faces.
//
// A [Model] is made once at the end of a command; [Model.JSON], [Model.Markdown] and [Model.HTML]
// print it. Invariant: the three say the same, a cell that was not scanned is never shown as
// clean, and every text that came from outside is escaped for the face it appears on.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	Stages     []Stage           `json:"stages"`             // in order of their beginning
	History    []release.Step    `json:"history"`            // the channel's newest, as far as the page shows it
	Compared   *Comparison       `json:"compared,omitempty"` // with what the channel served before
	Alone      string            `json:"alone,omitempty"`    // why it is compared with nothing
	Verify     []string          `json:"verify"`             // commands that check it, when a channel serves it
}

// Stage is when a stage of this run began, and how long it took. Stages may overlap.
type Stage struct {
	Name    string  `json:"name"`
	After   float64 `json:"after"` // seconds since the run began
	Seconds float64 `json:"seconds"`
}

// Took is how long a stage took, for people.
func (s Stage) Took() string {
	return time.Duration(s.Seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
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
	Kind   string        `json:"kind,omitempty"` // "image", or the artifact's
	From   string        `json:"from,omitempty"` // the image that an image is built on
	Size   int64         `json:"size,omitempty"` // bytes of all layers on all platforms, as transferred
	Kept   string        `json:"kept,omitempty"` // of an earlier release: what was not done again, and why
	Anew   string        `json:"anew,omitempty"` // why it was built, where an earlier release has it

	Platforms []Platform `json:"platforms,omitempty"` // one without a name for an artifact
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
	m := Model{Family: r.Family, Tag: r.Source.Tag(), Commit: r.Source.Commit, Tools: map[string]string{}, Materials: map[string]string{}, Moves: []string{}, Cells: []Cell{}, Checks: []Check{}, Stages: []Stage{}, History: []release.Step{}, Verify: []string{}}
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

// ShortTag is the immutable tag as people compare it.
func (m Model) ShortTag() string { return short(m.Tag) }

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
	for _, told := range m.told() {
		line("\n%s.", escape(told))
	}
	m.cellsMarkdown(line, escape)
	if n := m.NotScanned(); n > 0 {
		line("\n**%d of %d cells: vulnerabilities NOT SCANNED.** They are not known to be clean.", n, len(m.Cells))
		for _, why := range m.unscanned() {
			line("\n- %s", escape(why))
		}
	}
	line("\nRegistry %s: %s in %s.", escape(m.Registry), m.Requests, m.Duration())
	return out.Bytes()
}

// told says what became of images that an earlier release has: those with one reason in one line.
func (m Model) told() []string {
	var lines []string
	images := map[string][]string{}
	add := func(verb, name, why string) {
		key := verb + " %s: " + why
		if why != "" && images[key] == nil {
			lines = append(lines, key)
		}
		images[key] = append(images[key], name)
	}
	for _, member := range m.Members {
		add("Kept", member.Name, member.Kept)
		add("Built", member.Name, member.Anew)
	}
	for i, key := range lines {
		lines[i] = strings.Replace(key, "%s", strings.Join(images[key], ", "), 1)
	}
	return lines
}

// cellsMarkdown is the table of the cells, one a line, with a column for each check.
func (m Model) cellsMarkdown(line func(string, ...any), escape func(string) string) {
	for i, c := range m.Checks {
		if i == 0 {
			line("\n| image | platform | packages | secrets | vulnerabilities | smoke | took | digest |\n|---|---|---|---|---|---|---|---|")
		}
		if i%cellChecks != 0 {
			continue
		}
		row := []string{c.Image, c.Platform}
		for _, check := range m.Checks[i : i+cellChecks] {
			result, _, _ := strings.Cut(check.Result, ":") // why nobody looked is told below
			row = append(row, strings.TrimSuffix(strings.TrimSuffix(result, " passed"), " packages"))
		}
		row = append(row, tookInAll(m.Checks[i:i+cellChecks]))
		for j := range row {
			row[j] = escape(row[j])
		}
		line("| %s | `%s` |", strings.Join(row, " | "), c.Digest.String()[:min(len(c.Digest), len("sha256:")+12)])
	}
}

// tookInAll is how long a cell's checks took, and where the results come from that took nothing now.
func tookInAll(checks []Check) string {
	var parts []string
	seconds := 0.0
	for _, c := range checks {
		if c.Source == Looked {
			seconds += c.Seconds
		} else if !slices.Contains(parts, string(c.Source)) {
			parts = append(parts, string(c.Source))
		}
	}
	if seconds > 0 || len(parts) == 0 {
		parts = append([]string{time.Duration(seconds * float64(time.Second)).Round(10 * time.Millisecond).String()}, parts...)
	}
	return strings.Join(parts, ", ")
}

// unscanned says which cells nobody looked at, and why, once for each reason.
func (m Model) unscanned() []string {
	var lines []string
	cells := map[string][]string{}
	for _, c := range m.Cells {
		if !c.NotScanned {
			continue
		}
		if cells[c.Vulns] == nil {
			lines = append(lines, c.Vulns)
		}
		cells[c.Vulns] = append(cells[c.Vulns], c.Image+" "+c.Platform)
	}
	for i, why := range lines {
		if len(cells[why]) < len(m.Cells) {
			lines[i] = why + " (" + strings.Join(cells[why], ", ") + ")"
		}
	}
	return lines
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
