package mage_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// TestVerifyRefusesWhatSomebodyChanged changes a released registry behind the library's back.
func TestVerifyRefusesWhatSomebodyChanged(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	f := newFamilyClone(t)
	f.release(t)

	t.Run("a channel tag that shows another digest, until it is reconciled", func(t *testing.T) {
		f.change(t, func(repo *registry.Repository) {
			now, evil := f.spoil(t, repo, "dev")
			move := release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: "dev"}, From: now.Digest, To: evil}
			if _, err := repo.MoveTag(t.Context(), move); err != nil {
				t.Fatal(err)
			}
		})
		f.fails(t, fault.Forged, "tags follow the ledger", nil, "verify:channel", "dev")
		if plan := f.mage(t, "ops:reconcile"); !strings.Contains(plan, "somebody else moved it") {
			t.Errorf("ops:reconcile planned:\n%s", plan)
		}
		f.fails(t, fault.Forged, "tags follow the ledger", nil, "verify:channel", "dev")
		f.mage(t, "ops:reconcile", "-apply")
		f.mage(t, "verify:channel", "dev")
		if plan := f.mage(t, "ops:reconcile"); !strings.Contains(plan, "nothing to do") {
			t.Errorf("after reconciling, ops:reconcile planned:\n%s", plan)
		}
	})
	t.Run("D1 an image whose evidence is gone", func(t *testing.T) {
		f.change(t, func(repo *registry.Repository) {
			node, _, err := repo.Resolve(t.Context(), "dev")
			if err != nil {
				t.Fatal(err)
			}
			f.forgetEvidence(t, node.Digest)
		})
		f.fails(t, fault.Unverified, "there is no signature", nil, "verify:image", "tiny:dev")
		f.fails(t, fault.Unverified, "there is no signature", nil, "verify:channel", "dev")
		f.release(t) // attests what is missing
		f.mage(t, "verify:channel", "dev")
	})
	t.Run("D13 a trust root that is not there", func(t *testing.T) {
		root := filepath.Join(f.dir, ".containai", "sigstore", "trusted_root.json")
		content, err := os.ReadFile(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(root); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(root, content, 0o644)
		f.fails(t, fault.Environment, "trusted_root.json", nil, "verify:channel", "dev")
	})
}

// change opens the repository of the image "tiny" in the clone's embedded registry.
func (f familyClone) change(t *testing.T, change func(*registry.Repository)) {
	t.Helper()
	state, err := local.OpenState(filepath.Join(f.dir, ".containai"))
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	client, err := registry.New(served.Host+"/tiny", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repo("tiny")
	if err != nil {
		t.Fatal(err)
	}
	change(repo)
}

// spoil pushes a manifest that says the same as a tag's in other bytes.
func (f familyClone) spoil(t *testing.T, repo *registry.Repository, tag string) (now, evil graph.Node) {
	t.Helper()
	now, found, err := repo.Resolve(t.Context(), tag)
	if err != nil || !found {
		t.Fatalf("resolving %s: %v, %v", tag, found, err)
	}
	content, err := graph.Fetch(t.Context(), repo, now, graph.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	evil, err = graph.PushBytes(t.Context(), repo, now.MediaType, append(content, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	return now, evil
}

// forgetEvidence removes the fallback tag of a subject from the registry's storage.
func (f familyClone) forgetEvidence(t *testing.T, subject digest.Digest) {
	t.Helper()
	tag := "sha256-" + subject.Encoded()
	found := 0
	err := filepath.WalkDir(filepath.Join(f.dir, ".containai", "registry"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == tag {
			found++
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return filepath.SkipDir
		}
		return err
	})
	if err != nil || found != 1 {
		t.Fatalf("removing %s: %d found, %v", tag, found, err)
	}
}

// mage runs a target that must succeed and returns everything it printed.
func (f familyClone) mage(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), f.binary, args...)
	c.Dir = f.dir
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Fatalf("mage %v: %v\n%s", args, err, out.String())
	}
	return out.String()
}
