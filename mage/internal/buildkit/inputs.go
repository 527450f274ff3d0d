package buildkit

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// recipe is the version of what our own code adds to a build: how BuildKit is asked, what becomes of
// times and annotations. Raise it when images that were built before must not be kept.
const recipe = "2"

// recipes tells what targets are made from.
type recipes struct {
	root   string
	graph  Graph
	family *family.Family
	base   osBase
	tools  map[string]string
	found  map[string]release.Inputs // by target; nil where it cannot be told
}

// inputs returns what every target of the graph is made from, and nothing where that cannot be told: a
// context that is fetched under a name that moves.
func (b *Builder) inputs(r Request, g Graph, base osBase) (map[string]release.Inputs, error) {
	tools := maps.Clone(b.Tools())
	tools["recipe"] = recipe
	in := recipes{root: r.Root, graph: g, family: r.Plan.Family, base: base, tools: tools, found: map[string]release.Inputs{}}
	for _, t := range g.Targets { // parents first
		found, err := in.of(t)
		if err != nil {
			return nil, err
		}
		in.found[t.Name] = found
	}
	return in.found, nil
}

func (in recipes) of(t Target) (release.Inputs, error) {
	contexts, known, err := in.contexts(t)
	if err != nil || !known {
		return nil, err
	}
	target, err := in.target(t)
	if err != nil {
		return nil, err
	}
	image, isImage := in.family.Images[t.Name]
	base := release.BaseOf(in.base.materials)
	if !isImage {
		base = release.DigestOf(nil) // its contexts tell all
	}
	if image.From != "" {
		if in.found[image.From] == nil {
			return nil, nil
		}
		base = in.found[image.From].Digest()
	}
	return release.Inputs{
		release.InputTarget: target, release.InputContexts: contexts, release.InputBase: base,
		release.InputTests: release.DigestOf(image.Smoke), release.InputTools: release.DigestOf(in.tools),
	}, nil
}

// target is the digest of all that the bake file says, but for what a build decides itself, and of the
// Dockerfile, wherever it lies.
func (in recipes) target(t Target) (digest.Digest, error) {
	var members map[string]any
	if err := json.Unmarshal(t.resolved, &members); err != nil {
		return "", fault.Wrap(err, fault.BuildFailed, "reading", "target "+t.Name)
	}
	for _, ours := range []string{"platforms", "output", "secret", "cache-from", "cache-to", "tags"} {
		delete(members, ours)
	}
	if args, ok := members["args"].(map[string]any); ok {
		delete(args, "SOURCE_DATE_EPOCH") // the commit's time, which is none of the recipe
	}
	var dockerfile []byte
	if path := in.dockerfile(t); path != "" {
		var err error
		if dockerfile, err = os.ReadFile(path); err != nil {
			return "", fault.Wrap(err, fault.Environment, "reading Dockerfile of", t.Name)
		}
	}
	return release.DigestOf([]any{members, digest.FromBytes(dockerfile), in.family.Source}), nil
}

// dockerfile is the path of a target's Dockerfile; empty when the bake file or another place holds it.
func (in recipes) dockerfile(t Target) string {
	if t.Dockerfile == "" || fetched.MatchString(t.Context) || fetched.MatchString(t.Dockerfile) {
		return ""
	}
	if filepath.IsAbs(t.Dockerfile) {
		return t.Dockerfile
	}
	return filepath.Join(in.path(t.Context), t.Dockerfile)
}

func (in recipes) path(dir string) string {
	if filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(in.root, dir)
}

// contexts is the digest of everything that a target is given: files, and what other targets are made
// from. BuildKit reads of a directory what the Dockerfile uses; here all of it counts that .dockerignore
// leaves, so that a file nobody uses may cause a build, and no file that is used escapes.
func (in recipes) contexts(t Target) (digest.Digest, bool, error) {
	all := maps.Clone(t.Contexts)
	if all == nil {
		all = map[string]string{}
	}
	for _, name := range t.systems(in.family) {
		delete(all, name) // the builder gives it, and the base tells it
	}
	all[""] = t.Context
	sums := map[string]digest.Digest{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		value := all[name]
		parent, linked := strings.CutPrefix(value, "target:")
		_, pinned, _ := strings.Cut(value, "@")
		switch {
		case linked && parent == in.family.Images[t.Name].From: // the base tells it
		case linked && in.found[parent] == nil:
			return "", false, nil
		case linked:
			sums[name] = in.found[parent].Digest()
		case !fetched.MatchString(value):
			sum, err := sumDirectory(in.path(value), in.ignores(t, value, name == ""))
			if err != nil {
				return "", false, fault.Wrap(err, fault.Environment, "reading a context of", t.Name)
			}
			sums[name] = sum
		case !strings.HasPrefix(value, "docker-image://") || digest.Digest(pinned).Validate() != nil:
			return "", false, nil
		}
	}
	return release.DigestOf(sums), true, nil
}

// ignores are the files that may say what of a context is ignored, the first that is there decides:
// https://docs.docker.com/build/concepts/context/#filename-and-location.
func (in recipes) ignores(t Target, dir string, main bool) []string {
	files := []string{filepath.Join(in.path(dir), ".dockerignore")}
	if dockerfile := in.dockerfile(t); main && dockerfile != "" {
		files = append([]string{dockerfile + ".dockerignore"}, files...)
	}
	return files
}

// sumDirectory is the digest of a tree: names, types, permissions and content.
func sumDirectory(dir string, ignores []string) (digest.Digest, error) {
	ignored, err := readIgnored(ignores)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as BuildKit does; WalkDir would not look behind one
		return "", err
	}
	sum := sha256.New()
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(dir, path)
		if err = errors.Join(err, relErr); err != nil || name == "." {
			return err
		}
		skip, err := ignored.MatchesOrParentMatches(name)
		if err != nil {
			return err
		}
		if skip && entry.IsDir() && !ignored.Exclusions() {
			return filepath.SkipDir
		}
		if skip {
			return nil
		}
		return sumFile(sum, path, filepath.ToSlash(name))
	})
	return digest.NewDigest(digest.SHA256, sum), err
}

func readIgnored(files []string) (*patternmatcher.PatternMatcher, error) {
	for _, file := range files {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		patterns, err := ignorefile.ReadAll(f)
		if err != nil {
			return nil, err
		}
		return patternmatcher.New(patterns)
	}
	return patternmatcher.New(nil)
}

// sumFile adds one path; each text is preceded by its length, so that no two trees read alike.
func sumFile(sum io.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%d %s %s ", len(name), name, info.Mode())
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(path)
		fmt.Fprintf(sum, "%d %s", len(target), target)
		return err
	case info.Mode().IsRegular():
		content, err := os.Open(path)
		if err != nil {
			return err
		}
		defer content.Close()
		fmt.Fprintf(sum, "%d ", info.Size())
		_, err = io.Copy(sum, content)
		return err
	}
	return nil
}
