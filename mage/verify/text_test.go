package verify_test

import (
	"strings"
	"testing"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/verify"
)

func TestFindingsSayByWhichDatabase(t *testing.T) {
	text := verify.SBOMs{Scans: []evidence.Report{
		{Cell: evidence.Cell{Image: "tiny", Platform: "linux/amd64"}, Vulnerabilities: evidence.Scanned, Database: "2 of 2026-11-20", Findings: []evidence.Finding{
			{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "HIGH", Package: "zlib", Version: "1.2", FixedIn: "1.3"},
			{Kind: evidence.Secret, ID: "aws", Severity: "CRITICAL", Path: "/etc/\x1b[2Jkey"},
		}},
		{Cell: evidence.Cell{Image: "tiny", Platform: "linux/arm64"}, Vulnerabilities: evidence.NotScanned, Reason: "no database"},
	}}.String()
	for _, want := range []string{"linux/amd64: 2 findings", "2 of 2026-11-20", "CVE-2026-1", "1.3", "linux/arm64: 0 findings", "NOT SCANNED: no database"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") || !strings.Contains(verify.SBOMs{}.String(), "not known") {
		t.Errorf("printed %q and %q", text, verify.SBOMs{}.String())
	}
}

// An image that verifies may be an old one: only a channel's signed document says what is served now.
func TestAnImagesResultSaysWhatItDoesNotProve(t *testing.T) {
	w := newWorld(t, plot{})
	image, err := w.verifier.Image(t.Context(), "tiny-1", "dev", w.now)
	if err != nil {
		t.Fatal(err)
	}
	channel, err := w.verifier.Channel(t.Context(), "dev", w.now)
	if err != nil {
		t.Fatal(err)
	}
	const says = "not its currency: for that, verify:channel"
	if !strings.Contains(image.String(), says) || strings.Contains(channel.String(), says) {
		t.Errorf("the image:\n%s\nthe channel:\n%s", image, channel)
	}
}

// Row E7: platforms, components and references come from outside.
func TestE7ChangesAreEscaped(t *testing.T) {
	text := verify.ChangesText("a\x1b[2J", "b\n::error::c", map[string][]verify.Change{
		"linux/\x1b[2Jamd64\n::error::x": {{Name: "z\x1blib", Type: "library", Before: "1\n::error::y", After: "2"}},
	})
	if strings.Contains(text, "\x1b") || strings.Contains(text, "\n::") || !strings.Contains(text, `linux/\x1b[2Jamd64`) {
		t.Errorf("printed %q", text)
	}
}
