package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/release"
)

// families of this repository, each in its directory.
func families() map[string]string {
	return map[string]string{"the real family": "../../..", "the tiny family": "../../../testdata/families/tiny"}
}

// realRequest is a request for a family of this repository.
func realRequest(t *testing.T, dir string) Request {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "containai.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := family.Parse("containai.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	src := release.Source{Commit: strings.Repeat("a", 40), Epoch: time.Unix(1_700_000_000, 0).UTC()}
	plan, err := release.NewPlan(f, src, []string{"linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return Request{Plan: plan, Root: root}
}

// TestPlainBakeResolvesOurFiles: without any variable of ours and without us, Buildx makes the same
// graph of the bake files, for all platforms, with nothing left to fill in.
func TestPlainBakeResolvesOurFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds Buildx")
	}
	for name, dir := range families() {
		t.Run(name, func(t *testing.T) {
			b, r := realBuildx(t), realRequest(t, dir)
			print := b.buildxCommand("bake", "--print", "--file", r.Plan.Family.Bake)
			print.Dir, print.Bare, print.Env = r.Root, true, append(print.Env, whereThingsAre(tool.Base())...)
			plain, err := resolve(t.Context(), print)
			if err != nil {
				t.Fatal(err)
			}
			g, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
			if err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(r.Root, "images", "*", "Dockerfile"))
			if err != nil || len(files) != len(g.Targets) {
				t.Errorf("%d Dockerfiles lie in images/, %v; the bake file has %d targets", len(files), err, len(g.Targets))
			}
			if len(g.Targets) != len(plain) {
				t.Errorf("plain bake has %d targets, ours %d", len(plain), len(g.Targets))
			}
			for _, target := range newGraph(g.File, plain).Targets {
				if !slices.Equal(target.Platforms, r.Plan.Family.Platforms) || len(target.Contexts) == 0 {
					t.Errorf("plain bake makes %s for %v with the contexts %v", target.Name, target.Platforms, target.Contexts)
				}
				if ours, _ := g.Target(target.Name); !slices.Equal(ours.Parents, target.Parents) || ours.Context != target.Context {
					t.Errorf("%s is %+v for plain bake and %+v for us", target.Name, target, ours)
				}
			}
		})
	}
}

// TestDockerfilesPassDockersOwnCheck runs BuildKit's linter, `docker buildx bake --check`, on all
// Dockerfiles that the bake files name; a warning fails. The control has one.
func TestDockerfilesPassDockersOwnCheck(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs BuildKit")
	}
	b, err := Open(t.Context(), testOptions(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	check := func(t *testing.T, r Request) error {
		base, err := b.osBase(t.Context(), r.Plan, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		dir := strings.TrimPrefix(base.context, "oci-layout://")
		dir, _, _ = strings.Cut(dir, "@")
		g, err := b.graph(t.Context(), r, r.Plan.Family.ImageNames())
		if err != nil {
			t.Fatal(err)
		}
		cmd := b.buildxCommand("bake", "--check", "--builder", b.name, "--file", r.Plan.Family.Bake, "--allow=fs.read="+dir, "--set", "*.platform=linux/amd64")
		for _, target := range g.Targets {
			for name := range target.Contexts { // --check knows no linked targets
				cmd.Args = append(cmd.Args, "--set", target.Name+".contexts."+name+"="+base.context)
			}
		}
		cmd.Dir, cmd.Args = r.Root, append(cmd.Args, r.Plan.Family.ImageNames()...)
		return tool.Run(t.Context(), cmd, fault.BuildFailed)
	}
	for name, dir := range families() {
		t.Run(name, func(t *testing.T) {
			if err := check(t, realRequest(t, dir)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("the control has a warning", func(t *testing.T) {
		r := request(t, testFamily([]string{"linux/amd64"}))
		write(t, filepath.Join(r.Root, "docker-bake.hcl"), "target \"base\" {\n  contexts = { os = \"docker-image://debian\" }\n}\n")
		write(t, filepath.Join(r.Root, "Dockerfile"), "FROM os\nENV NPM_TOKEN=x\nCMD echo shell form\n")
		if err := check(t, r); !errors.Is(err, fault.BuildFailed) || !strings.Contains(err.Error(), "JSONArgsRecommended") {
			t.Errorf("got %v, want the linter's warnings", err)
		}
	})
}

// instructions are the lines of a Dockerfile or of a shell script, continued ones joined.
func instructions(t *testing.T, file string) []string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.ReplaceAll(string(content), "\\\n", " "), "\n")
}

// begins is where a shell command begins.
const begins = `(^|RUN (--\S+ +)*|[;&|({] *|\b(do|then|else|exec|sudo|env) +)`

// unpinned says why an instruction fetches what another day may give otherwise, or "". Debian's packages
// are not meant: the archive signs them, and taking their fixes is why one builds again.
func unpinned(line string, named []string) string {
	for why, pattern := range map[string]string{
		"a frontend from a registry":              `^# *syntax *=`,
		"npm without its lock file":               begins + `(npm (install|i|add|update|exec)|npx|yarn|pnpm|bunx?)\b`,
		"Python packages without hashes":          begins + `(python3? -m )?(pipx?|uv|poetry|conda) (pip )?(install|add|sync)`,
		"a program at whatever version":           begins + `(go install|cargo install|gem install|deno install|brew install)`,
		"a clone of whatever a branch is":         begins + `git (clone|fetch|pull)`,
		"an apt source of somebody else":          begins + `(add-apt-repository|apt-key)`,
		"a download into a shell":                 `(curl|wget) .*\| *(sudo +)?(ba|da|z)?sh\b`,
		"a download whose bytes nobody compares":  begins + `(curl|wget) `,
		"an ADD whose bytes nobody compares":      `^ADD .*(https?|git|ssh)://`,
		"an image by a name that can move":        `^FROM `,
		"a file of an image that can be replaced": `^COPY .*--from=`,
	} {
		if !regexp.MustCompile(pattern).MatchString(line) {
			continue
		}
		switch {
		case strings.HasPrefix(line, "ADD") && strings.Contains(line, "--checksum=sha256:"):
		case strings.Contains(line, "sha256sum -c") && why == "a download whose bytes nobody compares":
		case strings.Contains(line, "--require-hashes") && why == "Python packages without hashes":
		case pinnedImage(line, named):
		default:
			return why
		}
	}
	return ""
}

// pinnedImage reports whether FROM or --from= names a digest, or what the bake file or the Dockerfile
// itself defines.
func pinnedImage(line string, named []string) bool {
	m := regexp.MustCompile(`^(?:FROM +(?:--\S+ +)*|COPY .*--from=)(\S+)`).FindStringSubmatch(line)
	return m != nil && (strings.Contains(m[1], "@sha256:") || slices.Contains(named, m[1]))
}

func TestDockerfilesPinWhatTheyDownload(t *testing.T) {
	t.Parallel()
	for _, dir := range families() {
		for _, file := range glob(t, dir, "images/*/*") {
			if ext := filepath.Ext(file); ext != "" && ext != ".sh" {
				continue // configuration and lock files
			}
			named := []string{"os", "base", "app", "runtime", "scratch"} // contexts of the bake files
			for _, line := range instructions(t, file) {
				if why := unpinned(line, named); why != "" {
					t.Errorf("%s: %s: %s", file, why, line)
				}
				if _, stage, ok := strings.Cut(line, " AS "); ok && strings.HasPrefix(line, "FROM") {
					named = append(named, stage)
				}
			}
		}
	}
	for _, lock := range glob(t, "../../..", "images/*/package.json") {
		if _, err := os.Stat(strings.Replace(lock, "package.json", "package-lock.json", 1)); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"# syntax=docker/dockerfile:1", "FROM debian:12", "FROM --platform=linux/amd64 node AS build", "COPY --from=golang:1.26 /usr/local/go /go",
		"RUN npm install -g @openai/codex", "RUN --mount=type=secret,id=ca npm i", "RUN cd /opt && npx cowsay", "RUN pip install ruff", "RUN python3 -m pip install ruff",
		"RUN apt-get update && curl -fsSL https://example.com/install.sh | sh", "RUN curl -o /a https://example.com/a && chmod +x /a", "if true; then wget https://example.com/a; fi",
		"RUN git clone https://github.com/a/b", "ADD https://example.com/a.tgz /a", "RUN go install example.com/a@latest",
	} {
		if unpinned(bad, nil) == "" {
			t.Errorf("%q passes", bad)
		}
	}
	for _, good := range []string{
		"FROM base", "FROM debian@sha256:0000", "COPY --from=base /a /b", "COPY a b", "RUN npm ci", "RUN apt-install curl git wget", "ADD --checksum=sha256:00 https://example.com/a /a",
		"RUN curl -fo /a https://example.com/a && echo '00  /a' | sha256sum -c", "RUN pip install --require-hashes -r requirements.txt", "# npm install is not used", "RUN git config --system safe.directory /x",
	} {
		if why := unpinned(good, []string{"base"}); why != "" {
			t.Errorf("%q is refused: %s", good, why)
		}
	}
}

// TestImagesRunAsTheUsersThatAreDocumented: never root, and docs/architecture.md says who.
func TestImagesRunAsTheUsersThatAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range glob(t, "../../..", "images/*/Dockerfile") {
		var user string
		for _, line := range instructions(t, file) {
			if name, ok := strings.CutPrefix(line, "USER "); ok {
				user = name
			}
		}
		image := "containai-" + filepath.Base(filepath.Dir(file))
		if image == "containai-containai" {
			image = "containai"
		}
		if row := "| `" + image + "` | `" + user + "` |"; user == "" || user == "root" || !strings.Contains(string(page), row) {
			t.Errorf("%s ends as user %q; docs/architecture.md needs the row %q", file, user, row)
		}
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s in %s: %v, %v", pattern, dir, files, err)
	}
	return files
}
