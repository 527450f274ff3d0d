package pipeline_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/release"
)

// crane, which knows nothing of ledgers, sees for every tag of a channel what the ledger says, after
// every kind of move and at every registry.
func TestCraneSeesWhatTheLedgerSays(t *testing.T) {
	if !deep() {
		t.Skip("it builds a program of another maker: mage testDeep runs it")
	}
	crane := buildCrane(t)
	for name, newSoil := range soils() {
		t.Run(name, func(t *testing.T) {
			o := newOriginal(t, newSoil)
			for _, operation := range operations() {
				s := o.copy(t)
				if err := s.perform(t, operation); err != nil {
					t.Fatal(err)
				}
				checked := 0
				for tag, want := range s.recorded(t) {
					checked++
					reference := strings.TrimPrefix(s.url, "http://") + "/" + owner + "/" + tag
					out, err := exec.Command(crane, "digest", "--insecure", reference).CombinedOutput()
					if got := strings.TrimSpace(string(out)); err != nil || got != want.String() {
						t.Errorf("after %s crane sees %s at %s, recorded is %s (%v)", operation, got, tag, want, err)
					}
				}
				t.Logf("after %s crane agrees on %d tags", operation, checked)
			}
		})
	}
}

// recorded lists every tag that the ledger's head implies: "member:tag".
func (s *scene) recorded(t *testing.T) map[string]digest.Digest {
	t.Helper()
	p := s.mover(t)
	head, err := p.Ledger.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	change, err := p.PlanReconcile(t.Context())
	if err != nil || !change.Empty() {
		t.Fatalf("there is something to reconcile: %v, %v", change, err)
	}
	tags := map[string]digest.Digest{}
	document := s.shown("metadata", release.GenerationTag(head.Document.Generation))
	for _, name := range append(head.Document.Names(), release.ChannelsTag) {
		tags["metadata:"+name] = document
	}
	for channel, state := range head.Document.Channels {
		for member, d := range state.Members {
			tags[member+":"+channel] = d
			if state.Version != "" {
				tags[member+":"+state.Version], tags["metadata:"+state.Version] = d, state.Record
			}
		}
	}
	return tags
}

// buildCrane builds crane at the version that testdata/peers pins, into the user's cache.
func buildCrane(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(cache, "containai", "peers")
	c := exec.CommandContext(t.Context(), "go", "install", "github.com/google/go-containerregistry/cmd/crane")
	c.Dir = filepath.Join("..", "..", "testdata", "peers")
	c.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=readonly")
	if out, err := c.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("building crane: %v\n%s", err, out)
		}
		t.Skipf("building crane: %v\n%s", err, out)
	}
	return filepath.Join(bin, "crane")
}
