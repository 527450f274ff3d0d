package mage_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// maxStatements is what a target may have: it names a command and does nothing else.
const maxStatements = 5

func TestTargetsAreThin(t *testing.T) {
	for _, file := range []string{"targets.go", "../magefile.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && fn.Name.IsExported() && len(fn.Body.List) > maxStatements {
				t.Errorf("%s: target %s has %d statements, at most %d are thin", file, fn.Name.Name, len(fn.Body.List), maxStatements)
			}
		}
	}
}

// TestMageList holds the exact list of targets: the interface that scripts rely on.
func TestMageList(t *testing.T) {
	const golden = "../testdata/golden/mage-list.txt"
	list := exec.Command("go", "tool", "mage", "-l")
	list.Dir = ".."
	list.Env = append(os.Environ(), "NO_COLOR=1", "MAGEFILE_ENABLE_COLOR=false")
	got, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the list of targets changed; if that is meant, run with -update (-want +got):\n%s", cmp.Diff(string(want), string(got)))
	}
}
