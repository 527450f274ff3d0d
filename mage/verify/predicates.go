package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
)

// What the predicates of verified bundles must say. Each check passes what is not its own.

// provenanceAgrees: a provenance says what its certificate proves.
func (t *trial) provenanceAgrees(v sigstore.Verified) error {
	if v.Statement.PredicateType != evidence.Provenance {
		return nil
	}
	return sigstore.CheckProvenance(v.Statement, v.Identity)
}

// provenanceNamesItsDependencies: the parent image, the operating system, and the images that
// payload and installer are made for, each with the digest that the record says.
func (t *trial) provenanceNamesItsDependencies(v sigstore.Verified) error {
	if v.Statement.PredicateType != evidence.Provenance {
		return nil
	}
	var p evidence.SLSA
	if err := json.Unmarshal(v.Statement.Predicate, &p); err != nil {
		return refuse(fault.Forged, t.subject.String(), WrongDependencies, "%w", err)
	}
	for _, want := range t.subject.Dependencies {
		if !p.BuildDefinition.Names(want) {
			return refuse(fault.Forged, t.subject.String(), WrongDependencies, "%s %v", want.URI, want.Digest)
		}
	}
	return nil
}

// sbomIsOne: CycloneDX 1.4 to 1.6. What has no packages has no list of components.
func (t *trial) sbomIsOne(v sigstore.Verified) error {
	if v.Statement.PredicateType != evidence.SBOM {
		return nil
	}
	format, version := textAt(v.Statement.Predicate, "bomFormat"), textAt(v.Statement.Predicate, "specVersion")
	if format != "CycloneDX" || !slices.Contains([]string{"1.4", "1.5", "1.6"}, version) {
		return refuse(fault.Forged, t.subject.String(), WrongSBOM, "it is %q %q", format, version)
	}
	return nil
}

// sbomIsOfTheSubject: an image's SBOM names the image's own manifest as what it describes.
func (t *trial) sbomIsOfTheSubject(v sigstore.Verified) error {
	if v.Statement.PredicateType != evidence.SBOM || t.subject.Kind != family.PlatformManifest {
		return nil
	}
	described := textAt(v.Statement.Predicate, "metadata", "component", "version")
	if described != t.subject.Digest.String() {
		return refuse(fault.Forged, t.subject.String(), WrongSBOM, "it describes %q, not %s", described, t.subject.Digest)
	}
	return nil
}

// textAt follows members whose names are compared exactly, as encoding/json does for maps alone, and
// returns the text it finds; what is not there is no text.
func textAt(content json.RawMessage, path ...string) (text string) {
	for _, name := range path {
		var members map[string]json.RawMessage
		_ = json.Unmarshal(content, &members)
		content = members[name]
	}
	_ = json.Unmarshal(content, &text)
	return text
}

// report reads a scan attestation; another statement gives false. It must say exactly what a report
// of ours says: no member that we do not know, none under another name.
func report(v sigstore.Verified) (evidence.Report, bool, error) {
	var r evidence.Report
	if v.Statement.PredicateType != evidence.Scan {
		return r, false, nil
	}
	if err := json.Unmarshal(v.Statement.Predicate, &r); err != nil {
		return r, true, err
	}
	again, err := json.Marshal(r)
	if err == nil && !sameJSON(again, v.Statement.Predicate) {
		err = errors.New("it is not written as reports are")
	}
	return r, true, err
}

// scanIsOne: secrets were looked for, and it says whether vulnerabilities were.
func (t *trial) scanIsOne(v sigstore.Verified) error {
	r, ok, err := report(v)
	if !ok {
		return nil
	}
	told := r.Vulnerabilities == evidence.Scanned || r.Vulnerabilities == evidence.NotScanned && r.Reason != ""
	if err != nil || r.Secrets != evidence.Scanned || !told || r.SBOM.Validate() != nil {
		return refuse(fault.Forged, t.subject.String(), WrongScan, "secrets %q, vulnerabilities %q, SBOM %q, %v", r.Secrets, r.Vulnerabilities, r.SBOM, err)
	}
	return nil
}

func (t *trial) scanIsOfTheSubject(v sigstore.Verified) error {
	if r, ok, _ := report(v); ok && r.Digest != t.subject.Digest {
		return refuse(fault.Forged, t.subject.String(), WrongScan, "it is of %s", r.Digest)
	}
	return nil
}

func (t *trial) scanIsOfThePlatform(v sigstore.Verified) error {
	if r, ok, _ := report(v); ok && r.Cell != (evidence.Cell{Image: t.subject.Name, Platform: t.subject.Platform}) {
		return refuse(fault.Forged, t.subject.String(), WrongScan, "it is of %q", r.Cell)
	}
	return nil
}

// documentCheck compares the SBOM document that hangs on a subject with what was attested.
type documentCheck func(t *trial, document []byte, proved statements) error

func documentChecks() []documentCheck {
	return []documentCheck{
		documentIsAsAttested,
		documentIsAsScanned,
	}
}

// compare looks for the SBOM document among those that hang on the subject: the one that the scan
// names, or where there is no scan the one that was attested. Others prove nothing.
func (t *trial) compare(proved statements, result *Result) error {
	if _, ok := proved[family.DemandSBOM]; !ok {
		return nil
	}
	var nearest error
	for _, document := range t.evidence.Documents {
		err := t.document(document, proved)
		if err == nil {
			result.hold(t.subject.String(), "SBOM as attested", "%s", digest.FromBytes(document))
			return nil
		}
		nearest = err
	}
	if nearest != nil {
		return nearest
	}
	return refuse(fault.Unverified, t.subject.String(), Missing, "no SBOM document hangs on %s", t.subject.Digest)
}

func (t *trial) document(document []byte, proved statements) error {
	for _, check := range documentChecks() {
		if err := check(t, document, proved); err != nil {
			return err
		}
	}
	return nil
}

func documentIsAsAttested(t *trial, document []byte, proved statements) error {
	if !sameJSON(document, proved[family.DemandSBOM].Predicate) {
		return refuse(fault.Forged, t.subject.String(), WrongSBOM, "the document that hangs on it is not the one that was attested")
	}
	return nil
}

func documentIsAsScanned(t *trial, document []byte, proved statements) error {
	r, ok, _ := report(sigstore.Verified{Statement: proved[family.DemandScan]})
	if got := digest.FromBytes(document); ok && r.SBOM != got {
		return refuse(fault.Forged, t.subject.String(), WrongSBOM, "the scan was of the SBOM %s, not of %s", r.SBOM, got)
	}
	return nil
}

// sameJSON compares documents token by token: white space and escapes do not count, the order of
// members does. It keeps nothing of either, whatever a stranger's document holds.
func sameJSON(a, b []byte) bool {
	x, y := tokens(a), tokens(b)
	for n := 0; ; n++ {
		s, errS := x.Token()
		t, errT := y.Token()
		if errS == io.EOF && errT == io.EOF {
			return n > 0
		}
		if errS != nil || errT != nil || s != t {
			return false
		}
	}
}

func tokens(content []byte) *json.Decoder {
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	return dec
}
