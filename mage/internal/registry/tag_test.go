package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// Two see a tag in the same place, both write, and only then read back: a registry without
// compare-and-swap lets both do so, and the read-back tells one of them.
func TestOfTwoWhoWriteATagAtOnceOneIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		write func(t *testing.T, r *registry.Repository, n graph.Node) error
		want  fault.Kind
	}{
		"an immutable tag": {func(t *testing.T, r *registry.Repository, n graph.Node) error {
			_, err := r.TagImmutable(t.Context(), "dev", n)
			return err
		}, fault.Immutable},
		"a channel's tag": {func(t *testing.T, r *registry.Repository, n graph.Node) error {
			_, err := r.MoveTag(t.Context(), move(r, "dev", "", n))
			return err
		}, fault.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			model := rehearsal.New(rehearsal.Options{})
			_, a := copied(t, repo(t, client(t, serve(t, model)), "app"), 1)
			_, b := copied(t, repo(t, client(t, serve(t, model)), "app"), 2)
			var seen, written sync.WaitGroup
			seen.Add(2)
			written.Add(2)
			var errs [2]error
			var both sync.WaitGroup
			for i, n := range []graph.Node{a, b} {
				var first sync.Once
				host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					model.ServeHTTP(w, req)
					switch {
					case !strings.HasSuffix(req.URL.Path, "/manifests/dev"):
					case req.Method == http.MethodPut:
						written.Done()
						written.Wait()
					default:
						first.Do(func() { seen.Done(); seen.Wait() })
					}
				}))
				both.Go(func() { errs[i] = test.write(t, repo(t, client(t, host), "app"), n) })
			}
			both.Wait()
			now, _, err := repo(t, client(t, serve(t, model)), "app").Resolve(t.Context(), "dev")
			if err != nil {
				t.Fatal(err)
			}
			winner, loser := errs[0], errs[1]
			if now.Digest == b.Digest {
				winner, loser = loser, winner
			}
			if winner != nil || !errors.Is(loser, test.want) {
				t.Errorf("the winner: %v; the other: %v, want %v", winner, loser, test.want)
			}
		})
	}
}
