package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const remote = "git@github.com:Acme/Shop.git"

// with is a project with these Dockerfiles.
func with(t *testing.T, files map[string]string) found {
	t.Helper()
	tree := fstest.MapFS{}
	for name, content := range files {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	all, err := findDockerfiles(tree)
	if err != nil {
		t.Fatal(err)
	}
	return found{Directory: "shop", Branch: "main", Library: "v1.2.3", Go: "1.26.8", Dockerfiles: all}
}

func contentOf(t *testing.T, files []written, path string) string {
	t.Helper()
	i := slices.IndexFunc(files, func(f written) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("no %s is written", path)
	}
	return string(files[i].Content)
}

func TestImagesAndLinksFollowFromTheDockerfiles(t *testing.T) {
	f := with(t, map[string]string{
		"Dockerfile":             "ARG BASE=debian:bookworm-slim\nFROM ${BASE}\n",
		"api/Dockerfile":         "FROM golang:1.26 AS build\nFROM debian:12\n",
		"worker/Dockerfile":      "# syntax\nFROM --platform=$BUILDPLATFORM \\\n  api AS base\nFROM base\nCOPY --from=ghcr.io/acme/shop-tool:edge /t /t\n",
		"images/tool.Dockerfile": "from shop\nRUN --mount=type=bind,from=debian:bookworm true\n",
		".github/Dockerfile":     "FROM scratch\n",
		"vendor/x/Dockerfile":    "FROM scratch\n",
	})
	f.Remote = remote
	p, err := newProject(f)
	if err != nil {
		t.Fatal(err)
	}
	os := "docker-image://" + known().Image
	want := []image{
		{Name: "shop", Context: ".", Dockerfile: "Dockerfile", Links: []link{{"debian:bookworm-slim", os}}},
		{Name: "shop-api", Context: "api", Dockerfile: "Dockerfile", Links: []link{{"debian:12", os}}},
		{Name: "shop-tool", From: "shop", Context: "images", Dockerfile: "tool.Dockerfile", Links: []link{{"shop", "target:shop"}, {"debian:bookworm", os}}},
		{Name: "shop-worker", From: "shop-api", Context: "worker", Dockerfile: "Dockerfile", Links: []link{{"api", "target:shop-api"}, {"ghcr.io/acme/shop-tool:edge", "target:shop-tool"}}},
	}
	if diff := cmp.Diff(want, p.Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

func TestAProjectAtGitHubTrustsItsOwnWorkflows(t *testing.T) {
	f := with(t, map[string]string{"api/Dockerfile": "FROM debian:bookworm-slim\n"})
	f.Remote, f.Branch = "https://x-access-token:secret@github.com/Acme/Shop.git", "trunk"
	files, err := plan(f)
	if err != nil {
		t.Fatal(err)
	}
	fam, err := family.Parse(familyFile, []byte(contentOf(t, files, familyFile)))
	if err != nil {
		t.Fatal(err)
	}
	signer := family.Signer{
		Issuer: "https://token.actions.githubusercontent.com", Repository: "https://github.com/Acme/Shop", Workflow: ".github/workflows/release.yml",
		Ref: "refs/heads/trunk", Runner: "github-hosted", Builder: "https://github.com/Acme/Shop/.github/workflows/build.yml@refs/heads/trunk",
	}
	if diff := cmp.Diff(signer, fam.Trust.Signer); diff != "" {
		t.Errorf("signer (-want +got):\n%s", diff)
	}
	if fam.On(family.Push) != "edge" || fam.On(family.Version) != "stable" || fam.Vulnerabilities.Sources == nil {
		t.Errorf("the family's events reach %q and %q", fam.On(family.Push), fam.On(family.Version))
	}
	for _, file := range files {
		if strings.Contains(string(file.Content), "secret@") || strings.Contains(string(file.Content), "<<") {
			t.Errorf("%s has what it must not have:\n%s", file.Path, file.Content)
		}
	}
	if got := contentOf(t, files, ".github/workflows/release.yml"); !strings.Contains(got, "branches: [trunk]") || !strings.Contains(got, "options: [edge, stable]") || strings.Contains(got, "schedule") {
		t.Errorf("release.yml:\n%s", got)
	}
	if got := contentOf(t, files, "go.mod"); !strings.HasPrefix(got, "module github.com/Acme/Shop\n") {
		t.Errorf("go.mod:\n%s", got)
	}
}

func TestWithoutAGitHubRemoteNobodyElseIsTrusted(t *testing.T) {
	f := with(t, map[string]string{"api/Dockerfile": "FROM debian:bookworm-slim\n"})
	f.Remote = "https://git.example.com/acme/shop.git"
	files, err := plan(f)
	if err != nil {
		t.Fatal(err)
	}
	fam, err := family.Parse(familyFile, []byte(contentOf(t, files, familyFile)))
	if err != nil || fam.Trust.Instance != family.Local {
		t.Errorf("it trusts %+v, %v", fam.Trust, err)
	}
	if slices.ContainsFunc(files, func(w written) bool { return strings.HasPrefix(w.Path, ".github/") }) {
		t.Error("workflows are written that nobody trusts")
	}
}

func TestWhatCannotBeSafelySaidIsRefusedWithItsPlace(t *testing.T) {
	const debian = "FROM debian:bookworm-slim\n"
	digest := "@sha256:" + strings.Repeat("a", 64)
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no Dockerfile":             {nil, "there is no Dockerfile here or below"},
		"another system":            {map[string]string{"a/Dockerfile": "\nFROM alpine:3\n"}, `a/Dockerfile:2: it stands on "alpine:3", which is neither an image of this project nor Debian`},
		"nothing":                   {map[string]string{"a/Dockerfile": "FROM scratch\n"}, `a/Dockerfile:1: it stands on "scratch"`},
		"an unpinned suite":         {map[string]string{"a/Dockerfile": "FROM debian:trixie\n"}, "of which no digest is known: pin it, as debian:trixie-slim@sha256:…"},
		"no suite":                  {map[string]string{"a/Dockerfile": "FROM debian\n"}, "whose tag tells no suite"},
		"two systems":               {map[string]string{"a/Dockerfile": debian, "b/Dockerfile": "FROM debian:trixie-slim" + digest + "\n"}, "a family stands on one operating system"},
		"itself":                    {map[string]string{"node/Dockerfile": "FROM node:22\n"}, `it stands on "node:22"`},
		"a circle":                  {map[string]string{"a/Dockerfile": "FROM b\n", "b/Dockerfile": "FROM a\n"}, "in a circle"},
		"a circle beside a root":    {map[string]string{"a/Dockerfile": "FROM b\n", "b/Dockerfile": "FROM a\n", "c/Dockerfile": debian}, "is its own ancestor"},
		"two images of one name":    {map[string]string{"x/api/Dockerfile": debian, "y/api/Dockerfile": debian}, "would both be the image shop-api"},
		"a path that ends a string": {map[string]string{`a"${x}/Dockerfile`: debian}, "a path of letters"},
		"a path with a line break":  {map[string]string{"a\nb/Dockerfile": debian}, "a path of letters"},
		"an image with a quote":     {map[string]string{"a/Dockerfile": `FROM debian:bookworm-slim"}` + "\n"}, "which is neither"},
		"a name of no letters":      {map[string]string{"€/Dockerfile": debian}, "a path of letters"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plan(with(t, c.files))
			if !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want Invalid with a hint and %q", err, c.want)
			}
		})
	}
}

func TestABranchThatAWorkflowCannotNameIsRefused(t *testing.T) {
	f := with(t, map[string]string{"a/Dockerfile": "FROM debian:bookworm-slim\n"})
	f.Branch = "x]\n  pull_request_target: {}"
	if _, err := plan(f); !errors.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}

func TestAVariableWithoutAValueIsRefusedWithItsPlace(t *testing.T) {
	_, err := findDockerfiles(fstest.MapFS{"a/Dockerfile": {Data: []byte("ARG X\nFROM $X\n")}, "b/Dockerfile": {Data: []byte("RUN true\n")}})
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "a/Dockerfile:2: FROM uses X") || !strings.Contains(err.Error(), "b/Dockerfile:1: it has no FROM") {
		t.Errorf("got %v", err)
	}
}

func TestTheKnownSystemIsThisRepositorysOwn(t *testing.T) {
	content, err := os.ReadFile("../../../containai.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := family.Parse(familyFile, content)
	if err != nil || f.Base.Image != known().Image || f.Base.Suite != known().Suite {
		t.Errorf("containai.yaml stands on %+v, %v", f.Base, err)
	}
}

func TestExistingFilesAreNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	mine := map[string]string{"containai.yaml": "mine", ".gitignore": "dist\n", "magefile.go": ""}
	for name, content := range mine {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/nowhere/else", filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker-bake.hcl.half-written"), []byte("left by a killed run"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := plan(with(t, map[string]string{"a/Dockerfile": "FROM debian:bookworm-slim\n"}))
	if err != nil {
		t.Fatal(err)
	}
	results, err := write(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	want := []result{{Path: "containai.yaml", There: true}, {Path: "docker-bake.hcl"}, {Path: "magefile.go", There: true}, {Path: "go.mod", There: true}, {Path: ".gitignore", There: true, Lacks: []string{"/.containai/", "/mage_output_file.go"}}}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for name, content := range mine {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
			t.Errorf("%s is now %q, %v", name, got, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.half-written")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	again, err := write(dir, files)
	if err != nil || slices.ContainsFunc(again, func(r result) bool { return !r.There }) {
		t.Errorf("the second run wrote %+v, %v", again, err)
	}
}

func TestNothingIsWrittenOutside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, ".github")); err != nil {
		t.Fatal(err)
	}
	_, err := write(dir, []written{{".github/workflows/release.yml", []byte("x")}})
	if !errors.Is(err, fault.Environment) {
		t.Errorf("got %v, want Environment", err)
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside there is %v", left)
	}
}

func TestItWantsTheTopOfARepository(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := look(t.Context(), below); !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("below: %v", err)
	}
	if _, err := look(t.Context(), dir); err != nil {
		t.Errorf("at the top: %v", err)
	}
}

func TestWhatCannotBeginIsRefused(t *testing.T) {
	for name, args := range map[string][]string{"arguments": {"shop"}, "a program of a work tree, which has no version to fetch": nil} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var out strings.Builder
			if err := run(t.Context(), dir, args, &out); !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
				t.Errorf("got %v, want Invalid with a hint", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || out.Len() > 0 {
				t.Errorf("it wrote %v and said %q, %v", left, out.String(), err)
			}
		})
	}
}

func FuzzParseDockerfile(f *testing.F) {
	f.Add([]byte("ARG A=b\nFROM ${A:-c} AS x\nFROM x\nCOPY --from=0 / /\n"))
	f.Add([]byte("FROM a \\\n# comment\n AS b"))
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := parseDockerfile("a/Dockerfile", content)
		if err != nil {
			return
		}
		p := found{Directory: "shop", Branch: "main", Library: "v1.2.3", Go: "1.26.8", Dockerfiles: []dockerfile{d}}
		if files, err := plan(p); err == nil && strings.Contains(contentOf(t, files, bakeFile), "%{") {
			t.Errorf("a template of the bake file's own:\n%s", contentOf(t, files, bakeFile))
		}
	})
}

// TestTheNextCommandDoesWhatIsLacking where files were there: nothing of it is left to the reader.
func TestTheNextCommandDoesWhatIsLacking(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("bin"), 0o600); err != nil {
		t.Fatal(err)
	}
	results := []result{{Path: "go.mod", There: true}, {Path: ".gitignore", There: true, Lacks: []string{"/dist/"}}}
	want := []string{
		"go get github.com/containai/containai/mage@v1.2.3", "go get -tool github.com/magefile/mage", `printf '\n%s' /dist/ >> .gitignore`,
		"git init -q -b main", "git add -A .", "git commit -q -m 'Release as a family'", "go tool mage release:to edge",
	}
	if diff := cmp.Diff(want, next(t.Context(), found{Library: "v1.2.3"}, dir, results)); diff != "" {
		t.Errorf("next (-want +got):\n%s", diff)
	}
}
