package inspect

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// expected is what the report of one target must state to be believed.
type expected struct {
	cell     evidence.Cell
	digest   digest.Digest
	tools    map[string]string
	database Database // zero: there is none, and nothing can be clean
}

// check reads the evidence in dir and returns the report if it is complete and about the target.
func (e expected) check(dir string) (evidence.Report, error) {
	content, err := readFile(filepath.Join(dir, ReportFile), MaxReport)
	if errors.Is(err, fs.ErrNotExist) {
		return evidence.Report{}, e.fail(fault.Refused, "it was not inspected: there is no %s", ReportFile)
	}
	if err != nil {
		return evidence.Report{}, e.fail(fault.Refused, "reading its report: %w", err)
	}
	report, err := DecodeReport(content)
	if err != nil {
		return evidence.Report{}, e.fail(fault.Forged, "%w", err)
	}
	if err := e.checkReport(report); err != nil {
		return evidence.Report{}, err
	}
	if err := e.checkSBOM(report, filepath.Join(dir, SBOMFile)); err != nil {
		return evidence.Report{}, err
	}
	return report, nil
}

// DecodeReport reads a report strictly.
func DecodeReport(content []byte) (evidence.Report, error) {
	var report evidence.Report
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		return evidence.Report{}, fault.Wrap(err, fault.Forged, "decoding", ReportFile)
	}
	if decoder.More() {
		return evidence.Report{}, fault.New(fault.Forged, "decoding", ReportFile, "there is more after it")
	}
	report.Smoke = []evidence.SmokeResult{} // the pipeline's to say, not the worker's
	if report.Findings == nil {
		report.Findings = []evidence.Finding{}
	}
	return report, nil
}

func (e expected) checkReport(r evidence.Report) error {
	switch {
	case r.Cell != e.cell:
		return e.fail(fault.Forged, "its report speaks about %s", Printable(r.Cell.String()))
	case r.Digest != e.digest:
		return e.fail(fault.Forged, "its report speaks about %s, want %s", Printable(r.Digest.String()), e.digest)
	case r.Secrets != evidence.Scanned:
		return e.fail(fault.Refused, "secrets were not looked for")
	case r.Database != e.database.String() || r.DatabaseDigest != e.database.Digest:
		return e.fail(fault.Refused, "it was compared with database %q %s, want %q %s", Printable(r.Database), Printable(r.DatabaseDigest.String()), e.database, e.database.Digest)
	case r.Packages < 0:
		return e.fail(fault.Forged, "%d packages", r.Packages)
	}
	for name, version := range e.tools {
		if r.Tools[name] != version {
			return e.fail(fault.Refused, "%s %q made its report, want %q", name, Printable(r.Tools[name]), version)
		}
	}
	for name, best := range map[string]string{ToolIsolation: Isolated, ToolView: ReadOnly, ToolPrivileges: Unprivileged, ToolLimits: Limits(maxMemory)} {
		if said := r.Tools[name]; said != best && !strings.HasPrefix(said, "none: ") {
			return e.fail(fault.Refused, "its report says %q of the scanner's %s, want %q or why not", Printable(said), name, best)
		}
	}
	if err := e.checkCoverage(r); err != nil {
		return err
	}
	return e.checkFindings(r)
}

func (e expected) checkCoverage(r evidence.Report) error {
	switch {
	case r.Vulnerabilities == evidence.NotScanned && r.Reason != "":
		return nil
	case r.Vulnerabilities == evidence.Scanned && e.database.Dir != "" && r.Reason == "":
		return nil
	case r.Vulnerabilities == evidence.Scanned && e.database.Dir == "":
		return e.fail(fault.Forged, "its report calls vulnerabilities scanned without a database")
	}
	return e.fail(fault.Forged, "its report does not say whether vulnerabilities were scanned, and why not")
}

// checkFindings: they are sorted, of a kind we know, and in a layer that the report lists.
func (e expected) checkFindings(r evidence.Report) error {
	if len(r.Layers) == 0 {
		return e.fail(fault.Forged, "its report lists no layers")
	}
	if !slices.IsSortedFunc(r.Findings, CompareFindings) {
		return e.fail(fault.Forged, "its findings are not sorted")
	}
	layers := map[digest.Digest]bool{"": true}
	for _, layer := range r.Layers {
		layers[layer.Digest] = true
	}
	for _, f := range r.Findings {
		known := f.Kind == evidence.Secret || f.Kind == evidence.Vulnerability
		if !known || f.ID == "" || severityRank(f.Severity) == 0 {
			return e.fail(fault.Forged, "a finding of kind %q, id %q and severity %q", Printable(string(f.Kind)), Printable(f.ID), Printable(f.Severity))
		}
		if !layers[f.Layer] || f.Kind == evidence.Secret && f.Path == "" {
			return e.fail(fault.Forged, "finding %q is in layer %q and path %q, which it does not have", Printable(f.ID), Printable(f.Layer.String()), Printable(f.Path))
		}
	}
	return nil
}

// checkSBOM proves that the file is the document the report states, about the same digest.
func (e expected) checkSBOM(r evidence.Report, path string) error {
	content, err := readFile(path, MaxSBOM)
	if err != nil {
		return e.fail(fault.Refused, "reading its SBOM: %w", err)
	}
	if got := digest.FromBytes(content); got != r.SBOM {
		return e.fail(fault.Forged, "its SBOM is %s, its report states %q", got, Printable(r.SBOM.String()))
	}
	var bom struct {
		Format       string `json:"bomFormat"`
		SerialNumber string `json:"serialNumber"`
		Metadata     struct {
			Component struct{ Version string }
		}
		Components []struct{ Type string }
	}
	if err := json.Unmarshal(content, &bom); err != nil {
		return e.fail(fault.Forged, "decoding its SBOM: %w", err)
	}
	packages := 0
	for _, c := range bom.Components {
		if c.Type != "operating-system" {
			packages++
		}
	}
	switch {
	case bom.Format != "CycloneDX":
		return e.fail(fault.Forged, "its SBOM has format %q", Printable(bom.Format))
	case bom.SerialNumber != SerialNumber(e.digest) || bom.Metadata.Component.Version != e.digest.String():
		return e.fail(fault.Forged, "its SBOM speaks about %q", Printable(bom.Metadata.Component.Version))
	case packages != r.Packages:
		return e.fail(fault.Forged, "its SBOM has %d packages, its report states %d", packages, r.Packages)
	}
	return nil
}

func (e expected) fail(kind fault.Kind, format string, args ...any) error {
	return fault.New(kind, "checking evidence of", e.cell.String(), format, args...)
}

// CompareFindings orders findings by kind, falling severity, id, path and the rest.
func CompareFindings(a, b evidence.Finding) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(severityRank(b.Severity), severityRank(a.Severity)),
		cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Package, b.Package),
		cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.Title, b.Title),
	)
}

// severityRank orders severities; zero is none.
func severityRank(severity string) int {
	return 1 + slices.Index([]string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}, severity)
}
