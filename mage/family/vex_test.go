package family_test

import (
	"bytes"
	"errors"
	"fmt"
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
		ID: "CVE-2026-1", Package: "openssl", Version: "3.0.1-1~deb12u2", PURL: "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64", Reason: "vulnerable_code_not_in_execute_path",
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
				Component:     vex.Component{ID: "pkg:oci/tiny"},
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
		{ID: "CVE-2026-1", Image: "tiny", Package: "@scope/left-pad", Version: "1.3.0", PURL: "pkg:npm/%40scope/left-pad@1.3.0", Reason: "never called"},
		{ID: "CVE-2026-1", Image: "tiny", Package: "org.example:app", PURL: "pkg:maven/org.example/app", Reason: "never called"},
		{ID: "CVE-2026-2", Package: "zlib", PURL: "pkg:apk/alpine/zlib", Reason: "patched"},
	}
	if diff := cmp.Diff(want, f.Channels["prod"].Gate.Waivers, cmpopts.IgnoreFields(family.Waiver{}, "Expires", "Source")); diff != "" {
		t.Errorf("waivers (-want +got):\n%s\nof\n%s", diff, content.String())
	}
}

// openssl is what the statement is about.
const openssl = "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64"

// What is said later stands, wherever in the document it is said.
func TestF8ALaterStatementRevokesAnEarlierOne(t *testing.T) {
	const accepted, affected = `{"vulnerability": {"name": "CVE-2026-1"}, "status": "not_affected", "impact_statement": "never called", %s "products": [{"@id": %q}]}`,
		`{"vulnerability": {"name": "CVE-2026-1"}, "status": "affected", %s "products": [%s]}`
	const september, december = `"timestamp": "2026-09-01T00:00:00Z",`, `"timestamp": "2026-12-01T00:00:00Z",`
	deb := fmt.Sprintf(accepted, "", "pkg:deb/debian/openssl")
	for name, c := range map[string]struct {
		statements []string
		waivers    int
	}{
		"below, of the same package":          {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:deb/debian/openssl"}`)}, 0},
		"below, of one version":               {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:deb/debian/openssl@3.0.1"}`)}, 0},
		"below, of an image":                  {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:oci/tiny"}`)}, 0},
		"below, of it in an image":            {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:oci/tiny", "subcomponents": [{"@id": "pkg:deb/debian/openssl"}]}`)}, 0},
		"below, of everything":                {[]string{deb, fmt.Sprintf(affected, "", "")}, 0},
		"above, and dated later":              {[]string{fmt.Sprintf(affected, december, `{"@id": "pkg:deb/debian/openssl"}`), deb}, 0},
		"of another name of it":               {[]string{deb, strings.Replace(fmt.Sprintf(affected, "", ""), `"CVE-2026-1"`, `"GHSA-1", "aliases": ["CVE-2026-1"]`, 1)}, 0},
		"that nobody knows":                   {[]string{deb, strings.Replace(fmt.Sprintf(affected, "", ""), "affected", "under_investigation", 1)}, 0},
		"above, and is revoked itself":        {[]string{fmt.Sprintf(affected, "", `{"@id": "pkg:deb/debian/openssl"}`), deb}, 1},
		"below, and dated earlier":            {[]string{deb, fmt.Sprintf(affected, september, `{"@id": "pkg:deb/debian/openssl"}`)}, 1},
		"below, of another package":           {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:deb/debian/zlib"}`)}, 1},
		"below, of another package in images": {[]string{deb, fmt.Sprintf(affected, "", `{"@id": "pkg:oci/tiny", "subcomponents": [{"@id": "pkg:deb/debian/zlib"}]}`)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := vexed(t)
			document := statement[:strings.Index(statement, "    {")] + strings.Join(c.statements, ",\n") + "\n  ]\n}\n"
			if err := f.ReadVEX("vex.json", []byte(document)); err != nil {
				t.Fatal(err)
			}
			if got := f.Channels["prod"].Gate.Waivers; len(got) != c.waivers {
				t.Errorf("%d waivers hold, want %d: %v", len(got), c.waivers, got)
			}
		})
	}
}

func TestF8AWaiverNamesThePackageOfItsURL(t *testing.T) {
	const found = "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64&distro=debian-12.5&epoch=1"
	for purl, want := range map[string]bool{
		"":                       true, // a waiver of the family file
		"pkg:deb/debian/openssl": true,
		openssl:                  true,
		"pkg:deb/debian/openssl@1%3A3.0.1-1~deb12u2": true, // as the scanner says it, with its epoch
		"pkg:deb/debian/openssl?distro=debian-12.5":  true,
		"pkg:deb/ubuntu/openssl":                     false,
		"pkg:apk/debian/openssl":                     false,
		"pkg:generic/openssl":                        false,
		"pkg:deb/debian/openssl@3.0.2":               false,
		"pkg:deb/debian/openssl?arch=arm64":          false,
		"pkg:deb/debian/openssl?vcs_url=example.com": false,
	} {
		if got := (family.Waiver{PURL: purl}).Names(found, "1:3.0.1-1~deb12u2"); got != want {
			t.Errorf("%q names it: %v, want %v", purl, got, want)
		}
	}
	if (family.Waiver{PURL: "pkg:deb/debian/openssl"}).Names("", "3.0.1") {
		t.Error("it names what has no package URL")
	}
}

func TestF8ABroadOrUnfoundedVEXStatementIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"about no product", `{"@id": "pkg:deb/debian/openssl@3.0.1-1~deb12u2?arch=amd64"}`, "", "vex.json:8: the statement on CVE-2026-1 is too broad"},
		{"about a whole image", openssl, "pkg:oci/tiny", "vex.json:8: the statement on CVE-2026-1 is too broad"},
		{"about every package", openssl, "pkg:deb/debian/*", `vex.json:11: "pkg:deb/debian/*" is not a package URL`},
		{"about something that has no package URL", openssl, "openssl", `vex.json:11: "openssl" is not a package URL`},
		{"about one digest of an image", openssl, `pkg:oci/tiny@sha256%3Aabc", "subcomponents": [{"@id": "pkg:deb/debian/openssl"}], "x": "`, "vex.json:11: pkg:oci/tiny@sha256:abc names a digest"},
		{"about one tag of an image", openssl, `pkg:oci/tiny?tag=v1", "subcomponents": [{"@id": "pkg:deb/debian/openssl"}], "x": "`, "vex.json:11: pkg:oci/tiny?tag=v1 narrows the image by tag"},
		{"about an image of others", openssl, `pkg:oci/tiny?repository_url=ghcr.io/other/tiny", "subcomponents": [{"@id": "pkg:deb/debian/openssl"}], "x": "`, "vex.json:11: "},
		{"about parts of a package", openssl, `pkg:npm/app", "subcomponents": [{"@id": "pkg:npm/left-pad"}], "x": "`, "vex.json:11: pkg:npm/app has subcomponents"},
		{"about an image in an image", openssl, `pkg:oci/tiny", "subcomponents": [{"@id": "pkg:oci/tiny"}], "x": "`, "vex.json:11: pkg:oci/tiny is an image inside"},
		{"about parts of a part", openssl, `pkg:oci/tiny", "subcomponents": [{"@id": "pkg:npm/app", "subcomponents": [{"@id": "pkg:npm/left-pad"}]}], "x": "`, "vex.json:11: pkg:npm/app has subcomponents"},
		{"about some bytes", openssl, `pkg:npm/app", "hashes": {"sha-256": "abc"}, "x": "`, "vex.json:11: pkg:npm/app is narrowed"},
		{"about a path in a package", openssl, "pkg:golang/example.com/a#cmd", "vex.json:11: "},
		{"at no time", "2026-11-01T00:00:00Z", "yesterday", `vex.json:5: "yesterday" is no time`},
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
			if w.ID == "" || w.Reason == "" || w.Package == "" || w.PURL == "" || w.Expires.IsZero() {
				t.Errorf("accepted %+v", w)
			}
		}
	})
}
