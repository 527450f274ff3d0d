package verify

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// The negative corpus: bundles_test.go (what is signed, and how), statements_test.go (by whom, and
// what it says), keys_test.go, channels_test.go (whole releases), hostile_test.go (evidence files,
// registries, indexes), sources_test.go (GitHub's API). corpus_test.go counts it. mage/tamper_test.go does the same to a release that was really built.

func TestD5SBOMsAreComparedByWhatTheySay(t *testing.T) {
	const attested = `{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890}`
	for name, tt := range map[string]struct {
		attached string
		want     bool
	}{
		"the same bytes":               {attested, true},
		"other white space":            {"{\n \"bomFormat\": \"CycloneDX\", \"components\": [ {\"name\": \"a<b\", \"version\": \"1.0\"} ], \"n\": 12345678901234567890 }", true},
		"the same text, escaped":       {`{"bomFormat":"CycloneDX","components":[{"name":"a\u003cb","version":"1.0"}],"n":12345678901234567890}`, true},
		"another version":              {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.1"}],"n":12345678901234567890}`, false},
		"members in another order":     {`{"components":[{"name":"a<b","version":"1.0"}],"bomFormat":"CycloneDX","n":12345678901234567890}`, false},
		"a member twice":               {`{"bomFormat":"CycloneDX","bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890}`, false},
		"more behind it":               {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890}{}`, false},
		"a component less":             {`{"bomFormat":"CycloneDX","components":[],"n":12345678901234567890}`, false},
		"a number that a float blurs":  {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567891}`, false},
		"nothing":                      {"", false},
		"something that is no JSON":    {"{", false},
		"a key that comes to the SBOM": {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890,"x":1}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sameJSON([]byte(tt.attached), []byte(attested)); got != tt.want {
				t.Errorf("sameJSON() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAnSBOMListsComponentsAndLicences(t *testing.T) {
	const before = `{"bomFormat":"CycloneDX","components":[
		{"type":"library","name":"zlib","version":"1.2","licenses":[{"license":{"id":"Zlib"}},{"license":{"name":"other"}}]},
		{"type":"library","name":"gone","version":"1"},
		{"type":"application","name":"tool","version":"2","licenses":[{"expression":"MIT OR Apache-2.0"}]}]}`
	const after = `{"bomFormat":"CycloneDX","components":[
		{"type":"library","name":"zlib","version":"1.3"},{"type":"library","name":"new","version":"1"},
		{"type":"application","name":"tool","version":"2"}]}`
	old, err := Components([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	want := []Component{
		{Name: "gone", Version: "1", Type: "library"},
		{Name: "tool", Version: "2", Type: "application", Licences: []string{"MIT OR Apache-2.0"}},
		{Name: "zlib", Version: "1.2", Type: "library", Licences: []string{"Zlib", "other"}},
	}
	if diff := cmp.Diff(want, old); diff != "" {
		t.Errorf("Components (-want +got):\n%s", diff)
	}
	now, err := Components([]byte(after))
	if err != nil {
		t.Fatal(err)
	}
	changes := []Change{
		{Name: "gone", Type: "library", Before: "1"},
		{Name: "new", Type: "library", After: "1"},
		{Name: "zlib", Type: "library", Before: "1.2", After: "1.3"},
	}
	if diff := cmp.Diff(changes, Compare(old, now)); diff != "" {
		t.Errorf("Compare (-want +got):\n%s", diff)
	}
	if _, err := Components([]byte("{")); !errors.Is(err, fault.Forged) {
		t.Errorf("Components of half a document = %v, want Forged", err)
	}
}

// What a policy demands by default is what a release attests.
func TestTheDefaultDemandsAreTheReleasesClaims(t *testing.T) {
	image := release.Image{Index: graph.Node{Digest: "sha256:i"}, Platforms: map[string]graph.Node{"linux/amd64": {Digest: "sha256:p"}}}
	f := &family.Family{Artifacts: map[string]family.Artifact{"p": {Kind: family.Payload}, "i": {Kind: family.Installer}, "m": {Kind: family.Metadata}}, Images: map[string]family.Image{"x": {}}}
	record := release.Record{Images: map[string]release.Image{"x": image}, Artifacts: map[string]graph.Node{"p": {Digest: "sha256:1"}, "i": {Digest: "sha256:2"}}}
	at := graph.Node{Digest: "sha256:r"}
	got := map[family.SubjectKind][]string{}
	v := &Verifier{Family: f}
	for _, c := range release.Claims(f, record, at) {
		got[v.kind(c, at)] = append(got[v.kind(c, at)], c.Predicate)
	}
	got[family.ChannelsDocument] = []string{evidence.Signature} // signed when it is committed
	want := map[family.SubjectKind][]string{}
	for kind, list := range defaultDemands() {
		for _, d := range list {
			want[kind] = append(want[kind], predicate(d))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("demands (-by default +claimed):\n%s", diff)
	}
}
