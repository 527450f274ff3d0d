// Package inspect drives the scanner worker and trusts nothing it says without proof.
//
// A [Job] names the cells of a family in one OCI layout, by digest, and the directories that go
// into artifacts. The worker (mage/cmd/inspect) reads the job, scans, tells its progress as
// [Event] lines and leaves an SBOM and an evidence.Report for each target. An [Inspector] starts
// it without credentials and, where the kernel allows, without a network, and then reads back
// what it left. Invariant: [Inspector.Inspect] returns one report for every target asked for,
// about exactly the digest asked for, with the SBOM whose digest the report states, or an error.
package inspect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Revision is the version of what our own code adds to the scanners: which layers, configuration
// strings and trees are scanned, and how findings are written. Raise it when old reports must not
// be taken for new ones.
const Revision = "7"

// The names of what a report says about how it was made: keys of evidence.Report.Tools.
const (
	ToolSyft       = "syft"       // version of the linked module
	ToolTrivy      = "trivy"      // version of the linked module
	ToolInspect    = "inspect"    // Revision
	ToolModules    = "modules"    // Modules
	ToolIsolation  = "isolation"  // Isolated, or "none: " and the reason
	ToolView       = "view"       // ReadOnly, or "none: " and the reason
	ToolPrivileges = "privileges" // Unprivileged, or "none: " and what it could do
	ToolLimits     = "limits"     // memory and time
)

// Isolated is what a report says when the worker ran in a network namespace without interfaces, and in a
// process namespace in which it was alone.
const Isolated = "network and process namespaces"

// Unprivileged is what a report says when the worker had no capability, or, started by root, only that of
// reading the files which its view shows.
const Unprivileged = "dropped"

// ReadOnly is what a report says when the worker could not have changed what it scanned, nor read what
// is not the job's.
const ReadOnly = "the job's files, read-only"

// Limits is what a report says of the limits that a worker had.
func Limits(memory uint64) string { return fmt.Sprintf("%d MiB, %s", memory>>20, maxRun) }

// AnyPlatform is the platform of a directory: its content is not built for one.
const AnyPlatform = "any"

// Limits of what is read from outside.
const (
	MaxJob    = 4 << 20  // bytes of a job
	MaxReport = 32 << 20 // bytes of scan.json
	MaxSBOM   = 64 << 20 // bytes of sbom.cdx.json
	maxEvent  = 1 << 20  // bytes of one event line

	MaxUnpacked = 32 << 30 // bytes that all layers of a job may take unpacked: they lie on the disk until it ends
)

// Cell is one image on one platform and the platform manifest that is to be scanned.
type Cell struct {
	evidence.Cell
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes of the manifest
	MediaType string        `json:"mediaType"`
}

// NewCell names a cell by its platform manifest.
func NewCell(image, platform string, n graph.Node) Cell {
	return Cell{evidence.Cell{Image: image, Platform: platform}, n.Digest, n.Size, n.MediaType}
}

// Directory is a tree of files that becomes an artifact. Its digest is that of its [PackTree].
type Directory struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// Cell returns the name under which a directory is reported.
func (d Directory) Cell() evidence.Cell {
	return evidence.Cell{Image: d.Name, Platform: AnyPlatform}
}

// Job is one inspection, complete: the worker reads nothing else, no environment and no clock.
//
// Cache, Database, Isolation and View are filled by the [Inspector].
type Job struct {
	Layout      string        `json:"layout"` // an OCI image layout that holds all cells
	Cells       []Cell        `json:"cells"`
	Directories []Directory   `json:"directories,omitempty"`
	Out         string        `json:"out"`                 // receives <image>/<os-arch>/{sbom.cdx.json,scan.json}
	Epoch       int64         `json:"epoch"`               // Unix seconds that the SBOMs state: the commit's time
	Now         time.Time     `json:"now"`                 // what the age of the database is measured against
	MaxAge      time.Duration `json:"maxAge,omitempty"`    // oldest acceptable database; zero accepts any
	Parallel    int           `json:"parallel,omitempty"`  // targets scanned at once; zero means one per processor
	Unpacked    int64         `json:"unpacked,omitempty"`  // bytes that all layers may take unpacked; zero means MaxUnpacked
	Cache       string        `json:"cache"`               // results by layer
	Database    Database      `json:"database,omitzero"`   // zero means there is none
	Isolation   string        `json:"isolation,omitempty"` // why there is no network namespace
	View        string        `json:"view,omitempty"`      // why there is no read-only view
}

// EventKind says what an event tells.
type EventKind string

// The events of an inspection.
const (
	Started EventKind = "started" // a target or a layer is being scanned
	Done    EventKind = "done"    // it was; Duration says how long it took
	Checked EventKind = "checked" // one Check of a target is complete: Digest, Duration, Cached
	Reused  EventKind = "reused"  // its evidence was there already and still holds
	Failed  EventKind = "failed"  // the inspection ends here; Message says why
	Log     EventKind = "log"     // a line the worker printed, made printable
)

// Event is one line of progress. Exactly one of Cell and Layer is set, or neither for a Log.
type Event struct {
	Kind     EventKind     `json:"kind"`
	Cell     evidence.Cell `json:"cell,omitzero"`
	Layer    digest.Digest `json:"layer,omitempty"`
	Duration time.Duration `json:"duration,omitempty"` // nanoseconds in JSON
	Message  string        `json:"message,omitempty"`
	Check    Check         `json:"check,omitempty"`
	Digest   digest.Digest `json:"digest,omitempty"` // what was checked
	Cached   bool          `json:"cached,omitempty"` // nothing was looked at: the result was there
}

// Check is one look at a target.
type Check string

// The checks of every target, in the order they are told.
const (
	CheckSBOM            Check = "sbom"
	CheckSecrets         Check = "secrets"
	CheckVulnerabilities Check = "vulnerabilities"
)

// Checks are all checks that a target gets.
func Checks() []Check { return []Check{CheckSBOM, CheckSecrets, CheckVulnerabilities} }

// Step is one check of one target as a run made it. Durations belong to the run: a report, which is
// attested, holds no clock time. A layer's time counts for the first target that has it.
type Step struct {
	Cell     evidence.Cell `json:"cell"`
	Check    Check         `json:"check"`
	Digest   digest.Digest `json:"digest"`
	Duration time.Duration `json:"duration"` // nanoseconds in JSON
	Cached   bool          `json:"cached"`
}

// DecodeJob reads a job strictly and validates it.
func DecodeJob(content []byte) (Job, error) {
	var job Job
	if len(content) > MaxJob {
		return Job{}, fault.New(fault.Invalid, "reading", "job", "%d bytes exceed the limit of %d", len(content), MaxJob)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&job); err != nil {
		return Job{}, fault.Wrap(err, fault.Invalid, "decoding", "job")
	}
	if decoder.More() {
		return Job{}, fault.New(fault.Invalid, "decoding", "job", "there is more after it")
	}
	return job, job.Validate()
}

// The grammar of what becomes a path below Out.
var (
	nameGrammar     = lazyregexp.New(`^[a-z0-9]+([._-]+[a-z0-9]+)*$`)
	platformGrammar = lazyregexp.New(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)
)

// Validate reports whether the worker can begin.
func (j Job) Validate() error {
	for _, dir := range []struct{ name, path string }{{"layout", j.Layout}, {"out", j.Out}, {"cache", j.Cache}} {
		if !filepath.IsAbs(dir.path) && (dir.name != "layout" || len(j.Cells) > 0) {
			return invalid("%s %q is not an absolute path", dir.name, dir.path)
		}
	}
	if len(j.Cells)+len(j.Directories) == 0 {
		return invalid("it names nothing to inspect")
	}
	if j.MaxAge > 0 && j.Now.IsZero() {
		return invalid("the age of the database is limited and now is not given")
	}
	seen := map[evidence.Cell]bool{}
	for _, c := range j.Cells {
		if err := c.validate(); err != nil {
			return err
		}
		if seen[c.Cell] {
			return invalid("%s is named twice", c.Cell)
		}
		seen[c.Cell] = true
	}
	for _, d := range j.Directories {
		if !nameGrammar.MatchString(d.Name) || !filepath.IsAbs(d.Path) {
			return invalid("directory %q needs a plain name and an absolute path", d.Name)
		}
		if seen[d.Cell()] {
			return invalid("%s is named twice", d.Cell())
		}
		seen[d.Cell()] = true
	}
	return nil
}

func (c Cell) validate() error {
	if !nameGrammar.MatchString(c.Image) || !platformGrammar.MatchString(c.Platform) {
		return invalid("cell %q needs a plain name and a platform os/arch", c.Cell)
	}
	if err := c.Digest.Validate(); err != nil || c.Digest.Algorithm() != digest.SHA256 {
		return invalid("%s: %q is not a sha256 digest", c.Cell, c.Digest)
	}
	if c.Size <= 0 || c.Size > graph.MaxManifest {
		return invalid("%s: a manifest of %d bytes", c.Cell, c.Size)
	}
	return nil
}

// Targets returns every cell and directory that needs a report, in the order of the job.
func (j Job) Targets() []evidence.Cell {
	var targets []evidence.Cell
	for _, c := range j.Cells {
		targets = append(targets, c.Cell)
	}
	for _, d := range j.Directories {
		targets = append(targets, d.Cell())
	}
	return targets
}

// The files of one target, below its [Job.Dir].
const (
	SBOMFile   = "sbom.cdx.json"
	ReportFile = "scan.json"
)

// Dir returns where the evidence of a target lies.
func (j Job) Dir(c evidence.Cell) string {
	return filepath.Join(j.Out, c.Image, strings.ReplaceAll(c.Platform, "/", "-"))
}

// SerialNumber is the CycloneDX serial number of the SBOM of a digest: a UUID of version 8
// (RFC 9562, section 5.8) made of the digest's first bytes, so that the same content has the
// same number.
func SerialNumber(d digest.Digest) string {
	h := []byte(d.Encoded()[:32])
	h[12] = '8'
	h[16] = "89ab"[h[16]%4]
	return fmt.Sprintf("urn:uuid:%s-%s-%s-%s-%s", h[0:8], h[8:12], h[12:16], h[16:20], h[20:32])
}

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "validating", "job", format, args...)
}
