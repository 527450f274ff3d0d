package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Limits of what is looked at: a project is a directory of sources.
const (
	maxDepth       = 6
	maxDockerfiles = 64
	maxDockerfile  = 1 << 20 // bytes
)

// look reads what a project has.
func look(ctx context.Context, dir string) (found, error) {
	f := found{Directory: filepath.Base(dir), Go: goVersion(runtime.Version()), Branch: "main"}
	if top := git(ctx, dir, "rev-parse", "--show-toplevel"); top != "" && !sameFile(top, dir) {
		return f, fault.New(fault.Invalid, "looking at", dir, "the git repository begins at %s, and its workflows and its release do", top).WithHint("cd %s, then run the same command", top)
	}
	f.Remote = git(ctx, dir, "config", "--get", "remote.origin.url")
	if head := git(ctx, dir, "symbolic-ref", "--short", "refs/remotes/origin/HEAD"); head != "" {
		f.Branch = strings.TrimPrefix(head, "origin/")
	} else if head := git(ctx, dir, "symbolic-ref", "--short", "HEAD"); head != "" {
		f.Branch = head
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return f, fault.Wrap(err, fault.Environment, "opening", dir)
	}
	defer root.Close()
	f.Dockerfiles, err = findDockerfiles(root.FS())
	return f, err
}

// goVersion is the version that a go.mod names: 1.26.8.
func goVersion(version string) string {
	return regexp.MustCompile(`^go(1\.\d+(?:\.\d+)?)`).FindString(version)[len("go"):]
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// git answers a question to git in one line; empty where it has no answer, or there is no git.
func git(ctx context.Context, dir string, args ...string) string {
	out, err := tool.Output(ctx, tool.Command{Path: "git", Args: args, Dir: dir}, fault.Environment)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// passedOver are directories whose Dockerfiles are somebody else's, or for tests.
func passedOver(name string) bool {
	return name != "." && strings.HasPrefix(name, ".") || slices.Contains([]string{"node_modules", "vendor", "testdata", "dist"}, name)
}

func findDockerfiles(tree fs.FS) ([]dockerfile, error) {
	var all []dockerfile
	var problems []error
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (passedOver(path.Base(name)) || strings.Count(name, "/") >= maxDepth):
			return fs.SkipDir
		case !entry.Type().IsRegular() || !isDockerfile(path.Base(name)):
			return nil
		case len(all) == maxDockerfiles:
			return fmt.Errorf("there are more than %d Dockerfiles here", maxDockerfiles)
		}
		content, err := readLimited(tree, name)
		if err != nil {
			return err
		}
		d, err := parseDockerfile(name, content)
		if err != nil {
			problems = append(problems, err)
		}
		all = append(all, d)
		return nil
	})
	if err = errors.Join(append(problems, err)...); err != nil {
		return nil, &fault.Error{Op: "reading", Subject: "Dockerfiles", Kind: fault.Invalid, Err: err, Hint: "nothing was written"}
	}
	return all, nil
}

func readLimited(tree fs.FS, name string) ([]byte, error) {
	file, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxDockerfile+1))
	if err == nil && len(content) > maxDockerfile {
		err = fmt.Errorf("%s: it has more than %d bytes", name, maxDockerfile)
	}
	return content, err
}

// result says what became of a file.
type result struct {
	Path  string
	There bool     // it was there before, and was not touched
	Lacks []string // lines that it should have
}

// write writes files that are not there. Each comes whole or not at all: it gets its name when all of it
// is on disk, and only if nobody else has taken the name.
func write(dir string, files []written) ([]result, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "opening", dir)
	}
	defer root.Close()
	var results []result
	for _, f := range files {
		err := create(root, f)
		there := errors.Is(err, fs.ErrExist)
		if err != nil && !there {
			return results, &fault.Error{Op: "writing", Subject: f.Path, Kind: fault.Environment, Err: err,
				Hint: "run the same command again: it goes on with what is missing"}
		}
		r := result{Path: f.Path, There: there}
		if there && strings.HasSuffix(f.Path, "ignore") {
			r.Lacks = lacking(root, f)
		}
		results = append(results, r)
	}
	return results, nil
}

func create(root *os.Root, f written) (err error) {
	if err := root.MkdirAll(path.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if _, err := root.Lstat(f.Path); err == nil {
		return fs.ErrExist
	}
	half := f.Path + ".half-written"
	if err := root.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a killed run
		return err
	}
	file, err := root.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Remove(half)) }()
	_, err = file.Write(f.Content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return root.Link(half, f.Path) // unlike a rename it never replaces
}

// lacking returns the lines of an ignore file that the one on disk has not.
func lacking(root *os.Root, f written) []string {
	content, err := root.ReadFile(f.Path)
	if err != nil {
		return nil
	}
	has := strings.Split(string(content), "\n")
	var lacks []string
	for _, line := range strings.Fields(string(f.Content)) {
		if !slices.Contains(has, line) && !slices.Contains(has, strings.Trim(line, "/")) {
			lacks = append(lacks, line)
		}
	}
	return lacks
}

// next are the commands that release what is here for the first time.
func next(ctx context.Context, f found, dir string, results []result) []string {
	commands := []string{"go mod tidy"}
	if slices.ContainsFunc(results, func(r result) bool { return r.Path == "go.mod" && r.There }) {
		commands = []string{"go get github.com/containai/containai/mage@" + f.Library, "go get -tool github.com/magefile/mage"}
	}
	for _, r := range results {
		if len(r.Lacks) > 0 {
			commands = append(commands, `printf '\n%s' `+strings.Join(r.Lacks, " ")+" >> "+r.Path)
		}
	}
	if git(ctx, dir, "rev-parse", "--show-toplevel") == "" {
		commands = append(commands, "git init -q -b main")
	}
	return append(commands, "git add -A .", "git commit -q -m 'Release as a family'", "go tool mage release:to edge")
}
