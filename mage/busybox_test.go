package mage_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/containai/containai/mage/internal/tool"
)

// serveBusyBox serves a pinned OS base for two architectures on the loopback, made of Debian's
// static BusyBox: quick to make for a foreign architecture, because nothing of it is run.
func serveBusyBox(t *testing.T) (pinned string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        busyBoxImage(t, architecture),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	repository, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/os")
	if err != nil {
		t.Fatal(err)
	}
	hash, err := index.Digest()
	if err == nil {
		err = remote.WriteIndex(repository.Digest(hash.String()), index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return repository.Digest(hash.String()).String()
}

func busyBoxImage(t *testing.T, architecture string) v1.Image {
	t.Helper()
	content := rootfs(t, busyBox(t, architecture))
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.AppendLayers(image, layer)
	if err == nil {
		image, err = mutate.ConfigFile(image, platformConfig(t, image, architecture))
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func platformConfig(t *testing.T, image v1.Image, architecture string) *v1.ConfigFile {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Config.Env = []string{"PATH=/usr/local/bin:/bin"}
	return config
}

// busyBox returns Debian's static BusyBox for an architecture.
func busyBox(t *testing.T, architecture string) []byte {
	t.Helper()
	if err := tool.EnsureHost(t.Context(), []tool.Need{{Binary: "mmdebstrap", Package: "mmdebstrap"}}, nil); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "rootfs.tar")
	output(t, "mmdebstrap", "--variant=extract", "--architectures="+architecture, "--include=busybox-static", "bookworm", archive)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := tar.NewReader(f)
	for {
		header, err := files.Next()
		if err != nil {
			t.Fatalf("no busybox for %s: %v", architecture, err)
		}
		if header.Name == "./bin/busybox" {
			content, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			return content
		}
	}
}

// rootfs is an archive of BusyBox under the names that the tiny family's images use.
func rootfs(t *testing.T, busybox []byte) []byte {
	t.Helper()
	var archive bytes.Buffer
	files := tar.NewWriter(&archive)
	add := func(header tar.Header, content []byte) {
		header.Size = int64(len(content))
		if err := files.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, applet := range []string{"sh", "cat", "date", "grep", "head", "id", "rm", "sleep", "timeout", "uname"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\nplain:x:1000:1000::/:/bin/sh\n"))
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// newPlatformClone is a tiny family for two platforms that stands on BusyBox and has RUN steps.
func newPlatformClone(t *testing.T) familyClone {
	t.Helper()
	f := newFamilyClone(t)
	replace(t, filepath.Join(f.dir, "containai.yaml"), "  image: debian:", "  image: "+serveBusyBox(t)+" # debian:")
	replace(t, filepath.Join(f.dir, "images", "base", "Dockerfile"), "USER", "RUN --network=none uname -m >/etc/machine\nUSER")
	replace(t, filepath.Join(f.dir, "images", "agent", "Dockerfile"), "COPY", "USER 0\nRUN --network=none echo agent on $(uname -m) >/etc/agent-machine\nUSER 1000\nCOPY")
	f.commit(t, "two platforms")
	return f
}

func replace(t *testing.T, file, from, to string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(content), from) {
		err = errors.New("it has no " + from)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(content), from, to, 1)), 0o644)
	}
	if err != nil {
		t.Fatalf("changing %s: %v", file, err)
	}
}

func (f familyClone) commit(t *testing.T, message string) {
	t.Helper()
	for _, args := range [][]string{{"add", "-A"}, commitArgs(message)} {
		git := exec.CommandContext(t.Context(), "git", args...)
		git.Dir = f.dir
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

// again is another clone at the same commit, as on another machine.
func (f familyClone) again(t *testing.T) familyClone {
	t.Helper()
	clone := familyClone{dir: t.TempDir(), binary: f.binary, to: f.to}
	output(t, "git", "clone", "-q", f.dir, clone.dir)
	return clone
}
