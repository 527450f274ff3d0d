package sigstore

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

var proven = evidence.Identity{
	Issuer: LocalIssuer, BuilderID: LocalBuilder, BuildType: evidence.LocalBuildType, Repository: widgetRepository,
	Ref: "refs/heads/main", Commit: widgetCommit, WorkflowPath: "containai.yaml", InvocationID: "urn:uuid:1",
}

func TestAProvenanceThatItsCertificateProvesIsAccepted(t *testing.T) {
	t.Parallel()
	base := evidence.Material{URI: "pkg:docker/debian", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}}
	if err := CheckProvenance(statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(proven, []evidence.Material{base})), proven); err != nil {
		t.Error(err)
	}
}

func TestAProvenanceThatContradictsItsCertificateIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(id *evidence.Identity){
		"another builder":       func(id *evidence.Identity) { id.BuilderID = "https://github.com/evil/builder" },
		"another build type":    func(id *evidence.Identity) { id.BuildType = evidence.GitHubBuildType },
		"another repository":    func(id *evidence.Identity) { id.Repository = "https://github.com/evil/widget" },
		"another ref":           func(id *evidence.Identity) { id.Ref = "refs/heads/evil" },
		"another commit":        func(id *evidence.Identity) { id.Commit = strings.Repeat("f", 40) },
		"another workflow":      func(id *evidence.Identity) { id.WorkflowPath = "evil.yaml" },
		"another run":           func(id *evidence.Identity) { id.InvocationID = "urn:uuid:2" },
		"a ref in other case":   func(id *evidence.Identity) { id.Ref = "refs/heads/Main" },
		"a repository's prefix": func(id *evidence.Identity) { id.Repository += "-fork" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claimed := proven
			change(&claimed)
			refused(t, statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(claimed, nil)), proven)
		})
	}
}

func TestAProvenanceOfAnotherShapeIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"an unknown external parameter":          {`"externalParameters":{`, `"externalParameters":{"debug":true,`},
		"an unknown workflow parameter":          {`"workflow":{`, `"workflow":{"inputs":{},`},
		"a parameter that differs in case":       {`"workflow":{`, `"Workflow":{"ref":"evil"},"workflow":{`},
		"a builder that differs in case":         {`"runDetails":`, `"RunDetails":{},"runDetails":`},
		"a second definition in another case":    {`"buildType":`, `"BuildType":"evil","buildType":`},
		"no source":                              {`"resolvedDependencies":[{"uri"`, `"resolvedDependencies":[],"ignored":[{"uri"`},
		"external parameters that are no object": {`"externalParameters":{"workflow":`, `"externalParameters":[],"x":{"workflow":`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(proven, nil))
			text := strings.Replace(string(st.Predicate), change[0], change[1], 1)
			if text == string(st.Predicate) {
				t.Fatalf("nothing to change in %s", text)
			}
			st.Predicate = json.RawMessage(text)
			refused(t, st, proven)
		})
	}
	t.Run("another predicate", func(t *testing.T) {
		t.Parallel()
		refused(t, statementAbout(t, 1, evidence.Signature, evidence.NewSLSA(proven, nil)), proven)
	})
	t.Run("an issuer that we do not know", func(t *testing.T) {
		t.Parallel()
		unknown := proven
		unknown.BuildType = ""
		refused(t, statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(unknown, nil)), unknown)
	})
}

func refused(t *testing.T, st evidence.Statement, id evidence.Identity) {
	t.Helper()
	if err := CheckProvenance(st, id); !errors.Is(err, WrongProvenance) || !errors.Is(err, fault.Forged) {
		t.Errorf("CheckProvenance = %v, want WrongProvenance and Forged", err)
	}
}

func FuzzCheckProvenance(f *testing.F) {
	good, err := json.Marshal(evidence.NewSLSA(proven, nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"buildDefinition":{},"runDetails":{}}`))
	f.Fuzz(func(t *testing.T, predicate []byte) {
		st := statementAbout(t, 1, evidence.Provenance, nil)
		st.Predicate = predicate
		if CheckProvenance(st, proven) != nil {
			return
		}
		var p evidence.SLSA
		if err := json.Unmarshal(predicate, &p); err != nil || p.RunDetails.Builder.ID != proven.BuilderID {
			t.Errorf("%s is accepted: %v", predicate, err)
		}
	})
}
