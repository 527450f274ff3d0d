package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the templates")

// TestTheWorkflowsAreThisRepositorysOwn: the templates are .github/workflows with other channels and another
// branch, so that what is tested there holds for who gets them from here. With -update it makes them so.
func TestTheWorkflowsAreThisRepositorysOwn(t *testing.T) {
	ours := workflowValues{Push: "dev", Schedule: "nightly", Version: "prod", Options: "dev, nightly, prod", Branch: "main", Docs: "docs"}
	for _, name := range workflowFiles() {
		content, err := os.ReadFile(filepath.Join("../../../.github/workflows", name))
		if err != nil {
			t.Fatal(err)
		}
		want := string(content)
		for _, s := range substitutions()[name] {
			if !strings.Contains(want, s[0]) {
				t.Errorf(".github/workflows/%s has no %q any more: change the substitution here", name, s[0])
			}
			want = strings.ReplaceAll(want, s[0], s[1])
		}
		file := filepath.Join("templates/workflows", name)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-.github/workflows +template); go test ./mage/cmd/init -update makes it so:\n%s", name, diff)
		}
		if *update {
			continue // what is embedded is the one before
		}
		rendered, err := render("workflows/"+name, ours)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(content), string(rendered)); diff != "" {
			t.Errorf("%s (-ours +rendered with our channels):\n%s", name, diff)
		}
	}
}

// substitutions are what differs in a workflow of another family.
func substitutions() map[string][][2]string {
	return map[string][][2]string{
		"build.yml":        nil,
		"care.yml":         {{"docs/", "<<.Docs>>/"}},
		"pull-request.yml": {{"like a release to dev, and", "like a release to <<.Push>>, and"}},
		"release.yml": {
			{"A push to main goes to dev, the schedule to nightly; a person takes one to prod.", "A push to <<.Branch>> goes to <<.Push>><<if .Schedule>>, the schedule to <<.Schedule>><<end>>; a person takes one to <<.Version>>."},
			{"docs/", "<<.Docs>>/"},
			{"branches: [main]", "branches: [<<.Branch>>]"},
			{"  schedule:\n    - cron: \"17 2 * * *\"\n", "<<- if .Schedule>>\n  schedule:\n    - cron: \"17 2 * * *\"\n<<- end>>\n"},
			{"options: [dev, nightly, prod]", "options: [<<.Options>>]"},
			{"default: dev\n", "default: <<.Push>>\n"},
			{"For prod, a name", "For <<.Version>>, a name"},
			{"newest of main", "newest of <<.Branch>>"},
			{"# prod waits", "# <<.Version>> waits"},
		},
		"rollback.yml": {{"default: prod\n", "default: <<.Version>>\n"}},
	}
}
