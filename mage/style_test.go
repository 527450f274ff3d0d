package mage_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/containai/containai/mage/fault"
)

var update = flag.Bool("update", false, "write the golden files and generated documents")

// These tests read the module's own source and hold the rules that a reviewer would tire of:
// the floors of docs/architecture.md, and how Go is written here. None of them compiles anything.

const module = "github.com/containai/containai"

// source is one parsed Go file; dir and name are relative to the module, with slashes.
type source struct {
	dir, name string
	fset      *token.FileSet
	file      *ast.File
	test      bool
}

// complaint says what is wrong at a place of a file.
func (s source) complaint(at ast.Node, format string, args ...any) string {
	line := s.fset.Position(at.Pos()).Line
	return fmt.Sprintf("%s:%d: %s", path.Join(s.dir, s.name), line, fmt.Sprintf(format, args...))
}

// check looks at one file and complains.
type check func(source) []string

func TestFloors(t *testing.T)           { hold(t, floors) }
func TestForbiddenCalls(t *testing.T)   { hold(t, forbiddenCalls); holdNoStaleAllowance(t) }
func TestNoInit(t *testing.T)           { hold(t, noInit) }
func TestNoMutableGlobals(t *testing.T) { hold(t, noMutableGlobals) }
func TestExportedNames(t *testing.T)    { hold(t, exportedNames) }
func TestLengths(t *testing.T)          { hold(t, lengths) }

// floors: imports only point down. Test files may look anywhere.
func floors(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	for _, spec := range s.file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if why := mayNotImport(s.dir, imported); why != "" {
			complaints = append(complaints, s.complaint(spec, "imports %s: %s", imported, why))
		}
	}
	return complaints
}

func mayNotImport(dir, imported string) string {
	inner, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		if isGround(dir) && slices.Contains(worldly(), strings.SplitN(imported, "/", 2)[0]) && imported != "net/url" && imported != "net/netip" {
			return "the ground is pure, without files, network, programs and clock"
		}
		return ""
	}
	switch target := floorOf(inner); {
	case floorOf(dir) == "" || target == "":
		return "one of them has no floor; give it one in style_test.go"
	case !slices.Contains(below(floorOf(dir)), target) && !sameAdapter(dir, inner):
		return fmt.Sprintf("%s may use %v", dir, below(floorOf(dir)))
	}
	return ""
}

// worldly are the first elements of the standard library's doors to the outside.
func worldly() []string { return []string{"os", "net", "syscall", "log", "plugin", "runtime"} }

// floorOf names the floor of a package. Every ground package is one of its own.
func floorOf(dir string) string {
	parts := strings.Split(dir, "/")
	switch {
	case dir == ".":
		return "magefile"
	case parts[0] != "mage":
		return ""
	case len(parts) == 1:
		return "mage"
	case parts[1] == "internal" && len(parts) > 2:
		if slices.Contains([]string{"tool", "term", "lazyregexp"}, parts[2]) {
			return parts[2]
		}
		return "adapter"
	case parts[1] == "cmd":
		return "cmd"
	}
	return parts[1]
}

func isGround(dir string) bool { return slices.Contains(ground(), floorOf(dir)) }

func ground() []string {
	return []string{"lazyregexp", "fault", "ref", "graph", "family", "evidence", "release", "retention"}
}

// below returns the floors that a floor may import.
func below(floor string) []string {
	switch floor {
	case "fault", "lazyregexp":
		return nil
	case "ref":
		return []string{"lazyregexp", "fault"}
	case "graph":
		return []string{"lazyregexp", "fault", "ref"}
	case "family", "evidence":
		return []string{"lazyregexp", "fault", "ref", "graph"}
	case "release", "retention":
		return []string{"lazyregexp", "fault", "ref", "graph", "family", "evidence"}
	case "tool", "term", "pipeline", "report", "rehearsal":
		return ground()
	case "adapter":
		return append(ground(), "tool", "term")
	case "verify":
		return append(ground(), "tool", "term", "adapter", "pipeline", "report")
	case "cmd":
		return append(ground(), "tool", "term", "adapter", "verify", "report")
	case "mage":
		return append(ground(), "tool", "term", "adapter", "pipeline", "report", "verify", "rehearsal")
	case "magefile":
		return append(ground(), "mage")
	}
	return nil
}

// sameAdapter lets an adapter have packages below its own.
func sameAdapter(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	return len(as) > 2 && len(bs) > 2 && as[1] == "internal" && slices.Equal(as[:3], bs[:3])
}

// allowance is where a call may stand that is forbidden elsewhere, and why.
type allowance struct{ call, file, reason string }

func allowances() []allowance {
	return []allowance{
		{"os.LookupEnv", "mage/internal/tool/tool.go", "what a child may inherit"},
		{"os.LookupEnv", "mage/environment.go", "the one place that reads our own variables"},
		{"os.Getenv", "mage/environment.go", "the one place that reads our own variables"},
		{"os.Environ", "mage/environment.go", "the secrets that no build argument may hold"},
		{"time.Now", "mage/environment.go", "the clock that everything else is handed"},
		{"os.Stdout", "mage/environment.go", "the one place that prints"},
		{"os.Stderr", "mage/environment.go", "the one place that prints"},
		{"exec.LookPath", "mage/internal/tool/tool.go", "the only package that runs programs"},
		{"exec.LookPath", "mage/internal/tool/apt.go", "whether a host program is there"},
		{"exec.CommandContext", "mage/internal/tool/tool.go", "the only package that runs programs"},
		{"exec.CommandContext", "magefile.go", "this repository's own targets run go"},
		{"exec.LookPath", "magefile.go", "what only the tests use and the machine lacks"},
		{"os.Environ", "magefile.go", "this repository's own targets run go"},
		{"time.Now", "mage/internal/local/registry.go", "the age of uploads that a killed process left"},
		{"time.Now", "mage/internal/registry/client.go", "how long a registry has failed, and when cached content was last used"},
		{"time.Now", "mage/internal/sigstore/sign.go", "certificates end; a test hands in its own clock"},
		{"os.Stdout", "magefile.go", "this repository's own targets run go"},
		{"os.Stderr", "magefile.go", "this repository's own targets run go"},
	}
}

// forbidden are the calls that make a package depend on where and when it runs. A main of its
// own (mage/cmd) is such a place: it may use all of them but run no programs.
func forbidden() []string {
	return []string{
		"os.Getenv", "os.LookupEnv", "os.Environ", "os.ExpandEnv", "os.Setenv", "os.Exit", "os.Stdout", "os.Stderr", "os.Stdin",
		"time.Now", "time.Since", "time.Until", "time.Sleep",
		"fmt.Print", "fmt.Printf", "fmt.Println", "log.Print", "log.Printf", "log.Println", "log.Fatal", "log.Fatalf",
		"exec.Command", "exec.CommandContext", "exec.LookPath", "os.StartProcess", "syscall.Exec", "syscall.ForkExec",
	}
}

func forbiddenCalls(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	for _, use := range forbiddenUses(s) {
		name := path.Join(s.dir, s.name)
		isMain := floorOf(s.dir) == "cmd" && !strings.HasPrefix(use.name, "exec.")
		allowed := slices.ContainsFunc(allowances(), func(a allowance) bool { return a.call == use.name && a.file == name })
		if !isMain && !allowed {
			complaints = append(complaints, s.complaint(use.at, "%s belongs elsewhere: take it as an argument", use.name))
		}
	}
	return complaints
}

type use struct {
	name string
	at   ast.Node
}

// forbiddenUses finds selectors like time.Now, also where they are passed on and not called.
func forbiddenUses(s source) []use {
	names := importNames(s.file)
	var uses []use
	ast.Inspect(s.file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := selector.X.(*ast.Ident); ok && names[pkg.Name] != "" {
			if name := path.Base(names[pkg.Name]) + "." + selector.Sel.Name; slices.Contains(forbidden(), name) {
				uses = append(uses, use{name, selector})
			}
		}
		return true
	})
	return uses
}

// importNames maps the names a file uses for packages to their paths.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, spec := range f.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imported
	}
	return names
}

// holdNoStaleAllowance fails for an allowance that its file no longer needs.
func holdNoStaleAllowance(t *testing.T) {
	used := map[string]bool{}
	files := map[string]bool{}
	for _, s := range sources(t) {
		name := path.Join(s.dir, s.name)
		files[name] = true
		for _, u := range forbiddenUses(s) {
			used[name+" "+u.name] = true
		}
	}
	for _, a := range allowances() {
		if files[a.file] && !used[a.file+" "+a.call] && a.call != "os.Getenv" && a.call != "os.LookupEnv" {
			t.Errorf("%s no longer uses %s: remove the allowance", a.file, a.call)
		}
	}
}

func noInit(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			complaints = append(complaints, s.complaint(f, "init acts before anybody asked"))
		}
	}
	return complaints
}

// noMutableGlobals: a package-level variable is a regular expression that no start waits for, an error
// sentinel, an embedded file, or an assertion on _. Tables are functions. (Mage itself reads
// Default and Aliases of a magefile.)
func noMutableGlobals(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if !isConstant(s, g, v, i) {
					complaints = append(complaints, s.complaint(name, "%s is a package-level variable", name.Name))
				}
			}
		}
	}
	return complaints
}

func isConstant(s source, g *ast.GenDecl, v *ast.ValueSpec, i int) bool {
	name := v.Names[i].Name
	if name == "_" || embeds(g.Doc) || embeds(v.Doc) || s.dir == "." && (name == "Default" || name == "Aliases") {
		return true
	}
	if i >= len(v.Values) {
		return false
	}
	call, ok := v.Values[i].(*ast.CallExpr)
	if !ok {
		return false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := selector.X.(*ast.Ident)
	return ok && slices.Contains([]string{"lazyregexp.New", "errors.New"}, pkg.Name+"."+selector.Sel.Name)
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// exportedNames: one word per thing, and none of those that say nothing.
func exportedNames(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	if empty := emptyWord(s.file.Name.Name); empty != "" {
		complaints = append(complaints, s.complaint(s.file.Name, "package %s: %q says nothing", s.file.Name.Name, empty))
	}
	for _, name := range exported(s.file) {
		if empty := emptyWord(name.Name); empty != "" {
			complaints = append(complaints, s.complaint(name, "%s: %q says nothing", name.Name, empty))
		}
	}
	return complaints
}

// exported returns the exported identifiers that a file declares, fields and methods included.
func exported(f *ast.File) []*ast.Ident {
	var names []*ast.Ident
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || receiverIsExported(d.Recv) {
				names = append(names, d.Name)
			}
		case *ast.GenDecl:
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.TypeSpec:
					names = append(names, n.Name)
					return n.Name.IsExported()
				case *ast.ValueSpec:
					names = append(names, n.Names...)
					return false
				case *ast.FuncType:
					return false
				case *ast.Field:
					names = append(names, n.Names...)
				}
				return true
			})
		}
	}
	return slices.DeleteFunc(names, func(n *ast.Ident) bool { return !n.IsExported() })
}

func receiverIsExported(recv *ast.FieldList) bool {
	found := false
	ast.Inspect(recv.List[0].Type, func(n ast.Node) bool {
		if name, ok := n.(*ast.Ident); ok && !found {
			found = name.IsExported()
			return false
		}
		return true
	})
	return found
}

func emptyWord(name string) string {
	forbidden := []string{"Handle", "Process", "Do", "Manage", "Perform", "Get", "Util", "Utils", "Helper", "Helpers", "Common", "Data", "Info", "Manager", "Service", "Impl"}
	for _, word := range words(name) {
		if slices.ContainsFunc(forbidden, func(f string) bool { return strings.EqualFold(f, word) }) {
			return word
		}
	}
	return ""
}

// words splits a camel-case name; initials stay together: MetadataURLs → Metadata URLs.
func words(name string) []string {
	var list []string
	start := 0
	runes := []rune(name)
	for i := 1; i < len(runes); i++ {
		if unicode.IsUpper(runes[i]) && !unicode.IsUpper(runes[i-1]) || runes[i] == '_' {
			list = append(list, strings.Trim(string(runes[start:i]), "_"))
			start = i
		}
	}
	return append(list, strings.Trim(string(runes[start:]), "_"))
}

// Lengths in lines.
const (
	maxFile     = 400
	maxTestFile = 600
	maxFunction = 60
)

func lengths(s source) []string {
	var complaints []string
	limit := maxFile
	if s.test {
		limit = maxTestFile
	}
	if n := s.fset.File(s.file.Pos()).LineCount(); n > limit {
		complaints = append(complaints, s.complaint(s.file, "the file has %d lines, at most %d", n, limit))
	}
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || s.test {
			continue
		}
		if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFunction {
			complaints = append(complaints, s.complaint(f, "%s has %d lines, at most %d", f.Name.Name, n, maxFunction))
		}
	}
	return complaints
}

var sentenceEnd = regexp.MustCompile(`[.?!](\s|$)`)

// TestPackageDocs: a package says what it is and one invariant. Programs need no invariant.
func TestPackageDocs(t *testing.T) {
	docs := map[string]string{}
	mains := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			docs[s.dir] += s.file.Doc.Text()
			mains[s.dir] = s.file.Name.Name == "main"
		}
	}
	for dir, doc := range docs {
		if complaint := packageDoc(doc, mains[dir]); complaint != "" {
			t.Errorf("%s: %s", dir, complaint)
		}
	}
}

func packageDoc(doc string, main bool) string {
	switch {
	case len(sentenceEnd.FindAllString(doc, -1)) < 2:
		return "its package comment has fewer than two sentences"
	case !main && !strings.Contains(strings.ToLower(doc), "invariant"):
		return "its package comment states no invariant"
	}
	return ""
}

// TestExitTable: the documented exit codes are the code's.
func TestExitTable(t *testing.T) {
	const file = "../docs/exit-codes.md"
	want := exitTable()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what fault.Kinds says; go test ./mage -run TestExitTable -update writes it:\n%s", file, want)
	}
}

func exitTable() string {
	var b strings.Builder
	b.WriteString("# Exit codes\n\n" +
		"What a script can rely on. This page is generated from `fault.Kinds()`; a test compares them.\n\n" +
		"| code | kind | for a script |\n|---|---|---|\n" +
		"| 0 | — | done, or nothing to do |\n" +
		"| 1 | — | a bug, or unclassified |\n" +
		"| 2 | — | mage's own: unknown target, bad arguments |\n")
	for _, m := range fault.Kinds() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", m.Kind, m.Name, m.Advice)
	}
	return b.String()
}

// TestChecksComplain keeps the checks honest: each of them finds what it is for.
func TestChecksComplain(t *testing.T) {
	for name, test := range map[string]struct {
		check check
		file  string
		code  string
	}{
		"an adapter that imports another":      {floors, "mage/internal/registry/a.go", `package a; import _ "` + module + `/mage/internal/ledger"`},
		"a ground package that opens files":    {floors, "mage/graph/a.go", `package a; import _ "os"`},
		"a ground package that runs programs":  {floors, "mage/ref/a.go", `package a; import _ "os/exec"`},
		"a ground package that looks up":       {floors, "mage/ref/a.go", `package a; import _ "` + module + `/mage/graph"`},
		"a stage that knows an adapter":        {floors, "mage/pipeline/a.go", `package a; import _ "` + module + `/mage/internal/tool"`},
		"a package without a floor":            {floors, "other/a.go", `package a; import _ "` + module + `/mage/ref"`},
		"a clock that is called":               {forbiddenCalls, "mage/pipeline/a.go", `package a; import "time"; func f() { time.Now() }`},
		"a clock that is passed on":            {forbiddenCalls, "mage/a.go", `package a; import clock "time"; func f() any { return clock.Now }`},
		"a program that is run":                {forbiddenCalls, "mage/cmd/inspect/main.go", `package main; import "os/exec"; func f() { exec.Command("a") }`},
		"a print":                              {forbiddenCalls, "mage/a.go", `package a; import "fmt"; func f() { fmt.Println() }`},
		"an init":                              {noInit, "mage/a.go", `package a; func init() {}`},
		"a variable":                           {noMutableGlobals, "mage/a.go", `package a; var n int`},
		"a table":                              {noMutableGlobals, "mage/a.go", `package a; var m = map[string]int{}`},
		"a once":                               {noMutableGlobals, "mage/a.go", `package a; import "sync"; var once sync.Once`},
		"an expression that every start pays":  {noMutableGlobals, "mage/a.go", `package a; import "regexp"; var r = regexp.MustCompile("a")`},
		"a second variable behind a good one":  {noMutableGlobals, "mage/a.go", `package a; import "errors"; var E, n = errors.New(""), 1`},
		"an empty word in a function":          {exportedNames, "mage/a.go", `package a; func GetTag() {}`},
		"an empty word in a field":             {exportedNames, "mage/a.go", `package a; type T struct { TagInfo int }`},
		"an empty word in a method":            {exportedNames, "mage/a.go", `package a; type T int; func (*T) Process() {}`},
		"an empty word in an interface method": {exportedNames, "mage/a.go", `package a; type T interface { Handle() }`},
		"an empty word in a package":           {exportedNames, "mage/util/a.go", `package util`},
		"a long function":                      {lengths, "mage/a.go", "package a\nfunc f() {\n" + strings.Repeat("\n", 60) + "}"},
		"a long file":                          {lengths, "mage/a.go", "package a\n" + strings.Repeat("\n", 400)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.check(parse(t, test.file, test.code)); len(got) != 1 {
				t.Errorf("%d complaints, want 1: %v", len(got), got)
			}
		})
	}
	if packageDoc("Package a is. It does.", false) == "" || packageDoc("Package a holds an invariant.", false) == "" {
		t.Error("a poor package comment passes")
	}
}

func hold(t *testing.T, c check) {
	t.Helper()
	for _, s := range sources(t) {
		for _, complaint := range c(s) {
			t.Error(complaint)
		}
	}
}

// sources parses the module's Go files: not generated ones, not test data, not nested modules.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != ".." && foreign(name, d.Name()) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel("..", name)
		if s := parse(t, filepath.ToSlash(relative), string(content)); !ast.IsGenerated(s.file) {
			list = append(list, s)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("there is no source to check")
	}
	return list
}

func foreign(name, base string) bool {
	_, err := os.Stat(filepath.Join(name, "go.mod"))
	return err == nil || base == "testdata" || base == "dist" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")
}

func parse(t *testing.T, name, code string) source {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, code, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return source{dir: path.Dir(name), name: path.Base(name), fset: fset, file: f, test: strings.HasSuffix(name, "_test.go")}
}
