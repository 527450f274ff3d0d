package mage

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/release"
)

// A release may go through several jobs, so that who builds, who inspects and who signs do not share a
// machine. What one job leaves in dist/<commit>/ the next one takes as it is, if its digest is the one
// that the first job told the workflow.

// handover is the digest of the record and of all evidence. The layout is held by the record.
func (d dist) handover() (digest.Digest, error) {
	sum := sha256.New()
	files := []string{d.path("record.json")}
	err := filepath.WalkDir(d.path("evidence"), func(path string, e fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err) && path == d.path("evidence"):
			return nil // nothing is inspected yet
		case err != nil || e.IsDir():
			return err
		case !e.Type().IsRegular():
			return fault.New(fault.Forged, "handing over", path, "it is no file")
		}
		files = append(files, path)
		return nil
	})
	if err != nil {
		return "", fault.Wrap(err, fault.Environment, "reading", d.path("evidence"))
	}
	for _, file := range files {
		content, err := digestOf(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %q\n", content, strings.TrimPrefix(file, d.dir))
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

func digestOf(file string) (digest.Digest, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fault.Wrap(err, fault.Environment, "reading", file)
	}
	defer f.Close()
	sum, err := digest.SHA256.FromReader(io.LimitReader(f, maxHanded))
	return sum, fault.Wrap(err, fault.Environment, "reading", file)
}

// maxHanded bounds one file that is handed over, in bytes: more than the largest SBOM.
const maxHanded = 256 << 20

// takeOver compares what an earlier job left with what that job said; where none said anything,
// nothing is taken over.
func (d *dist) takeOver(said string, src release.Source) error {
	if said == "" {
		return nil
	}
	found, err := d.handover()
	if err == nil && found.String() != said {
		err = fault.New(fault.Forged, "taking over", src.Tag(), "%s is %s, the earlier job left %s", d.dir, found, said).
			WithHint("run all jobs of the workflow again; nothing was published")
	}
	d.taken = err == nil
	return err
}

// ReadReports returns the reports of an earlier job about exactly what was built: all of them, or none
// where that job inspected nothing or nothing was taken over.
func (d dist) ReadReports(r release.Record) ([]evidence.Report, bool, error) {
	if !d.taken {
		return nil, false, nil
	}
	reports, err := d.reports(r)
	return reports, len(reports) > 0, err
}

// reports reads what was found in a record's cells, or nothing where nobody looked.
func (d dist) reports(r release.Record) ([]evidence.Report, error) {
	if _, err := os.Stat(d.path("evidence")); os.IsNotExist(err) {
		return nil, nil
	}
	var reports []evidence.Report
	for _, cell := range r.Cells() {
		report, err := d.readReport(cell)
		if err != nil {
			return nil, err
		}
		if node, _ := r.Digest(cell); report.Digest != node.Digest {
			return nil, fault.New(fault.Conflict, "taking over", cell.String(), "its report speaks about %s, what is released is %s", report.Digest, node.Digest).
				WithHint("the commit was published by another run: run all jobs of the workflow again")
		}
		reports = append(reports, report)
	}
	return reports, nil
}

func (d dist) readReport(cell evidence.Cell) (evidence.Report, error) {
	dir := d.evidence(cell)
	content, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return evidence.Report{}, fault.Wrap(err, fault.Refused, "taking over the evidence of", cell.String())
	}
	var report evidence.Report
	if err := json.Unmarshal(content, &report); err != nil || report.Cell != cell {
		return evidence.Report{}, fault.New(fault.Forged, "taking over the evidence of", cell.String(), "its report is of %q: %v", report.Cell, err)
	}
	sbom, err := digestOf(filepath.Join(dir, inspect.SBOMFile))
	if err == nil && sbom != report.SBOM {
		err = fault.New(fault.Forged, "taking over the evidence of", cell.String(), "its SBOM is %s, the report is about %s", sbom, report.SBOM)
	}
	return report, err
}

func (d dist) evidence(c evidence.Cell) string {
	return d.path("evidence", c.Image, strings.ReplaceAll(c.Platform, "/", "-"))
}
