package mage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
)

// Who may build and who may move, as the family file says it, are the workflows that can sign.
func TestTheFamilyTrustsExactlyTheWorkflowsThatSign(t *testing.T) {
	all := readWorkflows(t)
	for _, problem := range misplacedTrust(containaiFamily(t), all) {
		t.Error(problem)
	}
	for name, mutate := range map[string]func(*family.Policy){
		"a mover at a tag":          func(p *family.Policy) { p.Movers[0].Ref = "refs/tags/v*" },
		"a mover that cannot sign":  func(p *family.Policy) { p.Movers[0].Workflow = ".github/workflows/test.yml" },
		"a mover that is forgotten": func(p *family.Policy) { p.Movers = p.Movers[1:] },
		"a builder of another branch": func(p *family.Policy) {
			p.Signer.Builder = family.Pattern(strings.Replace(string(p.Signer.Builder), "main", "dev", 1))
		},
		"a builder that is a workflow": func(p *family.Policy) {
			p.Signer.Builder = family.Pattern(strings.Replace(string(p.Signer.Builder), "build.yml", "release.yml", 1))
		},
	} {
		f := containaiFamily(t)
		mutate(&f.Trust)
		if len(misplacedTrust(f, all)) == 0 {
			t.Errorf("%s is not noticed", name)
		}
	}
}

func misplacedTrust(f *family.Family, workflows []*workflow) []string {
	var all []string
	movers := map[string]bool{}
	for _, m := range f.Trust.Movers {
		if m.Ref != "refs/heads/main" {
			all = append(all, fmt.Sprintf("%s moves channels on %s: who may push that ref chooses what it says", m.Workflow, m.Ref))
		}
		movers[strings.TrimPrefix(m.Workflow, ".github/workflows/")] = true
	}
	signing := map[string]bool{}
	for _, w := range workflows {
		for _, j := range w.Jobs {
			if j.Permissions != nil && (*j.Permissions)["id-token"] == "write" && (*j.Permissions)["contents"] == "write" {
				signing[w.file] = true
			}
		}
	}
	if diff := cmp.Diff(signing, movers); diff != "" {
		all = append(all, "workflows that move channels (-) and movers of containai.yaml (+):\n"+diff)
	}
	if want := f.Source + "/.github/workflows/build.yml@refs/heads/main"; string(f.Trust.Signer.Builder) != want {
		all = append(all, fmt.Sprintf("the builder is %s, want %s", f.Trust.Signer.Builder, want))
	}
	return all
}
