package local_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/ref"
	rel "github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// Blobs go when no manifest names them, and stay while one does, while they are young, and while a
// deletion can be undone.
func TestCollectTakesTheBlobsThatNothingNames(t *testing.T) {
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	client, err := registry.New(served.Host+"/acme", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repo("app")
	if err != nil {
		t.Fatal(err)
	}
	push := func(text string) graph.Node {
		t.Helper()
		n, err := graph.PushBytes(t.Context(), repo, "application/octet-stream", []byte(strings.Repeat(text, 100)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	pack := func(layers ...graph.Node) (graph.Node, []byte) {
		t.Helper()
		content, err := graph.EncodeArtifact("application/vnd.test.v1", nil, layers, nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := graph.PackArtifact(t.Context(), repo, "application/vnd.test.v1", layers, nil)
		if err != nil {
			t.Fatal(err)
		}
		return n, content
	}
	named, shared, lost, undone, tagged := push("named"), push("shared"), push("lost"), push("undone"), push("tagged")
	was, _ := pack(tagged)
	now, _ := pack(named)
	tag := ref.Tagged{Repo: repo.Name(), Tag: "dev"}
	for _, m := range []rel.Move{{Tag: tag, To: was}, {Tag: tag, From: was.Digest, To: now}} {
		if _, err := repo.MoveTag(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	pack(named, shared)
	_, manifest := pack(undone)
	gone, _ := pack(lost, shared)
	shelf := registry.NewShelf(repo, nil)
	for _, n := range []graph.Node{was, gone, graph.NewNode(gone.MediaType, manifest)} {
		if outcome, _, err := shelf.Delete(t.Context(), graph.Item{At: ref.Pinned{Repo: repo.Name(), Digest: n.Digest}}); err != nil || outcome != retention.Deleted {
			t.Fatalf("%s was %s, %v", n.Digest, outcome, err)
		}
	}
	longAgo := time.Now().Add(-40 * 24 * time.Hour)
	err = filepath.WalkDir(state.RegistryDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return os.Chtimes(path, longAgo, longAgo)
	})
	if err != nil {
		t.Fatal(err)
	}
	young := push("young")

	freed, err := state.Collect(time.Now().Add(-24*time.Hour), [][]byte{manifest})
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string]graph.Node{"named": named, "shared": shared, "undone": undone, "young": young} {
		if there, err := repo.Exists(t.Context(), blob); err != nil || !there {
			t.Errorf("the blob that is %s is there: %v, %v", name, there, err)
		}
	}
	for name, blob := range map[string]graph.Node{"nothing names": lost, "only what a tag once showed names": tagged} {
		if there, err := repo.Exists(t.Context(), blob); err != nil || there || freed < lost.Size+tagged.Size {
			t.Errorf("the blob that %s is there: %v, %v; %d bytes are free", name, there, err, freed)
		}
	}
}

func TestCollectRemovesNothingWhenAManifestCannotBeRead(t *testing.T) {
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := state.Collect(time.Now(), nil); err != nil || freed != 0 {
		t.Errorf("an empty registry: %d, %v", freed, err)
	}
	root := filepath.Join(state.RegistryDir(), "docker", "registry", "v2")
	hex := strings.Repeat("a", 64)
	for path, content := range map[string]string{
		"repositories/acme/app/_manifests/revisions/sha256/" + hex + "/link": "sha256:" + hex,
		"blobs/sha256/aa/" + hex + "/data":                                   "not what its name says",
		"blobs/sha256/bb/" + strings.Repeat("b", 64) + "/data":               "a blob",
	} {
		name := filepath.Join(root, filepath.FromSlash(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := state.Collect(time.Now().Add(time.Hour), nil); err == nil {
		t.Error("a manifest that is not what its name says was believed")
	}
	if _, err := os.Stat(filepath.Join(root, "blobs", "sha256", "bb", strings.Repeat("b", 64), "data")); err != nil {
		t.Error(err)
	}
}
