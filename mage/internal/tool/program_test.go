package tool

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
)

// gofmt is a real program that a scratch module can build without fetching anything.
func gofmt() Program {
	return Program{Name: "gofmt", Version: "1.0.0", Package: "cmd/gofmt", Mod: []byte("module scratch\n\ngo 1.26\n")}
}

func TestProgramIsBuiltOnceAndWorks(t *testing.T) {
	cache := t.TempDir()
	var mu sync.Mutex
	builds := 0
	progress := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(line, "building gofmt 1.0.0") {
			builds++
		}
	}
	var wg sync.WaitGroup
	paths := make([]string, 3)
	for i := range paths {
		wg.Go(func() {
			path, err := gofmt().Build(t.Context(), cache, progress)
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if builds != 1 || paths[0] != paths[1] || paths[1] != paths[2] {
		t.Errorf("three callers made %d builds in %v, want one build in one place", builds, paths)
	}
	cmd := exec.Command(paths[0])
	cmd.Stdin = strings.NewReader("package  x\n")
	if out, err := cmd.Output(); err != nil || string(out) != "package x\n" {
		t.Errorf("the built gofmt printed %q, %v", out, err)
	}
}

func TestProgramSurvivesAnInterruptedBuild(t *testing.T) {
	cache := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := gofmt().Build(ctx, cache, func(string) { cancel() })
	if !errors.Is(err, fault.Interrupted) {
		t.Fatalf("a cancelled build returned %v, want fault.Interrupted", err)
	}
	// What a killed process would have left: a half-written work directory.
	home := filepath.Join(cache, "gofmt-1.0.0-"+gofmt().key())
	half := filepath.Join(home+".work", "out", "gofmt")
	if err := os.MkdirAll(filepath.Dir(half), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(half, []byte("half"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, err := gofmt().Build(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "-h").CombinedOutput(); !strings.Contains(string(out), "usage: gofmt") {
		t.Errorf("the rebuilt program printed %q, %v", out, err)
	}
	if _, err := os.Stat(home + ".work"); !os.IsNotExist(err) {
		t.Errorf("the work directory is still there: %v", err)
	}
}

func TestProgramOfADirectoryFollowsItsSource(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	p := Program{Name: "hello", Version: "0.1.0", Package: ".", Dir: dir, Stamp: "main.version", Estimate: 10 * time.Minute}
	write(t, filepath.Join(dir, "go.mod"), "module hello\n\ngo 1.26\n")
	var lines []string
	for _, word := range []string{"one", "two"} {
		write(t, filepath.Join(dir, "main.go"), "package main\n\nvar version string\n\nfunc main() { println(\""+word+"\", version) }\n")
		path, err := p.Build(t.Context(), cache, func(line string) { lines = append(lines, line) })
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(path).CombinedOutput()
		if err != nil || string(out) != word+" v0.1.0\n" {
			t.Errorf("the program printed %q, %v, want %q", out, err, word+" v0.1.0\n")
		}
	}
	if len(lines) != 1 || lines[0] != "building hello 0.1.0 (first time only, about 10 min)" {
		t.Errorf("progress said %q, want one line, the first time", lines)
	}
}

func TestProgramOfADirectoryThatIsGoneIsForgotten(t *testing.T) {
	cache, kept, gone := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	build := func(name, dir string) string {
		write(t, filepath.Join(dir, "go.mod"), "module hello\n\ngo 1.26\n")
		write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() {}\n")
		path, err := Program{Name: name, Version: "0.1.0", Package: ".", Dir: dir}.Build(t.Context(), cache, nil)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	stays, goes, other := build("hello", kept), build("hello", gone), build("other", gone)
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if build("hello", kept) != stays || !isFile(stays) || isFile(goes) || !isFile(other) {
		t.Errorf("of a directory that is there: %v, of one that is gone: %v, another program: %v; want true, false, true", isFile(stays), isFile(goes), isFile(other))
	}
}

func TestProgramExplainsWhatIsMissing(t *testing.T) {
	fetch := gofmt()
	fetch.Package = "example.org/absent/cmd"
	fetch.Mod = []byte("module scratch\n\ngo 1.26\n\nrequire example.org/absent v1.0.0\n")
	fetch.Sum = []byte("example.org/absent v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nexample.org/absent v1.0.0/go.mod h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	fetch.Env = []string{"GOPROXY=off", "GOMODCACHE=" + t.TempDir()}
	newer := gofmt()
	newer.Mod, newer.Env = []byte("module scratch\n\ngo 1.999\n"), []string{"GOTOOLCHAIN=local"}
	both := gofmt()
	both.Dir = t.TempDir()
	for name, test := range map[string]struct {
		program Program
		kind    fault.Kind
		hint    string
	}{
		"no module cache and no network":   {fetch, fault.Environment, "GOPROXY"},
		"a Go that is too old":             {newer, fault.Environment, "GOTOOLCHAIN"},
		"a scratch module and a directory": {both, fault.Invalid, ""},
		"neither module nor directory":     {Program{Name: "x"}, fault.Invalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.program.Build(t.Context(), t.TempDir(), nil)
			if !errors.Is(err, test.kind) {
				t.Fatalf("got %v, want %v", err, test.kind)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, test.hint) {
				t.Errorf("the hint is %q, want it to name %s", hint, test.hint)
			}
		})
	}
}

func TestProgramKeySeparatesWhatDiffers(t *testing.T) {
	base := gofmt()
	variants := map[string]Program{"itself": base}
	env, mod, pkg, moved := base, base, base, base
	env.Env, mod.Mod, pkg.Package = []string{"GOEXPERIMENT=jsonv2"}, append([]byte("// x\n"), base.Mod...), "cmd/vet"
	moved.Env = []string{"GOEXPERIMENT=", "jsonv2"}
	variants["environment"], variants["module"], variants["package"], variants["split environment"] = env, mod, pkg, moved
	seen := map[string]string{}
	for name, p := range variants {
		if other, ok := seen[p.key()]; ok {
			t.Errorf("%s and %s share the key %s", name, other, p.key())
		}
		seen[p.key()] = name
	}
}

func TestLockWaitsForItsHolderAndForTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Lock(ctx, path, cancel); !errors.Is(err, fault.Interrupted) {
		t.Errorf("a cancelled wait returned %v, want fault.Interrupted", err)
	}
	again, err := Lock(t.Context(), path, unlock)
	if err != nil {
		t.Fatalf("the lock stayed taken after its release: %v", err)
	}
	again()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
