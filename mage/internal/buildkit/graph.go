package buildkit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/tool"
)

// Graph is the family's images as the bake file resolves them, with all that they are linked to.
type Graph struct {
	File    string   // the bake file, relative to the family file
	Targets []Target // parents before children, then by name
}

// Target is one target of the bake file, resolved.
type Target struct {
	Name       string            `json:"name"`
	Context    string            `json:"context"`              // a directory relative to the family file, or a URL
	Dockerfile string            `json:"dockerfile,omitempty"` // in the context; empty when the bake file holds its text
	Contexts   map[string]string `json:"contexts,omitempty"`   // named contexts
	Parents    []string          `json:"parents"`              // the targets among them
	Platforms  []string          `json:"platforms,omitempty"`  // as the bake file declares them; none leaves the choice to the build
	Arguments  map[string]string `json:"arguments,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`

	resolved json.RawMessage // all that Buildx says of it
}

// graph resolves images and checks them against the family and what is on disk. The bake file's
// variables take values from the environment, so it is read twice, the first time with hardly any:
// an argument that is another one in this process's environment is not what the commit says, and
// is refused, because nobody who reads the provenance could know it.
func (b *Builder) graph(ctx context.Context, r Request, images []string) (Graph, error) {
	file := filepath.FromSlash(r.Plan.Family.Bake)
	at, err := readPlaces(r.Root, file)
	if err != nil {
		return Graph{}, err
	}
	print := b.buildxCommand(append([]string{"bake", "--print", "--file", file}, images...)...)
	env := append(slices.Clip(print.Env), epoch)
	print.Dir, print.Bare, print.Env = r.Root, true, append(whereThingsAre(tool.Base()), env...)
	declared, err := resolve(ctx, print)
	if err != nil {
		return Graph{}, at.explain(err, r.Plan.Family, images)
	}
	g := newGraph(file, declared)
	if err := at.invalid(g.problems(r.Root, r.Plan.Family, at)); err != nil {
		return Graph{}, err
	}
	print.Bare, print.Env = false, env
	found, err := resolve(ctx, print)
	if err != nil {
		return Graph{}, at.explain(err, r.Plan.Family, images)
	}
	return g, cmp.Or(checkArguments(argumentsOf(declared), argumentsOf(found), b.options.Environ), checkTargets(declared, found))
}

// printed is a target as `buildx bake --print` writes it.
type printed struct {
	Context    string            `json:"context"`
	Contexts   map[string]string `json:"contexts"`
	Dockerfile string            `json:"dockerfile"`
	Inline     string            `json:"dockerfile-inline"`
	Platforms  []string          `json:"platforms"`
	Args       map[string]string `json:"args"`
	Labels     map[string]string `json:"labels"`

	whole json.RawMessage
}

// UnmarshalJSON keeps the members that are not named above as well.
func (p *printed) UnmarshalJSON(content []byte) error {
	type named printed // without this method
	p.whole = slices.Clone(content)
	return json.Unmarshal(content, (*named)(p))
}

func resolve(ctx context.Context, print tool.Command) (map[string]printed, error) {
	out, err := tool.Output(ctx, print, fault.Invalid)
	if err != nil {
		return nil, err
	}
	var bake struct {
		Target map[string]printed `json:"target"`
	}
	return bake.Target, fault.Wrap(json.Unmarshal(out, &bake), fault.BuildFailed, "reading", "bake file")
}

// newGraph orders what Buildx resolved, which has no cycles.
func newGraph(file string, resolved map[string]printed) Graph {
	g := Graph{File: file}
	for name, p := range resolved {
		t := Target{Name: name, Parents: []string{}, Context: p.Context, Dockerfile: p.Dockerfile, Contexts: p.Contexts, Platforms: p.Platforms, Arguments: p.Args, Labels: p.Labels, resolved: p.whole}
		if p.Inline != "" {
			t.Dockerfile = ""
		}
		for _, value := range append(slices.Collect(maps.Values(p.Contexts)), p.Context) {
			if parent, ok := strings.CutPrefix(value, "target:"); ok {
				t.Parents = append(t.Parents, parent)
			}
		}
		slices.Sort(t.Parents)
		t.Parents = slices.Compact(t.Parents)
		g.Targets = append(g.Targets, t)
	}
	depth := map[string]int{}
	for range g.Targets { // no path is longer
		for _, t := range g.Targets {
			for _, parent := range t.Parents {
				depth[t.Name] = max(depth[t.Name], depth[parent]+1)
			}
		}
	}
	slices.SortFunc(g.Targets, func(a, b Target) int {
		return cmp.Or(depth[a.Name]-depth[b.Name], strings.Compare(a.Name, b.Name))
	})
	return g
}

// Target returns a target by its name.
func (g Graph) Target(name string) (Target, bool) {
	i := slices.IndexFunc(g.Targets, func(t Target) bool { return t.Name == name })
	if i < 0 {
		return Target{}, false
	}
	return g.Targets[i], true
}

// images returns the images of the family that a target is linked to, directly or through targets
// that are none.
func (g Graph) images(t Target, f *family.Family) []string {
	var found []string
	for _, parent := range t.Parents {
		if _, ok := f.Images[parent]; ok {
			found = append(found, parent)
		} else if next, ok := g.Target(parent); ok {
			found = append(found, g.images(next, f)...)
		}
	}
	return found
}

// problems is everything that is wrong with a graph: what is not on disk, what is not built for a
// platform that is wanted, and where the family says something else.
func (g Graph) problems(root string, f *family.Family, at places) []family.Problem {
	var found []family.Problem
	for _, t := range g.Targets {
		found = append(found, t.missing(root, at)...)
		found = append(found, g.platformProblems(t, f, at)...)
		found = append(found, t.cacheProblems(at)...)
		found = append(found, t.rootProblems(f, at)...)
		from := f.Images[t.Name].From
		if from != "" && !slices.Contains(g.images(t, f), from) {
			found = append(found, at.problem(at.line(t.Name, "contexts"), "target %q is not linked to %q: %s says that it is from it, so its contexts need one that is \"target:%s\"",
				t.Name, from, f.Place("images", t.Name, "from"), from))
		}
	}
	return found
}

// osContext is the name by which a Dockerfile takes the operating system.
const osContext = "os"

// systems are a root's contexts that are the operating system: "os", and whatever a Dockerfile calls
// the image that the family pins. The builder puts there what it stands on here.
func (t Target) systems(f *family.Family) []string {
	if image, ok := f.Images[t.Name]; !ok || image.From != "" {
		return nil
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if name == osContext || t.Contexts[name] == "docker-image://"+f.Base.Image {
			names = append(names, name)
		}
	}
	return names
}

// rootProblems: the record and the provenance say that a root stands on the operating system.
func (t Target) rootProblems(f *family.Family, at places) []family.Problem {
	image, ok := f.Images[t.Name]
	if !ok || image.From != "" || len(t.systems(f)) > 0 {
		return nil
	}
	return []family.Problem{at.problem(at.line(t.Name, "contexts"), "target %q stands on nothing: %s names no parent, so its contexts need %s = \"docker-image://%s\"",
		t.Name, f.Place("images", t.Name), osContext, f.Base.Image)}
}

// cacheProblems refuses a cache of the bake file's own: nobody would know that a release took what a pull
// request could have written. CONTAINAI_CACHE names one that the gate knows of.
func (t Target) cacheProblems(at places) []family.Problem {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(t.resolved, &members); err != nil {
		return []family.Problem{at.problem(at.line(t.Name, ""), "target %q: %v", t.Name, err)}
	}
	var found []family.Problem
	for _, name := range []string{"cache-from", "cache-to"} {
		if _, there := members[name]; there {
			found = append(found, at.problem(at.line(t.Name, name), "target %q has a %s of its own: take it out, and set CONTAINAI_CACHE where a cache is wanted", t.Name, name))
		}
	}
	return found
}

// fetched is what BuildKit fetches itself; everything else is a path:
// https://docs.docker.com/build/concepts/context/.
var fetched = lazyregexp.New(`^([a-z-]+://|target:|git@|github\.com/)`)

// missing looks for the files that a target is made from.
func (t Target) missing(root string, at places) []family.Problem {
	var found []family.Problem
	there := func(line int, what, path string) bool {
		full := path
		if !filepath.IsAbs(full) {
			full = filepath.Join(root, path)
		}
		_, err := os.Stat(full)
		if err != nil {
			found = append(found, at.problem(line, "the %s of target %q is not there: %s", what, t.Name, path))
		}
		return err == nil
	}
	if !fetched.MatchString(t.Context) && there(at.line(t.Name, "context"), "context", t.Context) &&
		t.Dockerfile != "" && !fetched.MatchString(t.Dockerfile) {
		file := t.Dockerfile
		if !filepath.IsAbs(file) {
			file = filepath.Join(t.Context, file)
		}
		there(at.line(t.Name, "dockerfile"), "Dockerfile", file)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if !fetched.MatchString(t.Contexts[name]) {
			there(at.line(t.Name, "contexts", name), "context "+name, t.Contexts[name])
		}
	}
	return found
}

// platformProblems: an image is built for every platform of the family, and a parent for every
// platform of its children. A target that declares none is built for what is asked.
func (g Graph) platformProblems(t Target, f *family.Family, at places) []family.Problem {
	var found []family.Problem
	if _, ok := f.Images[t.Name]; ok {
		if lacks := lacking(t.Platforms, f.Platforms); len(lacks) > 0 {
			found = append(found, at.problem(at.line(t.Name, "platforms"), "target %q is not built for %s, which %s wants of every image",
				t.Name, strings.Join(lacks, ", "), f.Place("platforms")))
		}
	}
	for _, name := range t.Parents {
		parent, _ := g.Target(name)
		if lacks := lacking(parent.Platforms, t.Platforms); len(lacks) > 0 {
			found = append(found, at.problem(at.line(t.Name, "platforms"), "target %q is built for %s, and %q, which it is linked to, is not (line %d)",
				t.Name, strings.Join(lacks, ", "), name, at.line(name, "platforms")))
		}
	}
	return found
}

// lacking returns the wanted platforms that are not declared; without a declaration none are.
func lacking(declared, wanted []string) []string {
	if len(declared) == 0 {
		return nil
	}
	var lacks []string
	for _, w := range wanted {
		if !slices.ContainsFunc(declared, func(d string) bool { return canonical(d) == canonical(w) }) {
			lacks = append(lacks, w)
		}
	}
	return lacks
}

// invalid is the error of everything that is wrong with a bake file.
func (p places) invalid(found []family.Problem) error {
	if len(found) == 0 {
		return nil
	}
	slices.SortStableFunc(found, func(a, b family.Problem) int { return a.Line - b.Line })
	return &fault.Error{Op: "reading", Subject: p.file, Kind: fault.Invalid, Err: &family.Problems{List: slices.Compact(found)},
		Hint: "edit the lines named above, then run: mage build:plan"}
}

// explain says where the file is wrong that Buildx did not read: by our own look at it, else in
// Buildx's words, which name a place themselves when the syntax is wrong.
func (p places) explain(err error, f *family.Family, images []string) error {
	var exit *tool.ExitError
	if !errors.As(err, &exit) {
		return err // interrupted, or Buildx is missing
	}
	if found := p.broken(f, images); len(found) > 0 {
		return p.invalid(found)
	}
	words := strings.Join(exit.Tail, "\n    ")
	for _, line := range exit.Tail {
		if rest, ok := strings.CutPrefix(line, "ERROR: "); ok {
			words = rest
		}
	}
	return fault.New(fault.Invalid, "reading", p.file, "%s", words).WithHint("edit it, then run: mage build:plan")
}

// broken follows the links from the images and finds those that lead nowhere or in a circle.
func (p places) broken(f *family.Family, images []string) []family.Problem {
	var found []family.Problem
	followed := map[string]bool{}
	var follow func(name string, path []string)
	follow = func(name string, path []string) {
		if followed[name] {
			return
		}
		defer func() { followed[name] = true }()
		for _, l := range p.links(name) {
			switch here := append(slices.Clone(path), name); {
			case slices.Contains(here, l.to):
				circle := append(here[slices.Index(here, l.to):], l.to)
				found = append(found, p.problem(l.line, "target %q is built on itself: %s", l.to, strings.Join(circle, " → ")))
			case len(p.targets[l.to]) > 0:
				follow(l.to, here)
			case !p.dynamic:
				found = append(found, p.problem(l.line, "target %q is linked to %q, which is not in this file; it has %s", name, l.to, p.names()))
			}
		}
	}
	for _, name := range images {
		if len(p.targets[name]) == 0 && !p.dynamic {
			found = append(found, p.problem(1, "there is no target %q, which %s names; there are %s", name, f.Place("images", name), p.names()))
		}
		follow(name, nil)
	}
	return found
}

func (p places) names() string {
	return strings.Join(slices.Sorted(maps.Keys(p.targets)), ", ")
}

func (p places) problem(line int, format string, args ...any) family.Problem {
	return family.Problem{File: p.file, Line: line, Text: fmt.Sprintf(format, args...)}
}
