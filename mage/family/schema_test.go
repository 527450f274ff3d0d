package family_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/family"
)

// TestTheSchemaKnowsEveryFieldThatTheParserKnows and no other: what the reader's method of a name reads is
// what the schema's definition of that name has.
func TestTheSchemaKnowsEveryFieldThatTheParserKnows(t *testing.T) {
	var schema struct {
		Defs map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	content, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	parsed := fieldsOfParser(t)
	parsed["trust"] = append(parsed["trust"], parsed["signerFields"]...)
	parsed["mover"] = parsed["signerFields"]
	delete(parsed, "signerFields")
	for _, ofVEX := range []string{"openVEX", "statement", "product"} { // another format, in another file
		delete(parsed, ofVEX)
	}
	described := map[string][]string{}
	for name, d := range schema.Defs {
		if d.Properties != nil {
			described[name] = slices.Sorted(maps.Keys(d.Properties))
		}
	}
	for name := range parsed {
		slices.Sort(parsed[name])
	}
	if diff := cmp.Diff(parsed, described); diff != "" {
		t.Errorf("fields (-parser +schema.json):\n%s", diff)
	}
}

// fieldsOfParser reads this package's source: the keys of its tables of fields, by method.
func fieldsOfParser(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if method, ok := d.(*ast.FuncDecl); ok {
				if keys := fieldKeys(method); len(keys) > 0 {
					all[method.Name.Name] = keys
				}
			}
		}
	}
	return all
}

// fieldKeys are the keys of fields{…} literals, and those that are added as known["key"] = ….
func fieldKeys(method *ast.FuncDecl) (keys []string) {
	text := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok {
			key, _ := strconv.Unquote(lit.Value)
			keys = append(keys, key)
		}
	}
	ast.Inspect(method, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if name, ok := n.Type.(*ast.Ident); ok && name.Name == "fields" {
				for _, e := range n.Elts {
					text(e.(*ast.KeyValueExpr).Key)
				}
			}
		case *ast.AssignStmt:
			if index, ok := n.Lhs[0].(*ast.IndexExpr); ok {
				if name, ok := index.X.(*ast.Ident); ok && name.Name == "known" {
					text(index.Index)
				}
			}
		}
		return true
	})
	return keys
}

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// accepts asks an editor's schema about a family file.
func accepts(t *testing.T, schema *jsonschema.Schema, content []byte) error {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(plain(t, doc.Content[0]))
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

// plain reads YAML as editors do, by the core schema of YAML 1.2: a day is text.
func plain(t *testing.T, n *yaml.Node) any {
	t.Helper()
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			m[n.Content[i].Value] = plain(t, n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, plain(t, item))
		}
		return list
	}
	if tag := n.ShortTag(); tag != "!!int" && tag != "!!float" && tag != "!!bool" {
		return n.Value
	}
	var value any
	if err := n.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestTheSchemaAcceptsTheFamiliesOfThisRepository(t *testing.T) {
	schema := compiledSchema(t)
	files, err := filepath.Glob("../../testdata/families/*/containai.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no families: %v", err)
	}
	for _, file := range append(files, "../../containai.yaml") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := accepts(t, schema, content); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := family.Parse(file, content); err != nil {
			t.Error(err)
		}
	}
}

// TestWhatTheSchemaRefusesTheParserRefuses breaks one line of a file that has every field.
func TestWhatTheSchemaRefusesTheParserRefuses(t *testing.T) {
	schema := compiledSchema(t)
	if err := accepts(t, schema, []byte(full)); err != nil {
		t.Fatal(err)
	}
	if _, err := family.Parse("full.yaml", []byte(full)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a misspelt field":          {"bake:", "bakes:"},
		"another schema":            {"schema: 1", "schema: 2"},
		"a missing field":           {"platforms: [linux/amd64]\n", ""},
		"a name with capitals":      {"name: tiny", "name: Tiny"},
		"a source without TLS":      {"source: https://", "source: http://"},
		"a path outside":            {"bake: bake.hcl", "bake: ../bake.hcl"},
		"a platform":                {"linux/amd64", "amd64"},
		"a tag instead of a digest": {"@sha256:" + strings.Repeat("0", 64), ":12"},
		"a package":                 {"ca-certificates", "Ca_certificates"},
		"a smoke test's field":      {"prints:", "print:"},
		"a duration":                {"within: 30s", "within: soon"},
		"an exit code":              {"exit: 2", "exit: two"},
		"a kind":                    {"kind: payload", "kind: archive"},
		"a media type":              {"application/vnd.example.tools.v1", "tools"},
		"an event":                  {"on: [push]", "on: [pull]"},
		"an order":                  {"order: explicit", "order: none"},
		"a severity":                {"[HIGH]", "[BAD]"},
		"a verdict":                 {"unscanned: allow", "unscanned: maybe"},
		"a waiver with a wildcard":  {"package: openssl", "package: open*"},
		"a waiver without an end":   {", expires: 2027-01-31}", "}"},
		"a day":                     {"expires: 2027-01-31", "expires: tomorrow"},
		"what is kept":              {"releases: 5", "releases: 0"},
		"a share":                   {"share: 40", "share: 140"},
		"an instance":               {"instance: public", "instance: mine"},
		"a ref":                     {"ref: refs/heads/main", "ref: main"},
		"a demand":                  {"platform: [sbom]", "platform: [bom]"},
		"a kind of subject":         {"platform: [sbom]", "plattform: [sbom]"},
		"a denial":                  {"commit: " + strings.Repeat("a", 40), "commit: abc"},
		"no sources of a database":  {"sources: [ghcr.io/a/db:2], ", ""},
		"a ledger":                  {"ref: refs/tiny/channels", "ref: channels"},
		"a list that is none":       {"packages: [ca-certificates]", "packages: ca-certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			content := strings.Replace(full, change[0], change[1], 1)
			if content == full {
				t.Fatal("the case changes nothing")
			}
			if err := accepts(t, schema, []byte(content)); err == nil {
				t.Error("the schema accepts it")
			}
			if _, err := family.Parse("full.yaml", []byte(content)); err == nil {
				t.Error("the parser accepts it")
			}
		})
	}
}

// full has every kind of mapping that a family file can have.
var full = `schema: 1
name: tiny
source: https://example.com/tiny
bake: bake.hcl
platforms: [linux/amd64]
os: {image: "debian@sha256:` + strings.Repeat("0", 64) + `", suite: bookworm, packages: [ca-certificates]}
images:
  base: {}
  app:
    from: base
    smoke:
      - {name: works, run: [app, 7, true], prints: ^ok$, exit: 2, within: 30s, network: false}
artifacts:
  meta: {kind: metadata}
  tools: {kind: payload, path: tools, type: application/vnd.example.tools.v1, layer: application/vnd.example.tools.layer.v1+gzip}
channels:
  edge:
    on: [push]
    dirty: true
    order: explicit
    keep: all
    gate:
      severities: [HIGH]
      unfixed: refuse
      unscanned: allow
      local-base: allow
      cache: allow
      unused-waivers: refuse
      waivers:
        - {id: CVE-2026-1, image: app, package: openssl, version: 3.0, path: usr/lib, reason: not reached, expires: 2027-01-31}
      vex:
        - {file: vex.json, expires: 2027-01-31}
  stable:
    keep: {releases: 5, within: 180d}
    gate: {severities: [], unscanned: refuse, local-base: refuse}
    trust: {runner: self-hosted}
ledger: {branch: tiny-channels, ref: refs/tiny/channels}
retention: {grace: 24h, records: 30d, versions: 365d, protect: ["demo-*"], others: keep, share: 40}
vulnerabilities: {mirror: db, sources: [ghcr.io/a/db:2], max-age: 48h}
trust:
  instance: public
  issuer: https://issuer.example.com
  repository: https://example.com/tiny
  repository-id: 42
  owner-id: "7"
  workflow: .github/workflows/release.yml
  ref: refs/heads/main
  runner: github-hosted
  builder: https://example.com/tiny/.github/workflows/build.yml@refs/heads/main
  movers:
    - {workflow: .github/workflows/move.yml, ref: refs/tags/v*}
  require: {platform: [sbom]}
  max-age: 90d
  max-jump: 1000
  deny:
    - {commit: ` + strings.Repeat("a", 40) + `, reason: broken}
`
