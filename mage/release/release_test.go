package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func record() release.Record {
	node := func(s string) graph.Node { return graph.NewNode("application/octet-stream", []byte(s)) }
	image := func(s string) release.Image {
		return release.Image{Index: node(s), Platforms: map[string]graph.Node{"linux/amd64": node(s + "/amd64")}}
	}
	return release.Record{
		Schema: 1, Family: "tiny", Source: release.Source{Commit: strings.Repeat("a", 40), Epoch: now},
		Images:    map[string]release.Image{"tiny-base": image("base"), "tiny": image("app")},
		Artifacts: map[string]graph.Node{"tiny-payload": node("payload")},
		Materials: []evidence.Material{{Name: "os-base", URI: "oci:os", Digest: map[string]string{"sha256": "00"}}},
		Tools:     map[string]string{"buildkit": "1"},
	}
}

func tiny() *family.Family {
	return &family.Family{
		Name:      "tiny",
		Images:    map[string]family.Image{"tiny-base": {}, "tiny": {From: "tiny-base"}},
		Artifacts: map[string]family.Artifact{"tiny-payload": {Kind: family.Payload}, "tiny-metadata": {Kind: family.Metadata}},
	}
}

func reports(r release.Record) []evidence.Report {
	var out []evidence.Report
	for _, c := range r.Cells() {
		n, _ := r.Digest(c)
		out = append(out, evidence.Report{Cell: c, Digest: n.Digest, Secrets: evidence.Scanned, Vulnerabilities: evidence.Scanned, SBOM: digest.FromString("sbom")})
	}
	return out
}

func TestRecordRoundTrip(t *testing.T) {
	content, err := record().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := release.DecodeRecord(content)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(record(), got); diff != "" {
		t.Errorf("the record changed on its way (-want +got):\n%s", diff)
	}
}

func TestE3DecodeDocumentRefuses(t *testing.T) {
	d, _, err := release.PlanPromote(release.Head{}, "tiny", "dev", release.Candidate{Record: record(), Digest: digest.FromString("r")}, release.Moved{At: now})
	if err != nil {
		t.Fatal(err)
	}
	good, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.DecodeDocument(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]struct{ from, to, where string }{
		"another schema":            {`"schema": 1`, `"schema": 2`, "line 2: schema: "},
		"a generation too big":      {`"generation": 1,`, `"generation": 18446744073709551616,`, "line 4: generation: "},
		"generation zero":           {`"generation": 1,`, `"generation": 0,`, "line 5: previous: "},
		"an unknown field":          {`"family"`, `"fmaily"`, "line 3: fmaily: "},
		"an unknown field deep":     {`"reason": ""`, `"family": ""`, "line 23: channels.dev.moved.family: "},
		"a wrong type deep":         {`"reason": ""`, `"reason": {}`, "line 23: channels.dev.moved.reason: "},
		"a duplicate key":           {`"schema": 1,`, `"schema": 1, "schema": 1,`, "line 2: schema: "},
		"a duplicate key deep":      {`"reason": ""`, `"reason": "", "reason": ""`, "line 23: channels.dev.moved.reason: "},
		"a commit that is not one":  {strings.Repeat("a", 40), "main", "line 11: channels.dev.commit: "},
		"a record that is a tag":    {digest.FromString("r").String(), "dev", "line 13: channels.dev.record: "},
		"a previous in the first":   {`"previous": ""`, `"previous": "sha256:00"`, "line 5: previous: "},
		"a channel from the future": {"\"dev\": {\n      \"generation\": 1", "\"dev\": {\n      \"generation\": 9", "line 10: channels.dev.generation: "},
		"a time with a fraction":    {`"issued": "2026-11-23T12:00:00Z"`, `"issued": "2026-11-23T12:00:00.5Z"`, "line 6: issued: "},
		"expired when it is issued": {`"issued": "2026-`, `"issued": "2027-`, "line 7: expires: "},
		"no members":                {`"members": {`, `"members": {}, "hold": {`, "line 14: channels.dev.hold: "},
		"a key with lines":          {`"family"`, `"a\n::error::b\u001b"`, `line 3: a\n::error::b\x1b: `},
		"a key in another case":     {`"schema": 1`, `"Schema": 1`, "line 2: Schema: "},
		"a key in both cases":       {`"schema": 1,`, `"schema": 1, "Schema": 1,`, "line 2: Schema: "},
		"another way to write it":   {`"schema": 1,`, `"schema":1,`, "line 2: schema: "},
		"a byte order mark":         {`{`, "\ufeff{", "line 1: "},
		"more after the end":        {"}\n}\n", "}\n}\n{}", "line 29: "},
		"a truncated document":      {"}\n}\n", "}\n", "line 27: "},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(string(good), change.from, change.to, 1)
			if bad == string(good) {
				t.Fatal("the case does not change anything")
			}
			_, err := release.DecodeDocument([]byte(bad))
			if !errors.Is(err, fault.Forged) || !strings.Contains(err.Error(), change.where) {
				t.Errorf("DecodeDocument() = %v, want forged at %q in\n%s", err, change.where, bad)
			}
		})
	}
}

func TestClaimsCoverEveryDigestOfARecord(t *testing.T) {
	r := record()
	node := graph.NewNode("application/octet-stream", []byte("record"))
	claimed := map[digest.Digest]int{}
	for _, c := range release.Claims(tiny(), r, node) {
		claimed[c.Subject.Digest]++
	}
	for name, n := range r.Members() {
		if claimed[n.Digest] < 2 {
			t.Errorf("%s has %d claims, want signature and provenance at least", name, claimed[n.Digest])
		}
	}
	for _, c := range r.Cells() {
		n, _ := r.Digest(c)
		if claimed[n.Digest] != 4 {
			t.Errorf("%s has %d claims, want 4", c, claimed[n.Digest])
		}
	}
	if claimed[node.Digest] != 1 {
		t.Errorf("the record has %d claims, want its signature", claimed[node.Digest])
	}
}

func FuzzDecodeDocument(f *testing.F) {
	f.Add([]byte(`{"schema":1,"generation":1}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := release.DecodeDocument(content)
		if err == nil && d.Generation == 0 {
			t.Errorf("accepted generation zero")
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	content, _ := record().Encode()
	f.Add(content)
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := release.DecodeRecord(content)
		if err == nil && len(r.Images) == 0 {
			t.Errorf("accepted a record of nothing")
		}
	})
}

func ExampleSource_Tag() {
	src := release.Source{Commit: strings.Repeat("4", 40)}
	fmt.Println(src.Tag())
	src.Dirty = "c0ffee00"
	fmt.Println(src.Tag())
	// Output:
	// sha-4444444444444444444444444444444444444444
	// sha-4444444444444444444444444444444444444444-dirty-c0ffee00
}

func ExampleProfile() {
	images := map[string]release.Image{"tiny-base": {Index: graph.NewNode("", []byte("base"))}}
	fmt.Print(string(release.Profile("localhost:5555/tiny", "tiny", release.Source{Commit: strings.Repeat("4", 40)}, images)))
	// Output:
	// CONTAINAI_COMMIT=4444444444444444444444444444444444444444
	// CONTAINAI_FAMILY=tiny
	// CONTAINAI_OWNER=tiny
	// CONTAINAI_REGISTRY=localhost:5555
	// CONTAINAI_TAG=sha-4444444444444444444444444444444444444444
	// TINY_BASE_DIGEST=sha256:cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2
}
