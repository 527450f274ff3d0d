package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

func openLayout(t *testing.T, dir string) *registry.Layout {
	t.Helper()
	l, err := registry.OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNamesOfALayoutSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	l := openLayout(t, dir)
	a, b := image(t, l, 1), image(t, l, 2)
	for name, n := range map[string]graph.Node{"containai-base": a, "containai": b, "also": b} {
		if err := l.Name(t.Context(), n, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Name(t.Context(), b, "containai-base"); err != nil { // a name moves
		t.Fatal(err)
	}
	again := openLayout(t, dir)
	if n, there, err := again.Lookup(t.Context(), "containai-base"); n.Digest != b.Digest || !there || err != nil {
		t.Errorf("Lookup = %s, %v, %v", n.Digest, there, err)
	}
	names, err := again.Tags(t.Context())
	if want := []string{"also", "containai", "containai-base"}; !slices.Equal(names, want) || err != nil {
		t.Errorf("names %v, %v", names, err)
	}
	if err := l.Name(t.Context(), a, "two words"); !errors.Is(err, fault.Invalid) {
		t.Errorf("Name = %v", err)
	}
	if err := openLayout(t, t.TempDir()).Name(t.Context(), a, "absent"); !errors.Is(err, fault.Conflict) {
		t.Errorf("naming what is not there: %v", err)
	}
}

func TestManyHandlesOnOneLayoutLoseNoName(t *testing.T) {
	dir := t.TempDir()
	n := image(t, openLayout(t, dir), 1)
	var wait sync.WaitGroup
	for i := range 16 {
		l := openLayout(t, dir)
		wait.Go(func() {
			if err := l.Name(t.Context(), n, fmt.Sprintf("name-%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if names, err := openLayout(t, dir).Tags(t.Context()); len(names) != 16 || err != nil {
		t.Errorf("names %v, %v", names, err)
	}
}

func TestADamagedLayoutDoesNotVerify(t *testing.T) {
	blobs := func(dir string) []string {
		paths, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%v, %v", paths, err)
		}
		return paths
	}
	damage := map[string]func(path string) error{
		"a missing blob": os.Remove,
		"a torn blob":    func(path string) error { return os.Truncate(path, 1) },
		"an altered blob": func(path string) error {
			content, err := os.ReadFile(path)
			content[len(content)/2] ^= 1
			return errors.Join(err, os.WriteFile(path, content, 0o600))
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src, n := copied(t, openLayout(t, dir), 1)
			for i := range blobs(dir) {
				whole := t.TempDir()
				if err := os.CopyFS(whole, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				l := openLayout(t, whole)
				if err := registry.Verify(t.Context(), l, n); err != nil {
					t.Fatalf("before: %v", err)
				}
				path := blobs(whole)[i]
				if err := harm(path); err != nil {
					t.Fatal(err)
				}
				err := registry.Verify(t.Context(), l, n)
				if !errors.Is(err, fault.Forged) && !errors.Is(err, fault.Conflict) {
					t.Errorf("%s of %s: %v", name, filepath.Base(path), err)
				}
			}
			_ = src
		})
	}
}

func TestATornBlobIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	l := openLayout(t, dir)
	n := layer(t, l, 1, 4096)
	if err := os.Truncate(filepath.Join(dir, "blobs", "sha256", n.Digest.Encoded()), 10); err != nil {
		t.Fatal(err)
	}
	layer(t, l, 1, 4096)
	if content, err := graph.Fetch(t.Context(), l, n, 1<<20); len(content) != 4096 || err != nil {
		t.Errorf("%d bytes, %v", len(content), err)
	}
}

func TestWhatAKilledWriterLeftIsSwept(t *testing.T) {
	dir := t.TempDir()
	openLayout(t, dir)
	left := filepath.Join(dir, ".ingest", strings.Repeat("0", 64)+".123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	openLayout(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestForeignLayoutsAreReadOrRefused(t *testing.T) {
	tests := []struct {
		name, version, index string
		kind                 fault.Kind
	}{
		{"an empty one", `{"imageLayoutVersion":"1.0.0"}`, `{"schemaVersion":2,"manifests":[]}`, 0},
		{"another version", `{"imageLayoutVersion":"2.0.0"}`, `{"schemaVersion":2,"manifests":[]}`, fault.Refused},
		{"no version", `{}`, `{"schemaVersion":2,"manifests":[]}`, fault.Refused},
		{"a torn index", `{"imageLayoutVersion":"1.0.0"}`, `{"schemaVersion":2,"mani`, fault.Forged},
		{"a path for a digest", `{"imageLayoutVersion":"1.0.0"}`, `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc/passwd"}]}`, fault.Forged},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range map[string]string{"oci-layout": test.version, "index.json": test.index} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := registry.OpenLayout(dir)
			if kind, _ := fault.KindOf(err); kind != test.kind {
				t.Errorf("OpenLayout = %v", err)
			}
		})
	}
	l := openLayout(t, t.TempDir())
	if _, err := l.Fetch(t.Context(), graph.Node{Digest: "sha256:../../oci-layout"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Fetch of a path = %v", err)
	}
}

// crane reads layouts with this library.
func TestOtherLibrariesReadALayout(t *testing.T) {
	dir := t.TempDir()
	l := openLayout(t, dir)
	n := image(t, l, 1)
	if err := l.Name(t.Context(), n, "containai"); err != nil {
		t.Fatal(err)
	}
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != n.Digest.String() {
		t.Fatalf("index.json: %+v, %v", m, err)
	}
	family, err := index.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(family, validate.Fast); err != nil {
		t.Error(err)
	}
}

func TestSkopeoReadsALayout(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("skopeo is not installed")
		}
		t.Skip("skopeo is not installed")
	}
	dir := t.TempDir()
	l := openLayout(t, dir)
	a, b := image(t, l, 1), image(t, l, 2)
	for name, n := range map[string]graph.Node{"containai-base": a, "containai": b} {
		if err := l.Name(t.Context(), n, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := l.Attach(t.Context(), a, proofType, registry.Layer{MediaType: proofType, Content: []byte("1")}, nil); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), skopeo, "inspect", "--raw", "oci:"+dir+":containai-base").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := graph.NewNode("", out).Digest; got != a.Digest || !json.Valid(out) {
		t.Errorf("skopeo reads %s, want %s", got, a.Digest)
	}
}

func TestAFullDiskLeavesALayoutWhole(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can mount a small file system")
		}
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := openLayout(t, dir)
	content := noise(1, 2<<20)
	n := graph.NewNode(ocispec.MediaTypeImageLayer, content)
	if err := l.Push(t.Context(), n, bytes.NewReader(content)); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("Push = %v", err)
	}
	if there, err := l.Exists(t.Context(), n); there || err != nil {
		t.Errorf("it is there: %v, %v", there, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".ingest")); len(left) > 0 || err != nil {
		t.Errorf("it left %v, %v", left, err)
	}
}
