//go:build goexperiment.jsonv2

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/bucket"
	vulndb "github.com/aquasecurity/trivy/pkg/db"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	trivy "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/local"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// database is an open vulnerability database. Its zero value is that there is none.
type database struct {
	version string
	digest  digest.Digest
}

// openDatabase opens the database of a job, if it has one. Trivy keeps it in a global.
func openDatabase(job inspect.Job) (database, error) {
	if job.Database.Dir == "" {
		return database{}, nil
	}
	dir := job.Database.Dir
	found, err := inspect.OpenDatabase(dir)
	if err != nil {
		return database{}, err
	}
	if trivydb.SchemaVersion != inspect.Schema {
		return database{}, fault.New(fault.Refused, "opening vulnerability database", dir, "Trivy reads schema %d, we check for %d", trivydb.SchemaVersion, inspect.Schema)
	}
	if err := vulndb.Init(dir); err != nil {
		return database{}, fault.Wrap(err, fault.Refused, "opening vulnerability database", dir)
	}
	return database{found.String(), job.Database.Digest}, nil
}

func (d database) close() error {
	if d.version == "" {
		return nil
	}
	return vulndb.Close()
}

// detection is what is known about the vulnerabilities of one target.
type detection struct {
	coverage   evidence.Coverage
	reason     string
	findings   []evidence.Finding
	osPackages int // packages of the operating system that Trivy sees
}

// detect merges the layers of a target and compares its packages with the database. What could
// not be compared is said; it is never clean.
func (d database) detect(ctx context.Context, found *layers, keys []string) (detection, error) {
	merger := applier.NewApplier(found.cache)
	detail, err := merger.ApplyLayers(ctx, "", keys)
	if err != nil && !errors.Is(err, analyzer.ErrUnknownOS) && !errors.Is(err, analyzer.ErrNoPkgsDetected) {
		return detection{}, fault.Wrap(err, fault.Refused, "merging", "layers")
	}
	result := detection{coverage: evidence.NotScanned, osPackages: len(detail.Packages)}
	if d.version == "" {
		result.reason = "there is no vulnerability database"
		return result, nil
	}
	service := local.NewService(merger, ospkg.NewScanner(), langpkg.NewScanner(), vulnerability.NewClient(trivydb.Config{}))
	response, err := service.Scan(ctx, "target", "", keys, types.ScanOptions{
		PkgTypes:            types.PkgTypes,
		PkgRelationships:    trivy.Relationships,
		Scanners:            types.Scanners{types.VulnerabilityScanner},
		VulnSeveritySources: []dbtypes.SourceID{"auto"},
	})
	if err != nil {
		return detection{}, fault.Wrap(err, fault.Refused, "detecting", "vulnerabilities")
	}
	compared := false
	for _, r := range response.Results {
		compared = compared || r.Class == types.ClassOSPkg
		for _, v := range r.Vulnerabilities {
			result.findings = append(result.findings, vulnerabilityFinding(r, v))
		}
	}
	result.reason = notCompared(detail, compared)
	if result.reason == "" {
		result.coverage = evidence.Scanned
	}
	return result, nil
}

func vulnerabilityFinding(r types.Result, v types.DetectedVulnerability) evidence.Finding {
	path := v.PkgPath
	if path == "" && r.Class != types.ClassOSPkg {
		path = r.Target
	}
	purl := ""
	if v.PkgIdentifier.PURL != nil {
		purl = v.PkgIdentifier.PURL.ToString()
	}
	return evidence.Finding{
		PURL:     purl,
		Kind:     evidence.Vulnerability,
		ID:       v.VulnerabilityID,
		Severity: severity(v.Severity), //nolint:staticcheck // VendorSeverity has one for each source; this is the one that Trivy chose
		Title:    v.Title,
		Package:  v.PkgName,
		Version:  v.InstalledVersion,
		FixedIn:  v.FixedVersion,
		Path:     path,
		Layer:    digest.Digest(v.Layer.DiffID), // layers carry their blob's digest there
	}
}

// notCompared says why the packages of the operating system were not compared, or "". Trivy
// itself is silent when it does not know the system or has no advisories for the release.
func notCompared(detail trivy.ArtifactDetail, compared bool) string {
	system := detail.OS.Family
	switch {
	case len(detail.Packages) == 0:
		return ""
	case system == "":
		return "the operating system is not known"
	case !compared:
		return fmt.Sprintf("Trivy does not know the advisories of %s", system)
	}
	name, known := advisories(detail.OS)
	if !known {
		return fmt.Sprintf("it is not known where the database keeps advisories for %s %s", system, detail.OS.Name)
	}
	there := false
	// An error means that the database is closed, and then nothing is there.
	_ = trivydb.Config{}.Connection().View(func(tx *bbolt.Tx) error {
		there = tx.Bucket([]byte(name)) != nil
		return nil
	})
	if !there {
		return fmt.Sprintf("the database has no advisories for %q", name)
	}
	return ""
}

// advisories returns the database's bucket for a release of an operating system.
func advisories(os trivy.OS) (name string, known bool) {
	major, rest, _ := strings.Cut(os.Name, ".")
	minor, _, _ := strings.Cut(rest, ".")
	switch os.Family {
	case trivy.Debian:
		return bucket.NewDebian(major).Name(), true
	case trivy.Ubuntu:
		return bucket.NewUbuntu(os.Name).Name(), true
	case trivy.Alpine:
		return bucket.NewAlpine(major + "." + minor).Name(), true
	case trivy.Alma:
		return bucket.NewAlma(major).Name(), true
	case trivy.Rocky:
		return bucket.NewRocky(major).Name(), true
	case trivy.Oracle:
		return bucket.NewOracle(major).Name(), true
	case trivy.RedHat, trivy.CentOS:
		return bucket.NewRedHat("").Name(), true
	case trivy.Wolfi:
		return bucket.NewWolfi("").Name(), true
	case trivy.Chainguard:
		return bucket.NewChainguard("").Name(), true
	}
	return "", false
}

// hasOSPackages reports whether a layer has a package database with something in it.
func hasOSPackages(blob trivy.BlobInfo) bool {
	for _, list := range blob.PackageInfos {
		if len(list.Packages) > 0 {
			return true
		}
	}
	return false
}
