package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/release"
)

// maxResults is how many findings a SARIF log holds, the worst: GitHub shows 5,000 and refuses a log
// with more than 25,000
// (https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning).
const maxResults = 5000

// The parts of a SARIF log that we write: SARIF 2.1.0,
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html, section 3.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
		Properties  map[string]any    `json:"properties,omitempty"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string         `json:"id"`
		ShortDescription sarifMessage   `json:"shortDescription"`
		HelpURI          string         `json:"helpUri,omitempty"`
		Properties       map[string]any `json:"properties"`
	}
	sarifInvocation struct {
		ExecutionSuccessful bool                `json:"executionSuccessful"`
		Notifications       []sarifNotification `json:"toolExecutionNotifications"`
	}
	sarifNotification struct {
		Level   string       `json:"level"`
		Message sarifMessage `json:"message"`
	}
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifMessage       `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions"` // empty: looked for, and there is none
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

// SARIF returns findings.sarif, what code scanning shows: each finding once, where it came in; what
// stops the release as errors, what a waiver accepts as suppressed. Other reasons are notifications.
func (m Model) SARIF() ([]byte, error) {
	run := sarifRun{
		Tool:    sarifTool{sarifDriver{Name: "containai", InformationURI: "https://github.com/containai/containai", Rules: []sarifRule{}}},
		Results: []sarifResult{},
	}
	verdict := m.Verdict
	if verdict == nil {
		verdict = &release.Verdict{}
	}
	rules := map[string]int{}
	for i, f := range verdict.Findings {
		if i == maxResults {
			run.Properties = map[string]any{"omittedResults": len(verdict.Findings) - maxResults}
			break
		}
		at, known := rules[f.ID]
		if !known {
			at = len(run.Tool.Driver.Rules)
			rules[f.ID] = at
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, newRule(f))
		}
		run.Results = append(run.Results, newResult(f, at))
	}
	run.Invocations = []sarifInvocation{newInvocation(verdict)}
	content, err := json.MarshalIndent(sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	}, "", "  ")
	return append(content, '\n'), err
}

func newRule(f release.Found) sarifRule {
	title := f.Title
	if title == "" {
		title = f.ID
	}
	rule := sarifRule{ID: f.ID, ShortDescription: sarifMessage{title}, Properties: map[string]any{
		"tags": []string{"security", string(f.Kind)}, "security-severity": severityScore(f.Severity),
	}}
	if f.Kind == evidence.Vulnerability && strings.HasPrefix(f.ID, "CVE-") {
		rule.HelpURI = "https://www.cve.org/CVERecord?id=" + url.QueryEscape(f.ID)
	}
	return rule
}

// severityScore is a number within GitHub's bounds for a severity.
func severityScore(severity string) string {
	switch severity {
	case "CRITICAL":
		return "9.5"
	case "HIGH":
		return "8.0"
	case "MEDIUM":
		return "5.5"
	case "LOW":
		return "2.0"
	}
	return "0.0"
}

// placeOf is a finding's place in its image, as if that were a directory: files of images are no files
// of the repository. A name like ../../x came out of an image, and leads out of no directory.
func placeOf(f release.Found) string {
	inside := path.Clean("/" + cmp.Or(f.Path, f.Package))
	return (&url.URL{Path: f.Cell.Image + inside}).EscapedPath()
}

func newResult(f release.Found, rule int) sarifResult {
	result := sarifResult{
		RuleID: f.ID, RuleIndex: rule, Level: "warning", Message: sarifMessage{f.String()},
		Locations: []sarifLocation{{
			Physical: sarifPhysical{sarifArtifact{placeOf(f)}, sarifRegion{max(f.Line, 1)}},
			Logical:  []sarifLogical{{f.Cell.String(), "module"}},
		}},
		Fingerprints: map[string]string{"containai/v1": fingerprint(f)},
		Suppressions: []sarifSuppression{},
	}
	switch {
	case f.Blocking:
		result.Level = "error"
	case f.Severity == "LOW" || f.Severity == "UNKNOWN":
		result.Level = "note"
	}
	if f.Waiver != "" {
		result.Suppressions = append(result.Suppressions, sarifSuppression{"external", "waived: " + f.Waiver})
	}
	return result
}

// fingerprint recognizes a finding in the next release, whose layers and lines differ.
func fingerprint(f release.Found) string {
	return digest.FromString(fmt.Sprintf("%q", []string{f.Cell.Image, f.Cell.Platform, f.ID, f.Package, f.Path})).Encoded()[:32]
}

func newInvocation(v *release.Verdict) sarifInvocation {
	in := sarifInvocation{ExecutionSuccessful: true, Notifications: []sarifNotification{}}
	for _, r := range v.Refusals {
		in.Notifications = append(in.Notifications, sarifNotification{"error", sarifMessage{r.String()}})
	}
	for _, w := range v.Warnings {
		in.Notifications = append(in.Notifications, sarifNotification{"warning", sarifMessage{w}})
	}
	return in
}
