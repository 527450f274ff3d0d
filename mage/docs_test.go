package mage_test

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are the documentation: the README and docs/.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	found := map[string]string{}
	for _, file := range append(files, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md", "../CHANGELOG.md") {
		found[strings.TrimPrefix(filepath.ToSlash(file), "../")] = string(must(os.ReadFile(file)))
	}
	return found
}

// testFunctions is where each test, benchmark, example and fuzz target of the repository is declared: by name
// the source of its file.
func testFunctions(t *testing.T) map[string]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Example|Fuzz)\w*)\(`)
	found := map[string]string{}
	err := filepath.WalkDir(".", func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := os.ReadFile(name)
		for _, f := range declared.FindAllStringSubmatch(string(content), -1) {
			found[f[1]] += string(content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestNoAttackIsWithoutATestThatCarriesItOut: docs/threat-model.md has every row of the catalogue once, and the
// tests that it names are there and speak of that row.
func TestNoAttackIsWithoutATestThatCarriesItOut(t *testing.T) {
	tests := testFunctions(t)
	quoted := regexp.MustCompile("`(Test\\w+)`")
	rows := map[string]int{}
	for line := range strings.Lines(pages(t)["docs/threat-model.md"]) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[len(cells)-2]) == "shown by" {
			continue
		}
		row := strings.TrimSpace(cells[1])
		isRow := regexp.MustCompile(`^D\d+$`).MatchString(row)
		if isRow {
			rows[row]++
		}
		names := quoted.FindAllStringSubmatch(cells[len(cells)-2], -1)
		if isRow && len(names) == 0 {
			t.Errorf("%s names no test", row)
		}
		for _, name := range names {
			source, ok := tests[name[1]]
			if !ok {
				t.Errorf("%s: there is no %s", row, name[1])
			} else if isRow && !strings.HasPrefix(name[1], "Test"+row) && !strings.Contains(source, fmt.Sprintf("%q", row)) {
				t.Errorf("%s: the file of %s does not speak of it", row, name[1])
			}
		}
	}
	for n := 1; n <= 14; n++ {
		if row := fmt.Sprint("D", n); rows[row] != 1 {
			t.Errorf("%s stands there %d times", row, rows[row])
		}
	}
}

// TestNoPageNamesATestThatIsNotThere: a name in backticks is one that `go test -run` finds.
func TestNoPageNamesATestThatIsNotThere(t *testing.T) {
	tests := testFunctions(t)
	quoted := regexp.MustCompile("`((?:Test|Benchmark)[A-Z0-9]\\w+)`")
	for page, content := range pages(t) {
		for _, name := range quoted.FindAllStringSubmatch(content, -1) {
			if _, ok := tests[name[1]]; !ok {
				t.Errorf("%s names %s, which is not there", page, name[1])
			}
		}
	}
}

// TestNoLinkLeadsNowhere: a link to a file of the repository leads to one, and one to a part of a page
// to a heading or an anchor of it.
func TestNoLinkLeadsNowhere(t *testing.T) {
	all := pages(t)
	link := regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]+)?\)`)
	for page, content := range all {
		for _, l := range link.FindAllStringSubmatch(content, -1) {
			if strings.Contains(l[1], "://") || strings.HasPrefix(l[1], "mailto:") {
				continue
			}
			target := page
			if l[1] != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(page), l[1]))
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s, which is not there", page, target)
			}
			if l[2] != "" && !slices.Contains(anchors(all[target]), l[2][1:]) {
				t.Errorf("%s links to %s%s, which has no such part", page, target, l[2])
			}
		}
	}
}

// anchors are the names of a page's headings, as GitHub makes them, and its explicit ones.
func anchors(page string) []string {
	var names []string
	for _, a := range regexp.MustCompile(`<a id="([^"]+)">`).FindAllStringSubmatch(page, -1) {
		names = append(names, a[1])
	}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		kept := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		names = append(names, strings.ReplaceAll(kept, " ", "-"))
	}
	return names
}

// TestNoPackageIsWithoutPurpose: docs/architecture.md says of every package why it exists, and of none that is gone.
func TestNoPackageIsWithoutPurpose(t *testing.T) {
	purposes := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| ((?:`[^`]+`[ +]*)+)\\| \\S")
	for _, cells := range row.FindAllStringSubmatch(pages(t)["docs/architecture.md"], -1) {
		for name := range strings.FieldsFuncSeq(cells[1], func(r rune) bool { return r == '`' || r == ' ' || r == '+' }) {
			purposes[strings.TrimSuffix(name, "/")] = true
		}
	}
	packages := map[string]bool{".": true}
	for _, s := range sources(t) {
		packages[s.dir] = true
		if s.dir != "." && !purposes[s.dir] {
			packages[s.dir] = false
		}
	}
	for dir, said := range packages {
		if parent := filepath.Dir(dir); !said && !(strings.Contains(dir, "internal/") && purposes[parent]) {
			t.Errorf("docs/architecture.md does not say why %s exists", dir)
		}
	}
	for name := range purposes {
		if strings.HasPrefix(name, "mage/") {
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf("docs/architecture.md has %s, which is not there", name)
			}
		}
	}
}

// TestNoPublicPackageIsWithoutExample: whoever imports a package sees it used, and the example is run.
func TestNoPublicPackageIsWithoutExample(t *testing.T) {
	examples := map[string]bool{}
	packages := map[string]bool{}
	for _, s := range sources(t) {
		if strings.Contains(s.dir, "internal/") || strings.HasPrefix(s.dir, "mage/cmd/") || s.dir == "." {
			continue
		}
		packages[s.dir] = true
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			examples[s.dir] = examples[s.dir] || ok && s.test && strings.HasPrefix(f.Name.Name, "Example")
		}
	}
	for dir := range packages {
		if !examples[dir] {
			t.Errorf("%s has no example", dir)
		}
	}
}

// TestNoParserIsWithoutFuzzing: what reads bytes from outside is called by a fuzz target of its package, or by
// what such a target calls.
func TestNoParserIsWithoutFuzzing(t *testing.T) {
	byOthers := map[string]string{ // parsers that are fuzzed through another function, or are not of outside bytes
		"mage/release decodeDocument":            "DecodeDocument",
		"mage/release decodeStrict":              "DecodeDocument",
		"mage/internal/actions decodeEvent":      "DecodeEvent",
		"mage/internal/sigstore decodeBundle":    "Verify",
		"mage/internal/sigstore decodeStatement": "Verify",
		"mage/internal/buildkit parseStanzas":    "parseSources",
		"mage/internal/ledger parseRemotes":      "chooseRemote",
		"mage/internal/ledger parseCommit":       "parseGeneration",
		"mage/internal/buildkit parseLabel":      "the meter",
		"mage/internal/registry parseWait":       "asked",
		"mage/internal/pack parseHeader":         "Unpack",
		"mage/cmd/bench parse":                   "nothing: it reads what our own benchmarks print",
	}
	name := regexp.MustCompile(`^(Parse|Decode|parse|decode)`)
	fuzzers := map[string]string{}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && strings.HasPrefix(f.Name.Name, "Fuzz") {
				content := must(os.ReadFile(filepath.Join("..", s.dir, s.name)))
				fuzzers[s.dir] += string(content[s.fset.Position(f.Pos()).Offset:s.fset.Position(f.End()).Offset])
			}
		}
	}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test || !name.MatchString(f.Name.Name) || !takesBytes(f) {
				continue
			}
			if !regexp.MustCompile(`\b`+f.Name.Name+`\(`).MatchString(fuzzers[s.dir]) && byOthers[s.dir+" "+f.Name.Name] == "" {
				t.Error(s.complaint(f, "no fuzz target of the package calls %s", f.Name.Name))
			}
		}
	}
}

// takesBytes: its first parameter that says anything is text.
func takesBytes(f *ast.FuncDecl) bool {
	for _, p := range f.Type.Params.List {
		switch p := p.Type.(type) {
		case *ast.Ident:
			if p.Name == "string" {
				return true
			}
		case *ast.ArrayType:
			if element, ok := p.Elt.(*ast.Ident); ok && element.Name == "byte" {
				return true
			}
		}
	}
	return false
}
