package verify_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The mutation check. A copy of the verifier is compiled in which every single check can be taken
// away: one element of a list of checks, or one condition upon which something is refused. The copy
// exists in an overlay of the compiler alone; the corpus then runs against it once for each check.

// mutant is one check that can be taken away. Its number is its place in the list.
type mutant struct {
	file  string
	where string // function
	check string // its first line
}

func (m mutant) String() string { return m.where + ": " + m.check }

// instrumented is a source file in which checks can be taken away.
type instrumented struct {
	name    string // absolute
	content string
}

// TestEveryCheckIsNeeded takes each check of the verifier away in turn, and demands that something of
// the corpus is then accepted, or refused for another reason.
func TestEveryCheckIsNeeded(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("set CONTAINAI_DEEP=1: the corpus runs once for each check, which takes minutes")
	}
	mutants, files := instrument(t)
	binary := compile(t, files)
	if caught := without(t, binary, "", -1); caught != "" {
		t.Fatalf("with every check in place %s fails", caught)
	}
	known := map[string]bool{}
	for i, m := range mutants {
		known[m.String()] = true
		t.Run(fmt.Sprintf("%03d %s", i, m), func(t *testing.T) {
			t.Parallel()
			caught := without(t, binary, m.file, i)
			reason, spared := spare()[m.String()]
			switch {
			case caught == "" && !spared:
				t.Error("without it nothing of the corpus is accepted that should not be")
			case caught != "" && spared:
				t.Errorf("%s needs it, and it is listed as spare: %s", caught, reason)
			case !spared:
				t.Logf("needed by %s", caught)
			}
		})
	}
	for check := range spare() {
		if !known[check] {
			t.Errorf("there is no check %q, and it is listed as spare", check)
		}
	}
	t.Logf("%d checks, %d of them spare", len(mutants), len(spare()))
}

// spare are checks that others stand behind, and why they are kept.
func spare() map[string]string {
	return map[string]string{
		"closed: len(r.Checks) == 0":                               "every way to a result adds a check; this holds the invariant",
		"leafOf: content.Certificate() == nil":                     "material asked for a certificate before; this stands before its use",
		"checkProvenance: st.PredicateType != evidence.Provenance": "both callers ask; the function is exported",
	}
}

// TestTheChecksAreFound holds that the checks are where the mutation test looks for them.
func TestTheChecksAreFound(t *testing.T) {
	mutants, _ := instrument(t)
	found := map[string]int{}
	for _, m := range mutants {
		found[m.where]++
	}
	for _, list := range lists() {
		if found[list] == 0 {
			t.Errorf("%s has no checks", list)
		}
	}
	if len(mutants) < 150 {
		t.Errorf("only %d checks were found", len(mutants))
	}
}

// lists are the functions that return the verifier's checks.
func lists() []string {
	return []string{
		"thresholds", "shape", "material", "certificateChecks", "signerFacts", "keyFacts", "subjectFacts", "statementChecks",
		"objects", "provenanceFacts", "subjectChecks", "proofChecks", "documentChecks", "entryChecks", "channelChecks", "releaseChecks", "artifactChecks",
	}
}

// judging are the files that decide, by folder.
func judging() map[string][]string {
	return map[string][]string{
		".":                    {"artifacts.go", "channel.go", "file.go", "image.go", "predicates.go", "source.go", "trial.go", "verify.go"},
		"../internal/sigstore": {"expect.go", "identity.go", "provenance.go", "shape.go", "statement.go", "trust.go", "verify.go"},
		"../pipeline":          {"collect.go"},
	}
}

// elsewhereTested are functions in those files that do not verify: they sign, or guard our own errors.
func elsewhereTested() []string { return []string{"identityOfToken", "readConfig", "Reports"} }

func instrument(t *testing.T) (all []mutant, files []instrumented) {
	t.Helper()
	folders := judging()
	for _, dir := range []string{".", "../internal/sigstore", "../pipeline"} {
		pkg := ""
		for _, name := range folders[dir] {
			file := must(filepath.Abs(filepath.Join(dir, name)))
			e := &editor{name: name, content: string(must(os.ReadFile(file))), fset: token.NewFileSet(), next: len(all)}
			parsed := must(parser.ParseFile(e.fset, file, e.content, parser.SkipObjectResolution))
			for _, d := range parsed.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && !slices.Contains(elsewhereTested(), f.Name.Name) {
					e.function(f)
				}
			}
			pkg = parsed.Name.Name
			all = append(all, e.found...)
			files = append(files, instrumented{file, e.apply()})
		}
		files = append(files, instrumented{must(filepath.Abs(filepath.Join(dir, "mutant_overlay.go"))), "package " + pkg + switches})
	}
	return all, files
}

// switches are what an instrumented package asks.
const switches = `

import "os"

var takenAway = os.Getenv("CONTAINAI_MUTANT")

func stays(id string, condition bool) bool { return condition && id != takenAway }

func staying[T any](ids []string, list []T) (left []T) {
	for i, element := range list {
		if ids[i] != takenAway {
			left = append(left, element)
		}
	}
	return left
}
`

// editor finds the checks of one file.
type editor struct {
	name    string
	content string
	fset    *token.FileSet
	next    int
	found   []mutant
	inserts []insert
}

// insert is text that comes before a place of the file.
type insert struct {
	at   int
	text string
}

func (e *editor) offset(p token.Pos) int { return e.fset.Position(p).Offset }

func (e *editor) add(where string, n ast.Node) string {
	line, _, _ := strings.Cut(e.content[e.offset(n.Pos()):e.offset(n.End())], "\n")
	e.found = append(e.found, mutant{e.name, where, line})
	e.next++
	return strconv.Itoa(e.next - 1)
}

func (e *editor) around(n ast.Node, before, after string) {
	e.inserts = append(e.inserts, insert{e.offset(n.Pos()), before}, insert{e.offset(n.End()), after})
}

func (e *editor) apply() string {
	slices.SortStableFunc(e.inserts, func(a, b insert) int { return a.at - b.at })
	out, from := "", 0
	for _, i := range e.inserts {
		out += e.content[from:i.at] + i.text
		from = i.at
	}
	return out + e.content[from:]
}

func (e *editor) function(f *ast.FuncDecl) {
	isList := f.Recv == nil && slices.Contains(lists(), f.Name.Name)
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if _, slice := n.Type.(*ast.ArrayType); isList && slice {
				e.list(f.Name.Name, n)
				return false
			}
		case *ast.IfStmt:
			if refuses(n.Body.List) {
				e.condition(f.Name.Name, n.Cond)
			}
		case *ast.SwitchStmt:
			for _, c := range n.Body.List {
				if clause := c.(*ast.CaseClause); n.Tag == nil && refuses(clause.Body) {
					for _, cond := range clause.List {
						e.condition(f.Name.Name, cond)
					}
				}
			}
		}
		return true
	})
}

func (e *editor) list(where string, list *ast.CompositeLit) {
	ids := ""
	for _, element := range list.Elts {
		ids += strconv.Quote(e.add(where, element)) + ","
	}
	e.around(list, "staying([]string{"+ids+"}, ", ")")
}

// condition makes each operand of a disjunction a check of its own. What only passes on the error of
// another check is none.
func (e *editor) condition(where string, cond ast.Expr) {
	if either, ok := cond.(*ast.BinaryExpr); ok && either.Op == token.LOR {
		e.condition(where, either.X)
		e.condition(where, either.Y)
		return
	}
	text := e.content[e.offset(cond.Pos()):e.offset(cond.End())]
	if !regexp.MustCompile(`^err\w* != nil$`).MatchString(text) {
		e.around(cond, "stays("+strconv.Quote(e.add(where, cond))+", ", ")")
	}
}

// refuses reports whether a block ends by returning an error of its own making.
func refuses(block []ast.Stmt) bool {
	if len(block) == 0 {
		return false
	}
	last, ok := block[len(block)-1].(*ast.ReturnStmt)
	makes := false
	if ok {
		ast.Inspect(last, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch f := call.Fun.(type) {
			case *ast.Ident:
				makes = makes || f.Name == "refuse"
			case *ast.SelectorExpr:
				makes = makes || slices.Contains([]string{"New", "Errorf"}, f.Sel.Name)
			}
			return true
		})
	}
	return makes
}

// compile builds this package's tests over the instrumented files.
func compile(t *testing.T, files []instrumented) (binary string) {
	t.Helper()
	dir, replace := t.TempDir(), map[string]string{}
	for i, f := range files {
		copied := filepath.Join(dir, fmt.Sprint(i, ".go"))
		if err := os.WriteFile(copied, []byte(f.content), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[f.name] = copied
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, must(json.Marshal(map[string]any{"Replace": replace})), 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "mutants.test")
	c := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, ".")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("compiling the mutants: %v\n%s", err, out)
	}
	return binary
}

var failed = regexp.MustCompile(`(?m)^\s+--- FAIL: (\S+)`)

// parts are the corpus, in the order in which it is likely to need the checks of a file.
func parts(file string) []string {
	const bundles, files, releases = "^(TestForged|TestWhatIsGenuine|TestACancelled)", "^(TestHostileEvidence|TestHostileIndexes)", "^(TestFrauds|TestArtifacts)"
	const hostile = "^(TestHostileRegistries|TestFloods|TestWrongAttestations|TestAnnotations|TestD7|TestD12)"
	switch file {
	case "artifacts.go", "channel.go":
		return []string{releases, hostile, files, bundles}
	case "file.go", "image.go":
		return []string{files, hostile, releases, bundles}
	case "collect.go", "source.go":
		return []string{hostile, releases, bundles, files}
	}
	return []string{bundles, releases, hostile, files}
}

// without runs the corpus without one check and returns what failed first, or "".
func without(t *testing.T, binary, file string, id int) string {
	t.Helper()
	for _, part := range parts(file) {
		c := exec.CommandContext(t.Context(), binary, "-test.failfast", "-test.timeout=3m", "-test.run", part)
		c.Env = append(os.Environ(), "CONTAINAI_DEEP=", "CONTAINAI_MUTANT="+strconv.Itoa(id))
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if match := failed.FindSubmatch(out); match != nil {
			return string(match[1])
		}
		if err != nil {
			return "a panic, a timeout or the honest one"
		}
	}
	return ""
}
