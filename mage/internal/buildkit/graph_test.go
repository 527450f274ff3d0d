package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// A family file and the bake file that fits it; each test breaks one line.
const (
	graphFamily = `schema: 1
name: tiny
source: https://example.com/tiny
bake: bake.hcl
platforms: [linux/amd64, linux/arm64]
os: {image: debian@sha256:0000000000000000000000000000000000000000000000000000000000000000, suite: bookworm}
images:
  base: {}
  app:
    from: base
  tool:
    from: app
artifacts:
  meta: {kind: metadata}
channels:
  dev:
    gate: {severities: [], unscanned: allow, local-base: allow}
`
	graphBake = `variable "PLATFORMS" { default = "linux/amd64,linux/arm64" }
target "_image" {
  platforms = split(",", PLATFORMS)
}
target "base" {
  inherits = ["_image"]
  context  = "base"
  contexts = { os = "docker-image://debian" }
}
target "app" {
  inherits = ["_image"]
  context  = "app"
  contexts = { parent = "target:base" }
}
target "helper" {
  context  = "app"
  contexts = {
    parent = "target:app"
  }
}
target "tool" {
  inherits          = ["_image"]
  dockerfile-inline = "FROM helper"
  contexts = {
    helper = "target:helper"
    notes  = "notes"
  }
}
`
)

// graphRequest writes the family, its bake file and what that names.
func graphRequest(t *testing.T, familyFile, bake string) Request {
	t.Helper()
	f, err := family.Parse("containai.yaml", []byte(familyFile))
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, f)
	for _, dir := range []string{"base", "app", "notes"} {
		if err := os.Mkdir(filepath.Join(r.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(r.Root, dir, "Dockerfile"), "FROM scratch\n")
	}
	write(t, filepath.Join(r.Root, "bake.hcl"), bake)
	return r
}

func TestGraphIsWhatTheBakeFileSays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	b, r := realBuildx(t), graphRequest(t, graphFamily, graphBake)
	g, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
	if err != nil {
		t.Fatal(err)
	}
	both, epoch := []string{"linux/amd64", "linux/arm64"}, map[string]string{"SOURCE_DATE_EPOCH": "315532801"}
	want := Graph{File: "bake.hcl", Targets: []Target{
		{Name: "base", Context: "base", Dockerfile: "Dockerfile", Contexts: map[string]string{"os": "docker-image://debian"}, Parents: []string{}, Platforms: both, Arguments: epoch},
		{Name: "app", Context: "app", Dockerfile: "Dockerfile", Contexts: map[string]string{"parent": "target:base"}, Parents: []string{"base"}, Platforms: both, Arguments: epoch},
		{Name: "helper", Context: "app", Dockerfile: "Dockerfile", Contexts: map[string]string{"parent": "target:app"}, Parents: []string{"app"}, Arguments: epoch},
		{Name: "tool", Context: ".", Contexts: map[string]string{"helper": "target:helper", "notes": "notes"}, Parents: []string{"helper"}, Platforms: both, Arguments: epoch},
	}}
	if diff := cmp.Diff(want, g, cmpopts.IgnoreUnexported(Target{})); diff != "" {
		t.Errorf("graph (-want +got):\n%s", diff)
	}
}

func TestGraphRefusesWithFileAndLine(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	b := realBuildx(t)
	for name, test := range map[string]struct{ file, old, with, want string }{
		"an image without a target": {"bake", `target "tool"`, `target "tol"`,
			`bake.hcl:1: there is no target "tool", which containai.yaml:11 names; there are _image, app, base, helper, tol`},
		"a link to nowhere": {"bake", "target:base", "target:bse",
			`bake.hcl:13: target "app" is linked to "bse", which is not in this file; it has _image, app, base, helper, tool`},
		"an inherited target that is not there": {"bake", "target \"tool\" {\n  inherits          = [\"_image\"]", "target \"tool\" {\n  inherits          = [\"_imag\"]",
			`bake.hcl:22: target "tool" is linked to "_imag", which is not in this file`},
		"a cycle": {"bake", `os = "docker-image://debian"`, `os = "target:tool"`,
			`bake.hcl:13: target "base" is built on itself: base → tool → helper → app → base`},
		"a context that is not there": {"bake", `context  = "base"`, `context  = "basement"`,
			`bake.hcl:7: the context of target "base" is not there: basement`},
		"a Dockerfile that is not there": {"bake", `context  = "base"`, "context  = \"base\"\n  dockerfile = \"Dockerfile.slim\"",
			`bake.hcl:8: the Dockerfile of target "base" is not there: base/Dockerfile.slim`},
		"a cache of its own": {"bake", `context  = "base"`, "context  = \"base\"\n  cache-from = [\"type=registry,ref=example.org/cache\"]",
			`bake.hcl:8: target "base" has a cache-from of its own`},
		"a named context that is not there": {"bake", `= "notes"`, `= "nots"`,
			`bake.hcl:26: the context notes of target "tool" is not there: nots`},
		"a platform that the family wants": {"bake", "inherits          = [\"_image\"]", `platforms = ["linux/amd64"]`,
			`bake.hcl:22: target "tool" is not built for linux/arm64, which containai.yaml:5 wants of every image`},
		"a platform that all inherit and the family wants": {"bake", "linux/amd64,linux/arm64", "linux/arm64",
			`bake.hcl:3: target "base" is not built for linux/amd64, which containai.yaml:5 wants of every image`},
		"a platform that a child wants": {"bake", "target \"helper\" {", "target \"helper\" {\n  platforms = [\"linux/arm64/v8\"]",
			`bake.hcl:3: target "tool" is built for linux/amd64, and "helper", which it is linked to, is not (line 16)`},
		"a parent that the family names and the bake file does not": {"family", "from: app", "from: base",
			`bake.hcl:24: target "tool" is not linked to "base": containai.yaml:12 says that it is from it, so its contexts need one that is "target:base"`},
		"a root that stands on nothing": {"bake", `contexts = { os = "docker-image://debian" }`, `contexts = { debian = "docker-image://debian" }`,
			`bake.hcl:8: target "base" stands on nothing: containai.yaml:8 names no parent, so its contexts need os = "docker-image://debian@sha256:0000000000000000000000000000000000000000000000000000000000000000"`},
		"an unknown variable":   {"bake", "split(\",\", PLATFORMS)", "split(\",\", PLATFORM)", `bake.hcl:3,26-34: Unknown variable; There is no variable named "PLATFORM"`},
		"syntax that is broken": {"bake", `target "app" {`, `target "app" (`, `bake.hcl:10,14-15: Invalid block definition`},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"family": graphFamily, "bake": graphBake}
			broken := strings.Replace(files[test.file], test.old, test.with, 1)
			if broken == files[test.file] {
				t.Fatalf("%q is not in the %s file", test.old, test.file)
			}
			files[test.file] = broken
			r := graphRequest(t, files["family"], files["bake"])
			_, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
			if !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
				t.Fatalf("got %v with hint %q, want Invalid with a next step", err, fault.HintOf(err))
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// TestGraphLeavesToBuildxWhatItAloneKnows: targets that a matrix names, and links that variables
// make, are not called missing.
func TestGraphLeavesToBuildxWhatItAloneKnows(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	b := realBuildx(t)
	bake := strings.NewReplacer(
		"target \"app\" {", "target \"apps\" {\n  matrix = { part = [\"app\", \"other\"] }\n  name = part",
		`"target:base"`, `"target:${BASE}"`,
	).Replace(graphBake) + "variable \"BASE\" { default = \"base\" }\n"
	r := graphRequest(t, graphFamily, bake)
	g, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
	if err != nil {
		t.Fatal(err)
	}
	if app, ok := g.Target("app"); !ok || len(app.Parents) != 1 || app.Parents[0] != "base" {
		t.Errorf("app is %+v", app)
	}
	r.Plan.Family.Images["ghost"] = family.Image{From: "base"}
	if _, err := b.graph(t.Context(), r, []string{"ghost"}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "ghost") {
		t.Errorf("a target that no matrix makes: %v", err)
	}
}
