package release_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// platforms that the parts of these tests are built for, one each.
func bothPlatforms() []string { return []string{"linux/amd64", "linux/arm64"} }

// mergePlan is a plan of the tiny family for both platforms.
func mergePlan(t *testing.T) release.Plan {
	t.Helper()
	f := tiny()
	f.Platforms = bothPlatforms()
	plan, err := release.NewPlan(f, record().Source, f.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// builtFor is what one machine makes of the plan: its own cells, its own root file system.
func builtFor(platforms ...string) release.Record {
	r := release.Record{
		Schema: 1, Family: "tiny", Source: record().Source, Images: map[string]release.Image{},
		Artifacts: map[string]graph.Node{"tiny-payload": graph.NewNode("application/octet-stream", []byte(strings.Join(platforms, " ")))},
		Tools:     map[string]string{"buildkit": "1", "buildx": "2"}, LocalBase: true,
	}
	for _, name := range []string{"tiny", "tiny-base"} {
		image := release.Image{Platforms: map[string]graph.Node{}, Arguments: map[string]string{"VERSION": "1"}}
		for _, platform := range platforms {
			image.Platforms[platform] = graph.NewNode("application/octet-stream", []byte(name+platform))
		}
		r.Images[name] = image
	}
	for _, platform := range platforms {
		r.Materials = append(r.Materials, evidence.Material{
			Name: release.OSBase + "/" + platform, URI: "pkg:generic/debian-rootfs@2026-11-25", Digest: map[string]string{"sha256": platform},
		})
	}
	return r
}

func TestMergeGivesTheRecordOfOneBuild(t *testing.T) {
	want := builtFor(bothPlatforms()...)
	want.Artifacts = nil // packed over the indexes, which the store has to assemble
	tests := map[string][]release.Part{
		"one part for each platform":       {{From: "a", Record: builtFor("linux/amd64")}, {From: "b", Record: builtFor("linux/arm64")}},
		"in another order":                 {{From: "b", Record: builtFor("linux/arm64")}, {From: "a", Record: builtFor("linux/amd64")}},
		"a cell twice with the same bytes": {{From: "a", Record: builtFor("linux/amd64")}, {From: "both", Record: builtFor(bothPlatforms()...)}},
		"everything from one machine":      {{From: "both", Record: builtFor(bothPlatforms()...)}},
	}
	for name, parts := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := release.Merge(mergePlan(t), parts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("not what one build makes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMergeKeepsWhatACacheMadeMarked: one machine that could take from a shared cache is enough.
func TestMergeKeepsWhatACacheMadeMarked(t *testing.T) {
	for _, marked := range []string{"linux/amd64", "linux/arm64"} {
		var parts []release.Part
		for _, platform := range bothPlatforms() {
			r := builtFor(platform)
			setImage(&r, "tiny", func(i *release.Image) { i.Cached = platform == marked })
			parts = append(parts, release.Part{From: platform, Record: r})
		}
		got, err := release.Merge(mergePlan(t), parts)
		if err != nil || !got.Images["tiny"].Cached || got.Images["tiny-base"].Cached {
			t.Errorf("%s: %+v, %v, want only tiny marked", marked, got.Images, err)
		}
	}
}

func TestMergeRefusesWhatDoesNotFit(t *testing.T) {
	tests := map[string]struct {
		spoil func(*release.Record) // the part of arm64
		says  []string
	}{
		"another commit":              {func(r *release.Record) { r.Source.Commit = strings.Repeat("b", 40) }, []string{"parts/b: it was built from", "sha-bbbb", "this is", "sha-aaaa"}},
		"uncommitted changes":         {func(r *release.Record) { r.Source.Dirty = "12345678" }, []string{"-dirty-12345678"}},
		"another time of the commit":  {func(r *release.Record) { r.Source.Epoch = now.AddDate(0, 0, 1) }, []string{"it was built from"}},
		"another family":              {func(r *release.Record) { r.Family = "other" }, []string{`family "other", want "tiny"`}},
		"another version of a tool":   {func(r *release.Record) { r.Tools["buildx"] = "3" }, []string{"parts/b and parts/a", `"buildx" is version "3" and "2"`}},
		"a tool more":                 {func(r *release.Record) { r.Tools["depot"] = "1" }, []string{`"depot" is version "1" and ""`}},
		"an OS base of another day":   {func(r *release.Record) { r.Materials[0].URI = "pkg:generic/debian-rootfs@2026-11-26" }, []string{"2026-11-26", "2026-11-25"}},
		"the pinned OS base":          {func(r *release.Record) { r.LocalBase = false }, []string{"made from"}},
		"other build arguments":       {func(r *release.Record) { setImage(r, "tiny", func(i *release.Image) { i.Arguments = nil }) }, []string{"other build arguments of tiny"}},
		"an image less":               {func(r *release.Record) { delete(r.Images, "tiny-base") }, []string{"tiny-base linux/arm64 was not built"}},
		"an image that is not ours":   {func(r *release.Record) { r.Images["evil\x1b[2J"] = r.Images["tiny"] }, []string{`"evil\x1b[2J linux/arm64" is not asked for`}},
		"a platform nobody asked for": {func(r *release.Record) { *r = builtFor("linux/arm64", "linux/s390x") }, []string{`"tiny linux/s390x" is not asked for`}},
		"a cell twice, with other bytes": {func(r *release.Record) {
			*r = builtFor(bothPlatforms()...)
			setImage(r, "tiny", func(i *release.Image) { i.Platforms["linux/amd64"] = graph.NewNode("", []byte("other")) })
		}, []string{"tiny linux/amd64 is", "another part has"}},
		"a material twice, with other bytes": {func(r *release.Record) {
			r.Materials = append(r.Materials, builtFor("linux/amd64").Materials...)
			r.Materials[1].Digest = map[string]string{"sha256": "ff"}
		}, []string{`"os-base/linux/amd64" is map["sha256":"ff"], another part has`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			spoiled := builtFor("linux/arm64")
			test.spoil(&spoiled)
			_, err := release.Merge(mergePlan(t), []release.Part{{From: "parts/a", Record: builtFor("linux/amd64")}, {From: "parts/b", Record: spoiled}})
			if !errors.Is(err, fault.Refused) || fault.HintOf(err) == "" {
				t.Fatalf("Merge = %v, want fault.Refused with a hint", err)
			}
			for _, words := range test.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("the error does not say %q:\n%v", words, err)
				}
			}
		})
	}
}

func setImage(r *release.Record, name string, change func(*release.Image)) {
	image := r.Images[name]
	change(&image)
	r.Images[name] = image
}

func TestProvenanceOfAPlatformNamesItsOwnRootFileSystem(t *testing.T) {
	r := builtFor(bothPlatforms()...)
	named := func(platform string) (names []string) {
		for _, m := range r.Dependencies(tiny(), release.Claim{Member: "tiny-base", Platform: platform}) {
			names = append(names, m.Name)
		}
		return names
	}
	for platform, want := range map[string][]string{
		"linux/amd64": {"os-base/linux/amd64"},
		"linux/arm64": {"os-base/linux/arm64"},
		"":            {"os-base/linux/amd64", "os-base/linux/arm64"}, // the index
	} {
		if diff := cmp.Diff(want, named(platform)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", platform, diff)
		}
	}
}
