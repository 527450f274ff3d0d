package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// found is what lies in a project's directory; everything that is written follows from it.
type found struct {
	Directory   string // its name
	Remote      string // git's "origin"; may be empty
	Branch      string // the default one
	Library     string // version of this library
	Go          string // version of Go that the library wants
	Dockerfiles []dockerfile
}

// written is a file to write, relative to the project.
type written struct {
	Path    string
	Content []byte
}

// project is what the templates say.
type project struct {
	Family     string // name of the family
	Module     string
	Repository string // https://github.com/OWNER/NAME; empty without a remote at GitHub
	Source     string
	Branch     string
	Bake       string
	System     system
	Images     []image
	Library    string
	Go         string
	Schema     string
	workflowValues
}

// workflowValues are what the workflows say: channels and where the pages are.
type workflowValues struct{ Push, Schedule, Version, Options, Branch, Docs string }

// image is one image of the family, and its target in the bake file.
type image struct {
	Name, From          string
	Context, Dockerfile string
	Links               []link
}

// link puts something where a Dockerfile says a name.
type link struct{ Name, Value string }

// Where the pages and the schema of this library are.
const (
	pages  = "https://github.com/containai/containai/blob/main/docs"
	schema = "https://raw.githubusercontent.com/containai/containai/main/mage/family/schema.json"
)

//go:embed templates
var templates embed.FS

var (
	nameRest      = lazyregexp.New(`[^a-z0-9]+`)
	plainPath     = lazyregexp.New(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
	branchGrammar = lazyregexp.New(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
	gitHubRemote  = lazyregexp.New(`^(?:https://(?:[^@/]*@)?github\.com/|(?:ssh://)?git@github\.com[:/])([A-Za-z0-9-]{1,39})/([A-Za-z0-9._-]{1,100}?)(?:\.git)?/?$`)
)

// plan returns the files of a project. Whatever it cannot be sure of is an error with file and line,
// and then nothing is written.
func plan(f found) ([]written, error) {
	p, err := newProject(f)
	if err != nil {
		return nil, &fault.Error{Op: "planning", Subject: f.Directory, Kind: fault.Invalid, Err: err,
			Hint: "edit what is named above, then run the same command again; nothing was written"}
	}
	files, err := p.files()
	if err != nil {
		return nil, err
	}
	_, err = family.Parse(familyFile, files[0].Content) // who would believe a generator whose file is refused?
	return files, err
}

func newProject(f found) (project, error) {
	p := project{Source: "https://localhost/", Branch: f.Branch, Bake: bakeFile, Library: f.Library, Go: f.Go, Schema: schema}
	word := f.Directory
	if m := gitHubRemote.FindStringSubmatch(f.Remote); m != nil {
		p.Repository = "https://github.com/" + m[1] + "/" + m[2]
		word = m[2]
	}
	if p.Family = nameOf(word); p.Family == "" {
		return p, fmt.Errorf("%q has no letters or digits that could name a family: rename the directory", word)
	}
	p.Module, p.Source = p.Family, p.Source+p.Family
	if p.Repository != "" {
		p.Module, p.Source = strings.TrimPrefix(p.Repository, "https://"), p.Repository
	}
	if !branchGrammar.MatchString(p.Branch) {
		return p, fmt.Errorf("the branch %q has characters that a workflow cannot name safely", p.Branch)
	}
	p.workflowValues = workflowValues{Push: "edge", Version: "stable", Options: "edge, stable", Branch: p.Branch, Docs: pages}
	return p, p.addImages(f.Dockerfiles)
}

// nameOf makes a name of a repository or a directory.
func nameOf(s string) string {
	return strings.Trim(nameRest.ReplaceAllString(strings.ToLower(s), "-"), "-")
}

// addImages makes an image of each Dockerfile, parents before children.
func (p *project) addImages(files []dockerfile) error {
	if len(files) == 0 {
		return errors.New("there is no Dockerfile here or below: write one, FROM debian:bookworm-slim")
	}
	var problems []error
	names := map[string]string{} // Dockerfile → image
	taken := map[string]string{}
	for _, d := range files {
		name := p.imageName(d)
		if !plainPath.MatchString(d.Path) {
			problems = append(problems, fmt.Errorf("%q: a path of letters, digits, dots, dashes and slashes can be named safely in a bake file; rename it", d.Path))
		}
		if other, ok := taken[name]; ok {
			problems = append(problems, fmt.Errorf("%s and %s would both be the image %s: rename one of them", other, d.Path, name))
		}
		taken[name], names[d.Path] = d.Path, name
	}
	for _, d := range files {
		image, err := p.image(d, names[d.Path], taken)
		if err != nil {
			problems = append(problems, err)
		}
		p.Images = append(p.Images, image)
	}
	for i, d := range files {
		p.Images[i].Links = p.links(d, p.Images[i].Name, taken)
	}
	if p.System.Image == "" && len(problems) == 0 {
		problems = append(problems, errors.New("the Dockerfiles stand on each other in a circle"))
	}
	slices.SortStableFunc(p.Images, func(a, b image) int { return p.depth(a) - p.depth(b) })
	return errors.Join(problems...)
}

// imageName is FAMILY-WORD, or FAMILY for the project's own Dockerfile.
func (p *project) imageName(d dockerfile) string {
	word := nameOf(d.word())
	if word == "" || word == p.Family || strings.HasPrefix(word, p.Family+"-") {
		return strings.TrimSuffix(p.Family+strings.TrimPrefix(word, p.Family), "-")
	}
	return p.Family + "-" + word
}

// image finds out what a Dockerfile stands on: another image of the family, or the operating system.
func (p *project) image(d dockerfile, name string, taken map[string]string) (image, error) {
	i := image{Name: name, Context: d.context(), Dockerfile: d.file()}
	if from := p.member(d.Stands.Image, name, taken); from != "" {
		i.From = from
	} else if err := p.System.join(d.Stands.Image); err != nil {
		return i, fmt.Errorf("%s:%d: %w", d.Path, d.Stands.Line, err)
	}
	return i, nil
}

// links puts images of the family, and the operating system, where a Dockerfile names them. What it takes
// from elsewhere, a compiler for example, BuildKit fetches.
func (p *project) links(d dockerfile, name string, taken map[string]string) []link {
	var links []link
	for _, t := range d.Takes {
		l := link{Name: t.Image}
		if member := p.member(t.Image, name, taken); member != "" {
			l.Value = "target:" + member
		} else if new(system).join(t.Image) == nil {
			l.Value = "docker-image://" + p.System.Image
		}
		if l.Value != "" && !slices.Contains(links, l) {
			links = append(links, l)
		}
	}
	return links
}

// member returns the image of the family that a Dockerfile means: by its name, or the word that its
// directory is, without a registry or below this repository's owner.
func (p *project) member(reference, self string, taken map[string]string) string {
	if strings.Contains(reference, "@") || !referenceGrammar.MatchString(reference) {
		return ""
	}
	dir, word := path.Split(reference)
	if owner := path.Base(path.Dir(p.Repository)); dir != "" && !strings.EqualFold(path.Base(dir), owner) {
		return ""
	}
	word, _, _ = strings.Cut(word, ":")
	word = nameOf(word)
	for _, name := range []string{word, p.Family + "-" + word} {
		if _, ok := taken[name]; ok && name != self {
			return name
		}
	}
	return ""
}

func (p *project) depth(i image) int {
	n := 0
	for i.From != "" && n <= len(p.Images) {
		i = p.Images[slices.IndexFunc(p.Images, func(x image) bool { return x.Name == i.From })]
		n++
	}
	return n
}

// Names of what is written, and where the templates have them.
const (
	familyFile = "containai.yaml"
	bakeFile   = "docker-bake.hcl"
)

// files renders all templates.
func (p *project) files() ([]written, error) {
	list := [][2]string{
		{familyFile, familyFile}, {bakeFile, bakeFile}, {"magefile.go", "magefile.go.tmpl"}, {"go.mod", "go.mod.tmpl"}, {".gitignore", "gitignore"},
	}
	if slices.ContainsFunc(p.Images, func(i image) bool { return i.Context == "." }) {
		list = append(list, [2]string{".dockerignore", "dockerignore"})
	}
	if p.Repository != "" {
		for _, name := range workflowFiles() {
			list = append(list, [2]string{".github/workflows/" + name, "workflows/" + name})
		}
	}
	var files []written
	for _, f := range list {
		content, err := render(f[1], p)
		if err != nil {
			return nil, err
		}
		files = append(files, written{f[0], content})
	}
	return files, nil
}

func workflowFiles() []string {
	return []string{"build.yml", "care.yml", "pull-request.yml", "release.yml", "rollback.yml"}
}

// render fills a template. GitHub and HCL have braces of their own, so that these have other marks.
func render(name string, values any) ([]byte, error) {
	content, err := templates.ReadFile("templates/" + name)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Delims("<<", ">>").Option("missingkey=error").Parse(string(content))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, values)
	return out.Bytes(), err
}
