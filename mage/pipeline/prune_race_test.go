package pipeline_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// Row A6: a prune and a release at the same time, on both kinds of registries.

func TestA6_PruneBetweenTheChildrenOfAReleaseAndItsIndex(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		var pruned atomic.Bool
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method == http.MethodPut && req.Header.Get("Content-Type") == "application/vnd.oci.image.index.v1+json" && !pruned.Swap(true) {
				y.guard(nil)
				if entries, err := y.prune(y.keeper()); err != nil || len(entries) == 0 {
					t.Errorf("the prune in between: %d deletions, %v", len(entries), err)
				}
			}
			next.ServeHTTP(w, req)
		})
		y.release(5, "dev")
		if !pruned.Load() {
			t.Fatal("nothing was pruned in between")
		}
		y.whole(5)
	})
}

// An index that comes in the middle of a sweep and names what the plan gave up.
func TestA6_AnIndexThatComesDuringTheSweepIsWholeInTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		for _, when := range []string{"first", "last"} {
			var orphans []graph.Node
			for i := range 12 { // more than are deleted between two looks at what is new
				orphans = append(orphans, y.push("app", fmt.Sprint(when, " orphan ", i)))
			}
			y.age(2 * day)
			f, p := y.plan(y.keeper())
			var doomed []graph.Node
			for _, d := range p.Deletes {
				if i := slices.IndexFunc(orphans, func(n graph.Node) bool { return n.Digest == d.Item.At.Digest }); i >= 0 {
					doomed = append(doomed, orphans[i])
				}
			}
			child := map[string]graph.Node{"first": doomed[1], "last": doomed[11]}[when]
			pushed := make(chan graph.Node, 1)
			y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isDelete(req) && y.about(req, doomed[0]) {
					y.guard(nil)
					pushed <- y.index("app", child)
				}
				next.ServeHTTP(w, req)
			})
			if _, err := y.keeper().Prune(t.Context(), f, p); err != nil {
				t.Fatal(err)
			}
			if index := <-pushed; !y.has("app", index.Digest.String()) || !y.has("app", child.Digest.String()) {
				t.Errorf("index %v, its %s child there: %v", index.Digest, when, y.has("app", child.Digest.String()))
			}
		}
	})
}

// A sweep that stops before it proves what it left: the next run mends what this one broke.
func TestA6_WhatAStoppedSweepBrokeIsMendedByTheNext(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		var orphans []graph.Node
		for i := range 2 {
			orphans = append(orphans, y.push("app", fmt.Sprint("orphan ", i)))
		}
		y.age(2 * day)
		k := y.keeper()
		f, p := y.plan(k)
		var broken graph.Node
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			i := slices.IndexFunc(orphans, func(n graph.Node) bool { return y.about(req, n) })
			switch {
			case isDelete(req) && broken.Digest != "":
				w.WriteHeader(http.StatusForbidden)
				return
			case isDelete(req) && i >= 0:
				broken = orphans[i]
				y.index("app", broken)
			}
			next.ServeHTTP(w, req)
		})
		if _, err := k.Prune(t.Context(), f, p); !errors.Is(err, fault.Partial) || broken.Digest == "" {
			t.Fatalf("the first run: %v", err)
		}
		y.guard(nil)
		if y.has("app", broken.Digest.String()) {
			t.Fatal("the first run broke nothing")
		}
		if _, err := y.prune(y.keeper()); err != nil {
			t.Fatal(err)
		}
		if !y.has("app", broken.Digest.String()) {
			t.Error("the child of a young index is gone for good")
		}
	})
}
