//go:build mage

// ContainAI's release. Invariant: what releases is the library's, what tests it is here.
package main

import (
	"cmp"
	"context"
	"fmt"
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
	if err := install(ctx, "busybox", "curl", "npm", "pigz", "shellcheck", "skopeo"); err != nil {
		return err
	}
	if err := goRun(ctx, ".", nil, "test", "-timeout=80m", "./..."); err != nil {
		return err
	}
	return goRun(ctx, sigstoreLocal(), nil, "test", "./...")
}

// TestDeep runs the long matrices: the race detector, ten crashes, fuzzing, peers of other makers.
func TestDeep(ctx context.Context) error {
	if err := install(ctx, "busybox", "curl", "npm", "pigz", "shellcheck", "skopeo", "qemu-aarch64-static"); err != nil {
		return err
	}
	for _, module := range []string{".", sigstoreLocal()} {
		if err := goRun(ctx, module, []string{"CONTAINAI_DEEP=1"}, "test", "-race", "-count=1", "-timeout=6h", "./..."); err != nil {
			return err
		}
	}
	return fuzz(ctx)
}

// Lint checks formatting and vets both modules.
func Lint(ctx context.Context) error {
	if err := formatted(ctx); err != nil {
		return err
	}
	if err := goRun(ctx, ".", nil, "vet", "./..."); err != nil {
		return err
	}
	return goRun(ctx, sigstoreLocal(), nil, "vet", "./...")
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

// Bench runs the benchmarks, with their peers in the same run.
func Bench(ctx context.Context) error {
	return goRun(ctx, ".", nil, "test", "-run=^$", "-bench=.", "-benchtime=3x", "./...")
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
	if err := start(ctx, "apt-get", ".", nil, "update", "-q"); err != nil {
		return err
	}
	return start(ctx, "apt-get", ".", []string{"DEBIAN_FRONTEND=noninteractive"}, args...)
}

func sigstoreLocal() string { return filepath.Join("mage", "sigstore-local") }

func goRun(ctx context.Context, dir string, env []string, args ...string) error {
	return start(ctx, "go", dir, env, args...)
}

func start(ctx context.Context, program, dir string, env []string, args ...string) error {
	fmt.Fprintln(os.Stderr, "$", program, strings.Join(args, " "))
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}
