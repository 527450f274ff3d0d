package family_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/openvex/go-vex/pkg/vex"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const statement = `{
  "@context": "https://openvex.dev/ns/v0.2.0",
  "@id": "https://example.com/vex/1",
  "author": "somebody",
  "timestamp": "2026-11-01T00:00:00Z",
  "version": 1,
  "statements": [
    {
      "vulnerability": {"name": "CVE-2026-1"},
      "products": [
        {"@id": "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64"}
      ],
      "status": "not_affected",
      "justification": "vulnerable_code_not_in_execute_path"
    }
  ]
}
`

// vexed is a family whose gates name vex.json, until a day.
func vexed(t *testing.T) *family.Family {
	t.Helper()
	f, err := family.Parse("family.yaml", []byte(gated("      vex:\n        - {file: vex.json, expires: 2026-12-31}\n")))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOpenVEXStatementsAreWaivers(t *testing.T) {
	f := vexed(t)
	if diff := cmp.Diff([]string{"vex.json"}, f.Documents()); diff != "" {
		t.Errorf("Documents() (-want +got):\n%s", diff)
	}
	if err := f.ReadVEX("vex.json", []byte(statement)); err != nil {
		t.Fatal(err)
	}
	want := []family.Waiver{{
		ID: "CVE-2026-1", Package: "openssl", Version: "3.0.1-1~deb12u2", Reason: "vulnerable_code_not_in_execute_path",
		Expires: time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC), Source: "vex.json:11",
	}}
	for _, channel := range []string{"dev", "prod"} {
		if diff := cmp.Diff(want, f.Channels[channel].Gate.Waivers); diff != "" {
			t.Errorf("waivers of %s (-want +got):\n%s", channel, diff)
		}
	}
}

// TestOpenVEXOfItsOwnLibraryIsUnderstood: what go-vex, the specification's own library, writes.
func TestOpenVEXOfItsOwnLibraryIsUnderstood(t *testing.T) {
	document := vex.New()
	document.Statements = append(document.Statements, []vex.Statement{
		{
			Vulnerability: vex.Vulnerability{Name: "CVE-2026-1"}, Status: vex.StatusNotAffected, ImpactStatement: "never called",
			Products: []vex.Product{{
				Component:     vex.Component{ID: "pkg:oci/tiny?repository_url=ghcr.io/containai/tiny"},
				Subcomponents: []vex.Subcomponent{{Component: vex.Component{ID: "pkg:npm/%40scope/left-pad@1.3.0"}}, {Component: vex.Component{ID: "pkg:maven/org.example/app"}}},
			}},
		},
		{
			Vulnerability: vex.Vulnerability{Name: "CVE-2026-2"}, Status: vex.StatusFixed, StatusNotes: "patched",
			Products: []vex.Product{{Component: vex.Component{ID: "https://example.com/zlib", Identifiers: map[vex.IdentifierType]string{vex.PURL: "pkg:apk/alpine/zlib"}}}},
		},
		{Vulnerability: vex.Vulnerability{Name: "CVE-2026-3"}, Status: vex.StatusAffected, ActionStatement: "update", Products: []vex.Product{{Component: vex.Component{ID: "pkg:golang/github.com/a/b"}}}},
		{Vulnerability: vex.Vulnerability{Name: "CVE-2026-4"}, Status: vex.StatusUnderInvestigation, Products: []vex.Product{{Component: vex.Component{ID: "pkg:golang/github.com/a/b"}}}},
	}...)
	var content bytes.Buffer
	if err := document.ToJSON(&content); err != nil {
		t.Fatal(err)
	}
	f := vexed(t)
	if err := f.ReadVEX("vex.json", content.Bytes()); err != nil {
		t.Fatal(err)
	}
	want := []family.Waiver{
		{ID: "CVE-2026-1", Image: "tiny", Package: "@scope/left-pad", Version: "1.3.0", Reason: "never called"},
		{ID: "CVE-2026-1", Image: "tiny", Package: "org.example:app", Reason: "never called"},
		{ID: "CVE-2026-2", Package: "zlib", Reason: "patched"},
	}
	if diff := cmp.Diff(want, f.Channels["prod"].Gate.Waivers, cmpopts.IgnoreFields(family.Waiver{}, "Expires", "Source")); diff != "" {
		t.Errorf("waivers (-want +got):\n%s\nof\n%s", diff, content.String())
	}
}

func TestF8ABroadOrUnfoundedVEXStatementIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"about no product", `{"@id": "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64"}`, "", "vex.json:8: the statement on CVE-2026-1 is too broad"},
		{"about a whole image", "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64", "pkg:oci/tiny", "vex.json:8: the statement on CVE-2026-1 is too broad"},
		{"about every package", "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64", "pkg:deb/debian/*", `vex.json:11: "pkg:deb/debian/*" is not a package URL`},
		{"about something that has no package URL", "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64", "openssl", `vex.json:11: "openssl" is not a package URL`},
		{"about every vulnerability", "CVE-2026-1", "*", "vex.json:9: "},
		{"without a reason", `"justification": "vulnerable_code_not_in_execute_path"`, `"supplier": "x"`, "vex.json:8: the statement on CVE-2026-1 gives no reason"},
		{"of an unknown status", "not_affected", "harmless", `vex.json:13: "harmless" is not one of`},
		{"of another version", "ns/v0.2.0", "ns/v0.1.0", "vex.json:2: "},
		{"without statements", `"statements"`, `"claims"`, `vex.json:1: field "statements" is missing`},
		{"torn", "  ]\n}\n", "", "not YAML"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := strings.Replace(statement, tt.old, tt.new, 1)
			if content == statement {
				t.Fatal("the case does not change anything")
			}
			f := vexed(t)
			err := f.ReadVEX("vex.json", []byte(content))
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadVEX() = %v, want %s", err, tt.want)
			}
			if got := f.Channels["prod"].Gate.Waivers; len(got) > 0 {
				t.Errorf("a refused document waives %v", got)
			}
		})
	}
}

func FuzzReadVEX(f *testing.F) {
	f.Add([]byte(statement))
	f.Add([]byte(`{"statements": [{"products": [{"subcomponents": [{}]}]}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		fam, err := family.Parse("family.yaml", []byte(gated("      vex:\n        - {file: vex.json, expires: 2026-12-31}\n")))
		if err != nil {
			t.Fatal(err)
		}
		if fam.ReadVEX("vex.json", content) != nil {
			return
		}
		for _, w := range fam.Channels["prod"].Gate.Waivers {
			if w.ID == "" || w.Reason == "" || w.Package == "" || w.Expires.IsZero() {
				t.Errorf("accepted %+v", w)
			}
		}
	})
}
