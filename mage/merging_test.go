package mage_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/release"
)

// TestPlatformsBuiltApartAreMergedIntoOneRelease builds the tiny family for one platform on each
// of two machines and for both on a third. The merge of the two must be the third to the byte, and
// is released without building again.
func TestPlatformsBuiltApartAreMergedIntoOneRelease(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	origin := newPlatformClone(t)
	amd64, arm64, both, joined := origin.again(t), origin.again(t), origin.again(t), origin.again(t)
	const all = "linux/amd64,linux/arm64"
	amd64.on(t, "linux/amd64", "build:all")
	arm64.emulate(t, "linux/arm64")
	arm64.on(t, "linux/arm64", "build:all")
	both.on(t, all, "build:all")
	parts := amd64.dist(t) + "," + arm64.dist(t)

	t.Run("a missing platform is refused", func(t *testing.T) {
		joined.fails(t, fault.Refused, "build every platform", nil, "build:merge", amd64.dist(t))
	})
	t.Run("a directory that is none is refused", func(t *testing.T) {
		joined.fails(t, fault.Invalid, "build:all left", nil, "build:merge", t.TempDir())
	})
	t.Run("content that does not hash is refused", func(t *testing.T) {
		for _, blob := range arm64.parts(t, "linux/arm64") {
			spoiled := filepath.Join(t.TempDir(), "dist")
			if err := os.CopyFS(spoiled, os.DirFS(arm64.dist(t))); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(spoiled, "layout", "blobs", "sha256", blob))
			into := origin.again(t) // what another attempt copied is good, and would be kept
			into.fails(t, fault.Forged, "layout", nil, "build:merge", amd64.dist(t)+","+spoiled)
			if _, err := os.Stat(into.dist(t) + "/record.json"); !os.IsNotExist(err) {
				t.Fatalf("a refused merge left a record: %v", err)
			}
		}
	})

	joined.on(t, "", "build:merge", parts)
	if diff := cmp.Diff(both.file(t, "record.json"), joined.file(t, "record.json")); diff != "" {
		t.Errorf("the merged record is not that of one build (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(both.blobs(t), joined.blobs(t)); diff != "" {
		t.Errorf("the merged layout is not that of one build (-want +got):\n%s", diff)
	}
	t.Run("other content than is here already is refused", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "dist")
		if err := os.CopyFS(other, os.DirFS(arm64.dist(t))); err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(other, "record.json"), arm64.parts(t, "linux/arm64")[0], strings.Repeat("0", 64))
		joined.fails(t, fault.Conflict, "merge again", nil, "build:merge", amd64.dist(t)+","+other)
	})
	t.Run("in place, and once more", func(t *testing.T) {
		amd64.on(t, "", "build:merge", parts)
		if out := amd64.on(t, "", "build:merge", parts); !strings.Contains(out, "4 images are built already") {
			t.Errorf("the second merge did more:\n%s", out)
		}
		if diff := cmp.Diff(both.file(t, "record.json"), amd64.file(t, "record.json")); diff != "" {
			t.Errorf("the merged record is not that of one build (-want +got):\n%s", diff)
		}
	})
	t.Run("another commit is refused", func(t *testing.T) {
		other := origin.again(t)
		replace(t, filepath.Join(other.dir, "images", "base", "motd"), "", "other ")
		other.commit(t, "another commit")
		other.fails(t, fault.Refused, "build every platform from this commit", nil, "build:merge", parts)
	})
	t.Run("released without building again", func(t *testing.T) {
		out := joined.on(t, all, "release:dev")
		if !strings.Contains(out, "4 images are built already") || strings.Contains(out, "▸ build") {
			t.Errorf("it was built again:\n%s", out)
		}
		joined.on(t, "", "verify:channel", "dev")
	})
}

// on runs a target for platforms, the default ones when empty, and returns what it printed.
func (f familyClone) on(t *testing.T, platforms string, args ...string) string {
	t.Helper()
	return f.with(t, []string{"CONTAINAI_PLATFORMS=" + platforms}, args...)
}

// with runs a target in an environment, and returns what it printed.
func (f familyClone) with(t *testing.T, env []string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), f.binary, args...)
	c.Dir, c.Env = f.dir, append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("mage %v with %v: %v\n%s", args, env, err, out)
	}
	return string(out)
}

// emulate prepares this machine for a platform, where that is needed, with the commands that
// build:plan names.
func (f familyClone) emulate(t *testing.T, platform string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), f.binary, "build:plan", "-json")
	c.Dir, c.Env = f.dir, append(os.Environ(), "CONTAINAI_PLATFORMS="+platform)
	out, err := c.Output()
	var plan struct{ Platforms []struct{ Fix string } }
	if err == nil {
		err = json.Unmarshal(out, &plan)
	}
	if err != nil || len(plan.Platforms) != 1 {
		t.Fatalf("build:plan for %s: %v\n%s", platform, err, out)
	}
	if fix := strings.TrimPrefix(plan.Platforms[0].Fix, "as root: "); fix != "" {
		output(t, "sh", "-c", fix)
	}
}

// dist is the directory of this commit's build.
func (f familyClone) dist(t *testing.T) string {
	t.Helper()
	head := exec.CommandContext(t.Context(), "git", "rev-parse", "HEAD")
	head.Dir = f.dir
	commit, err := head.Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(f.dir, "dist", strings.TrimSpace(string(commit)))
}

func (f familyClone) file(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dist(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// blobs are the digests in the layout.
func (f familyClone) blobs(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.dist(t), "layout", "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// parts are blobs that the agent has on one platform alone: its manifest, its configuration, and
// the layer of its RUN step, which is the last but one.
func (f familyClone) parts(t *testing.T, platform string) []string {
	t.Helper()
	record, err := release.DecodeRecord([]byte(f.file(t, "record.json")))
	if err != nil {
		t.Fatal(err)
	}
	layout, err := registry.OpenLayout(filepath.Join(f.dist(t), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	node := record.Images["tiny-agent"].Platforms[platform]
	children, err := graph.Children(t.Context(), layout, node)
	if err != nil || len(children) < 3 {
		t.Fatalf("%s has %v, %v", node.Digest, children, err)
	}
	return []string{node.Digest.Encoded(), children[0].Digest.Encoded(), children[len(children)-2].Digest.Encoded()}
}

func damage(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		content[len(content)/2] ^= 1
		err = os.WriteFile(file, content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
