package release_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// waive is a waiver of a finding that holds for a day.
func waive(f evidence.Finding) family.Waiver {
	return family.Waiver{ID: f.ID, Package: f.Package, Path: f.Path, Reason: "not reachable", Expires: now.Add(24 * time.Hour), Source: "containai.yaml:7"}
}

func TestF8AWaiverHoldsUntilItExpires(t *testing.T) {
	for _, finding := range []evidence.Finding{openssl, awsSecret} {
		gate, set := strict(waive(finding)), evidenced(map[string][]evidence.Finding{"tiny-base": {finding}, "tiny": {finding}})
		if _, err := gate.Approve(set, now); err != nil {
			t.Errorf("%s before it expires: %v", finding.ID, err)
		}
		_, err := gate.Approve(set, now.Add(24*time.Hour))
		if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "containai.yaml:7: waiver of "+finding.ID) || !strings.Contains(err.Error(), "expired on 2026-11-24") {
			t.Errorf("%s when it expires: %v", finding.ID, err)
		}
	}
}

func TestF8AnExpiredWaiverRefusesThoughNothingNeedsIt(t *testing.T) {
	gate := strict(waive(openssl))
	gate.Rules.Gate.Unused = true
	if _, err := gate.Approve(evidenced(nil), now.Add(24*time.Hour)); !errors.Is(err, fault.Refused) {
		t.Errorf("Approve() = %v, want a refusal", err)
	}
}

func TestF8AWaiverCoversExactlyWhatItNames(t *testing.T) {
	for name, change := range map[string]func(*family.Waiver){
		"another id":                      func(w *family.Waiver) { w.ID = "CVE-2026-2" },
		"another package":                 func(w *family.Waiver) { w.Package = "openssl-libs" },
		"another version":                 func(w *family.Waiver) { w.Version = "3.0.0" },
		"another path":                    func(w *family.Waiver) { w.Path = "usr/lib/other" },
		"an image that only inherited it": func(w *family.Waiver) { w.Image = "tiny" },
		"nothing but an id":               func(w *family.Waiver) { w.Package = "" },
		"another distribution's package":  func(w *family.Waiver) { w.PURL = "pkg:deb/ubuntu/openssl" },
		"another architecture":            func(w *family.Waiver) { w.PURL = "pkg:deb/debian/openssl?arch=arm64" },
		"a rule for secrets":              func(w *family.Waiver) { w.ID = "openssl" },
	} {
		t.Run(name, func(t *testing.T) {
			w := waive(openssl)
			change(&w)
			verdict := strict(w).Judge(evidenced(map[string][]evidence.Finding{"tiny-base": {openssl}, "tiny": {openssl}}), now)
			if verdict.Blocking() != 1 || verdict.Findings[0].Waiver != "" {
				t.Errorf("the waiver %s covers %s", w, verdict.Findings[0])
			}
		})
	}
	w := waive(openssl)
	w.Image, w.Version, w.PURL = "tiny-base", openssl.Version, openssl.PURL
	if verdict := strict(w).Judge(evidenced(map[string][]evidence.Finding{"tiny-base": {openssl}}), now); verdict.Refuses() || verdict.Findings[0].Waiver != w.Source {
		t.Errorf("the exact waiver covers nothing: %v", verdict)
	}
}

// In an image's configuration the same place may hold another secret.
func TestF8AWaiverOfAParentsConfigurationDoesNotCoverTheChild(t *testing.T) {
	env := evidence.Finding{Kind: evidence.Secret, ID: "aws-access-key-id", Severity: "CRITICAL", Path: "config.json#/config/Env/3"}
	w := waive(env)
	w.Image = "tiny-base"
	v := strict(w).Judge(evidenced(map[string][]evidence.Finding{"tiny-base": {env}, "tiny": {env}}), now)
	if v.Blocking() != 1 || v.Findings[0].Cell.Image != "tiny" {
		t.Errorf("with tiny-base's waived, %d findings stop tiny: %+v", v.Blocking(), v.Findings)
	}
}

func TestF8AnUnusedWaiver(t *testing.T) {
	low := openssl
	low.Severity = "LOW"
	for name, tt := range map[string]struct {
		findings  []evidence.Finding
		allowed   bool
		unscanned bool
		refused   bool
		warnings  int
	}{
		"is refused": {refused: true},
		"is refused when nothing would have stopped":     {findings: []evidence.Finding{low}, refused: true},
		"is told where the channel allows it":            {allowed: true, warnings: 1},
		"is not judged where nobody scanned":             {allowed: true, unscanned: true},
		"is not unused when it keeps a finding":          {findings: []evidence.Finding{openssl}},
		"is not unused when it keeps one, nor told then": {findings: []evidence.Finding{openssl}, allowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			gate, set := strict(waive(openssl)), evidenced(map[string][]evidence.Finding{"tiny-base": tt.findings})
			gate.Rules.Gate.Unused = tt.allowed
			if tt.unscanned {
				gate.Rules.Gate.Unscanned = true
				set.Reports[0].Vulnerabilities, set.Reports[0].Reason = evidence.NotScanned, "no database"
			}
			verdict := gate.Judge(set, now)
			if verdict.Refuses() != tt.refused || len(verdict.Warnings) != tt.warnings {
				t.Errorf("refused %v, warnings %q, %v", verdict.Refuses(), verdict.Warnings, verdict)
			}
		})
	}
}
