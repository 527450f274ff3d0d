package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// Evidenced is built content with a report of every cell.
type Evidenced struct {
	Built   Built
	Reports []evidence.Report
}

// Approved is evidenced content that a gate let through. Only [Gate.Approve] makes one that
// Valid accepts: an empty Approved can be written, and is refused by whoever publishes.
type Approved struct {
	set     Evidenced
	channel string
}

// Valid reports whether a gate made this value.
func (a Approved) Valid() bool { return a.channel != "" }

// Built returns what was approved.
func (a Approved) Built() Built { return a.set.Built }

// Reports returns the evidence it was approved on.
func (a Approved) Reports() []evidence.Report { return a.set.Reports }

// Channel returns the channel whose rules approved it.
func (a Approved) Channel() string { return a.channel }

// Gate decides whether evidence suffices for a channel.
type Gate struct {
	Channel string
	Rules   family.Channel
	Images  map[string]family.Image // who stands on whom, so that a finding is told once, where it came in
}

// NewGate returns the gate of a family's channel.
func NewGate(f *family.Family, channel string) (Gate, error) {
	rules, ok := f.Channels[channel]
	if !ok {
		return Gate{}, fault.New(fault.Invalid, "approving", channel, "%s", f.Meant(channel))
	}
	return Gate{channel, rules, f.Images}, nil
}

// Verdict is all that a gate has to say about evidence.
type Verdict struct {
	Findings []Found   `json:"findings"` // what stops the release first
	Refusals []Refusal `json:"refusals"` // what stops it and is no finding
	Warnings []string  `json:"warnings"` // what does not
}

// Refusal is one reason why a gate said no, that is no finding.
type Refusal struct {
	Cell evidence.Cell `json:"cell,omitzero"`
	Why  string        `json:"why"`
}

func (r Refusal) String() string {
	if r.Cell.Image == "" {
		return r.Why
	}
	return r.Cell.String() + ": " + r.Why
}

// Approve judges evidence at the time now, which only waivers look at. It fails with fault.Refused
// and the verdict.
func (g Gate) Approve(e Evidenced, now time.Time) (Approved, error) {
	v := g.Judge(e, now)
	if v.Refuses() {
		return Approved{}, &fault.Error{Op: "approving", Subject: e.Built.Record.Source.Tag() + " for " + g.Channel,
			Kind: fault.Refused, Err: v,
			Hint: "fix what is listed, or add a waiver with id, package or path, reason and expiry to the channel's gate; nothing was published"}
	}
	return Approved{set: e, channel: g.Channel}, nil
}

// Judge checks totality first: exactly the record's cells, each by its own digest. Then the
// findings against the channel's rules, and the waivers against what they waive.
func (g Gate) Judge(e Evidenced, now time.Time) *Verdict {
	v := &Verdict{Refusals: append(g.refuseRelease(e.Built.Record), refuseMissing(e)...), Warnings: []string{}}
	for _, report := range e.Reports {
		v.Refusals = append(v.Refusals, g.refuseReport(report)...)
	}
	v.Findings = origins(e.Reports, g.Images)
	used := map[family.Waiver]bool{}
	for i := range v.Findings {
		g.decide(&v.Findings[i], used, now)
	}
	slices.SortStableFunc(v.Findings, Found.compare)
	g.judgeWaivers(v, e.Reports, used, now)
	return v
}

// Refuses reports whether anything stops the release.
func (v *Verdict) Refuses() bool { return len(v.Refusals) > 0 || v.Blocking() > 0 }

// Blocking counts the findings that stop the release; they are the first.
func (v *Verdict) Blocking() int {
	i := slices.IndexFunc(v.Findings, func(f Found) bool { return !f.Blocking })
	if i < 0 {
		return len(v.Findings)
	}
	return i
}

// maxShown is how many findings, and how many other reasons, an error shows.
const maxShown = 10

// Error says why the release was refused: the worst findings, then the other reasons.
func (v *Verdict) Error() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d findings and %d other reasons:", v.Blocking(), len(v.Refusals))
	for i, f := range v.Findings[:v.Blocking()] {
		if i == maxShown {
			fmt.Fprintf(&out, "\n  … and %d more findings, in findings.sarif and report.html", v.Blocking()-maxShown)
			break
		}
		fmt.Fprintf(&out, "\n  %s", f)
	}
	for i, r := range v.Refusals {
		if i == maxShown {
			fmt.Fprintf(&out, "\n  … and %d more reasons", len(v.Refusals)-maxShown)
			break
		}
		fmt.Fprintf(&out, "\n  %s", r)
	}
	return out.String()
}

func (g Gate) refuseRelease(r Record) []Refusal {
	out := []Refusal{}
	if r.Source.Dirty != "" && !g.Rules.Dirty {
		out = append(out, Refusal{Why: "the work tree has uncommitted changes; this channel takes commits only"})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		if r.Images[name].Cached && !g.Rules.Gate.Cache {
			out = append(out, Refusal{Why: name + " was built with a cache that other machines fill; this channel wants what was built without: unset CONTAINAI_CACHE, remove dist/ of this commit and build it again"})
		}
	}
	if r.LocalBase && !g.Rules.Gate.LocalBase {
		out = append(out, Refusal{Why: "the OS base was made from a mirror; this channel wants the pinned base image"})
	}
	return append(out, refuseSecrets(r)...)
}

// refuseSecrets looks through what the record and the provenance of its images tell everybody. The
// builder refuses such arguments itself; a record may come from another machine.
func refuseSecrets(r Record) (out []Refusal) {
	for _, image := range slices.Sorted(maps.Keys(r.Images)) {
		arguments := r.Images[image].Arguments
		for _, name := range slices.Sorted(maps.Keys(arguments)) {
			if evidence.LooksSecret(name, arguments[name]) {
				out = append(out, Refusal{Why: fmt.Sprintf("build argument %s of %s looks like a secret, and would stand in record and provenance", name, image)})
			}
		}
	}
	for _, m := range slices.Concat(r.Materials, r.Verifiers) {
		if evidence.LooksSecret("", m.URI) {
			out = append(out, Refusal{Why: fmt.Sprintf("the address of %s looks like it holds a secret, and would stand in record and provenance", m.Name)})
		}
	}
	return out
}

func refuseMissing(e Evidenced) (out []Refusal) {
	seen := map[evidence.Cell]bool{}
	for _, report := range e.Reports {
		want, ok := e.Built.Record.Digest(report.Cell)
		switch {
		case !ok:
			out = append(out, Refusal{report.Cell, "a report speaks of a cell that was not built"})
		case report.Digest != want.Digest:
			out = append(out, Refusal{report.Cell, fmt.Sprintf("the report is about %s, built was %s", report.Digest, want.Digest)})
		case seen[report.Cell]:
			out = append(out, Refusal{report.Cell, "there are two reports"})
		}
		seen[report.Cell] = true
	}
	for _, cell := range e.Built.Record.Cells() {
		if !seen[cell] {
			out = append(out, Refusal{cell, "it was not inspected"})
		}
	}
	return append(out, refuseUntested(e)...)
}

// refuseUntested: where the family file is known that it was built by, each smoke test has one result.
func refuseUntested(e Evidenced) (out []Refusal) {
	if e.Built.Plan.Family == nil {
		return nil
	}
	for _, report := range e.Reports {
		lacking := map[string]int{}
		for _, test := range e.Built.Plan.Family.Images[report.Cell.Image].Smoke {
			lacking[test.Name]++
		}
		for _, r := range report.Smoke {
			lacking[r.Name]--
		}
		for _, name := range slices.Sorted(maps.Keys(lacking)) {
			if lacking[name] != 0 {
				out = append(out, Refusal{report.Cell, fmt.Sprintf("smoke test %q is declared %d times more than it has results", name, lacking[name])})
			}
		}
	}
	return out
}

func (g Gate) refuseReport(r evidence.Report) (out []Refusal) {
	no := func(format string, args ...any) { out = append(out, Refusal{r.Cell, fmt.Sprintf(format, args...)}) }
	if r.Secrets != evidence.Scanned {
		no("its secrets were not scanned")
	}
	switch r.Vulnerabilities {
	case evidence.Scanned:
	case evidence.NotScanned:
		if !g.Rules.Gate.Unscanned {
			no("its vulnerabilities are NOT SCANNED: %s", r.Reason)
		}
	default:
		no("its report does not say whether vulnerabilities were scanned")
	}
	if r.SBOM == "" {
		no("it has no SBOM")
	}
	for _, s := range r.Smoke {
		if !s.Passed {
			no("smoke test %q exited %d%s", s.Name, s.Exit, quoted(s.Output))
		}
	}
	return out
}

// maxQuoted is how many lines of a failed test's output are shown.
const maxQuoted = 12

// quoted sets output apart from what is said about it.
func quoted(output string) string {
	if output = strings.TrimSpace(output); output == "" {
		return " and printed nothing"
	}
	lines := strings.Split(output, "\n")
	if more := len(lines) - maxQuoted; more > 0 {
		lines = append(lines[:maxQuoted], fmt.Sprintf("… and %d more lines, in scan.json", more))
	}
	return ":\n    | " + strings.Join(lines, "\n    | ")
}

// refuses: a secret always; a vulnerability by severity and, unless the rules say so, only when
// a fixed version exists. What is neither is refused: nobody knows what it is.
func (g Gate) refuses(f evidence.Finding) bool {
	switch f.Kind {
	case evidence.Vulnerability:
		return slices.Contains(g.Rules.Gate.Severities, f.Severity) && (f.FixedIn != "" || g.Rules.Gate.Unfixed)
	default:
		return true
	}
}

// decide says whether a finding stops the release, and which waiver keeps it from doing so.
func (g Gate) decide(f *Found, used map[family.Waiver]bool, now time.Time) {
	if !g.refuses(f.Finding) {
		return
	}
	f.Blocking = true
	for _, w := range g.Rules.Gate.Waivers {
		if now.Before(w.Expires) && covers(w, *f) {
			f.Blocking, f.Waiver = false, w.Source
			used[w] = true
		}
	}
}
