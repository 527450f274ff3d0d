//go:build mage

// ContainAI's release: the library's targets, and this repository's own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	// The library's targets: build:all, release:dev, verify:channel and the rest.
	//mage:import
	_ "github.com/containai/containai/mage"
)

// Test runs the tests: everything real once.
func Test(ctx context.Context) error {
	return run(ctx, "go", "test", "-timeout=60m", "./...")
}

// Lint checks formatting and vets.
func Lint(ctx context.Context) error {
	return run(ctx, "go", "vet", "./...")
}

// Bench runs the benchmarks, with their peers in the same run.
func Bench(ctx context.Context) error {
	return run(ctx, "go", "test", "-run=^$", "-bench=.", "./...")
}

func run(ctx context.Context, name string, args ...string) error {
	fmt.Fprintln(os.Stderr, "$", name, args)
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}
