package mage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
)

// A1: a release is killed at seeded moments. Running it again must end in the registry
// content of one undisturbed run. Two moments in the ordinary run, ten with CONTAINAI_DEEP.
func TestA1AKilledReleaseIsContinuedByTheSameCommand(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	for _, k := range []kin{tiny(), survey()} {
		t.Run(k.name, func(t *testing.T) {
			if k.name != "tiny" && os.Getenv("CONTAINAI_DEEP") == "" {
				t.Skip("another family is killed as often: mage testDeep does it")
			}
			k.clone(t).survives(t)
		})
	}
}

func (f familyClone) survives(t *testing.T) {
	t.Helper()
	f.release(t) // warms the build cache, so that all later runs take about the same time
	f.forget(t)
	began := time.Now()
	f.release(t)
	undisturbed, took := f.content(t), time.Since(began)

	moments := 2
	if os.Getenv("CONTAINAI_DEEP") != "" {
		moments = 10
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range moments {
		share := (float64(i) + random.Float64()) / float64(moments) // one moment in each stretch of the run
		t.Run(fmt.Sprintf("killed after %.0f%% of a run", 100*share), func(t *testing.T) {
			f.forget(t)
			f.kill(t, time.Duration(share*float64(took)))
			f.release(t)
			if diff := cmp.Diff(undisturbed, f.content(t)); diff != "" {
				t.Errorf("the registry differs from the undisturbed run (-want +got):\n%s", diff)
			}
		})
	}
}

// familyClone is a git repository of a family and a binary that releases it.
type familyClone struct {
	dir, binary string
	to          []string // the command that releases to the channel that a push reaches
}

// newFamilyClone clones the tiny family.
func newFamilyClone(t *testing.T) familyClone {
	t.Helper()
	return tiny().clone(t)
}

func (f familyClone) command(ctx context.Context) *exec.Cmd {
	c := exec.CommandContext(ctx, f.binary, f.to...)
	c.Dir = f.dir
	return c
}

func (f familyClone) release(t *testing.T) {
	t.Helper()
	if out, err := f.command(t.Context()).CombinedOutput(); err != nil {
		t.Fatalf("mage %v: %v\n%s", f.to, err, out)
	}
}

// kill starts a release and sends SIGKILL to its top process after a while.
func (f familyClone) kill(t *testing.T, after time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	c := f.command(ctx)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGKILL) }
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// forget removes what a release made, but not what makes it quick.
func (f familyClone) forget(t *testing.T) {
	t.Helper()
	for _, name := range []string{"dist", ".containai/registry", ".containai/ledger.git", ".containai/sigstore", ".containai/cache"} {
		if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// content lists a registry in the terms that two undisturbed runs share: every tag with its
// digest, every statement with its subject and predicate. Signatures, times and the names of
// runs differ between any two runs and are left out, as are the digests that contain them.
func (f familyClone) content(t *testing.T) []string {
	t.Helper()
	fam := f.family(t)
	state, err := local.OpenState(filepath.Join(f.dir, ".containai"))
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	client, err := registry.New(served.Host+"/"+fam.Name, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range fam.Members() {
		repo, err := client.Repo(name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, listRepository(t, name, repo, fam.Artifacts[name].Kind == family.Metadata)...)
	}
	sort.Strings(lines)
	return lines
}

func listRepository(t *testing.T, name string, repo *registry.Repository, metadata bool) []string {
	t.Helper()
	tags, err := repo.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, tag := range tags {
		if strings.HasPrefix(tag, "sha256-") {
			continue // the fallback index of a subject; its statements are listed below
		}
		node, found, err := repo.Resolve(t.Context(), tag)
		if err != nil || !found {
			t.Fatalf("%s:%s: %v, %v", name, tag, found, err)
		}
		subject := node.Digest.String()
		if metadata && !strings.HasPrefix(tag, "sha-") {
			subject = "a channels document" // it states when it was issued
		}
		lines = append(lines, name+":"+tag+" "+subject)
		lines = append(lines, listEvidence(t, name, subject, repo, node)...)
		if !graph.IsIndex(node) {
			continue
		}
		index, err := graph.Index(t.Context(), repo, node)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range index.Manifests {
			lines = append(lines, listEvidence(t, name, m.Digest.String(), repo, m)...)
		}
	}
	return lines
}

func listEvidence(t *testing.T, name, subject string, repo *registry.Repository, node graph.Node) []string {
	t.Helper()
	referrers, err := repo.Referrers(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range referrers {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", name, subject, r.ArtifactType, r.Annotations[evidence.BundlePredicate]))
	}
	return lines
}

func (f familyClone) family(t *testing.T) *family.Family {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, "containai.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fam, err := family.Parse("containai.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	return fam
}
