package release

import (
	"fmt"
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
}

// Refusal is one reason why a gate said no.
type Refusal struct {
	Cell evidence.Cell
	Why  string
}

func (r Refusal) String() string {
	if r.Cell.Image == "" {
		return r.Why
	}
	return r.Cell.String() + ": " + r.Why
}

// Refusals is every reason why a gate said no, as an error.
type Refusals struct{ List []Refusal }

func (r *Refusals) Error() string {
	lines := make([]string, len(r.List))
	for i, refusal := range r.List {
		lines[i] = "  " + refusal.String()
	}
	return fmt.Sprintf("%d findings:\n%s", len(lines), strings.Join(lines, "\n"))
}

// Approve checks totality first: exactly the record's cells, each by its own digest. Then the
// findings against the channel's rules at the time now, which only waivers look at. It fails
// with fault.Refused and every reason.
func (g Gate) Approve(e Evidenced, now time.Time) (Approved, error) {
	refusals := append(g.refuseRelease(e.Built.Record), g.refuseMissing(e)...)
	for _, report := range e.Reports {
		refusals = append(refusals, g.refuseReport(report, now)...)
	}
	if len(refusals) > 0 {
		return Approved{}, &fault.Error{Op: "approving", Subject: e.Built.Record.Source.Tag() + " for " + g.Channel,
			Kind: fault.Refused, Err: &Refusals{refusals},
			Hint: "fix what is listed, or add a waiver with id, reason and expiry to the channel's gate; nothing was published"}
	}
	return Approved{set: e, channel: g.Channel}, nil
}

func (g Gate) refuseRelease(r Record) (out []Refusal) {
	if r.Source.Dirty != "" && !g.Rules.Dirty {
		out = append(out, Refusal{Why: "the work tree has uncommitted changes; this channel takes commits only"})
	}
	if r.LocalBase && !g.Rules.Gate.LocalBase {
		out = append(out, Refusal{Why: "the OS base was made from a mirror; this channel wants the pinned base image"})
	}
	return out
}

func (g Gate) refuseMissing(e Evidenced) (out []Refusal) {
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
	return out
}

func (g Gate) refuseReport(r evidence.Report, now time.Time) (out []Refusal) {
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
			no("smoke test %q exited %d: %s", s.Name, s.Exit, firstLine(s.Output))
		}
	}
	for _, f := range r.Findings {
		if g.refuses(f) && !g.waived(f.ID, now) {
			no("%s", describe(f))
		}
	}
	return out
}

// refuses: a secret always; a vulnerability by severity and, unless the rules say so, only when
// a fixed version exists.
func (g Gate) refuses(f evidence.Finding) bool {
	switch f.Kind {
	case evidence.Vulnerability:
		return slices.Contains(g.Rules.Gate.Severities, f.Severity) && (f.FixedIn != "" || g.Rules.Gate.Unfixed)
	default:
		return true
	}
}

func (g Gate) waived(id string, now time.Time) bool {
	return slices.ContainsFunc(g.Rules.Gate.Waivers, func(w family.Waiver) bool {
		return w.ID == id && now.Before(w.Expires)
	})
}

func describe(f evidence.Finding) string {
	switch f.Kind {
	case evidence.Secret:
		return fmt.Sprintf("secret %s (%s) in %s of layer %s", f.ID, f.Title, f.Path, f.Layer)
	case evidence.Vulnerability:
		return fmt.Sprintf("%s %s in %s %s, fixed in %s: %s", f.Severity, f.ID, f.Package, f.Version, orNone(f.FixedIn), f.Title)
	}
	return f.ID + " " + f.Title
}

func orNone(s string) string {
	if s == "" {
		return "no version"
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
