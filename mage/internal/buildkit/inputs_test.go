package buildkit

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/release"
)

// inputsFile is a family of a base and an image on it, with a helper beside them.
const inputsFile = `
variable "SOURCE_DATE_EPOCH" { default = "" }
target "base" {
  context  = "base"
  contexts = { os = "docker-image://example.org/never:pulled" }
}
target "tools" {
  context = "tools"
}
target "app" {
  context  = "app"
  contexts = { parent = "target:base", tools = "target:tools", more = "more" }
  args     = { FLAVOUR = "plain" }
  labels   = { title = "app" }
}
`

// inputsOf resolves a family on disk, after a change, and says what its images are made from.
func inputsOf(t *testing.T, change func(root string, r *Request, base *osBase, b *Builder)) map[string]release.Inputs {
	t.Helper()
	b, r := realBuildx(t), request(t, testFamily([]string{"linux/amd64"}, "app"))
	for name, content := range map[string]string{
		"docker-bake.hcl": inputsFile, "base/Dockerfile": "FROM os\n", "tools/Dockerfile": "FROM scratch\n", "tools/tool": "tool",
		"app/Dockerfile": "FROM parent\nCOPY a /\n", "app/a": "a", "app/deep/b": "b", "app/notes.md": "n", "app/.dockerignore": "*.md\n", "more/c": "c",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(r.Root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(r.Root, name), content)
	}
	base := osBase{materials: []evidence.Material{material("os-base", "docker://debian", digest.FromString("debian"))}}
	b.tools = map[string]string{"buildkit": "1", "buildx": "1"}
	if change != nil {
		change(r.Root, &r, &base, b)
	}
	g, err := b.graph(t.Context(), r, []string{"base", "app"})
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := b.inputs(r, g, base)
	if err != nil {
		t.Fatal(err)
	}
	return inputs
}

func TestInputsChangeWithWhatAnImageIsMadeFromAndWithNothingElse(t *testing.T) {
	before := inputsOf(t, nil)
	file := func(name, content string) func(string, *Request, *osBase, *Builder) {
		return func(root string, _ *Request, _ *osBase, _ *Builder) { write(t, filepath.Join(root, name), content) }
	}
	edit := func(old, new string) func(string, *Request, *osBase, *Builder) {
		return file("docker-bake.hcl", strings.Replace(inputsFile, old, new, 1))
	}
	for name, tt := range map[string]struct {
		change    func(root string, r *Request, base *osBase, b *Builder)
		base, app string // the parts that change
	}{
		"nothing, in another directory": {nil, "", ""},
		"another commit at another time": {func(_ string, r *Request, _ *osBase, _ *Builder) {
			r.Plan.Source.Commit, r.Plan.Source.Epoch = strings.Repeat("b", 40), time.Now()
		}, "", ""},
		"another time of a file": {func(root string, _ *Request, _ *osBase, _ *Builder) {
			_ = os.Chtimes(filepath.Join(root, "app/a"), time.Unix(1, 0), time.Unix(1, 0))
		}, "", ""},
		"a file that is ignored":    {file("app/notes.md", "other"), "", ""},
		"a file":                    {file("app/a", "other"), "", "contexts"},
		"a file deep below":         {file("app/deep/b", "other"), "", "contexts"},
		"a file more":               {file("app/z", ""), "", "contexts"},
		"a file of a named context": {file("more/c", "other"), "", "contexts"},
		"a file of a linked target": {file("tools/tool", "other"), "", "contexts"},
		"permissions": {func(root string, _ *Request, _ *osBase, _ *Builder) {
			_ = os.Chmod(filepath.Join(root, "app/a"), 0o755)
		}, "", "contexts"},
		"what is ignored":      {file("app/.dockerignore", "*.txt\n"), "", "contexts"},
		"the Dockerfile":       {file("app/Dockerfile", "FROM parent\n"), "", "contexts target"},
		"an argument":          {edit(`"plain"`, `"fancy"`), "", "target"},
		"a label":              {edit(`title = "app"`, `title = "application"`), "", "target"},
		"the parent's context": {file("base/more", ""), "contexts", "base"},
		"the operating system": {func(_ string, _ *Request, base *osBase, _ *Builder) {
			base.materials = []evidence.Material{material("os-base", "docker://debian", digest.FromString("trixie"))}
		}, "base", "base"},
		"the version of BuildKit":         {func(_ string, _ *Request, _ *osBase, b *Builder) { b.tools["buildkit"] = "2" }, "tools", "base contexts tools"},
		"a smoke test":                    {func(_ string, r *Request, _ *osBase, _ *Builder) { smoked(r.Plan.Family, "app") }, "", "tests"},
		"a context whose name may move":   {edit(`more = "more"`, `more = "docker-image://alpine"`), "", "unknown"},
		"a context that is pinned":        {edit(`more = "more"`, `more = "docker-image://alpine@sha256:`+strings.Repeat("0", 64)+`"`), "", "contexts target"},
		"a parent that cannot be told of": {edit(`never:pulled" }`, `never:pulled", x = "https://example.org/x.tar" }`), "unknown", "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := inputsOf(t, tt.change)
			for image, want := range map[string]string{"base": tt.base, "app": tt.app} {
				if got := changedParts(before[image], after[image]); got != want {
					t.Errorf("of %s changed %q, want %q", image, got, want)
				}
			}
		})
	}
}

func changedParts(a, b release.Inputs) string {
	if b == nil {
		return "unknown"
	}
	return strings.Join(slices.DeleteFunc(slices.Sorted(maps.Keys(b)), func(part string) bool { return a[part] == b[part] }), " ")
}

func smoked(f *family.Family, name string) {
	image := f.Images[name]
	image.Smoke = append(image.Smoke, family.Smoke{Name: "runs", Run: []string{"true"}})
	f.Images[name] = image
}

func TestAContextThatIsALinkCountsByWhatItLeadsTo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	there, link := filepath.Join(root, "there"), filepath.Join(root, "link")
	if err := os.MkdirAll(there, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("there", link); err != nil {
		t.Fatal(err)
	}
	var sums []digest.Digest
	for _, content := range []string{"one", "two"} {
		write(t, filepath.Join(there, "file"), content)
		for _, dir := range []string{there, link} {
			sum, err := sumDirectory(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, sum)
		}
	}
	if sums[0] != sums[1] || sums[2] != sums[3] || sums[0] == sums[2] {
		t.Errorf("the sums of a directory and of a link to it, before and after a change: %v", sums)
	}
}
