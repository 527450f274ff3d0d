package release_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/release"
)

func TestCompareTellsWhatComesAndGoesAndWhatIsNotKnown(t *testing.T) {
	app, payload, gone := evidence.Cell{Image: "app", Platform: "linux/amd64"}, evidence.Cell{Image: "payload"}, evidence.Cell{Image: "gone", Platform: "linux/amd64"}
	same := release.Contents{Packages: map[string]string{"a": "1"}, Unscannable: true, Size: 4}
	got := release.Compare(
		map[evidence.Cell]release.Contents{
			app:     {Packages: map[string]string{"a": "1", "b": "1", "c": "1"}, Vulnerabilities: map[string]bool{"LOW X in a": true, "LOW Y in a": true}, Size: 10},
			payload: same, gone: {Packages: map[string]string{}, Vulnerabilities: map[string]bool{}, Size: 3},
		},
		map[evidence.Cell]release.Contents{
			app:     {Packages: map[string]string{"b": "2", "c": "1", "d": "1"}, Vulnerabilities: map[string]bool{"LOW Y in a": true, "LOW Z in b": true}, Size: 12},
			payload: same,
		},
	)
	want := []release.Difference{
		{
			Member: "app", Platform: "linux/amd64", SizeBefore: 10, SizeAfter: 12,
			Packages:   []release.PackageChange{{Name: "a", Before: "1"}, {Name: "b", Before: "1", After: "2"}, {Name: "d", After: "1"}},
			Introduced: []string{"LOW Z in b"}, Fixed: []string{"LOW X in a"},
		},
		{
			Member: "gone", Platform: "linux/amd64", SizeBefore: 3, Packages: []release.PackageChange{}, Introduced: []string{}, Fixed: []string{},
			Unknown: []string{"packages: there is no SBOM of both", "vulnerabilities: they were not scanned for in both"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestAPackageChangeIsOneWordOfWhatHappened(t *testing.T) {
	for want, c := range map[string]release.PackageChange{
		"+curl 8.1":      {Name: "curl", After: "8.1"},
		"-curl 8.1":      {Name: "curl", Before: "8.1"},
		"curl 8.1 → 8.2": {Name: "curl", Before: "8.1", After: "8.2"},
	} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
