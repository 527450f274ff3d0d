package buildkit

import (
	"archive/tar"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

func TestPinnedBaseAsksTheRegistry(t *testing.T) {
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/library/debian:bookworm-slim")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	pinned := tag.String() + "@" + d.String()
	base, err := pinnedBase(t.Context(), pinned)
	if err != nil {
		t.Fatal(err)
	}
	if want := "docker-image://" + host + "/library/debian@" + d.String(); base.context != want || base.local || base.materials[0].Digest["sha256"] != d.Hex {
		t.Errorf("got %+v, want context %s", base, want)
	}
	server.Close()
	for ref, kind := range map[string]fault.Kind{
		pinned:                                    fault.Unavailable, // nobody listens any more
		host + "/library/debian:bookworm":         fault.Invalid,     // not pinned
		host + "/library/debian@sha256:12":        fault.Invalid,
		host + "/Upper/debian@" + d.String():      fault.Invalid,
		"debian:bookworm-slim@sha1:" + d.String(): fault.Invalid,
	} {
		if _, err := pinnedBase(t.Context(), ref); !errors.Is(err, kind) {
			t.Errorf("pinnedBase(%q) = %v, want %v", ref, err, kind)
		}
	}
}

func TestParsePinnedKnowsDockersDefaults(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"debian:bookworm-slim@" + d:     "docker.io/library/debian@" + d,
		"grafana/grafana@" + d:          "docker.io/grafana/grafana@" + d,
		"ghcr.io/owner/image:tag@" + d:  "ghcr.io/owner/image@" + d,
		"localhost/image@" + d:          "localhost/image@" + d,
		"127.0.0.1:5000/image:tag@" + d: "127.0.0.1:5000/image@" + d,
		"docker.io/library/debian@" + d: "docker.io/library/debian@" + d,
	} {
		if got, err := parsePinned(in); err != nil || got.String() != want {
			t.Errorf("parsePinned(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
}

// TestWrapArchiveGivesTheSameBytes: the same archive makes the same image wherever it lies.
func TestWrapArchiveGivesTheSameBytes(t *testing.T) {
	arch, err := architectureOf("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	var digests []string
	for range 2 {
		archive := filepath.Join(t.TempDir(), "rootfs.tar")
		writeTar(t, archive)
		layout := t.TempDir()
		if err := wrapArchive(t.Context(), archive, layout, arch, day); err != nil {
			t.Fatal(err)
		}
		_, store := newLayout(t)
		manifests, err := merge(t.Context(), layout, store, copyImage)
		if err != nil {
			t.Fatal(err)
		}
		node, ok := manifests["linux/arm64"]
		if !ok {
			t.Fatalf("the image is for %v", manifests)
		}
		if config := configOf(t, store, node); config.Architecture != "arm64" || !config.Created.Equal(day) || len(config.RootFS.DiffIDs) != 1 {
			t.Errorf("the configuration says %+v", config)
		}
		digests = append(digests, node.Digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("the same archive gave %v", digests)
	}
}

func TestPruneDaysKeepsRecentOnes(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"bookworm-amd64-2026-01-01-aa", "bookworm-amd64-2026-01-01-aa.lock", "bookworm-amd64-2026-01-20-aa", "unrelated"} {
		if err := os.Mkdir(filepath.Join(home, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneDays(home, time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(home)
	if err != nil || len(left) != 2 || left[0].Name() != "bookworm-amd64-2026-01-20-aa" || left[1].Name() != "unrelated" {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestCheckBaseRefusesWhatCouldBeAnOption(t *testing.T) {
	for _, base := range []family.OSBase{
		{Suite: "--include=x"}, {Suite: ""}, {Suite: "bookworm", Packages: []string{"--hook"}}, {Suite: "bookworm", Packages: []string{"a,b"}},
	} {
		if err := checkBase(base); !errors.Is(err, fault.Invalid) {
			t.Errorf("checkBase(%+v) = %v, want fault.Invalid", base, err)
		}
	}
	if err := checkBase(family.OSBase{Suite: "bookworm", Packages: []string{"ca-certificates", "libstdc++6"}}); err != nil {
		t.Error(err)
	}
}

func writeTar(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := tar.NewWriter(file)
	if err := w.WriteHeader(&tar.Header{Name: "etc/hostname", Mode: 0o644, Size: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("host\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
