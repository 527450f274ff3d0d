package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// truth is what is expected of one cell, and evidence that satisfies it.
func truth() (expected, evidence.Report, string) {
	subject := digest.FromString("manifest")
	want := expected{
		cell:     evidence.Cell{Image: "app", Platform: "linux/amd64"},
		digest:   subject,
		tools:    map[string]string{ToolSyft: "v1", ToolTrivy: "v2", ToolInspect: Revision, ToolModules: "sha256:m"},
		database: Database{Dir: "db", Digest: digest.FromString("database"), Made: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
	}
	bom := fmt.Sprintf(`{"bomFormat":"CycloneDX","serialNumber":%q,"metadata":{"component":{"version":%q}},"components":[{"type":"library"},{"type":"operating-system"}]}`, SerialNumber(subject), subject)
	report := evidence.Report{
		Cell: want.cell, Digest: subject,
		Tools:   map[string]string{ToolSyft: "v1", ToolTrivy: "v2", ToolInspect: Revision, ToolModules: "sha256:m", ToolIsolation: Isolated, ToolView: ReadOnly, ToolPrivileges: Unprivileged, ToolLimits: Limits(maxMemory)},
		Secrets: evidence.Scanned, Vulnerabilities: evidence.Scanned, Database: want.database.String(), DatabaseDigest: want.database.Digest,
		Packages: 1, SBOM: digest.FromString(bom), Smoke: []evidence.SmokeResult{},
		Layers:   []evidence.Layer{{Digest: digest.FromString("layer")}},
		Findings: []evidence.Finding{{Kind: evidence.Secret, ID: "key", Severity: "HIGH", Path: "a", Line: 1, Layer: digest.FromString("layer")}, {Kind: evidence.Vulnerability, ID: "CVE-1", Severity: "LOW"}},
	}
	return want, report, bom
}

func writeEvidence(t *testing.T, report evidence.Report, bom string) string {
	t.Helper()
	dir := t.TempDir()
	content, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, ReportFile), content, 0o644),
		os.WriteFile(filepath.Join(dir, SBOMFile), []byte(bom), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSoundEvidenceIsAccepted(t *testing.T) {
	want, report, bom := truth()
	if _, err := want.check(writeEvidence(t, report, bom)); err != nil {
		t.Error(err)
	}
}

// TestF7LyingWorkerIsRefused: each report has one thing wrong.
func TestF7LyingWorkerIsRefused(t *testing.T) {
	tests := []struct {
		name string
		lie  func(r *evidence.Report, bom *string)
	}{
		{"about another cell", func(r *evidence.Report, _ *string) { r.Cell.Platform = "linux/arm64" }},
		{"about another digest", func(r *evidence.Report, _ *string) { r.Digest = digest.FromString("other") }},
		{"about no digest", func(r *evidence.Report, _ *string) { r.Digest = "" }},
		{"without tools", func(r *evidence.Report, _ *string) { r.Tools = nil }},
		{"of another Trivy", func(r *evidence.Report, _ *string) { r.Tools[ToolTrivy] = "v1" }},
		{"of the same Trivy over other modules", func(r *evidence.Report, _ *string) { r.Tools[ToolModules] = "sha256:n" }},
		{"silent about its modules", func(r *evidence.Report, _ *string) { delete(r.Tools, ToolModules) }},
		{"of an older revision", func(r *evidence.Report, _ *string) { r.Tools[ToolInspect] = "0" }},
		{"silent about isolation", func(r *evidence.Report, _ *string) { delete(r.Tools, ToolIsolation) }},
		{"silent about what it could write", func(r *evidence.Report, _ *string) { delete(r.Tools, ToolView) }},
		{"silent about what it was allowed", func(r *evidence.Report, _ *string) { delete(r.Tools, ToolPrivileges) }},
		{"silent about its limits", func(r *evidence.Report, _ *string) { delete(r.Tools, ToolLimits) }},
		{"with other limits", func(r *evidence.Report, _ *string) { r.Tools[ToolLimits] = Limits(1 << 40) }},
		{"silent about secrets", func(r *evidence.Report, _ *string) { r.Secrets = "" }},
		{"without a scan for secrets", func(r *evidence.Report, _ *string) { r.Secrets = evidence.NotScanned }},
		{"silent about vulnerabilities", func(r *evidence.Report, _ *string) { r.Vulnerabilities = "" }},
		{"not scanned and no reason", func(r *evidence.Report, _ *string) { r.Vulnerabilities = evidence.NotScanned }},
		{"scanned and a reason why not", func(r *evidence.Report, _ *string) { r.Reason = "no time" }},
		{"with another database", func(r *evidence.Report, _ *string) { r.Database = "2 2020-01-01T00:00:00Z" }},
		{"with other bytes of the database", func(r *evidence.Report, _ *string) { r.DatabaseDigest = digest.FromString("other") }},
		{"with fewer packages than the SBOM", func(r *evidence.Report, _ *string) { r.Packages = 0 }},
		{"with negative packages", func(r *evidence.Report, _ *string) { r.Packages = -1 }},
		{"with another SBOM", func(_ *evidence.Report, bom *string) { *bom += " " }},
		{"with an SBOM about another digest", func(r *evidence.Report, bom *string) {
			*bom = strings.ReplaceAll(*bom, r.Digest.String(), digest.FromString("other").String())
			r.SBOM = digest.FromString(*bom)
		}},
		{"with an SBOM of another format", func(r *evidence.Report, bom *string) {
			*bom = strings.ReplaceAll(*bom, "CycloneDX", "SPDX")
			r.SBOM = digest.FromString(*bom)
		}},
		{"with an SBOM that is no JSON", func(r *evidence.Report, bom *string) {
			*bom = "CycloneDX"
			r.SBOM = digest.FromString(*bom)
		}},
		{"with unsorted findings", func(r *evidence.Report, _ *string) { r.Findings[0], r.Findings[1] = r.Findings[1], r.Findings[0] }},
		{"with a finding of no severity", func(r *evidence.Report, _ *string) { r.Findings[0].Severity = "" }},
		{"with a finding of its own kind", func(r *evidence.Report, _ *string) { r.Findings[0].Kind = "beauty" }},
		{"without layers", func(r *evidence.Report, _ *string) { r.Layers = nil }},
		{"with a finding in a layer it does not list", func(r *evidence.Report, _ *string) { r.Findings[0].Layer = digest.FromString("other") }},
		{"with a secret that is nowhere", func(r *evidence.Report, _ *string) { r.Findings[0].Path = "" }},
		{"with a finding without id", func(r *evidence.Report, _ *string) { r.Findings[0].ID = "" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want, report, bom := truth()
			test.lie(&report, &bom)
			_, err := want.check(writeEvidence(t, report, bom))
			if !errors.Is(err, fault.Refused) && !errors.Is(err, fault.Forged) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if !strings.Contains(err.Error(), "app linux/amd64") {
				t.Errorf("%q does not name the cell", err)
			}
		})
	}
}

func TestF7MissingEvidenceNamesTheCell(t *testing.T) {
	want, report, bom := truth()
	dir := writeEvidence(t, report, bom)
	for _, name := range []string{SBOMFile, ReportFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := want.check(dir); !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "app linux/amd64") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestF7EvidenceLargerThanItsCapIsRefused(t *testing.T) {
	for name, limit := range map[string]int64{ReportFile: MaxReport, SBOMFile: MaxSBOM} {
		want, report, bom := truth()
		dir := writeEvidence(t, report, bom)
		if err := os.Truncate(filepath.Join(dir, name), limit+1); err != nil {
			t.Fatal(err)
		}
		if _, err := want.check(dir); !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "app linux/amd64") {
			t.Errorf("%s of %d bytes: %v", name, limit+1, err)
		}
	}
}

func TestScannedWithoutDatabaseIsForged(t *testing.T) {
	want, report, bom := truth()
	want.database, report.Database, report.DatabaseDigest = Database{}, "", ""
	if _, err := want.check(writeEvidence(t, report, bom)); !errors.Is(err, fault.Forged) {
		t.Errorf("got %v, want forged", err)
	}
}

// TestF6NoDatabaseIsNoStaleDatabase: its absence is reported, and the channel decides.
func TestF6NoDatabaseIsNoStaleDatabase(t *testing.T) {
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	if err := (Database{}).CheckAge(now, 48*time.Hour); err != nil {
		t.Errorf("no database: %v", err)
	}
	old := Database{Dir: "/db", Made: now.Add(-49 * time.Hour)}
	if err := old.CheckAge(now, 48*time.Hour); !errors.Is(err, fault.Refused) {
		t.Errorf("a stale database: %v, want a refusal", err)
	}
}

func TestSerialNumberIsAUUIDOfVersion8(t *testing.T) {
	got := SerialNumber(digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("0123456789abcdef", 4)))
	if want := "urn:uuid:01234567-89ab-8def-8123-456789abcdef"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func validJob() Job {
	return Job{
		Layout: "/layout", Out: "/out", Cache: "/cache",
		Cells: []Cell{{Cell: evidence.Cell{Image: "app", Platform: "linux/arm/v7"}, Digest: digest.FromString("x"), Size: 3}},
	}
}

func TestInvalidJobIsRefused(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(j *Job)
	}{
		{"naming nothing", func(j *Job) { j.Cells = nil }},
		{"with a relative layout", func(j *Job) { j.Layout = "layout" }},
		{"with a relative output", func(j *Job) { j.Out = "" }},
		{"with an image name that climbs", func(j *Job) { j.Cells[0].Image = "../app" }},
		{"with a platform that climbs", func(j *Job) { j.Cells[0].Platform = "linux/.." }},
		{"with a short digest", func(j *Job) { j.Cells[0].Digest = "sha256:abc" }},
		{"with a digest of another algorithm", func(j *Job) { j.Cells[0].Digest = digest.SHA512.FromString("x") }},
		{"with an empty manifest", func(j *Job) { j.Cells[0].Size = 0 }},
		{"with a huge manifest", func(j *Job) { j.Cells[0].Size = 1 << 40 }},
		{"naming a cell twice", func(j *Job) { j.Cells = append(j.Cells, j.Cells[0]) }},
		{"with a directory that climbs", func(j *Job) { j.Directories = []Directory{{Name: "..", Path: "/x"}} }},
		{"with a relative directory", func(j *Job) { j.Directories = []Directory{{Name: "payload", Path: "x"}} }},
		{"with an age limit and no clock", func(j *Job) { j.MaxAge = 1 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			job := validJob()
			if err := job.Validate(); err != nil {
				t.Fatal(err)
			}
			test.spoil(&job)
			if err := job.Validate(); !errors.Is(err, fault.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}

func FuzzDecodeJob(f *testing.F) {
	seed, err := json.Marshal(validJob())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"cells":[{"image":"..","platform":"/"}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		job, err := DecodeJob(content)
		if err != nil {
			return
		}
		for _, c := range job.Targets() {
			dir := job.Dir(c)
			if filepath.Dir(filepath.Dir(dir)) != filepath.Clean(job.Out) {
				t.Errorf("%s leaves %s", dir, job.Out)
			}
		}
	})
}

func FuzzDecodeReport(f *testing.F) {
	want, report, _ := truth()
	seed, err := json.Marshal(report)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, content []byte) {
		report, err := DecodeReport(content)
		if err != nil || want.checkReport(report) != nil {
			return
		}
		if report.Digest != want.digest || report.Cell != want.cell {
			t.Errorf("accepted a report about %s %s", report.Cell, report.Digest)
		}
	})
}

func TestTreeDigestDependsOnContentAlone(t *testing.T) {
	tree := func(edit func(dir string) error) digest.Digest {
		t.Helper()
		dir := t.TempDir()
		err := errors.Join(
			os.MkdirAll(filepath.Join(dir, "bin"), 0o700),
			os.WriteFile(filepath.Join(dir, "bin", "run"), []byte("echo"), 0o755),
			os.Symlink("bin/run", filepath.Join(dir, "link")),
			edit(dir),
		)
		if err != nil {
			t.Fatal(err)
		}
		got, err := TreeDigest(dir)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	same := tree(func(string) error { return nil })
	if got := tree(func(dir string) error { return os.Chmod(filepath.Join(dir, "bin"), 0o755) }); got != same {
		t.Error("the mode of a directory changes the digest")
	}
	for name, edit := range map[string]func(dir string) error{
		"a content":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "bin", "run"), []byte("exit"), 0o755) },
		"a file":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o644) },
		"a mode":     func(dir string) error { return os.Chmod(filepath.Join(dir, "bin", "run"), 0o644) },
		"a new link": func(dir string) error { return os.Symlink("..", filepath.Join(dir, "up")) },
	} {
		if tree(edit) == same {
			t.Errorf("%s does not change the digest", name)
		}
	}
}
