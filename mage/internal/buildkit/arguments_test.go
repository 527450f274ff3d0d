package buildkit

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// The bake file of a target whose arguments come from the file, from a variable, and from one that
// every process has.
const argumentsFile = `
variable "FLAVOUR" { default = "plain" }
variable "TZ" { default = "UTC" }
target "base" {
  contexts = { os = "docker-image://example.org/never:pulled" }
  dockerfile-inline = "FROM scratch"
  args = { FLAVOUR = FLAVOUR, ZONE = TZ, LEVEL = 3, NOTHING = null }
}
`

// realBuildx is a builder that knows its Buildx and has opened nothing.
func realBuildx(t *testing.T) *Builder {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path, err := Buildx().Build(t.Context(), filepath.Join(cache, "containai", "programs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Builder{buildx: command{path: path, env: []string{"BUILDX_CONFIG=" + t.TempDir()}}}
}

func TestBuildArgumentsAreWhatTheBakeFileSays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	b, r := realBuildx(t), request(t, testFamily([]string{"linux/amd64"}))
	write(t, filepath.Join(r.Root, "docker-bake.hcl"), argumentsFile)
	want := map[string]string{"FLAVOUR": "plain", "ZONE": "UTC", "LEVEL": "3", "SOURCE_DATE_EPOCH": "315532801"}
	t.Setenv("FLAVOUR", "fancy") // no child of ours sees it
	got, err := b.graph(t.Context(), r, []string{"base"})
	if err != nil {
		t.Fatal(err)
	}
	base, _ := got.Target("base")
	if diff := cmp.Diff(want, base.Arguments); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	t.Setenv("TZ", "Mars")
	_, err = b.graph(t.Context(), r, []string{"base"})
	if !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), "ZONE") || strings.Contains(err.Error(), "Mars") {
		t.Errorf("an argument of the environment: %v, want Refused that names ZONE and not its value", err)
	}
}

// Everything that the bake file says of a target is the commit's, and every variable may change it.
func TestTheEnvironmentChangesNoTarget(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	const os = " contexts = { os = \"docker-image://example.org/never:pulled\" }\n"
	b := realBuildx(t)
	for _, variable := range []string{"TZ", "HOME", "PATH", "DOCKER_CONFIG"} {
		for member, line := range map[string]string{
			"a label": `labels = { x = VARIABLE }`, "an argument": `args = { X = VARIABLE }`, "a Dockerfile": `dockerfile-inline = "FROM scratch\nLABEL x=${VARIABLE}"`,
		} {
			r := request(t, testFamily([]string{"linux/amd64"}))
			file := "variable \"VARIABLE\" { default = \"x\" }\ntarget \"base\" {\n" + os + " dockerfile-inline = \"FROM scratch\"\n " + line + "\n}\n"
			if member == "a Dockerfile" {
				file = "variable \"VARIABLE\" { default = \"x\" }\ntarget \"base\" {\n" + os + " " + line + "\n}\n"
			}
			write(t, filepath.Join(r.Root, "docker-bake.hcl"), strings.ReplaceAll(file, "VARIABLE", variable))
			t.Setenv("TZ", "Mars")
			if _, err := b.graph(t.Context(), r, []string{"base"}); !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" {
				t.Errorf("%s of %s: %v, want Refused", member, variable, err)
			}
		}
	}
}

// TestPathsMayHaveCommas lets Buildx read what we tell it about a directory with an ugly name.
func TestPathsMayHaveCommas(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	b, r := realBuildx(t), request(t, testFamily([]string{"linux/amd64"}))
	ugly := filepath.Join(t.TempDir(), `a,b "c" =d`)
	if err := os.Mkdir(ugly, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(ugly, "ca.pem"), "-----BEGIN")
	args := bakeArgs(r, solve{platforms: []string{"linux/amd64"}, dir: ugly, out: "o"}, "default", []string{"base"}, ugly+"/ca.pem")
	out, err := tool.Output(t.Context(), b.buildxCommand(append(args, "--print")...), fault.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	var bake struct {
		Target map[string]struct {
			Secret []struct{ ID, Src string }
			Output []struct{ Dest string }
		}
	}
	if err := json.Unmarshal(out, &bake); err != nil {
		t.Fatal(err)
	}
	base := bake.Target["base"]
	if len(base.Output) != 1 || base.Output[0].Dest != ugly+"/o/base" || len(base.Secret) != 1 || base.Secret[0].Src != ugly+"/ca.pem" {
		t.Errorf("Buildx read %+v", base)
	}
}

// TestEveryRootIsPutOnTheOperatingSystem also where its Dockerfile calls that by the image's name, which
// has dots and a colon.
func TestEveryRootIsPutOnTheOperatingSystem(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	const pinned = "debian@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	twoRoots := strings.Replace(graphFamily, "  tool:\n    from: app\n", "  tool: {}\n", 1)
	bake := strings.Replace(graphBake, `dockerfile-inline = "FROM helper"`+"\n  contexts = {", `dockerfile-inline = "FROM debian:12.1"`+"\n  contexts = {\n    \"debian:12.1\" = \"docker-image://"+pinned+"\"", 1)
	b, r := realBuildx(t), graphRequest(t, twoRoots, bake)
	g, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
	if err != nil {
		t.Fatal(err)
	}
	args := bakeArgs(r, solve{platforms: []string{"linux/amd64"}, dir: t.TempDir(), out: "o"}, "default", []string{"base", "tool"}, "")
	args = append(args, g.standing(r.Plan.Family, osBase{context: "docker-image://chosen"})...)
	out, err := tool.Output(t.Context(), b.buildxCommand(append(args, "--print")...), fault.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	var resolved struct {
		Target map[string]struct{ Contexts map[string]string }
	}
	if err := json.Unmarshal(out, &resolved); err != nil {
		t.Fatal(err)
	}
	got := []string{resolved.Target["base"].Contexts["os"], resolved.Target["tool"].Contexts["debian:12.1"], resolved.Target["tool"].Contexts["notes"]}
	if diff := cmp.Diff([]string{"docker-image://chosen", "docker-image://chosen", "notes"}, got); diff != "" {
		t.Errorf("contexts (-want +got):\n%s", diff)
	}
}

func TestF2ABuildArgumentThatIsASecretIsRefused(t *testing.T) {
	t.Parallel()
	secret := map[string]string{
		"NPM_TOKEN":     "x",
		"db-password":   "x",
		"API_KEY":       "x",
		"APIKEY":        "x",
		"credentials":   "x",
		"GITHUB":        "ghp_" + strings.Repeat("a", 36),
		"FINE_GRAINED":  "github_pat_" + strings.Repeat("a", 22),
		"NPM":           "npm_" + strings.Repeat("a", 36),
		"AWS":           "AKIA" + strings.Repeat("A", 16),
		"LLM":           "sk-ant-" + strings.Repeat("a", 20),
		"JWT":           "eyJhbGciOiJI.eyJzdWIi.x",
		"PEM":           "-----BEGIN EC PRIVATE KEY-----",
		"MIRROR":        "https://alice:hunter2@mirror.example/debian",
		"IN_THE_MIDDLE": "--header=ghs_" + strings.Repeat("b", 36),
	}
	for name, value := range secret {
		args := map[string]map[string]string{"app": {name: value}}
		err := checkArguments(args, args, nil)
		if !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v, want Refused and a hint", name, err)
		}
		if err != nil && len(value) > 1 && strings.Contains(err.Error(), value) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
	plain := map[string]string{
		"TOKENIZER": "fast", "NPM_TOKEN": "", "VERSION": "1.2.3", "MIRROR": "https://mirror.example/debian", "TASK": "task-" + strings.Repeat("a", 30),
		"SHA": "sha256:" + strings.Repeat("0", 64), "KEYBOARD": "us", "AUTHOR": "alice",
	}
	if err := checkArguments(map[string]map[string]string{"app": plain}, map[string]map[string]string{"app": plain}, nil); err != nil {
		t.Errorf("plain arguments: %v", err)
	}
}

func TestF2ABuildArgumentThatIsASecretOfTheEnvironmentIsRefused(t *testing.T) {
	t.Parallel()
	environ := []string{"DEPLOY_TOKEN=hunter2hunter2", "AWS=AKIA" + strings.Repeat("B", 16), "SHORT_TOKEN=abc", "PLAIN=publicvalue", "EMPTY_TOKEN="}
	for value, variable := range map[string]string{
		"hunter2hunter2":                 "DEPLOY_TOKEN",
		"--with=hunter2hunter2,and=more": "DEPLOY_TOKEN",
		"AKIA" + strings.Repeat("B", 16): "AWS",
		"abc":                            "",
		"publicvalue":                    "",
		"":                               "",
	} {
		args := map[string]map[string]string{"app": {"BANNER": value}}
		err := checkArguments(args, args, environ)
		if variable == "" {
			if err != nil {
				t.Errorf("%q is refused: %v", value, err)
			}
			continue
		}
		if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), value) {
			t.Errorf("%q: %v, want Refused that names %s and not its value", value, err, variable)
		}
	}
}
