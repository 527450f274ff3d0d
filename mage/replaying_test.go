package mage

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
)

// A second scan confirms all that a report says, also why something was not scanned and what the layers are.
func TestReplayingComparesEverything(t *testing.T) {
	for name, change := range map[string]func(*evidence.Report){
		"reason":          func(r *evidence.Report) { r.Reason = "it has Java archives" },
		"layers":          func(r *evidence.Report) { r.Layers[0].Instruction = "RUN another" },
		"database digest": func(r *evidence.Report) { r.DatabaseDigest = digest.FromString("another") },
		"packages":        func(r *evidence.Report) { r.Packages = 1 },
		"LOW vulnerability CVE-1": func(r *evidence.Report) {
			r.Findings = []evidence.Finding{{Kind: evidence.Vulnerability, ID: "CVE-1", Severity: "LOW"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			report := func() evidence.Report {
				return evidence.Report{Layers: []evidence.Layer{{Digest: digest.FromString("layer"), Instruction: "RUN one"}}}
			}
			attested, again := report(), report()
			if d := differences(attested, again); len(d) > 0 {
				t.Errorf("the same reports differ: %q", d)
			}
			change(&attested)
			if d := differences(attested, again); len(d) != 1 || !strings.Contains(d[0], name) {
				t.Errorf("it says %q", d)
			}
		})
	}
}
