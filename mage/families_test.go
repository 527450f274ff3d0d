package mage_test

import (
	"cmp"
	"encoding/json"
	"go/ast"
	"go/token"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/modfile"
)

// kin is a family of testdata/families with what its tests must know of it. The scripts are written about
// tiny; a family that shares no word with it says its own in their place.
type kin struct {
	name    string
	binary  func(testing.TB) string // the magefile that imports the library
	release []string                // the command that releases to the channel that a push reaches
	words   [][2]string             // what tiny says, as a regular expression, and what it says itself
}

func tiny() kin {
	return kin{name: "tiny", binary: compileMagefile, release: []string{"release:dev"}}
}

// survey has two roots, three levels, other channels and other media types, and is another module.
func survey() kin {
	return kin{name: "survey", binary: compileSurvey, release: []string{"release:to", "edge"}, words: [][2]string{
		{`mage release:dev`, "mage release:to edge"}, {`mage release:prod`, "mage release:to lts"},
		{`dev, nightly, prod`, "edge, lts, stable"},
		{`images/proxy/allowed`, "build/gateway/routes"},
		{`\bdev\b`, "edge"}, {`\bnightly\b`, "stable"}, {`\bprod\b`, "lts"},
		{`\btiny-base\b`, "chart"}, {`\btiny-agent\b`, "atlas"}, {`\btiny-proxy\b`, "gateway"}, {`\btiny\b`, "plot"},
	}}
}

// clone is a git repository of the family, with one commit.
func (k kin) clone(t *testing.T) familyClone {
	t.Helper()
	f := familyClone{dir: t.TempDir(), binary: k.binary(t), to: k.release}
	if err := cloneFamily("..", k.name, f.dir); err != nil {
		t.Fatal(err)
	}
	return f
}

// compileSurvey compiles the family's own magefile as a module of its own, which requires the library.
func compileSurvey(t testing.TB) string {
	t.Helper()
	library, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "magefile.go"), read(t, "../testdata/families/survey/magefile.go"))
	write(t, filepath.Join(dir, "go.sum"), read(t, "../go.sum"))
	mod, err := modfile.Parse("go.mod", []byte(read(t, "../go.mod")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := mod.AddModuleStmt("git.example.org/maps/office/survey"); err != nil {
		t.Fatal(err)
	}
	if err := mod.AddRequire(module, "v0.0.0"); err != nil {
		t.Fatal(err)
	}
	if err := mod.AddReplace(module, "", library, ""); err != nil {
		t.Fatal(err)
	}
	content, err := mod.Format()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "go.mod"), string(content))
	binary := filepath.Join(t.TempDir(), "mage")
	build := exec.CommandContext(t.Context(), "go", "tool", "mage", "-compile", binary)
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compiling another module's magefile: %v\n%s", err, out)
	}
	return binary
}

// scripts are scripts of testdata/script as the family tells them.
func (k kin) scripts(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		script := read(t, filepath.Join("../testdata/script", name+".txtar"))
		for _, w := range k.words {
			script = regexp.MustCompile(w[0]).ReplaceAllString(script, w[1])
		}
		write(t, filepath.Join(dir, name+".txtar"), script)
	}
	return dir
}

// TestAnotherFamilyIsReleasedAsOursIs: the scripts that say what a release, its channels and their retention
// are hold for a family that somebody else wrote. With CONTAINAI_DEEP all three, otherwise the release.
func TestAnotherFamilyIsReleasedAsOursIs(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	names := []string{"release"}
	if os.Getenv("CONTAINAI_DEEP") != "" {
		names = append(names, "channels", "retention")
	}
	k := survey()
	runScripts(t, k, k.scripts(t, names...))
}

// TestAnotherFamilyLivesWhereverItsRegistryIs: at a path of several segments, with the media types that it
// gives its artifacts.
func TestAnotherFamilyLivesWhereverItsRegistryIs(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("it builds a family: mage testDeep runs it")
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	base := strings.TrimPrefix(server.URL, "http://") + "/maps/office/survey"
	f := survey().clone(t)
	env := []string{"CONTAINAI_REGISTRY=" + base}
	f.with(t, env, f.to...)
	if got := f.with(t, env, "verify:channel", "edge"); !strings.Contains(got, "all hold") {
		t.Errorf("verify:channel printed:\n%s", got)
	}
	if got := f.with(t, env, f.to...); !strings.Contains(got, " 0 writes") {
		t.Errorf("the second release printed:\n%s", got)
	}
	for name, want := range map[string][2]string{
		"field-tools": {"application/vnd.example.survey.tools.v2", "application/vnd.example.survey.tools.archive.v2+gzip"},
		"field-setup": {"application/vnd.example.survey.setup.v1", "application/vnd.example.survey.setup.v1+sh"},
	} {
		if got := typesOf(t, server.URL, "maps/office/survey/"+name, "edge"); got != want {
			t.Errorf("%s has the types %v, want %v", name, got, want)
		}
	}
}

// ourWords are the names of ContainAI's family, but for the first, which is the library's as well.
func ourWords(t *testing.T) []string {
	t.Helper()
	f := familyClone{dir: ".."}.family(t)
	words := []string{"copilot", "codex", "claude"}
	for _, name := range append(f.Members(), f.Vulnerabilities.Mirror) {
		if name != f.Name {
			words = append(words, name)
		}
	}
	return words
}

// libraryNames are where the library says its own name, which is also that of ContainAI's family. Each is a
// whole word, as withName finds it.
func libraryNames() map[string]string {
	return map[string]string{
		`(https://|pkg:golang/)?github\.com/containai/containai(/.*|@.*|)`:     "the module path, and pages below it",
		`https://raw\.githubusercontent\.com/containai/containai/main/.*`:      "the schema of family files",
		`application/vnd\.containai\..*|vnd\.containai\..*|dev\.containai\..*`: "the vendor prefix of media types and annotations",
		`https://containai\.(dev|internal)/.*`:                                 "predicate types, the local issuer and builder",
		`containai\.yaml`:                                                      "the default family file",
		`/?\.containai(-smoke)?(/.*|)`:                                         "the state directory, and the smoke tests' inside an image",
		`containai-verify-?`:                                                   "the consumer's verifier",
		`containai(-|-unpack-|/v1|)`:                                           "user agents, the cache directory, prefixes of temporary names, SARIF's tool",
		`refs/containai/.*|containai-channels|ledger@containai\.invalid`:       "the ledger, where the family file names none",
	}
}

// withName are words with the library's name in them.
var withName = regexp.MustCompile(`[\w.@/:-]*containai[\w./:@-]*`)

// TestNoPackageKnowsANameOfOurFamily: what ContainAI's images and artifacts are called stands in
// containai.yaml, images/ and artifacts/ alone. Comments may take them as examples.
func TestNoPackageKnowsANameOfOurFamily(t *testing.T) {
	words := regexp.MustCompile(`\b(` + strings.Join(ourWords(t), "|") + `)\b`)
	own := regexp.MustCompile(`^(` + strings.Join(slices.Sorted(maps.Keys(libraryNames())), "|") + `)$`)
	for where, text := range textsOfLibrary(t) {
		for _, found := range words.FindAllString(text, -1) {
			t.Errorf("%s knows %s, a name of one family", where, found)
		}
		for _, found := range withName.FindAllString(text, -1) {
			if !own.MatchString(strings.TrimRight(found, ".:")) {
				t.Errorf("%s says %s: if that is the library's own name, add it to libraryNames", where, found)
			}
		}
	}
}

// textsOfLibrary are the texts in the code of all packages, and the files that they embed.
func textsOfLibrary(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, s := range sources(t) {
		if s.test || s.dir == "." {
			continue
		}
		for _, lit := range literalsOf(s) {
			texts[s.complaint(lit, "a text")] += lit.Value
		}
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "testdata" {
			return cmp.Or(err, fs.SkipDir)
		}
		if !d.IsDir() && !slices.Contains([]string{".go", ".mod", ".sum"}, filepath.Ext(path)) {
			texts[filepath.Join("mage", path)] = read(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 1000 {
		t.Fatalf("only %d texts were looked at", len(texts))
	}
	return texts
}

// runScripts drives a family's targets as a user does.
func runScripts(t *testing.T, k kin, dir string) {
	t.Helper()
	binary := k.binary(t)
	library, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			return setupFamily(env, library, k.name, filepath.Dir(binary))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"commit": commit,
			"shown":  shownIn,
		},
	})
}

// typesOf are the artifact type and the media type of the first layer of what a registry has under a tag.
func typesOf(t *testing.T, server, repository, tag string) (types [2]string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var m ocispec.Manifest
	if err := json.NewDecoder(response.Body).Decode(&m); err != nil || len(m.Layers) == 0 {
		t.Fatalf("%s answered %s, %v", repository, response.Status, err)
	}
	return [2]string{m.ArtifactType, m.Layers[0].MediaType}
}

// literalsOf are the texts of a file.
func literalsOf(s source) []*ast.BasicLit {
	var all []*ast.BasicLit
	ast.Inspect(s.file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			all = append(all, lit)
		}
		return true
	})
	return all
}
