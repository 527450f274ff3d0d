package inspect

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containai/containai/mage/fault"
)

// key names everything that the evidence of a target depends on. A directory's SBOM also states the
// job's time; an image's states when the image was made.
func (e expected) key(job Job) string {
	epoch := int64(0)
	if e.cell.Platform == AnyPlatform {
		epoch = job.Epoch
	}
	return fmt.Sprintf("evidence %s %s %d %s %q %q", e.cell, e.digest, epoch, e.database.Digest, e.database, e.tools)
}

// kept is the evidence of one target as results hold it.
type kept struct {
	Report, SBOM []byte
}

// keep stores the evidence of a target, which was checked, unless it is there.
func (e expected) keep(results Results, job Job) error {
	if _, there := results.Load(e.key(job)); there {
		return nil
	}
	var k kept
	var err error
	if k.Report, err = readFile(filepath.Join(job.Dir(e.cell), ReportFile), MaxReport); err != nil {
		return e.fail(fault.Refused, "reading its report: %w", err)
	}
	if k.SBOM, err = readFile(filepath.Join(job.Dir(e.cell), SBOMFile), MaxSBOM); err != nil {
		return e.fail(fault.Refused, "reading its SBOM: %w", err)
	}
	content, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return results.Store(e.key(job), content)
}

// restore brings the evidence of a target back into the job's directory and reports whether it then
// holds. What does not is made anew, as if nothing had been kept.
func (e expected) restore(results Results, job Job) bool {
	var k kept
	content, there := results.Load(e.key(job))
	if !there || json.Unmarshal(content, &k) != nil {
		return false
	}
	dir := job.Dir(e.cell)
	if os.MkdirAll(dir, 0o755) != nil ||
		writeWhole(filepath.Join(dir, SBOMFile), k.SBOM) != nil ||
		writeWhole(filepath.Join(dir, ReportFile), k.Report) != nil {
		return false
	}
	_, err := e.check(dir)
	return err == nil
}
