package evidence_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
)

var update = flag.Bool("update", false, "write the golden files")

const base = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func report() evidence.Report {
	return evidence.Report{
		Cell:            evidence.Cell{Image: "containai-base", Platform: "linux/amd64"},
		Digest:          base,
		Tools:           map[string]string{"trivy": "v0.73.0", "syft": "v1.52.0"},
		Secrets:         evidence.Scanned,
		Vulnerabilities: evidence.NotScanned,
		Reason:          "there is no database",
		Packages:        88,
		SBOM:            base,
		Smoke:           []evidence.SmokeResult{{Name: "it has a shell", Passed: true, Output: "ok <&>\n"}},
		Findings:        []evidence.Finding{{Kind: evidence.Secret, ID: "github-pat", Severity: "CRITICAL", Path: "root/.npmrc", Layer: base}},
	}
}

func identity() evidence.Identity {
	return evidence.Identity{
		Issuer:       "https://token.actions.githubusercontent.com",
		BuilderID:    "https://github.com/containai/containai/.github/workflows/release.yml@refs/heads/main",
		BuildType:    evidence.GitHubBuildType,
		Repository:   "https://github.com/containai/containai",
		Ref:          "refs/heads/main",
		Commit:       "0123456789012345678901234567890123456789",
		WorkflowPath: ".github/workflows/release.yml",
		InvocationID: "https://github.com/containai/containai/actions/runs/1/attempts/1",
		Internal:     map[string]any{"github": map[string]any{"event_name": "push"}},
	}
}

func TestStatementGolden(t *testing.T) {
	s, err := evidence.NewStatement("ghcr.io/containai/containai-base", base, evidence.Scan, report())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "statement.json", s)
}

func TestSLSAGolden(t *testing.T) {
	golden(t, "slsa.json", evidence.NewSLSA(identity(), []evidence.Material{{Name: "os", URI: "pkg:docker/debian@bookworm", Digest: map[string]string{"sha256": base.Encoded()}}}))
}

func TestSLSALocalGolden(t *testing.T) {
	golden(t, "slsa-local.json", evidence.NewSLSA(evidence.Identity{BuildType: evidence.LocalBuildType, BuilderID: "https://containai.dev/builders/local", Repository: "file:///src", Ref: "refs/heads/main", Commit: identity().Commit}, nil))
}

// A statement that is read back is the statement that was signed, and speaks about one digest.
func TestStatementReadsBack(t *testing.T) {
	want, err := evidence.NewStatement("a", base, evidence.Provenance, evidence.NewSLSA(identity(), nil))
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got evidence.Statement
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statement (-want +got):\n%s", diff)
	}
	if got.About() != base {
		t.Errorf("About = %s, want %s", got.About(), base)
	}
}

func TestStatementRefusesAPredicateThatIsNotJSON(t *testing.T) {
	if _, err := evidence.NewStatement("a", base, evidence.Scan, func() {}); err == nil {
		t.Error("NewStatement of a function = nil, want an error")
	}
}

// Every field is one of the specification's, those that it requires are there, and dates that nobody
// measured are not. https://slsa.dev/spec/v1.0/provenance#schema
func TestSLSAHasTheFieldsOfTheSpecification(t *testing.T) {
	const required, optional = true, false
	fields := map[string]bool{
		"buildDefinition": required, "buildDefinition.buildType": required, "buildDefinition.externalParameters": required,
		"buildDefinition.internalParameters": optional, "buildDefinition.resolvedDependencies": optional,
		"runDetails": required, "runDetails.builder": required, "runDetails.builder.id": required, "runDetails.builder.version": optional,
		"runDetails.builder.builderDependencies": optional, "runDetails.metadata": optional, "runDetails.metadata.invocationId": optional,
		"runDetails.metadata.startedOn": optional, "runDetails.metadata.finishedOn": optional, "runDetails.byproducts": optional,
	}
	open := []string{"buildDefinition.externalParameters", "buildDefinition.internalParameters"} // the build type says what is in them
	made := evidence.NewSLSA(identity(), []evidence.Material{{Name: "os", URI: "pkg:docker/debian", Digest: map[string]string{"sha256": base.Encoded()}}}).
		WithArguments(map[string]string{"FLAVOUR": "plain"})
	content, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	var walk func(at string, object map[string]any)
	walk = func(at string, object map[string]any) {
		for name, value := range object {
			path := strings.TrimPrefix(at+"."+name, ".")
			found[path] = value != nil && value != ""
			if _, known := fields[path]; !known {
				t.Errorf("the specification has no field %s", path)
			}
			if inner, ok := value.(map[string]any); ok && !slices.Contains(open, path) {
				walk(path, inner)
			}
		}
	}
	walk("", document)
	for path, must := range fields {
		if must && !found[path] {
			t.Errorf("%s is missing", path)
		}
	}
	for _, uri := range []string{made.BuildDefinition.BuildType, made.RunDetails.Builder.ID} {
		if u, err := url.Parse(uri); err != nil || u.Scheme == "" {
			t.Errorf("%q is no URI", uri)
		}
	}
	for _, d := range made.BuildDefinition.ResolvedDependencies {
		if d.URI == "" || len(d.Digest) == 0 {
			t.Errorf("the dependency %+v lacks uri or digest", d)
		}
	}
}

func TestSLSARecordsBuildArgumentsBesideWhatTheTokenSays(t *testing.T) {
	id := identity()
	got := evidence.NewSLSA(id, nil).WithArguments(map[string]string{"FLAVOUR": "plain"}).BuildDefinition.InternalParameters
	want := map[string]any{"github": map[string]any{"event_name": "push"}, "buildArguments": map[string]string{"FLAVOUR": "plain"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("internal parameters (-want +got):\n%s", diff)
	}
	if _, changed := id.Internal["buildArguments"]; changed {
		t.Error("the identity's own parameters changed")
	}
	if got := evidence.NewSLSA(id, nil).WithArguments(nil); len(got.BuildDefinition.InternalParameters) != 1 {
		t.Errorf("no arguments gave %v", got.BuildDefinition.InternalParameters)
	}
}

func TestSLSANamesTheSourceFirst(t *testing.T) {
	materials := []evidence.Material{{URI: "a"}, {URI: "b"}}
	got := evidence.NewSLSA(identity(), materials).BuildDefinition.ResolvedDependencies
	if len(got) != 3 || got[0].Digest["gitCommit"] != identity().Commit || got[1].URI != "a" || got[2].URI != "b" {
		t.Errorf("dependencies = %v", got)
	}
	if materials[0].URI != "a" {
		t.Error("the caller's materials changed")
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s (-want +got, -args -update writes it):\n%s", path, diff)
	}
}

func ExampleNewStatement() {
	s, err := evidence.NewStatement("containai-base", base, evidence.Signature, struct{}{})
	content, _ := json.Marshal(s)
	fmt.Println(string(content), err)
	fmt.Println(s.About())
	// Output:
	// {"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"containai-base","digest":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}} <nil>
	// sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
}

func ExampleNewSLSA() {
	p := evidence.NewSLSA(evidence.Identity{Repository: "https://github.com/containai/containai", Ref: "refs/heads/main", Commit: "0123456789012345678901234567890123456789"}, nil)
	fmt.Println(p.BuildDefinition.ResolvedDependencies[0].URI)
	// Output: git+https://github.com/containai/containai@refs/heads/main
}
