//go:build !goexperiment.jsonv2

package main

import (
	"fmt"
	"os"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

func main() {
	fmt.Fprintf(os.Stderr, "this build of the scanner worker has no scanners; build it with:\n\t%s\n", inspect.BuildCommand)
	os.Exit(int(fault.Environment))
}
