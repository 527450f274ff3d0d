package family_test

import (
	stdcmp "cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const small = `schema: 1
name: tiny
source: https://example.com/tiny
bake: bake.hcl
platforms: [linux/amd64]
os:
  image: debian@sha256:0000000000000000000000000000000000000000000000000000000000000000
  suite: bookworm
images:
  tiny-base: {}
  tiny:
    from: tiny-base
    smoke:
      - name: works
        run: [true]
artifacts:
  tiny-metadata: {kind: metadata}
channels:
  dev:
    gate: {severities: [], unscanned: allow, local-base: allow}
`

func TestParseReadsAFamily(t *testing.T) {
	f, err := family.Parse("family.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"tiny-base", "tiny", "tiny-metadata"}, f.Members()); diff != "" {
		t.Errorf("Members() differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"tiny-base"}, f.Roots()); diff != "" {
		t.Errorf("Roots() differ (-want +got):\n%s", diff)
	}
	if !f.Channels["dev"].Gate.Unscanned || f.Channels["dev"].Gate.Unfixed {
		t.Errorf("the dev gate is %+v", f.Channels["dev"].Gate)
	}
}

func TestAnArtifactMayHaveMediaTypesOfItsOwn(t *testing.T) {
	content := strings.Replace(small, "artifacts:\n", "artifacts:\n  tools: {kind: payload, path: tools, type: application/vnd.example.tools.v1, layer: application/vnd.example.tools.layer.v1+gzip}\n  setup: {kind: installer, path: setup}\n", 1)
	f, err := family.Parse("family.yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{
		"tools": {"application/vnd.example.tools.v1", "application/vnd.example.tools.layer.v1+gzip"},
		"setup": {"application/vnd.containai.installer.v1", "application/vnd.containai.installer.v1+sh"},
	} {
		if artifact, layer := f.Artifacts[name].Types(); artifact != want[0] || layer != want[1] {
			t.Errorf("%s has %s with layers %s, want %v", name, artifact, layer, want)
		}
	}
}

func TestAnEventReachesTheChannelThatSaysSoOrTheConventionalOne(t *testing.T) {
	for name, tt := range map[string]struct{ channels, want string }{
		"the conventional ones": {"  dev: GATE\n  nightly: GATE\n  prod: GATE\n", "dev nightly prod"},
		"others":                {"  edge: {on: [push, schedule], GATE\n  stable: {on: [version], GATE\n", "edge edge stable"},
		"none":                  {"  edge: GATE\n", "- - -"},
		"a conventional one that takes something else": {"  dev: {on: [version], GATE\n", "- - dev"},
	} {
		t.Run(name, func(t *testing.T) {
			gate := "gate: {severities: [], unscanned: allow, local-base: allow}}"
			channels := strings.ReplaceAll(strings.ReplaceAll(tt.channels, ": GATE", ": {"+gate), "GATE", gate)
			head, _, _ := strings.Cut(small, "  dev:\n")
			f, err := family.Parse("family.yaml", []byte(head+channels))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range []family.Event{family.Push, family.Schedule, family.Version} {
				got = append(got, stdcmp.Or(f.On(e), "-"))
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("push, schedule and version reach %v, want %s", got, tt.want)
			}
		})
	}
}

func TestPlaceSaysWhereAFamilySaysWhat(t *testing.T) {
	f, err := family.Parse("family.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path []string
		want string
	}{
		{[]string{"images", "tiny", "from"}, "family.yaml:12"},
		{[]string{"images", "tiny-base", "from"}, "family.yaml:10"},
		{[]string{"platforms"}, "family.yaml:5"},
		{[]string{"nowhere"}, "family.yaml"},
	} {
		if got := f.Place(tt.path...); got != tt.want {
			t.Errorf("Place(%v) = %s, want %s", tt.path, got, tt.want)
		}
	}
	if got := new(family.Family).Place("images"); got != "the family file" {
		t.Errorf("a family that was not parsed lies at %q", got)
	}
}

func TestParseNamesFileLineAndTheWordThatWasMeant(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"a misspelt field", "    smoke:", "    smok:", `family.yaml:13: unknown field "smok": did you mean "smoke"?`},
		{"an unknown parent", "from: tiny-base", "from: tiny-bse", `family.yaml:12: image "tiny" is from "tiny-bse", which is not in the family: did you mean "tiny-base"?`},
		{"a tag instead of a digest", "debian@sha256:0000000000000000000000000000000000000000000000000000000000000000", "debian:12", `family.yaml:7: "debian:12" is not pinned: write name@sha256:<64 hex digits>`},
		{"an image that is its own ancestor", "tiny-base: {}", "tiny-base: {}\n  a: {from: b}\n  b: {from: a}", `family.yaml:11: image "a" is its own ancestor`},
		{"no root", "tiny-base: {}", "tiny-base: {from: tiny}", `family.yaml:11: image "tiny" is its own ancestor`},
		{"a media type with capitals", "kind: metadata}", "kind: metadata}\n  tiny-tools: {kind: payload, path: tools, type: application/vnd.Example}", `family.yaml:18: "application/vnd.Example" is not a media type such as application/vnd.example.tools.v1`},
		{"media types for metadata", "kind: metadata}", "kind: metadata, layer: application/json}", `family.yaml:17: artifact "tiny-metadata" is of kind metadata, whose media types are this library's`},
		{"a duplicate name", "tiny-base: {}", "tiny-base: {}\n  tiny-base: {}", `family.yaml:11: "tiny-base" stands here twice`},
		{"an upper-case name", "name: tiny", "name: Tiny", `family.yaml:2: "Tiny" is not a name of lower-case letters, digits and dashes`},
		{"another schema", "schema: 1", "schema: 2", `family.yaml:1: schema 2 is not known; this library reads schema 1`},
		{"a path outside", "bake: bake.hcl", "bake: ../bake.hcl", `family.yaml:4: "../bake.hcl" must be a path below the family file`},
		{"a missing field", "name: tiny\n", "", `family.yaml:1: field "name" is missing`},
		{"a wrong word", "unscanned: allow", "unscanned: alow", `family.yaml:20: "alow" is not one of [allow refuse]: did you mean "allow"?`},
		{"a tag-like channel", "  dev:\n", "  sha256-dev:\n", `family.yaml:19: "sha256-dev" cannot be a channel: its name becomes a tag`},
		{"an event that two channels take", "  dev:\n", "  next:\n    on: [push]\n    gate: {severities: [], unscanned: allow, local-base: allow}\n  dev:\n    on: [push]\n", `family.yaml:20: "next" takes the event push, and so does "dev": one channel does`},
		{"an event that nobody knows", "  dev:\n", "  dev:\n    on: [pull]\n", `family.yaml:20: "pull" is not one of [push schedule version]: did you mean "push"?`},
		{"broken YAML", "images:", "images", `family.yaml:9: not YAML: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := strings.Replace(small, tt.old, tt.new, 1)
			if content == small {
				t.Fatalf("the case does not change anything")
			}
			_, err := family.Parse("family.yaml", []byte(content))
			var problems *family.Problems
			if !errors.Is(err, fault.Invalid) || !errors.As(err, &problems) {
				t.Fatalf("Parse() = %v, want problems", err)
			}
			for _, p := range problems.List {
				if strings.HasPrefix(p.String(), tt.want) {
					return
				}
			}
			t.Errorf("Parse() found\n%v\nwant\n%s", problems, tt.want)
		})
	}
}

func TestParseCollectsEverything(t *testing.T) {
	content := strings.NewReplacer("name: tiny\n", "nam: tiny\n", "kind: metadata", "kind: metdata").Replace(small)
	_, err := family.Parse("f.yaml", []byte(content))
	var problems *family.Problems
	if !errors.As(err, &problems) || len(problems.List) < 3 {
		t.Errorf("Parse() = %v, want at least three problems", err)
	}
}

func TestTheRepositorysOwnFamilyIsValid(t *testing.T) {
	content, err := os.ReadFile("../../containai.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := family.Parse("containai.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(f.Members()); got != 9 {
		t.Errorf("the family has %d members, want nine repositories: %v", got, f.Members())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("images: {x: {from: x}}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		parsed, err := family.Parse("fuzz.yaml", content)
		if err == nil && len(parsed.Roots()) == 0 {
			t.Errorf("accepted a family without a root: %+v", parsed)
		}
	})
}

func ExampleParse() {
	_, err := family.Parse("containai.yaml", []byte("schema: 1\nnmae: tiny\n"))
	fmt.Println(strings.Split(err.Error(), "\n")[0])
	// Output: reading containai.yaml: containai.yaml:1: field "name" is missing
}

func ExampleFamily_On() {
	f, err := family.Parse("containai.yaml", []byte(small))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%v stand on the operating system; a push reaches %q, a version %q\n", f.Roots(), f.On(family.Push), f.On(family.Version))
	// Output: [tiny-base] stand on the operating system; a push reaches "dev", a version ""
}

func TestMeantNamesTheChannelsAndTheNearest(t *testing.T) {
	f, err := family.Parse("family.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{
		"dve":     `the family has no such channel; it has dev: did you mean "dev"?`,
		"nightly": `the family has no such channel; it has dev`,
	} {
		if got := f.Meant(typed); got != want {
			t.Errorf("Meant(%q) = %q, want %q", typed, got, want)
		}
	}
}
