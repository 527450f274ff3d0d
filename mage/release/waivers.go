package release

import (
	"fmt"
	"slices"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// covers: everything that a waiver names is what the finding says, to the letter. One that names
// neither package nor path covers nothing, wherever it came from.
func covers(w family.Waiver, f Found) bool {
	kind := evidence.Vulnerability
	if w.OfSecret() {
		kind = evidence.Secret
	}
	if f.Kind != kind || w.ID != f.ID || w.Package == "" && w.Path == "" {
		return false
	}
	if w.PURL != "" {
		w.Version = "" // is in there
	}
	if !w.Names(f.PURL, f.Version) {
		return false
	}
	for _, pair := range [][2]string{{w.Image, f.Cell.Image}, {w.Package, f.Package}, {w.Version, f.Version}, {w.Path, f.Path}} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// judgeWaivers: one that expired stops the release, though nothing needs it, so that somebody decides
// again. One that keeps nothing from stopping it is left over from something else: the rules say
// whether that is an error. Whose vulnerabilities were not scanned, nobody knows about.
func (g Gate) judgeWaivers(v *Verdict, reports []evidence.Report, used map[family.Waiver]bool, now time.Time) {
	unscanned := slices.ContainsFunc(reports, func(r evidence.Report) bool { return r.Vulnerabilities != evidence.Scanned })
	for _, w := range g.Rules.Gate.Waivers {
		switch {
		case !now.Before(w.Expires):
			v.Refusals = append(v.Refusals, Refusal{Why: fmt.Sprintf("%s expired on %s: remove it, or decide again until when it holds", w, w.Expires.Format(time.DateOnly))})
		case used[w] || unscanned && !w.OfSecret():
		case g.Rules.Gate.Unused:
			v.Warnings = append(v.Warnings, w.String()+" waives nothing: remove it")
		default:
			v.Refusals = append(v.Refusals, Refusal{Why: w.String() + " waives nothing: remove it"})
		}
	}
}
