package inspect_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/vulnerability"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// made is when the fixture databases were built.
func made() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// newDatabase writes a vulnerability database in Trivy's own format, with Trivy's own code:
// CVE-2026-0001 in openssl, fixed in 3.0.99, and CVE-2026-0002 in zlib, not fixed.
func newDatabase(t *testing.T, platform string, meta metadata.Metadata) string {
	t.Helper()
	dir := t.TempDir()
	if err := trivydb.Init(dir); err != nil {
		t.Fatal(err)
	}
	defer trivydb.Close()
	db := trivydb.Config{}
	err := db.BatchUpdate(func(tx *bbolt.Tx) error {
		return errors.Join(
			db.PutDataSource(tx, platform, dbtypes.DataSource{ID: vulnerability.Debian, Name: "Debian Security Tracker", URL: "https://salsa.debian.org/security-tracker-team/security-tracker"}),
			db.PutAdvisoryDetail(tx, "CVE-2026-0001", "openssl", []string{platform}, &dbtypes.Advisory{FixedVersion: "3.0.99-1"}),
			db.PutAdvisoryDetail(tx, "CVE-2026-0002", "zlib", []string{platform}, &dbtypes.Advisory{Status: dbtypes.StatusAffected}),
			db.PutAdvisoryDetail(tx, "CVE-2026-0003", "bash", []string{platform}, &dbtypes.Advisory{FixedVersion: "5.2.15-2"}),
			db.SaveAdvisoryDetails(tx, "CVE-2026-0001"), db.SaveAdvisoryDetails(tx, "CVE-2026-0002"), db.SaveAdvisoryDetails(tx, "CVE-2026-0003"),
			db.PutVulnerability(tx, "CVE-2026-0001", dbtypes.Vulnerability{Title: "openssl: it leaks", VendorSeverity: dbtypes.VendorSeverity{vulnerability.NVD: dbtypes.SeverityCritical}}),
			db.PutVulnerability(tx, "CVE-2026-0002", dbtypes.Vulnerability{Title: "zlib: it inflates", VendorSeverity: dbtypes.VendorSeverity{vulnerability.NVD: dbtypes.SeverityLow}}),
			db.PutVulnerability(tx, "CVE-2026-0003", dbtypes.Vulnerability{Title: "bash: fixed long ago", VendorSeverity: dbtypes.VendorSeverity{vulnerability.NVD: dbtypes.SeverityHigh}}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := metadata.NewClient(dir).Update(meta); err != nil {
		t.Fatal(err)
	}
	return dir
}

func current() metadata.Metadata { return metadata.Metadata{Version: 2, UpdatedAt: made()} }

func TestVulnerabilitiesComeFromTheDatabase(t *testing.T) {
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{debian()}})
	run := newInspection(t, layout, cells...)
	run.db = newDatabase(t, "debian 12", current())
	report := run.mustRun(t)[0]

	layer := readManifest(t, layout, cells[0]).Layers[0].Digest
	want := []evidence.Finding{
		{Kind: evidence.Vulnerability, ID: "CVE-2026-0001", Severity: "CRITICAL", Title: "openssl: it leaks", Package: "libssl3", Version: "3.0.11-1~deb12u2", PURL: "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12.5", FixedIn: "3.0.99-1", Layer: layer},
		{Kind: evidence.Vulnerability, ID: "CVE-2026-0002", Severity: "LOW", Title: "zlib: it inflates", Package: "zlib1g", Version: "1:1.2.13.dfsg-1", PURL: "pkg:deb/debian/zlib1g@1.2.13.dfsg-1?arch=amd64&distro=debian-12.5&epoch=1", Layer: layer},
	}
	if diff := cmp.Diff(want, report.Findings); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if report.Vulnerabilities != evidence.Scanned || report.Database != "2 2026-03-01T12:00:00Z" || report.Packages != 3 {
		t.Errorf("coverage %s, database %q, %d packages", report.Vulnerabilities, report.Database, report.Packages)
	}
}

// TestNotComparedIsNeverClean: where packages were not compared with advisories, the report says
// so and why.
func TestNotComparedIsNeverClean(t *testing.T) {
	unknown := debian()
	unknown[0].content = "ID=plan9\nVERSION_ID=\"4\"\n"
	nameless := debian()[2:]
	jar := append(debian(), file{"opt/app.jar", javaArchive(t)})
	tests := []struct {
		name, platform string
		layer          []file
		reason         string
	}{
		{"without a database", "", debian(), "no vulnerability database"},
		{"with a database that lacks the release", "debian 11", debian(), `no advisories for "debian 12"`},
		{"with a system without a name", "debian 12", nameless, "operating system is not known"},
		{"with Java archives", "debian 12", jar, "Java archives"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{test.layer}})
			run := newInspection(t, layout, cells...)
			if test.platform != "" {
				run.db = newDatabase(t, test.platform, current())
			}
			report := run.mustRun(t)[0]
			if report.Vulnerabilities != evidence.NotScanned || !strings.Contains(report.Reason, test.reason) {
				t.Errorf("coverage %q because %q, want not-scanned because %q", report.Vulnerabilities, report.Reason, test.reason)
			}
		})
	}
}

// TestUnusableDatabaseIsRefused is row F6: the gate fails closed and names the cause.
func TestUnusableDatabaseIsRefused(t *testing.T) {
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{debian()}})
	tests := []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		meta   metadata.Metadata
		maxAge time.Duration
		cause  string
	}{
		{name: "too old", meta: current(), maxAge: time.Hour, cause: "more than 1h0m0s before"},
		{name: "from the future", meta: metadata.Metadata{Version: 2, UpdatedAt: made().AddDate(1, 0, 0)}, maxAge: time.Hour, cause: "in the future"},
		{name: "of an older schema", meta: metadata.Metadata{Version: 1, UpdatedAt: made()}, cause: "schema 1, want 2"},
		{name: "of a newer schema", meta: metadata.Metadata{Version: 3, UpdatedAt: made()}, cause: "schema 3, want 2"},
		{name: "without a time", meta: metadata.Metadata{Version: 2}, cause: "when it was made"},
		{name: "missing", meta: current(), cause: "missing", spoil: func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "without content", meta: current(), cause: "no content", spoil: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "trivy.db")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "torn", meta: current(), cause: "vulnerability database", spoil: func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "trivy.db"), []byte(strings.Repeat("garbage ", 4096)), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			run := newInspection(t, layout, cells...)
			run.db = newDatabase(t, "debian 12", test.meta)
			run.job.Now, run.job.MaxAge = made().AddDate(0, 0, 2), test.maxAge
			if test.spoil != nil {
				test.spoil(t, run.db)
			}
			_, err := run.run(t)
			if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), test.cause) {
				t.Errorf("got %v, want a refusal that names %q", err, test.cause)
			}
			if _, err := os.Stat(run.job.Dir(cells[0].Cell)); err == nil {
				t.Error("evidence was written")
			}
		})
	}
}
