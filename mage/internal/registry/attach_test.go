package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
)

func TestTheFallbackIndexSaysWhatItsManifestsSay(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, n := copied(t, r, 1)
	evidence, _, err := r.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte(`{}`)}, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	// What any other client sees: distribution specification v1.1.1, "Referrers Tag Schema".
	resp, err := http.Get("http://" + host + "/v2/family/app/manifests/sha256-" + n.Digest.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got ocispec.Index
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: evidence.Digest, Size: evidence.Size,
		ArtifactType: sbomType, Annotations: map[string]string{"k": "v"},
	}}
	if diff := cmp.Diff(want, got.Manifests); diff != "" || got.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("%s index: %s", got.MediaType, diff)
	}
}

func TestAListedManifestThatIsGoneIsReportedAndDoesNotBlock(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, n := copied(t, r, 1)
	gone, _, err := r.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte("1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, fmt.Sprintf("http://%s/v2/family/app/manifests/%s", host, gone.Digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("deleting: %v, %v", resp, err)
	}
	fresh := repo(t, client(t, host), "app")
	found, err := fresh.Referrers(t.Context(), n)
	if err != nil || len(found) != 1 || !found[0].Missing || found[0].ArtifactType != "" {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
	// distribution refuses an index that names what is not there.
	if _, _, err := fresh.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("2")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, written, err := fresh.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte("1")}, nil); !written || err != nil {
		t.Errorf("attaching the lost one again: %v, %v", written, err)
	}
	if found, err := fresh.Referrers(t.Context(), n); len(found) != 2 || err != nil {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAReferrerOfSomethingElseIsForged(t *testing.T) {
	host := embedded(t)
	r := repo(t, client(t, host), "app")
	_, a := copied(t, r, 1)
	_, b := copied(t, r, 2)
	if _, _, err := r.Attach(t.Context(), a, proofType, registry.Layer{MediaType: proofType, Content: []byte("good")}, nil); err != nil {
		t.Fatal(err)
	}
	// An attacker lists a's evidence for b.
	index, err := http.Get("http://" + host + "/v2/family/app/manifests/sha256-" + a.Digest.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	defer index.Body.Close()
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+"/v2/family/app/manifests/sha256-"+b.Digest.Encoded(), index.Body)
	if err != nil {
		t.Fatal(err)
	}
	put.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
	if resp, err := http.DefaultClient.Do(put); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("listing: %v, %v", resp, err)
	}
	if found, err := repo(t, client(t, host), "app").Referrers(t.Context(), b); !errors.Is(err, fault.Forged) {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAManifestWithASubjectIsListedHoweverItArrives(t *testing.T) {
	from, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := image(t, from, 1)
	evidence, _, err := from.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte("1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := repo(t, client(t, embedded(t)), "app")
	for _, root := range []graph.Node{n, evidence} {
		if err := r.CopyFrom(t.Context(), from, root); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := r.Referrers(t.Context(), n); err != nil || len(found) != 1 || found[0].Node.Digest != evidence.Digest {
		t.Errorf("Referrers = %+v, %v", found, err)
	}
}

func TestAnArtifactTypeIsAMediaType(t *testing.T) {
	l, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, artifactType := range []string{"", "sbom", "a b/c", "a/b\n"} {
		if _, err := graph.PackArtifact(t.Context(), l, artifactType, nil, nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("PackArtifact(%q) = %v", artifactType, err)
		}
	}
}
