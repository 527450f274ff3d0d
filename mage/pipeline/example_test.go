package pipeline_test

import (
	"fmt"

	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// A record is content: the same release is the same digest, whoever writes it, and that is how a second
// run finds what the first one published.
func ExampleRecordNode() {
	record := release.Record{Source: release.Source{Commit: "0123456789012345678901234567890123456789"}}
	first, err := pipeline.RecordNode(record)
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := pipeline.RecordNode(record)
	fmt.Println(first.Digest == again.Digest, err)
	record.Source.Commit = "9876543210987654321098765432109876543210"
	other, err := pipeline.RecordNode(record)
	fmt.Println(first.Digest == other.Digest, err)
	// Output:
	// true <nil>
	// false <nil>
}

// A change prints what would be done, step by step, before anything is.
func ExampleChange() {
	c := pipeline.Change{Summary: "make tags follow the ledger: nothing to do"}
	fmt.Println(c.Summary, c.Empty(), len(c.Steps()))
	// Output: make tags follow the ledger: nothing to do true 0
}
