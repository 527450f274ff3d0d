package mage_test

import (
	"context"
	"fmt"
	"os"

	"github.com/magefile/mage/mg"

	"github.com/containai/containai/mage"
)

// A magefile takes all targets with one line, //mage:import, above the import of this package. A target
// is a method, and its error carries the exit status of the command.
func Example() {
	defer os.Setenv("CONTAINAI_FAMILY", os.Getenv("CONTAINAI_FAMILY"))
	for _, file := range []string{"../testdata/families/tiny/containai.yaml", "../README.md"} {
		os.Setenv("CONTAINAI_FAMILY", file)
		err := mage.Family{}.Check(context.Background(), nil)
		fmt.Println(mg.ExitStatus(err))
	}
	// Output:
	// 0
	// 10
}
