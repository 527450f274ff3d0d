package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/retention"
)

// The rows of the fault catalogue that retention answers for, each on OCI DELETE and on the GHCR model.

// find returns the entry of a manifest.
func find(t *testing.T, entries []retention.Entry, n graph.Node) retention.Entry {
	t.Helper()
	i := slices.IndexFunc(entries, func(e retention.Entry) bool { return strings.HasSuffix(e.At, "@"+n.Digest.String()) })
	if i < 0 {
		t.Fatalf("%s was not come to", n.Digest)
	}
	return entries[i]
}

// planned reports whether a plan deletes a manifest.
func planned(p retention.Plan, n graph.Node) bool {
	return slices.ContainsFunc(p.Deletes, func(d retention.Deletion) bool { return d.Item.At.Digest == n.Digest })
}

func isDelete(req *http.Request) bool { return req.Method == http.MethodDelete }

// about reports whether a request is about a manifest, by its digest or by its number.
func (y *yard) about(req *http.Request, n graph.Node) bool {
	if y.github == nil {
		return strings.HasSuffix(req.URL.Path, "/"+n.Digest.String())
	}
	return strings.HasSuffix(req.URL.Path, fmt.Sprintf("/app/versions/%d", y.number("app", n)))
}

// number is the version id of a manifest on the GHCR model.
func (y *yard) number(member string, n graph.Node) int64 {
	y.t.Helper()
	answer := httptest.NewRecorder()
	y.github.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/orgs/acme/packages/container/"+member+"/versions?per_page=100", nil))
	var versions []struct {
		ID   int64
		Name string
	}
	y.must(json.Unmarshal(answer.Body.Bytes(), &versions))
	for _, v := range versions {
		if v.Name == n.Digest.String() {
			return v.ID
		}
	}
	return -1
}

func TestC1_ChildrenOfKeptTagsStayAtAnyDepth(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		image, attestation := y.push("app", "image"), y.push("app", "BuildKit's attestation")
		image.Platform = nil
		inner := y.index("app", image, attestation)
		middle := y.index("app", inner)
		y.tag("app", "demo", y.index("app", middle))
		y.age(40 * day)
		if _, err := y.prune(y.keeper()); err != nil {
			t.Fatal(err)
		}
		for _, n := range []graph.Node{image, attestation, inner, middle} {
			if !y.has("app", n.Digest.String()) {
				t.Errorf("%s is gone", n.Digest)
			}
		}
	})
}

func TestC2_EvidenceStaysAndGoesWithItsSubject(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		kept, gone := y.push("app", "kept"), y.push("app", "gone")
		y.tag("app", "demo", kept)
		var stays, goes []graph.Node
		for subject, list := range map[*graph.Node]*[]graph.Node{&kept: &stays, &gone: &goes} {
			bundle := y.attach("app", *subject, "bundle of "+subject.Digest.String())
			nested := y.attach("app", bundle, "about the bundle of "+subject.Digest.String())
			*list = append(*list, bundle, nested)
			for _, suffix := range []string{".sig", ".att", ".sbom"} {
				n := y.push("app", subject.Digest.String()+suffix)
				y.tag("app", graph.FallbackTag(subject.Digest)+suffix, n)
				*list = append(*list, n)
			}
		}
		y.age(40 * day)
		entries, err := y.prune(y.keeper())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range append(stays, kept) {
			if !y.has("app", n.Digest.String()) {
				t.Errorf("%s is gone", n.Digest)
			}
		}
		if !y.has("app", graph.FallbackTag(kept.Digest)) || y.has("app", graph.FallbackTag(gone.Digest)) {
			t.Error("the referrers tags are not as they should be")
		}
		at := func(n graph.Node) int {
			return slices.IndexFunc(entries, func(e retention.Entry) bool { return strings.HasSuffix(e.At, n.Digest.String()) })
		}
		for _, n := range goes {
			if y.has("app", n.Digest.String()) || at(n) < at(gone) {
				t.Errorf("%s was deleted at %d, its subject at %d", n.Digest, at(n), at(gone))
			}
		}
	})
}

func TestC3_NothingIsDeletedWhereAKeptManifestCannotBeRead(t *testing.T) {
	answers := map[string]func(w http.ResponseWriter){
		"429": func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
		"404": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"500": func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"an unknown media type": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/vnd.other")
			io.WriteString(w, `{}`)
		},
		"a page for people": func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); io.WriteString(w, `<html>`) },
	}
	onBoth(t, func(t *testing.T, y *yard) {
		n, _, err := y.shelf("app").Resolve(t.Context(), "dev")
		y.must(err)
		children, err := graph.Children(t.Context(), y.shelf("app"), n)
		y.must(err)
		for name, answer := range answers {
			y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if strings.HasSuffix(req.URL.Path, "/acme/app/manifests/"+children[0].Digest.String()) {
					answer(w)
					return
				}
				next.ServeHTTP(w, req)
			})
			k, before := y.keeper(), y.requests()
			f, p, err := k.PlanPrune(t.Context(), retention.Allow{})
			y.must(err)
			if err := p.Incomplete(); !errors.Is(err, fault.Unverified) || !strings.Contains(err.Error(), children[0].Digest.String()) {
				t.Errorf("%s: Incomplete() = %v", name, err)
			}
			if _, err := k.Prune(t.Context(), f, p); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, w := range y.writes(before) {
				if strings.Contains(w, "/app/") {
					t.Errorf("%s: in the repository that could not be read: %s", name, w)
				}
			}
			if !y.has("app", "sha-"+commitOf(0)) {
				t.Errorf("%s: something of app is gone", name)
			}
		}
	})
}

// A tag that is listed and not found is asked for again: the registry may have mislaid it for a moment.
func TestC3_ATagThatIsMislaidForAMomentProtectsAllTheSame(t *testing.T) {
	y := newYard(t, "OCI")
	n := y.push("app", "what demo protects")
	y.tag("app", "demo", n)
	y.age(40 * day)
	var mislaid atomic.Bool
	y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.HasSuffix(req.URL.Path, "/app/manifests/demo") && !mislaid.Swap(true) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, req)
	})
	if _, p := y.plan(y.keeper()); planned(p, n) || !mislaid.Load() {
		t.Errorf("it would go: %v; mislaid: %v", planned(p, n), mislaid.Load())
	}
}

// A login that does not see the records must not conclude that there are none.
func TestC3_NothingIsDeletedAnywhereWhereARepositoryOfAReleaseIsNotSeen(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		for _, member := range []string{"metadata", "base"} {
			y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if strings.Contains(req.URL.Path+"/", "/"+member+"/") {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				next.ServeHTTP(w, req)
			})
			before := y.requests()
			entries, err := y.keeperPrunes()
			if err == nil {
				t.Errorf("without %s: no error", member)
			}
			if w := y.writes(before); len(w) > 0 || len(entries) > 0 {
				t.Errorf("without %s it wrote %v", member, w)
			}
		}
	})
}

// keeperPrunes plans and prunes as the command does: what a plan leaves out is an error in the end.
func (y *yard) keeperPrunes() ([]retention.Entry, error) {
	y.t.Helper()
	k := y.keeper()
	f, p, err := k.PlanPrune(y.t.Context(), retention.Allow{})
	if err != nil {
		return nil, err
	}
	entries, err := k.Prune(y.t.Context(), f, p)
	return entries, errors.Join(err, p.Incomplete())
}

func TestC4_AnEmptyPolicyOrAPatternThatProtectsNothingIsRefused(t *testing.T) {
	for name, change := range map[string]func(f *family.Family){
		"empty": func(f *family.Family) { f.Channels = map[string]family.Channel{"dev": {}, "prod": {}} },
		"typo":  func(f *family.Family) { f.Retention.Protect = []string{"demoo-*"} },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, y *yard) {
				change(y.fam)
				k, before := y.keeper(), y.requests()
				f, p, err := k.PlanPrune(t.Context(), retention.Allow{})
				y.must(err)
				if _, err := k.Prune(t.Context(), f, p); !errors.Is(err, fault.Refused) {
					t.Errorf("Prune() = %v, want it refused", err)
				}
				if w := y.writes(before); len(w) > 0 {
					t.Errorf("it wrote %v", w)
				}
				if _, p, err = k.PlanPrune(t.Context(), retention.Allow{Empty: true}); err != nil || p.Refusal() != nil {
					t.Errorf("after -allow=empty: %v, %v", err, p.Refusal())
				}
			})
		})
	}
}

func TestC5_APlanThatDeletesTooMuchIsRefusedAndServedReleasesNeverGo(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		y.fam.Retention.Share = 10
		k := y.keeper()
		f, p, err := k.PlanPrune(t.Context(), retention.Allow{})
		y.must(err)
		if _, err := k.Prune(t.Context(), f, p); !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "more than 10%") {
			t.Errorf("Prune() = %v, want it refused", err)
		}
		if f, p, err = k.PlanPrune(t.Context(), retention.Allow{Share: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, 2, 3} { // prod's, and the last two of dev
			y.whole(i)
		}
	})
}

func TestC6_WhatTheRegistryDoesNotGiveUpIsRetainedWithAllItNeeds(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		y.fam.Images["extra"] = family.Image{From: "base"}
		child := y.push("extra", "child")
		top := y.index("extra", child)
		y.tag("extra", "sha-"+commitOf(8), top) // the last tagged one
		popular := y.push("app", "popular")
		y.age(40 * day)
		if y.github != nil {
			y.github.Publish("acme/app")
			y.github.Download("acme/app", popular.Digest.String(), 5_001)
		} else {
			y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isDelete(req) && (y.about(req, top) || y.about(req, popular)) {
					w.WriteHeader(http.StatusPreconditionFailed)
					return
				}
				next.ServeHTTP(w, req)
			})
		}
		entries, err := y.prune(y.keeper())
		if err != nil {
			t.Fatalf("retained is no failure: %v", err)
		}
		for n, want := range map[*graph.Node]retention.Outcome{&top: retention.Retained, &popular: retention.Retained, &child: retention.Skipped} {
			if e := find(t, entries, *n); e.Outcome != want || e.Why == "" {
				t.Errorf("%s was %s (%s), want %s", e.At, e.Outcome, e.Why, want)
			}
		}
		if !y.has("extra", child.Digest.String()) {
			t.Error("the child of what was retained is gone")
		}
	})
}

func TestC7_WhatSomebodyElseDeletedIsDone(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isDelete(req) {
				next.ServeHTTP(httptest.NewRecorder(), req.Clone(context.WithoutCancel(req.Context()))) // a moment before us
			}
			next.ServeHTTP(w, req)
		})
		entries, err := y.prune(y.keeper())
		if err != nil || len(entries) == 0 {
			t.Fatalf("%d deletions, %v", len(entries), err)
		}
		for _, e := range entries {
			if e.Outcome != retention.Absent {
				t.Errorf("%s was %s", e.At, e.Outcome)
			}
		}
	})
}

func TestC8_AKilledSweepIsInTheJournalGoesOnAndCanBeUndone(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		before, _, err := y.keeper().PlanPrune(t.Context(), retention.Allow{})
		y.must(err)
		ctx, kill := context.WithCancel(t.Context())
		var deletes atomic.Int32
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isDelete(req) && deletes.Add(1) == 5 {
				next.ServeHTTP(httptest.NewRecorder(), req.Clone(context.WithoutCancel(req.Context())))
				kill() // it was done, and nobody heard
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, req)
		})
		k := y.keeper()
		f, p := y.plan(k)
		if _, err := k.Prune(ctx, f, p); !errors.Is(err, fault.Partial) {
			t.Fatalf("the killed run: %v", err)
		}
		y.guard(nil)
		entries, err := y.keeper().Journal.Entries()
		y.must(err)
		folded := retention.Fold(entries)
		if last := folded[len(folded)-1]; len(folded) != 5 || last.Outcome != "" || y.github != nil && last.ID == 0 || last.At == "" {
			t.Fatalf("%d entries, the last is %+v", len(folded), last)
		}
		if _, err := y.prune(y.keeper()); err != nil {
			t.Fatal(err)
		}
		lost, err := y.keeper().Deleted("")
		y.must(err)
		if len(lost) != len(p.Deletes) {
			t.Fatalf("%d can be restored, %d were planned", len(lost), len(p.Deletes))
		}
		if err := y.keeper().Undelete(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		after, _, err := y.keeper().PlanPrune(t.Context(), retention.Allow{})
		y.must(err)
		if a, b := placesOf(before), placesOf(after); a != b {
			t.Errorf("before\n%s\nafter\n%s", a, b)
		}
		y.whole(0)
		if again, err := y.keeper().Deleted(""); err != nil || len(again) > 0 {
			t.Errorf("still to be restored: %v, %v", again, err)
		}
	})
}

// placesOf is what is there, with its tags.
func placesOf(f retention.Facts) string {
	var b strings.Builder
	for _, it := range f.Items {
		fmt.Fprintln(&b, it.At, it.Tags)
	}
	return b.String()
}

func TestC9_WhatWasTaggedBetweenPlanAndSweepStaysWithAllItNeeds(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		tops, children := map[string]graph.Node{}, map[string]graph.Node{}
		for _, tag := range []string{"demo", "sha-" + commitOf(9)} { // a name that protects, and one that does not
			children[tag] = y.push("app", "child under "+tag)
			tops[tag] = y.index("app", children[tag])
		}
		y.age(2 * day)
		k := y.keeper()
		f, p := y.plan(k)
		for tag, n := range tops {
			if !planned(p, n) || !planned(p, children[tag]) {
				t.Fatal("they were not to go in the first place")
			}
			y.tag("app", tag, n)
		}
		if _, err := k.Prune(t.Context(), f, p); err != nil {
			t.Fatal(err)
		}
		for tag, n := range tops {
			if !y.has("app", n.Digest.String()) || !y.has("app", children[tag].Digest.String()) {
				t.Errorf("what was tagged %s is gone", tag)
			}
		}
	})
}

func TestC8_ADeletionWhoseAnswerWasLostCanBeUndone(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		var once atomic.Bool
		y.guard(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isDelete(req) && once.CompareAndSwap(false, true) {
				next.ServeHTTP(httptest.NewRecorder(), req.Clone(context.WithoutCancel(req.Context())))
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			next.ServeHTTP(w, req)
		})
		entries, err := y.prune(y.keeper())
		if err != nil || len(entries) == 0 || !once.Load() {
			t.Fatalf("%d deletions, %v", len(entries), err)
		}
		lost, err := y.keeper().Deleted("")
		y.must(err)
		if len(lost) != len(entries) {
			t.Errorf("%d can be restored, %d are gone", len(lost), len(entries))
		}
		y.must(y.keeper().Undelete(t.Context(), lost))
		y.whole(0)
	})
}

// The ledger moved between plan and sweep, and no tag has followed yet.
func TestC9_WhatTheLedgerNamesSinceThePlanIsNotTakenAtAll(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		k := y.keeper()
		f, p := y.plan(k)
		c := y.candidate(0)
		y.commit(c, "prod")
		entries, err := k.Prune(t.Context(), f, p)
		y.must(err)
		for _, n := range c.Record.Images {
			if e := find(t, entries, n.Index); e.Outcome != retention.Skipped {
				t.Errorf("%s was %s", e.At, e.Outcome)
			}
		}
		y.whole(0)
	})
}

func TestC10_AgesAreTheRegistrysAndTheFutureIsYoung(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		old := y.push("app", "25 hours old")
		y.age(2 * time.Hour)
		young := y.push("app", "23 hours old")
		y.age(23 * time.Hour)
		_, p := y.plan(y.keeper())
		if !planned(p, old) || planned(p, young) {
			t.Errorf("25 hours: %v, 23 hours: %v", planned(p, old), planned(p, young))
		}
		y.age(-3 * day) // now both are from tomorrow
		if _, p = y.plan(y.keeper()); planned(p, old) || planned(p, young) {
			t.Error("what comes from the future is to be deleted")
		}
	})
}

func TestC11_ARollbackToWhatWasPrunedIsRefusedBeforeAnyTagMoves(t *testing.T) {
	onBoth(t, func(t *testing.T, y *yard) {
		k := y.keeper()
		if _, err := y.prune(k); err != nil {
			t.Fatal(err)
		}
		p := pipeline.Pipeline{Family: y.fam, Registry: k.Registry, Verifier: judge{}, Ledger: &y.rows, Progress: silence{}, Now: y.clock}
		before := y.requests()
		_, err := p.PlanRollback(t.Context(), "dev", "sha-"+commitOf(0), release.Moved{By: "operator", Run: "test", Reason: "the last one is bad"}, false)
		if !errors.Is(err, fault.Unverified) && !errors.Is(err, fault.Refused) {
			t.Errorf("PlanRollback() = %v", err)
		}
		if w := y.writes(before); len(w) > 0 {
			t.Errorf("it wrote %v", w)
		}
	})
}

func TestC12_ThePlanIsTheSameWhetherItIsAppliedAndPlanningWritesNothing(t *testing.T) {
	t.Run("a registry with the referrers API, without a list and without ages", func(t *testing.T) {
		t.Parallel()
		y := newYard(t, "another")
		before := y.requests()
		if _, p := y.plan(y.keeper()); len(p.Deletes) == 0 {
			t.Error("nothing would be deleted")
		}
		if w := y.writes(before); len(w) > 0 {
			t.Errorf("planning wrote %v", w)
		}
	})
	onBoth(t, func(t *testing.T, y *yard) {
		before := y.requests()
		_, dry := y.plan(y.keeper())
		if w := y.writes(before); len(w) > 0 {
			t.Errorf("planning wrote %v", w)
		}
		k := y.keeper()
		f, real := y.plan(k)
		real.Now = dry.Now // the embedded registry's clock goes on
		one, err := json.Marshal(dry)
		y.must(err)
		two, err := json.Marshal(real)
		y.must(err)
		if string(one) != string(two) {
			t.Errorf("plans differ:\n%s\n%s", one, two)
		}
		entries, err := k.Prune(t.Context(), f, real)
		y.must(err)
		if len(entries) != len(dry.Deletes) {
			t.Errorf("%d planned, %d come to", len(dry.Deletes), len(entries))
		}
		for i, e := range entries {
			if e.At != strings.Replace(dry.Deletes[i].At, y.host(), "yard", 1) || e.Outcome != retention.Deleted {
				t.Errorf("%d: planned %s, %s was %s", i, dry.Deletes[i].At, e.At, e.Outcome)
			}
		}
	})
}
