package pipeline_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/retention"
)

// What stays may have the names of releases that go. A registry deletes a manifest with all of its
// names: single ones are moved to waste, which goes with them.

// alias gives what release 3 made of app the names of release 0, which goes, and of one without a record.
func (y *yard) alias() (kept graph.Node, stale []string) {
	y.t.Helper()
	kept = y.candidate(3).Record.Images["app"].Index
	stale = []string{"sha-" + commitOf(0), "sha-" + commitOf(7)}
	for _, tag := range stale {
		y.tag("app", tag, kept)
	}
	return kept, stale
}

// shows returns the digest under a tag, asked of the registry itself.
func (y *yard) shows(member, tag string) string {
	y.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(y.t.Context()), http.MethodHead, y.server.URL+"/v2/acme/"+member+"/manifests/"+tag, nil)
	y.must(err)
	req.Header.Set("Accept", strings.Join(graph.ManifestTypes(), ", "))
	resp, err := http.DefaultClient.Do(req)
	y.must(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	return resp.Header.Get("Docker-Content-Digest")
}

func TestANameGoesWithItsRecordAndWhatItIsOnStays(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		kept, stale := y.alias()
		before := y.requests()
		k := y.keeper()
		f, p := y.plan(k)
		if w := y.writes(before); len(w) > 0 || len(p.Unnames) != 1 || fmt.Sprint(p.Unnames[0].Tags) != fmt.Sprint(stale) {
			t.Fatalf("planning wrote %v; names that go: %+v", w, p.Unnames)
		}
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		for _, tag := range stale {
			if at := y.shows("app", tag); at != "" {
				t.Errorf("%s shows %s", tag, at)
			}
		}
		for _, tag := range []string{"dev", "sha-" + commitOf(3)} {
			if at := y.shows("app", tag); at != kept.Digest.String() {
				t.Errorf("%s shows %s", tag, at)
			}
		}
		y.whole(3)
		again, p := y.plan(y.keeper())
		if !p.Empty() {
			t.Errorf("a second run would delete %v and take %v", p.Deletes, p.Unnames)
		}
		for _, it := range again.Items {
			if it.ArtifactType == retention.WasteType {
				t.Errorf("waste is left: %s", it.At)
			}
		}
		lost, err := y.keeper().Deleted(stale[1])
		y.must(err)
		y.must(y.keeper().Undelete(t.Context(), lost))
		if at := y.shows("app", stale[1]); at != kept.Digest.String() {
			t.Errorf("after undelete %s shows %q", stale[1], at)
		}
	})
}

// A release that is published between plan and sweep has its record first: its names stay.
func TestANameWhoseRecordComesMeanwhileStays(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		kept, stale := y.alias()
		k := y.keeper()
		f, p := y.plan(k)
		y.tag("metadata", stale[1], y.push("metadata", "the record that came"))
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		if at := y.shows("app", stale[1]); at != kept.Digest.String() {
			t.Errorf("%s shows %q", stale[1], at)
		}
		if at := y.shows("app", stale[0]); at != "" {
			t.Errorf("%s shows %s", stale[0], at)
		}
	})
}

// The record's tag comes back in the last moment, on a record that is old: no list shows that as new.
func TestANameWhoseRecordComesInTheLastMomentStays(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		kept, stale := y.alias()
		record := y.candidate(3).Digest
		k := y.keeper()
		f, p := y.plan(k)
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/app/manifests/") { // waste
				y.guard(nil)
				n, _, err := y.shelf("metadata").ByDigest(t.Context(), record)
				y.must(err)
				y.tag("metadata", stale[1], n)
			}
			next.ServeHTTP(w, req)
		})
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		if at := y.shows("app", stale[1]); at != kept.Digest.String() {
			t.Errorf("%s shows %q", stale[1], at)
		}
		if at := y.shows("app", stale[0]); at != "" {
			t.Errorf("%s shows %s", stale[0], at)
		}
	})
}

// A name that somebody moves between plan and sweep is theirs.
func TestANameThatMovesMeanwhileIsNotTaken(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		_, stale := y.alias()
		k := y.keeper()
		f, p := y.plan(k)
		theirs := y.push("app", "theirs")
		y.tag("app", stale[1], theirs)
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		if at := y.shows("app", stale[1]); at != theirs.Digest.String() {
			t.Errorf("%s shows %q", stale[1], at)
		}
	})
}

// GitHub does not give up the last version with a tag: then the tag goes back to what it was on.
func TestC6_ANameThatTheRegistryDoesNotLetGoIsGivenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		y.fam.Images["extra"] = family.Image{From: "base"}
		n := y.push("extra", "kept by its grace alone")
		stale := "sha-" + commitOf(7)
		y.tag("extra", stale, n)
		if y.github == nil {
			y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isDelete(req) && strings.Contains(req.URL.Path, "/extra/") {
					w.WriteHeader(http.StatusPreconditionFailed)
					return
				}
				next.ServeHTTP(w, req)
			})
		}
		entries, err := y.prune(y.keeper())
		if err != nil {
			t.Fatal(err)
		}
		last := entries[len(entries)-1]
		if last.Outcome != retention.Retained || last.Why == "" || y.shows("extra", stale) != n.Digest.String() {
			t.Errorf("%+v, and %s shows %s", last, stale, y.shows("extra", stale))
		}
		y.guard(nil)
		if y.github != nil {
			_, p := y.plan(y.keeper())
			if len(p.Deletes) != 1 || p.Deletes[0].Item.ArtifactType != retention.WasteType {
				t.Errorf("what goes next is %+v", p.Deletes)
			}
		}
	})
}

// Wherever a kill strikes while names are taken, the next run ends as an undisturbed one, and what was
// begun can be undone.
func TestAKillAtEveryWriteOfAnUnnamingIsHealed(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		if _, err := y.prune(y.keeper()); err != nil { // only the names are left to go
			t.Fatal(err)
		}
		kept, stale := y.alias()
		writes := 2
		for n := 1; n <= writes; n++ {
			for _, after := range []bool{false, true} {
				writes = max(writes, killAtWrite(t, y, n, after))
				lost, err := y.keeper().Deleted(stale[1])
				y.must(err)
				y.must(y.keeper().Undelete(t.Context(), lost))
				if _, err := y.prune(y.keeper()); err != nil {
					t.Fatal(err)
				}
				for _, tag := range stale {
					if at := y.shows("app", tag); at != "" {
						t.Errorf("killed at write %d (done %v): %s shows %s", n, after, tag, at)
					}
				}
				if y.shows("app", "dev") != kept.Digest.String() {
					t.Fatalf("killed at write %d: dev is gone", n)
				}
				f, p := y.plan(y.keeper())
				for _, it := range f.Items {
					if it.ArtifactType == retention.WasteType {
						t.Errorf("killed at write %d (done %v): waste is left with %v; %+v", n, after, it.Tags, p.Deletes)
					}
				}
				y.alias()
			}
		}
		if writes < 4 { // waste, two moves, its deletion
			t.Errorf("%d writes", writes)
		}
		t.Logf("killed at each of %d writes, before it and after it", writes)
	})
}

func isWrite(req *http.Request) bool {
	return req.Method != http.MethodGet && req.Method != http.MethodHead
}

// killAtWrite prunes, is killed at a write, and returns how many there would be at least.
func killAtWrite(t *testing.T, y *yard, n int, after bool) int {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	y.killOn(kill, isWrite, n, after)
	defer y.guard(nil)
	k := y.keeper()
	f, p, err := k.PlanPrune(ctx, retention.Allow{})
	y.must(err)
	if _, err := k.Prune(ctx, f, p); err == nil {
		return n - 1
	}
	return n + 1
}
