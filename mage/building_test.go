package mage_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/containai/containai/mage/fault"
)

// TestASharedCacheNeverReachesAReleaseAndAnnotationsDo builds with a shared cache, as a matrix job does,
// lets a channel refuse that, releases without, and reads the annotations as everybody's client does.
func TestASharedCacheNeverReachesAReleaseAndAnnotationsDo(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	f := newFamilyClone(t)
	shared := []string{"CONTAINAI_CACHE=type=local,dest=" + t.TempDir()}
	build := exec.CommandContext(t.Context(), f.binary, "build:all")
	build.Dir, build.Env = f.dir, append(os.Environ(), shared...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build:all: %v\n%s", err, out)
	}
	f.fails(t, fault.Refused, "built with a cache that other machines fill", nil, "release:dev")
	f.fails(t, fault.Invalid, "type=registry,ref=HOST/REPOSITORY", []string{"CONTAINAI_CACHE=s3"}, "build:plan")
	if err := os.RemoveAll(filepath.Join(f.dir, "dist")); err != nil {
		t.Fatal(err)
	}
	f.release(t)

	commit := strings.TrimSpace(string(output(t, "git", "-C", f.dir, "log", "-1", "--format=%H")))
	base := pulledIndex(t, f.serve(t)+"/tiny/tiny-base:dev")
	for _, want := range []struct{ key, value string }{
		{"org.opencontainers.image.revision", commit},
		{"org.opencontainers.image.version", "sha-" + commit},
		{"org.opencontainers.image.source", "https://github.com/containai/containai"},
		{"org.opencontainers.image.title", "tiny-base"},
		{"org.opencontainers.image.licenses", "Apache-2.0 AND LicenseRef-Debian"},
	} {
		if got := base.Annotations[want.key]; got != want.value {
			t.Errorf("the index says %s = %q, want %q", want.key, got, want.value)
		}
		if got := base.manifest[want.key]; got != want.value {
			t.Errorf("the manifest says %s = %q, want %q", want.key, got, want.value)
		}
	}
}

type pulled struct {
	Annotations map[string]string
	manifest    map[string]string
}

// pulledIndex reads an index and its first manifest from a registry, with another client than ours.
func pulledIndex(t *testing.T, image string) pulled {
	t.Helper()
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	var p pulled
	if err := json.Unmarshal(found.Manifest, &p); err != nil {
		t.Fatal(err)
	}
	index, err := found.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	children, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	child, err := index.Image(children.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := child.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	p.manifest = manifest.Annotations
	return p
}
