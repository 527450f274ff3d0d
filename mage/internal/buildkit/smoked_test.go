package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

func TestASmokeTestThatPassedIsNotRunAgainOnTheSameBytes(t *testing.T) {
	cache := Smoked(filepath.Join(t.TempDir(), "smoke"))
	one, two := digest.FromString("one"), digest.FromString("two")
	passes := family.Smoke{Name: "passes", Run: []string{"true"}}
	fails := family.Smoke{Name: "fails", Run: []string{"false"}}
	fetches := family.Smoke{Name: "fetches", Run: []string{"curl"}, Network: true}
	later := passes
	later.Within = time.Minute
	for _, step := range []struct {
		name  string
		image digest.Digest
		tests []family.Smoke
		ran   []string
	}{
		{"at first everything runs", one, []family.Smoke{fails, passes, fetches}, []string{"fails", "passes", "fetches"}},
		{"again, what failed or used the network", one, []family.Smoke{fails, passes, fetches}, []string{"fails", "fetches"}},
		{"nothing, when all passed", one, []family.Smoke{passes}, nil},
		{"on another image", two, []family.Smoke{passes}, []string{"passes"}},
		{"with another limit", one, []family.Smoke{later}, []string{"passes"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			var ran []string
			results, err := cache.Run(step.image, step.tests, func(open []family.Smoke) (results []evidence.SmokeResult, err error) {
				for _, s := range open {
					ran = append(ran, s.Name)
					results = append(results, evidence.SmokeResult{Name: s.Name, Passed: s.Name != "fails", Output: s.Name})
				}
				return results, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(step.ran, ran); diff != "" {
				t.Errorf("ran (-want +got):\n%s", diff)
			}
			for i, r := range results {
				if r.Name != step.tests[i].Name || r.Output != r.Name || r.Passed != (r.Name != "fails") {
					t.Errorf("result %d is %+v", i, r)
				}
			}
		})
	}
}

func TestF7ATornMemoryOfASmokeTestIsNoResult(t *testing.T) {
	dir := t.TempDir()
	cache, test, image := Smoked(dir), family.Smoke{Name: "starts"}, digest.FromString("image")
	pass := func([]family.Smoke) ([]evidence.SmokeResult, error) {
		return []evidence.SmokeResult{{Name: "starts", Passed: true}}, nil
	}
	if _, err := cache.Run(image, []family.Smoke{test}, pass); err != nil {
		t.Fatal(err)
	}
	path, err := cache.path(image, test)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "{", `{"name":"starts"}`, `{"name":"other","passed":true}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if result, ok := cache.recall(image, test); ok {
			t.Errorf("%q is taken for %+v", content, result)
		}
	}
	none := func([]family.Smoke) ([]evidence.SmokeResult, error) { return nil, nil }
	if _, err := cache.Run(digest.FromString("other"), []family.Smoke{test}, none); !errors.Is(err, fault.Refused) {
		t.Errorf("a test that did not answer gave %v, want a refusal", err)
	}
}
