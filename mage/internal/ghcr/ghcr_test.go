package ghcr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/retention"
)

// world is a package with a number of artifacts, none of them tagged but the last, behind rules.
type world struct {
	github   *rehearsal.GitHub
	injector *rehearsal.Injector
	shelf    *ghcr.Shelf
	url      string
}

func newWorld(t *testing.T, owner string, n int, o rehearsal.Options, rules ...rehearsal.Rule) *world {
	t.Helper()
	github := rehearsal.New(o)
	injector, err := rehearsal.NewInjector(github, rules...)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(injector)
	t.Cleanup(server.Close)
	w := &world{github: github, injector: injector, url: server.URL}
	w.shelf = w.as(t, owner, "")
	upload(t, github, owner)
	for i := range n {
		put(t, github, owner, fmt.Sprint(i), map[bool]string{true: "dev"}[i == n-1])
	}
	return w
}

func (w *world) as(t *testing.T, owner, secret string) *ghcr.Shelf {
	t.Helper()
	c, err := ghcr.New(owner, ghcr.Options{API: w.url, Pause: time.Microsecond, Token: func(context.Context) (string, error) { return secret, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c.Shelf("app", nowhere(ref.Repo{Host: "ghcr.io", Path: owner + "/app"}))
}

// nowhere is the repository of a shelf whose manifests are not read.
type nowhere ref.Repo

func (n nowhere) Name() ref.Repo { return ref.Repo(n) }
func (nowhere) Manifest(context.Context, digest.Digest) (graph.Node, []byte, bool, error) {
	return graph.Node{}, nil, false, nil
}

func upload(t *testing.T, g http.Handler, owner string) {
	t.Helper()
	open := httptest.NewRecorder()
	g.ServeHTTP(open, httptest.NewRequest(http.MethodPost, "/v2/"+owner+"/app/blobs/uploads/", nil))
	put := httptest.NewRecorder()
	g.ServeHTTP(put, httptest.NewRequest(http.MethodPut, open.Header().Get("Location")+"&digest="+digest.FromString("{}").String(), strings.NewReader("{}")))
	if put.Code != http.StatusCreated {
		t.Fatalf("uploading: %d", put.Code)
	}
}

func put(t *testing.T, g http.Handler, owner, text, tag string) digest.Digest {
	t.Helper()
	content, err := graph.EncodeArtifact("application/vnd.test.v1", nil, nil, map[string]string{"text": text})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	if tag == "" {
		tag = d.String()
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/"+owner+"/app/manifests/"+tag, bytes.NewReader(content))
	req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	answer := httptest.NewRecorder()
	g.ServeHTTP(answer, req)
	if answer.Code != http.StatusCreated {
		t.Fatalf("pushing: %d %s", answer.Code, answer.Body)
	}
	return d
}

func TestAListIsCompleteForOrganisationsAndUsers(t *testing.T) {
	for _, owner := range []string{"acme", "octocat"} {
		t.Run(owner, func(t *testing.T) {
			for _, n := range []int{100, 200, 250} {
				w := newWorld(t, owner, n, rehearsal.Options{Users: []string{"octocat"}})
				if items, _, err := w.shelf.List(t.Context()); err != nil || len(items) != n {
					t.Fatalf("%d of %d items, %v", len(items), n, err)
				}
			}
			w := newWorld(t, owner, 250, rehearsal.Options{Users: []string{"octocat"}})
			items, at, err := w.shelf.List(t.Context())
			if err != nil || len(items) != 250 || !at.Equal(rehearsal.Epoch()) {
				t.Fatalf("%d items at %s, %v", len(items), at, err)
			}
			if it := items[0]; fmt.Sprint(it.Tags) != "[dev]" || it.ID == 0 || !it.Since.Equal(rehearsal.Epoch()) || it.At.Repo.Path != owner+"/app" {
				t.Errorf("the newest is %+v", it)
			}
		})
	}
}

func TestAPackageThatIsNotThereHoldsNothing(t *testing.T) {
	w := newWorld(t, "acme", 1, rehearsal.Options{})
	items, _, err := w.as(t, "nobody", "").List(t.Context())
	if err != nil || len(items) != 0 {
		t.Errorf("List() = %v, %v", items, err)
	}
}

// B12: what comes or goes between two pages would be listed twice, or not at all.
func TestB12_AListDuringWhichSomethingIsDeletedIsReadAgain(t *testing.T) {
	w := newWorld(t, "acme", 250, rehearsal.Options{})
	items, _, err := w.shelf.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleted := false
	front := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("page") == "2" && !deleted {
			deleted = true
			w.github.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, fmt.Sprintf("/orgs/acme/packages/container/app/versions/%d", items[100].ID), nil))
		}
		w.github.ServeHTTP(rw, req)
	})
	server := httptest.NewServer(front)
	defer server.Close()
	w.url = server.URL
	again, _, err := w.as(t, "acme", "").List(t.Context())
	if err != nil || len(again) != 249 {
		t.Errorf("%d of 249 items, %v", len(again), err)
	}
}

// behind lists a package through somebody who changes the answers on their way.
func (w *world) behind(t *testing.T, door func(rw http.ResponseWriter, req *http.Request)) *ghcr.Shelf {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(door))
	t.Cleanup(server.Close)
	w.url = server.URL
	return w.as(t, "acme", "")
}

// B12: one is deleted, the others move up over the border of a page, and a push makes the count right again.
func TestB12_AListThatLostOneToADeletionAndAPushIsReadAgain(t *testing.T) {
	w := newWorld(t, "acme", 250, rehearsal.Options{})
	items, _, err := w.shelf.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	again, _, err := w.behind(t, func(rw http.ResponseWriter, req *http.Request) {
		calls++
		w.github.ServeHTTP(rw, req)
		switch calls { // of a list that is read page by page: the package, three pages, the package
		case 2:
			w.github.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, fmt.Sprintf("/orgs/acme/packages/container/app/versions/%d", items[50].ID), nil))
		case 4:
			put(t, w.github, "acme", "one more", "")
		}
	}).List(t.Context())
	if err != nil || len(again) != 250 || calls < 10 {
		t.Errorf("%d of 250 items after %d calls, %v", len(again), calls, err)
	}
}

// B12: somebody between us and GitHub takes the links away.
func TestB12_AFullPageWithoutLinksIsNotTheLast(t *testing.T) {
	for _, n := range []int{99, 100, 101, 250} {
		w := newWorld(t, "acme", n, rehearsal.Options{})
		items, _, err := w.behind(t, func(rw http.ResponseWriter, req *http.Request) {
			answer := httptest.NewRecorder()
			w.github.ServeHTTP(answer, req)
			maps.Copy(rw.Header(), answer.Header())
			rw.Header().Del("Link")
			rw.WriteHeader(answer.Code)
			rw.Write(answer.Body.Bytes())
		}).List(t.Context())
		if err != nil || len(items) != n {
			t.Errorf("%d of %d items, %v", len(items), n, err)
		}
	}
}

// A list that is shorter than GitHub's own count is believed when it says the same twice, and not before.
func TestB12_AListThatDiffersFromTheCountIsBelievedOnlyWhenItStands(t *testing.T) {
	for name, stands := range map[string]bool{"the same each time": true, "another each time": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "acme", 5, rehearsal.Options{})
			var n int
			items, _, err := w.behind(t, func(rw http.ResponseWriter, req *http.Request) {
				answer := httptest.NewRecorder()
				w.github.ServeHTTP(answer, req)
				body := answer.Body.Bytes()
				if strings.HasSuffix(req.URL.Path, "/versions") {
					var list []json.RawMessage
					if err := json.Unmarshal(body, &list); err != nil {
						t.Error(err)
					}
					drop := 2
					if !stands {
						drop, n = n%5, n+1
					}
					body, _ = json.Marshal(slices.Delete(list, drop, drop+1))
				}
				maps.Copy(rw.Header(), answer.Header())
				rw.Write(body)
			}).List(t.Context())
			if stands && (err != nil || len(items) != 4) || !stands && !errors.Is(err, fault.Unavailable) {
				t.Errorf("%d items, %v", len(items), err)
			}
		})
	}
}

func TestARefusalSaysWhoMay(t *testing.T) {
	for status, hint := range map[int]string{
		http.StatusForbidden:    "the role Admin under the package's settings",
		http.StatusUnauthorized: "docker login ghcr.io",
	} {
		w := newWorld(t, "acme", 2, rehearsal.Options{}, rehearsal.Rule{Method: http.MethodDelete, Fault: rehearsal.Answer(status)})
		items, _, err := w.shelf.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.shelf.Delete(t.Context(), items[1]); !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), hint) {
			t.Errorf("%d: %v, hint %q", status, err, fault.HintOf(err))
		}
	}
}

func TestPassingFailuresAreRepeatedAndTheRestIsAnError(t *testing.T) {
	for name, test := range map[string]struct {
		fault rehearsal.Fault
		calls int // that it disturbs; 0: every one
		kind  fault.Kind
	}{
		"one 502":                    {rehearsal.Answer(http.StatusBadGateway), 1, 0},
		"one broken connection":      {rehearsal.HangUp(), 1, 0},
		"one secondary limit":        {rehearsal.SecondaryLimited(), 1, 0},
		"502 for ever":               {rehearsal.Answer(http.StatusBadGateway), 0, fault.Unavailable},
		"a secondary limit for ever": {rehearsal.SecondaryLimited(), 0, fault.Unavailable},
		"a page for people":          {rehearsal.Fault{Status: http.StatusOK, Body: "<html>"}, 0, fault.Forged},
		"a denial":                   {rehearsal.Answer(http.StatusForbidden), 0, fault.Environment},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "acme", 3, rehearsal.Options{}, rehearsal.Rule{Path: "/versions$", Call: test.calls, Fault: test.fault})
			items, _, err := w.shelf.List(t.Context())
			switch {
			case test.kind == 0 && (err != nil || len(items) != 3):
				t.Errorf("%d items, %v", len(items), err)
			case test.kind != 0 && !errors.Is(err, test.kind):
				t.Errorf("List() = %v, want %v", err, test.kind)
			}
		})
	}
}

func TestTheHoursLastCallsAreLeftToOthers(t *testing.T) {
	w := newWorld(t, "acme", 30, rehearsal.Options{RateLimit: 30})
	items, _, err := w.shelf.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var deleted int
	for _, it := range items[1:] {
		outcome, _, err := w.shelf.Delete(t.Context(), it)
		if err != nil {
			if !errors.Is(err, ghcr.ErrBudget) || !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "2026-01-01T01:00:00Z") {
				t.Errorf("Delete() = %v", err)
			}
			break
		}
		if outcome != retention.Deleted {
			t.Errorf("%s was %s", it.At, outcome)
		}
		deleted++
	}
	if deleted == 0 || deleted > 30-3 {
		t.Errorf("%d of an hour of 30 calls deleted something, three are to be left", deleted)
	}
}

func TestAVersionComesBackOrSaysWhyNot(t *testing.T) {
	w := newWorld(t, "acme", 3, rehearsal.Options{})
	items, _, err := w.shelf.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	it := items[1]
	entry := retention.NewEntry("run", it.At.String(), it, rehearsal.Epoch())
	if _, _, err := w.shelf.Delete(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	if _, found, err := w.shelf.Look(t.Context(), it); err != nil || found {
		t.Errorf("it is there: %v, %v", found, err)
	}
	if err := w.shelf.Restore(t.Context(), entry, nil); err != nil {
		t.Fatal(err)
	}
	if _, found, err := w.shelf.Look(t.Context(), it); err != nil || !found {
		t.Errorf("it is not there: %v, %v", found, err)
	}
	if err := w.shelf.Restore(t.Context(), entry, nil); !errors.Is(err, fault.Unverified) || fault.HintOf(err) == "" {
		t.Errorf("a second time: %v", err)
	}
	if err := w.as(t, "nobody", "").Restore(t.Context(), entry, nil); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("where there is no package: %v", err)
	}
}

func TestAnAddressThatIsNoHTTPSIsRefused(t *testing.T) {
	for _, api := range []string{"http://api.example.com", "api.github.com", "ftp://127.0.0.1"} {
		if _, err := ghcr.New("acme", ghcr.Options{API: api}); !errors.Is(err, fault.Invalid) {
			t.Errorf("New(%q) = %v", api, err)
		}
	}
}

func FuzzList(f *testing.F) {
	one, _ := json.Marshal([]map[string]any{{"id": 1, "name": digest.FromString("a"), "metadata": map[string]any{"container": map[string]any{"tags": []string{"dev"}}}}})
	f.Add(one, `<https://api.github.com/x?page=2>; rel="next"`)
	f.Fuzz(func(t *testing.T, body []byte, link string) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.HasSuffix(req.URL.Path, "/versions") {
				fmt.Fprint(w, `{"version_count":1}`)
				return
			}
			w.Header()["Link"] = []string{strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return -1
				}
				return r
			}, link)}
			w.Write(body)
		}))
		defer server.Close()
		c, err := ghcr.New("acme", ghcr.Options{API: server.URL, Pause: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		items, _, err := c.Shelf("app", nowhere{}).List(ctx)
		for _, it := range items {
			if err == nil && (it.At.Digest.Validate() != nil || it.ID == 0) {
				t.Errorf("%+v was listed", it)
			}
		}
	})
}
