// Package evidence holds what is said about content: in-toto statements, the reports of the
// inspection, and the SLSA provenance predicate.
//
// A [Cell] is one image on one platform. The inspection says a [Report] of every cell; a
// [Statement] binds a predicate to exactly one digest; a signed statement is a [Bundle].
// Invariant: a statement has one subject, so no signature can speak about two things.
package evidence

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Media types of evidence as OCI referrers.
const (
	SBOMType   = "application/vnd.cyclonedx+json"                // CycloneDX 1.6 in JSON
	BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json" // Sigstore bundle v0.3
	StatementT = "https://in-toto.io/Statement/v1"               // in-toto attestation framework, statement v1
	PayloadT   = "application/vnd.in-toto+json"                  // DSSE payload type of a statement
	Provenance = "https://slsa.dev/provenance/v1"                // SLSA provenance v1.0
	SBOM       = "https://cyclonedx.org/bom"                     // in-toto CycloneDX predicate
	Scan       = "https://containai.dev/attestations/scan/v1"    // a Report
	Signature  = "https://sigstore.dev/cosign/sign/v1"           // cosign's empty "this is signed" predicate
)

// Annotations that cosign and ours use to find a bundle without reading it.
const (
	BundleContent   = "dev.sigstore.bundle.content"
	BundlePredicate = "dev.sigstore.bundle.predicateType"
)

// Cell is one image on one platform ("linux/amd64").
type Cell struct {
	Image    string `json:"image"`
	Platform string `json:"platform"`
}

func (c Cell) String() string { return c.Image + " " + c.Platform }

// Statement is an in-toto statement v1 about one subject.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       [1]Subject      `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject names a digest; Digest has the one key "sha256" with 64 hex digits.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// NewStatement binds a predicate to a digest. The predicate is marshalled with encoding/json.
func NewStatement(name string, subject digest.Digest, predicateType string, predicate any) (Statement, error) {
	raw, err := json.Marshal(predicate)
	if err != nil {
		return Statement{}, fmt.Errorf("encoding predicate of %s: %w", name, err)
	}
	return Statement{
		Type:          StatementT,
		Subject:       [1]Subject{{Name: name, Digest: map[string]string{"sha256": subject.Encoded()}}},
		PredicateType: predicateType,
		Predicate:     raw,
	}, nil
}

// About returns the digest a statement speaks about.
func (s Statement) About() digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, s.Subject[0].Digest["sha256"])
}

// Bundle is a signed statement as a Sigstore bundle v0.3 in JSON.
type Bundle struct {
	Subject       digest.Digest
	PredicateType string
	JSON          []byte
}

// Coverage says whether a scan took place. Its zero value is not valid: silence is not a result.
type Coverage string

// The coverages of a scan.
const (
	Scanned    Coverage = "scanned"
	NotScanned Coverage = "not-scanned"
)

// FindingKind says what sort of problem a finding is.
type FindingKind string

// The kinds of findings.
const (
	Secret        FindingKind = "secret"
	Vulnerability FindingKind = "vulnerability"
	Smoke         FindingKind = "smoke"
)

// Finding is one problem of one cell. Severity is LOW, MEDIUM, HIGH, CRITICAL or UNKNOWN. It says
// where a secret is, and never holds the secret or the text around it.
type Finding struct {
	Kind     FindingKind   `json:"kind"`
	ID       string        `json:"id"`
	Severity string        `json:"severity"`
	Title    string        `json:"title,omitempty"`
	Package  string        `json:"package,omitempty"`
	Version  string        `json:"version,omitempty"`
	PURL     string        `json:"purl,omitempty"` // of the package, with the architecture and the distribution of a system's
	FixedIn  string        `json:"fixedIn,omitempty"`
	Path     string        `json:"path,omitempty"` // in the layer; "config.json#/config/Env/3" in the image's own documents
	Line     int           `json:"line,omitempty"` // of a secret, counted from 1
	Layer    digest.Digest `json:"layer,omitempty"`
}

// Layer is a layer of a cell and the Dockerfile instruction that made it, as the image's history
// tells it: one line, cut, and not told when it holds a secret.
type Layer struct {
	Digest      digest.Digest `json:"digest"`
	Instruction string        `json:"instruction,omitempty"`
}

// Report is the result of inspecting one cell: scan.json, and the predicate of its attestation.
// It holds no clock time, so that inspecting the same bytes with the same tools and database
// gives the same report.
type Report struct {
	Cell            Cell              `json:"cell"`
	Digest          digest.Digest     `json:"digest"` // platform manifest
	Tools           map[string]string `json:"tools"`  // name → version
	Secrets         Coverage          `json:"secrets"`
	Vulnerabilities Coverage          `json:"vulnerabilities"`
	Reason          string            `json:"reason,omitempty"`         // why vulnerabilities were not scanned
	Database        string            `json:"database,omitempty"`       // schema and RFC 3339 time of the vulnerability database
	DatabaseDigest  digest.Digest     `json:"databaseDigest,omitempty"` // of the manifest it was pulled as, or of its files
	Packages        int               `json:"packages"`                 // components in the SBOM
	SBOM            digest.Digest     `json:"sbom"`                     // of the CycloneDX document
	Layers          []Layer           `json:"layers,omitempty"`         // lowest first
	Smoke           []SmokeResult     `json:"smoke"`
	Findings        []Finding         `json:"findings"` // sorted by kind, severity, id, path
	Checks          []Check           `json:"-"`        // how this run came by it; no part of what is attested
}

// SmokeResult is one smoke test run inside the built image.
type SmokeResult struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Exit   int    `json:"exit"`
	Output string `json:"output"` // first 2,000 bytes, standard output and error together
	Cached bool   `json:"-"`      // it was run before, on the same bytes; no part of what is attested
}

// Check is one look at one cell in this run.
type Check struct {
	Name   string // "sbom", "secrets", "vulnerabilities", "smoke"
	Took   time.Duration
	Cached bool // the same bytes were looked at before, by the same tools
}
