package mage_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/vulnerability"
	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
)

// TestAMirroredDatabaseScansAndOldVerdictsAreRepeated publishes a database in Trivy's own format where
// Trivy's makers would, mirrors it, takes the source away, releases, and repeats the verdicts.
func TestAMirroredDatabaseScansAndOldVerdictsAreRepeated(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	upstream := httptest.NewServer(ggcr.New())
	defer upstream.Close()
	host := strings.TrimPrefix(upstream.URL, "http://")
	want := publishAdvisories(t, host, fixtureDatabase(t))
	f := newFamilyClone(t)
	f.scanWith(t, host)

	goldenMirror(t, "mirror-plan.txt", f.mage(t, "inspect:mirror"), host)
	if plan := f.mage(t, "inspect:mirror"); !strings.Contains(plan, "which shows nothing") {
		t.Errorf("a plan wrote something:\n%s", plan)
	}
	goldenMirror(t, "mirror-apply.txt", f.mage(t, "inspect:mirror", "-apply"), host)
	if again := f.mage(t, "inspect:mirror", "-apply"); !strings.Contains(again, "nothing to do") {
		t.Errorf("mirrored twice:\n%s", again)
	}
	upstream.Close()
	forgetDatabase(t, want)

	f.release(t)
	path := filepath.Join(f.dir, "dist", "latest", "evidence", "tiny", "linux-amd64", "report.json")
	report := readReport(t, path)
	if report.DatabaseDigest != want.Digest || report.Vulnerabilities != evidence.Scanned {
		t.Errorf("scanned: %s with %s, want %s", report.Vulnerabilities, report.DatabaseDigest, want.Digest)
	}
	checkAdvisories(t, report, filepath.Join(filepath.Dir(path), "sbom.cdx.json"))

	for _, what := range []string{"tiny:dev", path} {
		if out := f.mage(t, "inspect:replay", what); !strings.Contains(out, "tiny linux/amd64  the same verdict: 1 findings") {
			t.Errorf("replaying %s:\n%s", what, out)
		}
	}
	writeReport(t, path, report, func(r *evidence.Report) { r.Findings = []evidence.Finding{} })
	f.fails(t, fault.Forged, "+ CRITICAL vulnerability CVE-2026-0001 in bash", nil, "inspect:replay", path)
	writeReport(t, path, report, func(r *evidence.Report) {
		r.DatabaseDigest = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	})
	f.fails(t, fault.Unverified, "is nowhere", nil, "inspect:replay", path)
}

// scanWith lets the family scan with the database at a host, or with the mirror of it.
func (f familyClone) scanWith(t *testing.T, host string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(f.dir, "containai.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("\nvulnerabilities: {mirror: tiny-vulnerabilities, sources: [" + host + "/aquasecurity/trivy-db:2], max-age: 36500d}\n"); err != nil {
		t.Fatal(err)
	}
	git := exec.Command("git", commitArgs("scan for vulnerabilities")...)
	git.Args = append(git.Args, "-a")
	git.Dir = f.dir
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// fixtureDatabase writes a database with Trivy's own code: of Debian 12's bash, one advisory that every
// version is affected by, and one that was fixed long ago.
func fixtureDatabase(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := trivydb.Init(dir); err != nil {
		t.Fatal(err)
	}
	defer trivydb.Close()
	db := trivydb.Config{}
	err := db.BatchUpdate(func(tx *bbolt.Tx) error {
		const platform = "debian 12"
		return errors.Join(
			db.PutDataSource(tx, platform, dbtypes.DataSource{ID: vulnerability.Debian, Name: "Debian Security Tracker", URL: "https://salsa.debian.org/security-tracker-team/security-tracker"}),
			db.PutAdvisoryDetail(tx, "CVE-2026-0001", "bash", []string{platform}, &dbtypes.Advisory{FixedVersion: "99.0-1"}),
			db.PutAdvisoryDetail(tx, "CVE-2026-0002", "bash", []string{platform}, &dbtypes.Advisory{FixedVersion: "1.0-1"}),
			db.SaveAdvisoryDetails(tx, "CVE-2026-0001"), db.SaveAdvisoryDetails(tx, "CVE-2026-0002"),
			db.PutVulnerability(tx, "CVE-2026-0001", dbtypes.Vulnerability{Title: "bash: it runs what it is given", VendorSeverity: dbtypes.VendorSeverity{vulnerability.NVD: dbtypes.SeverityCritical}}),
			db.PutVulnerability(tx, "CVE-2026-0002", dbtypes.Vulnerability{Title: "bash: fixed long ago", VendorSeverity: dbtypes.VendorSeverity{vulnerability.NVD: dbtypes.SeverityHigh}}),
		)
	})
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := errors.Join(err, metadata.NewClient(dir).Update(metadata.Metadata{Version: 2, UpdatedAt: made, NextUpdate: made.Add(6 * time.Hour)})); err != nil {
		t.Fatal(err)
	}
	return dir
}

// madeNow dates a database anew, and returns it: a family takes none that is older than it allows.
func madeNow(t testing.TB, dir string) string {
	t.Helper()
	now := time.Now().UTC()
	if err := metadata.NewClient(dir).Update(metadata.Metadata{Version: 2, UpdatedAt: now, NextUpdate: now.Add(6 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// publishAdvisories pushes a database as Trivy's makers do.
func publishAdvisories(t *testing.T, host, dir string) graph.Node {
	t.Helper()
	var packed bytes.Buffer
	plain := gzip.NewWriter(&packed)
	archive := tar.NewWriter(plain)
	for _, name := range []string{"trivy.db", "metadata.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(content))}), second(archive.Write(content))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), plain.Close()); err != nil {
		t.Fatal(err)
	}
	repo := must(must(registry.New(host+"/aquasecurity", registry.Options{})).Repo("trivy-db"))
	manifest := must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: must(graph.PushBytes(t.Context(), repo, "application/vnd.aquasec.trivy.config.v1+json", []byte("{}"))),
		Layers: []graph.Node{must(graph.PushBytes(t.Context(), repo, inspect.DatabaseLayer, packed.Bytes()))},
	}))
	n := must(graph.PushBytes(t.Context(), repo, ocispec.MediaTypeImageManifest, manifest))
	must(repo.TagImmutable(t.Context(), "2", n))
	return n
}

func second(_ int, err error) error { return err }

// forgetDatabase takes a database out of the user's cache, which the tests share with everybody.
func forgetDatabase(t *testing.T, n graph.Node) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(must(os.UserCacheDir()), "containai", "vulnerabilities", n.Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
}

// checkAdvisories compares the one finding with the version of bash that the image really has.
func checkAdvisories(t *testing.T, r evidence.Report, sbom string) {
	t.Helper()
	var bom struct {
		Components []struct{ Name, Version, Type string }
	}
	if err := json.Unmarshal(must(os.ReadFile(sbom)), &bom); err != nil {
		t.Fatal(err)
	}
	installed := ""
	for _, c := range bom.Components {
		if c.Name == "bash" && c.Type == "library" {
			installed = c.Version
		}
	}
	if installed == "" {
		t.Fatal("the image has no bash")
	}
	if len(r.Findings) != 1 || r.Findings[0].ID != "CVE-2026-0001" || r.Findings[0].Version != installed || r.Findings[0].FixedIn != "99.0-1" {
		t.Errorf("findings %+v, want CVE-2026-0001 in bash %s alone", r.Findings, installed)
	}
}

func readReport(t *testing.T, path string) evidence.Report {
	t.Helper()
	var r evidence.Report
	if err := json.Unmarshal(must(os.ReadFile(path)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func writeReport(t *testing.T, path string, r evidence.Report, change func(*evidence.Report)) {
	t.Helper()
	change(&r)
	if err := os.WriteFile(path, must(json.Marshal(r)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// goldenMirror compares what a mirror says, without what differs from run to run.
func goldenMirror(t *testing.T, name, got, host string) {
	t.Helper()
	got = strings.ReplaceAll(got, host, "HOST")
	got = regexp.MustCompile(`sha256:[0-9a-f]{64}`).ReplaceAllString(got, "DIGEST")
	got = regexp.MustCompile(`(?m)^(registry |· ).*\n`).ReplaceAllString(got, "")
	path := filepath.Join("..", "testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(must(os.ReadFile(path))), got); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", name, diff)
	}
}
