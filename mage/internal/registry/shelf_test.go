package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/retention"
)

// What has a digest is read once: on GHCR every GET of a manifest counts as a download.
func TestAManifestIsReadOnceByAllProcesses(t *testing.T) {
	w := ghcr(t, rehearsal.Options{})
	n := image(t, repo(t, client(t, w.host), "app"), 1)
	cache := t.TempDir()
	before := w.calls(http.MethodGet, "/manifests/")
	for range 3 {
		c, err := registry.New(w.host+"/family", registry.Options{Pause: time.Millisecond, Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		got, content, found, err := repo(t, c, "app").Manifest(t.Context(), n.Digest)
		if err != nil || !found || got.Digest != n.Digest || got.MediaType != n.MediaType || got.Size != int64(len(content)) {
			t.Fatalf("Manifest() = %+v, %v, %v", got, found, err)
		}
	}
	if reads := w.calls(http.MethodGet, "/manifests/") - before; reads != 1 {
		t.Errorf("it was read %d times", reads)
	}
}

func TestAShelfSaysWhatBecameOfADeletion(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		want   retention.Outcome
		kind   fault.Kind
	}{
		"it is done":                     {http.StatusAccepted, retention.Deleted, 0},
		"somebody else did it":           {http.StatusNotFound, retention.Absent, 0},
		"the registry keeps it":          {http.StatusPreconditionFailed, retention.Retained, 0},
		"the registry deletes nothing":   {http.StatusMethodNotAllowed, "", fault.Environment},
		"this login may not":             {http.StatusForbidden, "", fault.Environment},
		"the registry is ill, and stays": {http.StatusBadGateway, "", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodDelete {
					w.WriteHeader(test.status)
					return
				}
				w.WriteHeader(http.StatusNotFound)
			}))
			c, err := registry.New(host+"/family", registry.Options{Pause: time.Microsecond, Budget: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			r := repo(t, c, "app")
			d := graph.NewNode("", []byte("x")).Digest
			got, why, err := registry.NewShelf(r, nil).Delete(t.Context(), graph.Item{At: ref.Pinned{Repo: r.Name(), Digest: d}, Tags: []string{"dev"}})
			if got != test.want || (test.kind == 0) != (err == nil) || test.kind != 0 && !errors.Is(err, test.kind) {
				t.Errorf("Delete() = %q, %q, %v", got, why, err)
			}
			if (got == retention.Retained) != (why != "") {
				t.Errorf("the reason is %q", why)
			}
		})
	}
}

func TestWhatWasKeptOfAnotherManifestIsNotRestored(t *testing.T) {
	w := ghcr(t, rehearsal.Options{})
	r := repo(t, client(t, w.host), "app")
	e := retention.Entry{At: r.Name().String() + "@" + graph.NewNode("", []byte("x")).Digest.String(), MediaType: "application/vnd.oci.image.manifest.v1+json"}
	if err := registry.NewShelf(r, nil).Restore(t.Context(), e, []byte("y")); !errors.Is(err, fault.Forged) || strings.Contains(string(w.Snapshot()), "manifest") {
		t.Errorf("Restore() = %v", err)
	}
}

func TestARegistrysTimeIsItsDate(t *testing.T) {
	w := ghcr(t, rehearsal.Options{})
	at, err := client(t, w.host).Time(t.Context())
	if err != nil || !at.Equal(rehearsal.Epoch()) {
		t.Errorf("Time() = %s, %v", at, err)
	}
}
