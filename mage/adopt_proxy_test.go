package mage_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	versioned "golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
)

// moduleProxy is a directory that `go` takes for a module proxy (https://go.dev/ref/mod#goproxy-protocol).
// It serves this library as its work tree stands, and the nested module, at one version.
type moduleProxy struct {
	dir     string
	version string
}

// libraryModules are the modules of this repository that an importer fetches, and where they lie.
func libraryModules() map[string]string {
	return map[string]string{module: ".", module + "/mage/sigstore-local": "mage/sigstore-local"}
}

// treeFile is a file of the work tree under its name in a module.
type treeFile struct{ root, name string }

func (f treeFile) Path() string                 { return f.name }
func (f treeFile) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.root, f.name)) }
func (f treeFile) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.root, f.name)) }

// newModuleProxy packs the work tree. The version names its content: what Go once fetched of a version it
// never asks for again.
func newModuleProxy(t *testing.T, library string) moduleProxy {
	t.Helper()
	files := map[string][]modzip.File{}
	sum := sha256.New()
	for name, dir := range libraryModules() {
		root := filepath.Join(library, dir)
		list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
		list.Dir = root
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		for file := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
			content, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				continue // deleted, and not yet committed
			}
			fmt.Fprintf(sum, "%s %s %d\n", name, file, len(content))
			sum.Write(content)
			files[name] = append(files[name], treeFile{root, file})
		}
	}
	p := moduleProxy{dir: t.TempDir(), version: "v0.0.0-test.h" + hex.EncodeToString(sum.Sum(nil))[:12]}
	for name, dir := range libraryModules() {
		at := filepath.Join(p.dir, filepath.FromSlash(name), "@v")
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		var packed bytes.Buffer
		if err := modzip.Create(&packed, versioned.Version{Path: name, Version: p.version}, files[name]); err != nil {
			t.Fatal(err)
		}
		mod, err := os.ReadFile(filepath.Join(library, dir, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		for ext, content := range map[string][]byte{".zip": packed.Bytes(), ".mod": mod, ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2026-01-02T03:04:05Z"}`, p.version)} {
			if err := os.WriteFile(filepath.Join(at, p.version+ext), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(at, "list"), []byte(p.version+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p moduleProxy) modules() []string { return slices.Sorted(maps.Keys(libraryModules())) }

// forget removes from Go's module cache what came from here: nobody will ask for this version again.
func (p moduleProxy) forget(t *testing.T, cache string) {
	t.Helper()
	for _, name := range p.modules() {
		for _, pattern := range []string{name + "@" + p.version, "cache/download/" + name + "/@v/" + p.version + ".*"} {
			paths, _ := filepath.Glob(filepath.Join(cache, filepath.FromSlash(pattern)))
			for _, path := range paths {
				if err := removeReadOnly(path); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// removeReadOnly removes a tree whose directories Go made read-only.
func removeReadOnly(path string) error {
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(name, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(path))
}
