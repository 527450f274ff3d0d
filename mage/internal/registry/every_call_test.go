package registry_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// The exhaustive driver: three images that share a base are pushed with evidence, tagged for good
// and put into a channel, once for every call that this makes and every way in which that call can
// fail. Wherever it fails, the push goes on by itself and leaves the bytes of the undisturbed run.
func TestB3WhereverACallFailsTheFamilyArrivesWhole(t *testing.T) {
	faults := []rehearsal.Fault{rehearsal.LoseAnswer()}
	if os.Getenv("CONTAINAI_DEEP") != "" {
		faults = append(faults, rehearsal.Answer(http.StatusServiceUnavailable), rehearsal.Answer(http.StatusInternalServerError),
			rehearsal.Answer(http.StatusBadGateway), rehearsal.HangUp(), rehearsal.CutUpload(100), rehearsal.CutAnswer(10),
			rehearsal.RateLimited(), rehearsal.SecondaryLimited(), rehearsal.Outdated())
	}
	rehearsal.EveryCall(t, faults, func(t *testing.T, inject func(http.Handler) http.Handler) []byte {
		model := rehearsal.New(rehearsal.Options{Lag: 1})
		server := httptest.NewServer(inject(model))
		defer server.Close()
		if err := pushFamily(t, strings.TrimPrefix(server.URL, "http://")); err != nil {
			t.Fatal(err)
		}
		return model.Snapshot()
	})
}

// pushFamily pushes, attaches, names, and moves the channel, as a release does.
func pushFamily(t *testing.T, host string) error {
	src, c := memory.New(), client(t, host)
	base := layer(t, src, 99, 32<<10)
	images := map[string]graph.Node{}
	for i := range 3 {
		name := fmt.Sprintf("image-%d", i)
		images[name] = image(t, src, uint64(i), base)
		r := repo(t, c, name)
		if err := r.CopyFrom(t.Context(), src, images[name]); err != nil {
			return err
		}
		for _, evidence := range []string{"sbom", "provenance"} {
			if _, _, err := r.Attach(t.Context(), images[name], proofType, registry.Layer{MediaType: proofType, Content: []byte(evidence)}, nil); err != nil {
				return err
			}
		}
	}
	for name, n := range images {
		r := repo(t, c, name)
		if _, err := r.TagImmutable(t.Context(), "sha-1", n); err != nil {
			return err
		}
		now, _, err := r.Resolve(t.Context(), "dev")
		if err != nil {
			return err
		}
		if _, err := r.MoveTag(t.Context(), move(r, "dev", now.Digest, n)); err != nil {
			return err
		}
	}
	return nil
}
