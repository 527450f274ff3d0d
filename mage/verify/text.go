package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/internal/term"
)

// What people read of a verification; scripts read the values as JSON.

// String lists every check that was made. What was not found by way of a channels document may be
// genuine and old, and says so.
func (r Result) String() string {
	table := term.Table{}
	for _, c := range r.Checks {
		table.Rows = append(table.Rows, []string{"✓", c.Subject, c.What, c.Found})
	}
	text := fmt.Sprintf("%s\n%s verified: %d checks, all hold (%s)\n", table, term.Escape(r.Subject), len(r.Checks), r.Digest)
	if r.Generation == 0 {
		text += "this is its origin, not its currency: for that, verify:channel\n"
	}
	return text
}

// SBOMs are an image's verified SBOMs, by platform, and what its scans found.
type SBOMs struct {
	Result     Result                     `json:"-"`
	Documents  map[string]json.RawMessage `json:"documents"` // CycloneDX
	Scans      []evidence.Report          `json:"scans"`     // as they were attested
	Components map[string][]Component     `json:"-"`
}

// SBOMs verifies an image, named "[host/owner/]name[:tag|@digest]", and reads its SBOMs.
func (v *Verifier) SBOMs(ctx context.Context, reference string, now time.Time) (SBOMs, error) {
	name, at := SplitReference(reference)
	result, documents, err := v.SBOM(ctx, name, at, now)
	s := SBOMs{result, map[string]json.RawMessage{}, result.Reports(), map[string][]Component{}}
	for platform, content := range documents {
		if err == nil {
			s.Documents[platform] = content
			s.Components[platform], err = Components(content)
		}
	}
	return s, err
}

// Since returns, for each platform of either, what is not as it was before.
func (s SBOMs) Since(before SBOMs) map[string][]Change {
	changes := map[string][]Change{}
	for _, platform := range slices.Concat(slices.Collect(maps.Keys(before.Components)), slices.Collect(maps.Keys(s.Components))) {
		changes[platform] = Compare(before.Components[platform], s.Components[platform])
	}
	return changes
}

// String lists the checks, the components of each platform, and what was found in them.
func (s SBOMs) String() string {
	var out strings.Builder
	out.WriteString(s.Result.String())
	for _, platform := range slices.Sorted(maps.Keys(s.Components)) {
		table := term.Table{Head: []string{"component", "version", "type", "licences"}}
		for _, c := range s.Components[platform] {
			table.Rows = append(table.Rows, []string{c.Name, c.Version, c.Type, strings.Join(c.Licences, ", ")})
		}
		fmt.Fprintf(&out, "\n%s: %d components\n%s", term.Escape(platform), len(s.Components[platform]), table)
	}
	out.WriteString(findingsText(s.Scans))
	return out.String()
}

// findingsText tells what the attested scans found: when the image was released, by the database of
// that day. A newer database has to scan the image anew.
func findingsText(reports []evidence.Report) string {
	var out strings.Builder
	if len(reports) == 0 {
		out.WriteString("\nno scan was attested: whether there are findings is not known\n")
	}
	for _, r := range reports {
		coverage := "vulnerabilities by the database " + r.Database
		if r.Vulnerabilities != evidence.Scanned {
			coverage = "vulnerabilities NOT SCANNED: " + r.Reason
		}
		table := term.Table{Head: []string{"severity", "finding", "package", "version", "fixed in"}}
		for _, f := range r.Findings {
			table.Rows = append(table.Rows, []string{f.Severity, f.ID, cmp.Or(f.Package, f.Path), f.Version, f.FixedIn})
		}
		fmt.Fprintf(&out, "\n%s: %d findings when it was released; secrets, and %s\n%s", term.Escape(r.Cell.Platform), len(r.Findings), term.Escape(coverage), table)
	}
	return out.String()
}

// ChangesText lists, for each platform, what changed from one reference to another.
func ChangesText(before, after string, platforms map[string][]Change) string {
	var out strings.Builder
	for _, platform := range slices.Sorted(maps.Keys(platforms)) {
		table := term.Table{Head: []string{"component", "type", before, after}}
		for _, c := range platforms[platform] {
			table.Rows = append(table.Rows, []string{c.Name, c.Type, c.Before, c.After})
		}
		fmt.Fprintf(&out, "\n%s: %d changes\n%s", term.Escape(platform), len(platforms[platform]), table)
	}
	return out.String()
}

// ResultsText lists the checks of several results.
func ResultsText(results []Result) string {
	var out strings.Builder
	for _, r := range results {
		out.WriteString(r.String())
	}
	return out.String()
}

// SplitReference takes "[host/owner/]name[:tag|@digest]" apart; without a tag it is dev.
func SplitReference(reference string) (name, at string) {
	reference = reference[strings.LastIndex(reference, "/")+1:]
	if name, at, ok := strings.Cut(reference, "@"); ok {
		return name, at
	}
	if name, at, ok := strings.Cut(reference, ":"); ok {
		return name, at
	}
	return reference, "dev"
}
