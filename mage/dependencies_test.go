package mage_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// TestEveryDirectDependencyHasItsLine: docs/dependencies.md says of each module that go.mod requires
// directly why it is there, and of no other.
func TestEveryDirectDependencyHasItsLine(t *testing.T) {
	content, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", content, nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := listedModules(string(page))
	for _, r := range mod.Require {
		name := strings.TrimPrefix(r.Mod.Path, "github.com/")
		i := slices.Index(listed, name)
		if r.Indirect && i >= 0 {
			t.Errorf("%s has a line and is required by others alone", name)
		}
		if !r.Indirect && i < 0 {
			t.Errorf("%s has no line", name)
		}
		if i >= 0 {
			listed = slices.Delete(listed, i, i+1)
		}
	}
	if len(listed) > 0 {
		t.Errorf("%q have a line too many, or are required no longer", listed)
	}
}

// listedModules are the names in the first column of the table.
func listedModules(page string) []string {
	quoted := regexp.MustCompile("`([^`]+)`")
	var names []string
	for line := range strings.Lines(page) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
				names = append(names, name[1])
			}
		}
	}
	return names
}
