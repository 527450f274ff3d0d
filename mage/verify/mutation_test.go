package verify_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mutant is one check taken away: the bytes of one element of one list of checks.
type mutant struct {
	file     string // absolute
	list     string // the function that returns it
	check    string // its first line
	from, to int    // byte offsets
}

// TestEveryCheckIsNeeded takes each check of the verifier away in turn, at source level, and demands
// that something of the corpus is then accepted, or refused for another reason.
func TestEveryCheckIsNeeded(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("set CONTAINAI_DEEP=1: each check is compiled away in turn, which takes minutes")
	}
	all := mutants(t)
	if len(all) < 60 {
		t.Fatalf("only %d checks were found", len(all))
	}
	table := fmt.Sprintf("%-20s %-62s %s\n", "list", "check", "fixtures that need it")
	for _, m := range all {
		caught := corpusWithout(t, m)
		if len(caught) == 0 {
			t.Errorf("%s: without %s nothing of the corpus is accepted that should not be", m.list, m.check)
		}
		table += fmt.Sprintf("%-20s %-62s %d\n", m.list, m.check, len(caught))
	}
	t.Log("\n" + table)
}

// TestTheListsOfChecksAreFound holds that the lists are where the mutation test looks for them.
func TestTheListsOfChecksAreFound(t *testing.T) {
	found := map[string]int{}
	for _, m := range mutants(t) {
		found[m.list]++
	}
	for _, list := range lists() {
		if found[list] == 0 {
			t.Errorf("%s has no checks", list)
		}
	}
}

// lists are the functions that return the verifier's checks.
func lists() []string {
	return []string{
		"thresholds", "shape", "material", "certificateChecks", "signerFacts", "keyFacts", "subjectFacts", "statementChecks",
		"objects", "provenanceFacts", "subjectChecks", "proofChecks", "documentChecks", "entryChecks", "channelChecks", "releaseChecks",
	}
}

func mutants(t *testing.T) []mutant {
	t.Helper()
	var all []mutant
	for _, dir := range []string{"../internal/sigstore", "."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				all = append(all, mutantsOf(t, must(filepath.Abs(file)))...)
			}
		}
	}
	return all
}

func mutantsOf(t *testing.T, file string) []mutant {
	t.Helper()
	content, fset := must(os.ReadFile(file)), token.NewFileSet()
	parsed := must(parser.ParseFile(fset, file, content, parser.SkipObjectResolution))
	var all []mutant
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !slices.Contains(lists(), f.Name.Name) {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			list, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if _, isList := list.Type.(*ast.ArrayType); !isList {
				return false
			}
			for i, element := range list.Elts {
				end := list.Rbrace
				if i+1 < len(list.Elts) {
					end = list.Elts[i+1].Pos()
				}
				from, to := fset.Position(element.Pos()).Offset, fset.Position(end).Offset
				line, _, _ := strings.Cut(string(content[from:to]), "\n")
				all = append(all, mutant{file, f.Name.Name, strings.TrimRight(strings.TrimSpace(line), ","), from, to})
			}
			return false
		})
	}
	return all
}

var failed = regexp.MustCompile(`(?m)^\s+--- FAIL: (\S+)`)

// corpusWithout runs the corpus over a source tree that lacks one check, and returns what failed.
func corpusWithout(t *testing.T, m mutant) []string {
	t.Helper()
	content := must(os.ReadFile(m.file))
	dir := t.TempDir()
	less := filepath.Join(dir, "less.go")
	if err := os.WriteFile(less, append(append([]byte{}, content[:m.from]...), content[m.to:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, must(json.Marshal(map[string]any{"Replace": map[string]string{m.file: less}})), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-count=1", "-vet=off", "-run", "^(TestForged|TestFraud|TestWhatIsGenuine)", ".")
	c.Env = append(os.Environ(), "CONTAINAI_DEEP=")
	out, err := c.CombinedOutput()
	if strings.Contains(string(out), "[build failed]") || err != nil && len(out) == 0 {
		t.Fatalf("without %s it does not compile: %v\n%s", m.check, err, out)
	}
	var caught []string
	for _, match := range failed.FindAllStringSubmatch(string(out), -1) {
		caught = append(caught, match[1])
	}
	if err != nil && len(caught) == 0 {
		caught = append(caught, "a panic or the honest one")
	}
	return caught
}
