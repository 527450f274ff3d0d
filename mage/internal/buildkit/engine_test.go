package buildkit

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

func TestLoadWithoutAnEngineDoesNothing(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "absent.sock"))
	names, err := Load(t.Context(), nil, map[string]release.Image{"app": {}}, "test")
	if len(names) != 0 || err != nil {
		t.Errorf("got %v, %v, want nothing", names, err)
	}
}

// TestArchiveIsWhatDockerReads lets go-containerregistry, which writes and reads the archives of
// `docker save`, check the stream: every digest and every size.
func TestArchiveIsWhatDockerReads(t *testing.T) {
	arch, err := architectureOf("linux/" + runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	archive, layout := filepath.Join(t.TempDir(), "rootfs.tar"), t.TempDir()
	writeTar(t, archive)
	if err := wrapArchive(t.Context(), archive, layout, arch, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	_, store := newLayout(t)
	manifests, err := merge(t.Context(), layout, store, copyImage)
	if err != nil {
		t.Fatal(err)
	}
	nodes := hostImages(map[string]release.Image{
		"one":   {Platforms: manifests},
		"two":   {Platforms: manifests},
		"other": {Platforms: map[string]graph.Node{"linux/none": {}}},
	}, "test")
	path := filepath.Join(t.TempDir(), "images.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeArchive(t.Context(), file, store, nodes); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	listed, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, entry := range listed {
		tags = append(tags, entry.RepoTags...)
	}
	if want := []string{"one:test", "two:test"}; !slices.Equal(tags, want) {
		t.Fatalf("the archive holds %v, want %v", tags, want)
	}
	tag, err := name.NewTag("two:test")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(path, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
}
