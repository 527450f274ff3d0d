//go:build mage

// ContainAI's release. Invariant: what releases is the library's, what tests it is here.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	// build:all, release:dev, verify:channel and the rest.
	//mage:import
	_ "github.com/containai/containai/mage"
)

// Test runs everything real once: units, the targets on a tiny family, and the real family.
func Test(ctx context.Context) error {
	if err := install(ctx, "busybox", "chromium", "curl", "npm", "pigz", "shellcheck", "skopeo", "tmux"); err != nil {
		return err
	}
	if err := goRun(ctx, ".", nil, "test", "-timeout=80m", "./..."); err != nil {
		return err
	}
	return goRun(ctx, sigstoreLocal(), nil, "test", "./...")
}

// TestDeep runs the long matrices: the race detector, ten crashes, fuzzing, peers of other makers.
func TestDeep(ctx context.Context) error {
	if err := install(ctx, "busybox", "chromium", "curl", "npm", "pigz", "shellcheck", "skopeo", "tmux", "qemu-aarch64-static"); err != nil {
		return err
	}
	for _, module := range []string{".", sigstoreLocal()} {
		if err := goRun(ctx, module, []string{"CONTAINAI_DEEP=1"}, "test", "-race", "-count=1", "-timeout=6h", "./..."); err != nil {
			return err
		}
	}
	return fuzz(ctx)
}

// Lint checks formatting, and lets vet and golangci-lint, as .golangci.yml says, look at both modules.
func Lint(ctx context.Context) error {
	if err := formatted(ctx); err != nil {
		return err
	}
	for _, module := range []string{".", sigstoreLocal()} {
		if err := lintModule(ctx, module); err != nil {
			return err
		}
	}
	return nil
}

// lintModule runs the golangci-lint that testdata/lint pins. With jsonv2 it sees the scanner worker as well.
func lintModule(ctx context.Context, module string) error {
	pinned, err := filepath.Abs(filepath.Join("testdata", "lint", "go.mod"))
	if err != nil {
		return err
	}
	worker := []string{"GOEXPERIMENT=jsonv2"}
	if err := goRun(ctx, module, worker, "vet", "./..."); err != nil {
		return err
	}
	return goRun(ctx, module, worker, "tool", "-modfile="+pinned, "golangci-lint", "run", "./...")
}

// formatted refuses files that gofmt would write differently.
func formatted(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "gofmt", "-l", ".").Output()
	if err != nil {
		return fmt.Errorf("looking for unformatted files: %w", err)
	}
	if files := strings.Fields(string(out)); len(files) > 0 {
		return fmt.Errorf("not formatted: %s; run gofmt -w on them", strings.Join(files, ", "))
	}
	return nil
}

// Bench runs every benchmark beside its peers and writes docs/benchmarks.md. It wants the machine for itself.
func Bench(ctx context.Context) error {
	var printed bytes.Buffer
	var failed []error
	for i, b := range benchmarks() {
		fmt.Fprintf(os.Stderr, "[%d of %d] ", i+1, len(benchmarks()))
		args := []string{"test", "-run=^$", "-bench=" + b.names, "-benchtime=" + b.times, "-count=" + b.count, "-timeout=30m", b.dir}
		if err := start(ctx, "go", ".", nil, nil, io.MultiWriter(os.Stdout, &printed), args...); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(append(failed, start(ctx, "go", ".", nil, &printed, os.Stdout, "run", "./mage/cmd/bench"))...)
}

// benchmarks are all of the repository, the longest first, how often each is run, and how often that is measured
// for a median.
func benchmarks() []struct{ dir, names, times, count string } {
	return []struct{ dir, names, times, count string }{
		{"./mage", "Release", "1x", "1"},
		{"./mage", "InspectFamily", "1x", "3"},
		{"./mage", "StartSigstore|SignFamily|VerifyFamily", "3x", "1"},
		{"./mage", "Magefile", "5x", "1"},
		{"./mage/internal/registry", "MoveTags|Push", "3x", "1"},
		{"./mage/internal/registry", "Cache", "100x", "1"},
		{"./mage/internal/pack", ".", "5x", "1"},
		{"./mage/internal/ledger", ".", "3x", "1"},
		{"./mage/internal/local", ".", "10x", "1"},
		{"./mage/pipeline", "MoveChannel", "3x", "1"},
		{"./mage/pipeline", "Plan", "1x", "1"},
		{"./mage/verify", ".", "5x", "1"},
	}
}

// fuzz runs every fuzz target of the repository for half a minute.
func fuzz(ctx context.Context) error {
	files, err := exec.CommandContext(ctx, "git", "grep", "-lE", "^func Fuzz", "--", "mage").Output()
	if err != nil {
		return fmt.Errorf("listing fuzz targets: %w", err)
	}
	var dirs []string
	for file := range strings.Lines(string(files)) {
		dirs = append(dirs, filepath.Dir(strings.TrimSpace(file)))
	}
	for _, dir := range slices.Compact(dirs) {
		if err := fuzzPackage(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// fuzzPackage runs in the package's own directory, because it may be of the nested module.
func fuzzPackage(ctx context.Context, dir string) error {
	list := exec.CommandContext(ctx, "go", "test", "-list=^Fuzz", ".")
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing fuzz targets of %s: %w", dir, err)
	}
	for name := range strings.Lines(string(out)) {
		if name = strings.TrimSpace(name); !strings.HasPrefix(name, "Fuzz") {
			continue
		}
		if err := goRun(ctx, dir, nil, "test", "-run=^$", "-fuzz=^"+name+"$", "-fuzztime=30s", "."); err != nil {
			return err
		}
	}
	return nil
}

// install brings the programs that only tests use, where root may; elsewhere tests without them
// are skipped and say so.
func install(ctx context.Context, programs ...string) error {
	packages := map[string]string{"qemu-aarch64-static": "qemu-user-static"}
	args := []string{"install", "-y", "-q", "--no-install-recommends"}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		args = append(args, cmp.Or(packages[program], program))
	}
	if len(args) == 4 || os.Geteuid() != 0 {
		return nil
	}
	if err := start(ctx, "apt-get", ".", nil, nil, os.Stdout, "update", "-q"); err != nil {
		return err
	}
	return start(ctx, "apt-get", ".", []string{"DEBIAN_FRONTEND=noninteractive"}, nil, os.Stdout, args...)
}

func sigstoreLocal() string { return filepath.Join("mage", "sigstore-local") }

func goRun(ctx context.Context, dir string, env []string, args ...string) error {
	return start(ctx, "go", dir, env, nil, os.Stdout, args...)
}

func start(ctx context.Context, program, dir string, env []string, in io.Reader, out io.Writer, args ...string) error {
	fmt.Fprintln(os.Stderr, "$", program, strings.Join(args, " "))
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	c.Stdin, c.Stdout, c.Stderr = in, out, os.Stderr
	return c.Run()
}
