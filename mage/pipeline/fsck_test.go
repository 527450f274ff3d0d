package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/retention"
)

func (y *yard) examine() pipeline.Examination {
	y.t.Helper()
	x, err := y.keeper().Examine(y.t.Context())
	y.must(err)
	return x
}

func TestFsckFindsNothingWhereAllIsWell(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		before := y.requests()
		x := y.examine()
		if len(x.Ailments) > 0 || x.Orphans == 0 || x.Manifests == 0 {
			t.Errorf("it found %+v", x)
		}
		if w := y.writes(before); len(w) > 0 {
			t.Errorf("it wrote %v", w)
		}
	})
}

// A registry that lists what it does not give (gchq/sleeper#2494) is not believed, nor is a cache.
func TestFsckAsksForWhatItReadBefore(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		k := y.keeper()
		if x, err := k.Examine(t.Context()); err != nil || len(x.Ailments) > 0 {
			t.Fatalf("%+v, %v", x.Ailments, err)
		}
		child := y.candidate(3).Record.Images["app"].Platforms["linux/amd64"]
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.HasSuffix(req.URL.Path, "/app/manifests/"+child.Digest.String()) {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, req)
		})
		x, err := k.Examine(t.Context())
		if err != nil || len(x.Ailments) != 1 || x.Ailments[0].What != pipeline.Missing || !strings.Contains(x.Ailments[0].At, child.Digest.String()) {
			t.Errorf("%+v, %v", x.Ailments, err)
		}
	})
}

// What a careless cleaner takes away is found, with who needs it, and what a prune of ours took
// comes back.
func TestFsckFindsWhatIsMissingAndRestoresWhatTheJournalHas(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		n, _, err := y.shelf("app").Resolve(t.Context(), "dev")
		y.must(err)
		children, err := graph.Children(t.Context(), y.shelf("app"), n)
		y.must(err)
		k := y.keeper()
		f, err := k.Scan(t.Context())
		y.must(err)
		i := slices.IndexFunc(f.Items, func(it graph.Item) bool { return it.At.Digest == children[0].Digest })
		entry := retention.NewEntry("run", strings.Replace(f.Items[i].At.String(), y.host(), "yard", 1), f.Items[i], f.Now)
		_, content, _, err := k.Shelves["app"].Manifest(t.Context(), children[0].Digest)
		y.must(err)
		y.must(k.Journal.Keep(content))
		if _, _, err := k.Shelves["app"].Delete(t.Context(), f.Items[i]); err != nil {
			t.Fatal(err)
		}

		x := y.examine()
		if len(x.Ailments) != 1 || x.Ailments[0].What != pipeline.Missing || !strings.Contains(x.Ailments[0].Why, "dev serves") || x.Ailments[0].Repairable() {
			t.Fatalf("without a journal: %+v", x.Ailments)
		}
		if err := x.Ailments[0].Repair(t.Context()); err == nil {
			t.Error("it says it repaired what it cannot")
		}
		entry.Outcome = retention.Deleted
		y.must(k.Journal.Append(entry))
		if x = y.examine(); len(x.Ailments) != 1 || !x.Ailments[0].Repairable() {
			t.Fatalf("with one: %+v", x.Ailments)
		}
		y.must(x.Ailments[0].Repair(t.Context()))
		if x = y.examine(); len(x.Ailments) > 0 {
			t.Errorf("after the repair: %+v", x.Ailments)
		}
		y.whole(3)
	})
}

// Who lost an index with its child gets both back, in whatever order they are found.
func TestFsckRestoresAnIndexWithItsChildren(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		n, _, err := y.shelf("app").Resolve(t.Context(), "dev")
		y.must(err)
		children, err := graph.Children(t.Context(), y.shelf("app"), n)
		y.must(err)
		for _, d := range []graph.Node{n, children[0]} { // as a prune does
			y.lose("app", d)
		}
		x := y.examine()
		if len(x.Ailments) == 0 {
			t.Fatal("nothing is missing")
		}
		for _, a := range x.Ailments {
			if err := a.Repair(t.Context()); err != nil {
				t.Errorf("%s %s: %v", a.What, a.At, err)
			}
		}
		if x = y.examine(); len(x.Ailments) > 0 {
			t.Errorf("after the repair: %+v", x.Ailments)
		}
		y.whole(3)
	})
}

// lose takes a manifest away as a prune does, and returns its entry in the journal.
func (y *yard) lose(member string, n graph.Node) retention.Entry {
	y.t.Helper()
	k := y.keeper()
	f, err := k.Scan(y.t.Context())
	y.must(err)
	i := slices.IndexFunc(f.Items, func(it graph.Item) bool { return it.At.Digest == n.Digest })
	e := retention.NewEntry("run", strings.Replace(f.Items[i].At.String(), y.host(), "yard", 1), f.Items[i], f.Now)
	_, content, _, err := k.Shelves[member].Manifest(y.t.Context(), n.Digest)
	y.must(err)
	y.must(k.Journal.Keep(content))
	e.Outcome, _, err = k.Shelves[member].Delete(y.t.Context(), f.Items[i])
	y.must(err)
	y.must(k.Journal.Append(e))
	return e
}

// What cannot be cured, as its trash or its number is gone, does not stop the rest, and is told.
func TestFsckGoesOnAfterARepairThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		images := y.candidate(3).Record.Images
		app, base := images["app"].Platforms["linux/amd64"], images["base"].Platforms["linux/amd64"]
		lost := y.lose("app", app)
		y.lose("base", base)
		if y.github != nil {
			lost.ID += 1_000_000
			y.must(y.keeper().Journal.Append(lost))
		} else {
			y.must(os.Remove(filepath.Join(y.state.Dir(), "retention", "trash", app.Digest.Encoded())))
		}
		x := y.examine()
		if len(x.Ailments) != 2 || !strings.Contains(x.Ailments[0].At, "/app@") {
			t.Fatalf("it found %+v", x.Ailments)
		}
		repaired, err := pipeline.Repair(t.Context(), x.Ailments, silence{})
		if !errors.Is(err, fault.Unverified) || !strings.Contains(err.Error(), app.Digest.String()) {
			t.Errorf("Repair() = %v", err)
		}
		if len(repaired) != 1 || !strings.Contains(repaired[0], "/base@"+base.Digest.String()) || !y.has("base", base.Digest.String()) {
			t.Errorf("repaired: %v", repaired)
		}
	})
}

// A simultaneous writer replaced the index of referrers (NVIDIA/nodewright-packages#132).
func TestFsckListsAgainWhatAReferrersTagLost(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		n, _, err := y.shelf("app").Resolve(t.Context(), "dev")
		y.must(err)
		empty, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []graph.Node{}})
		y.must(err)
		req := httptest.NewRequest(http.MethodPut, y.server.URL+"/v2/acme/app/manifests/"+graph.FallbackTag(n.Digest), bytes.NewReader(empty))
		req.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
		y.send(req, http.StatusCreated)

		x := y.examine()
		if len(x.Ailments) != 1 || x.Ailments[0].What != pipeline.Unlisted {
			t.Fatalf("it found %+v", x.Ailments)
		}
		y.must(x.Ailments[0].Repair(t.Context()))
		if x = y.examine(); len(x.Ailments) > 0 {
			t.Errorf("after the repair: %+v", x.Ailments)
		}
		y.whole(3)
	})
}

func TestFsckFindsTagsThatDriftedAndReleasesThatDoNotVerify(t *testing.T) {
	w := newWorld(t)
	p := w.pipeline(t, "operator")
	w.promote(t, p, "dev", second)
	examine := func() []pipeline.Ailment {
		t.Helper()
		found, err := w.pipeline(t, "examiner").Examine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := examine(); len(found) > 0 {
		t.Fatalf("all is well, and it found %+v", found)
	}
	w.put(t, "app", "dev", w.releases[first].Record.Images["app"].Index)
	found := examine()
	if len(found) != 1 || found[0].What != pipeline.Drifted || !strings.Contains(found[0].At, "app:dev") {
		t.Fatalf("after a tag was moved: %+v", found)
	}
	if err := found[0].Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found = examine(); len(found) > 0 {
		t.Errorf("after the repair: %+v", found)
	}
	w.vanish(t, "app", w.releases[second].Record.Images["app"].Platforms["linux/amd64"].Digest)
	if found = examine(); len(found) == 0 || found[0].What != pipeline.Unproven || !strings.Contains(found[0].At, "dev") {
		t.Errorf("after a platform vanished: %+v", found)
	}
}
