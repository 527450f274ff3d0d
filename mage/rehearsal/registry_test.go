package rehearsal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/rehearsal"
)

const (
	zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	manifests  = "/v2/acme/base/manifests/"
)

func TestGHCRRefusesWhatItWasSeenToRefuse(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	n := w.push("acme/base", "dev", "a")
	for fact, test := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		text               string
	}{
		"no referrers API, also for a manifest that exists": {"GET", "/v2/acme/base/referrers/" + n.Digest.String(), "", nil, 404, "MANIFEST_UNKNOWN"},
		"no deletion of a manifest":                         {"DELETE", manifests + n.Digest.String(), "", nil, 405, "UNSUPPORTED"},
		"no deletion of a tag":                              {"DELETE", manifests + "dev", "", nil, 405, "UNSUPPORTED"},
		"no deletion of a blob":                             {"DELETE", "/v2/acme/base/blobs/" + zeroDigest, "", nil, 405, "UNSUPPORTED"},
		"no catalog":                                        {"GET", "/v2/_catalog", "", nil, 405, "UNSUPPORTED"},
		"a tag nobody pushed":                               {"GET", manifests + "prod", "", nil, 404, "MANIFEST_UNKNOWN"},
		"tags of a repository nobody pushed":                {"GET", "/v2/acme/other/tags/list", "", nil, 404, "NAME_UNKNOWN"},
		"a repository without an owner":                     {"GET", "/v2/base/tags/list", "", nil, 404, "NAME_UNKNOWN"},
		"a page size that is no number":                     {"GET", "/v2/acme/base/tags/list?n=x", "", nil, 400, "PAGINATION_NUMBER_INVALID"},
		"a page size below nothing":                         {"GET", "/v2/acme/base/tags/list?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID"},
		"a manifest over blobs that were never pushed":      {"PUT", manifests + "x", manifestOver(zeroDigest), []string{"Content-Type: " + ocispec.MediaTypeImageManifest}, 400, "MANIFEST_BLOB_UNKNOWN"},
		"an index over manifests that were never pushed":    {"PUT", manifests + "x", indexOver(zeroDigest), []string{"Content-Type: " + ocispec.MediaTypeImageIndex}, 400, "MANIFEST_BLOB_UNKNOWN"},
	} {
		t.Run(fact, func(t *testing.T) {
			w.request(test.method, test.path, test.body, test.headers...).wants(t, test.status, test.text)
		})
	}
}

func manifestOver(layer string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":1}]}`,
		ocispec.MediaTypeImageManifest, layer, layer)
}

func indexOver(children ...string) string {
	var list []string
	for _, child := range children {
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, ocispec.MediaTypeImageManifest, child))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, strings.Join(list, ","))
}

func TestUploadsAreLimitedAsOnGHCR(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	atLimit, above := strings.Repeat("a", rehearsal.MaxChunk), strings.Repeat("b", rehearsal.MaxChunk+1)

	chunk := func(body string) response {
		return w.request("PATCH", w.upload("acme/base"), body, fmt.Sprintf("Content-Range: 0-%d", len(body)-1), "Content-Type: application/octet-stream")
	}
	chunk(atLimit).wants(t, http.StatusAccepted, "")
	chunk(above).wants(t, http.StatusRequestedRangeNotSatisfiable, "the request body is too large and exceeds the maximum permissible limit of 4.00MiB")

	streamed := w.request("PATCH", w.upload("acme/base"), above, "Content-Type: application/octet-stream").wants(t, http.StatusAccepted, "")
	w.request("PUT", withDigest(w.url+streamed.header.Get("Location"), above), "").wants(t, http.StatusCreated, "")
	monolithic := withDigest(w.upload("acme/base"), above)
	w.request("PUT", monolithic, above, fmt.Sprintf("Content-Range: 0-%d", len(above)-1)).wants(t, http.StatusRequestedRangeNotSatisfiable, "Content-Range")
	w.request("PUT", monolithic, above).wants(t, http.StatusCreated, "")
}

func TestReferrersAnswers(t *testing.T) { // fault row B11
	for name, test := range map[string]struct {
		referrers rehearsal.Referrers
		status    int
		mediaType string
	}{
		"404":                      {rehearsal.ReferrersMissing, 404, "application/json"},
		"200 with an empty list":   {rehearsal.ReferrersEmpty, 200, ocispec.MediaTypeImageIndex},
		"200 of another type":      {rehearsal.ReferrersMistyped, 200, "application/json"},
		"200 with an HTML page":    {rehearsal.ReferrersPage, 200, "text/html; charset=utf-8"},
		"303 to a page for people": {rehearsal.ReferrersRedirect, 303, "text/html; charset=utf-8"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rehearsal.Options{Referrers: test.referrers})
			n := w.push("acme/base", "dev", "a")
			got := w.request("GET", "/v2/acme/base/referrers/"+n.Digest.String(), "").wants(t, test.status, "")
			if got.header.Get("Content-Type") != test.mediaType {
				t.Errorf("Content-Type = %q, want %q", got.header.Get("Content-Type"), test.mediaType)
			}
		})
	}
}

func TestTagsComeInPagesOf100InLexicalOrder(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	n := w.push("acme/base", "", "a")
	r := w.repository("acme/base")
	var want []string
	for i := range 169 { // as many as smg-project/smg#2348 saw
		tag := fmt.Sprintf("t%d", i)
		if err := r.Tag(t.Context(), n, tag); err != nil {
			t.Fatal(err)
		}
		want = append(want, tag)
	}
	slices.Sort(want)

	first := w.request("GET", "/v2/acme/base/tags/list?n=10000", "").wants(t, 200, "")
	if link := first.header.Get("Link"); link != `</v2/acme/base/tags/list?last=`+want[99]+`&n=100>; rel="next"` {
		t.Errorf("Link = %s", link)
	}
	var pages []int
	var got []string
	if err := r.Tags(t.Context(), "", func(tags []string) error { pages, got = append(pages, len(tags)), append(got, tags...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) || !slices.Equal(pages, []int{100, 69}) {
		t.Errorf("oras reads pages of %v tags: %v", pages, got)
	}
	crane, err := ggcr.List(w.repo(t, "acme/base"))
	if err != nil || !slices.Equal(crane, want) {
		t.Errorf("go-containerregistry reads %d tags, %v, want %d", len(crane), err, len(want))
	}
}

func (w *world) repo(t *testing.T, repo string) name.Repository {
	t.Helper()
	r, err := name.NewRepository(strings.TrimPrefix(w.url, "http://") + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadsLagWritesByTheirNumber(t *testing.T) { // fault rows A8 and B10
	w := newWorld(t, rehearsal.Options{Lag: 2})
	old := w.push("acme/base", "", "old")
	for range 2 {
		w.manifest("acme/base", old.Digest.String()).wants(t, 404, "MANIFEST_UNKNOWN")
	}
	w.manifest("acme/base", old.Digest.String()).wants(t, 200, "old")

	put := func(text string) {
		m := w.request("PUT", manifests+"dev", mustManifest(t, text), "Content-Type: "+ocispec.MediaTypeImageManifest)
		m.wants(t, 201, "")
	}
	put("old")
	w.manifest("acme/base", "dev").wants(t, 404, "")
	w.request("GET", "/v2/acme/base/tags/list", "").wants(t, 200, `"tags":[]`)
	w.manifest("acme/base", "dev").wants(t, 200, "old")
	put("new")
	w.manifest("acme/base", "dev").wants(t, 200, "old")
	put("newer")
	for range 2 { // what was never shown is never shown
		w.manifest("acme/base", "dev").wants(t, 200, "old")
	}
	w.manifest("acme/base", "dev").wants(t, 200, "newer")
}

func mustManifest(t *testing.T, text string) string {
	t.Helper()
	m, err := graph.EncodeArtifact("application/vnd.test.v1", nil, nil, map[string]string{"text": text})
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

func TestOrasCopiesAnImageInAndOut(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	ctx := t.Context()
	source := memory.New()
	layer := strings.Repeat("layer", rehearsal.MaxChunk) // 20 MiB in one monolithic PUT
	l, err := graph.PushBytes(ctx, source, ocispec.MediaTypeImageLayer, []byte(layer))
	if err != nil {
		t.Fatal(err)
	}
	n, err := graph.PackArtifact(ctx, source, "application/vnd.test.v1", []graph.Node{l}, nil)
	if err == nil {
		err = source.Tag(ctx, n, "dev")
	}
	if err != nil {
		t.Fatal(err)
	}
	r := w.repository("acme/tools/base")
	pushed, err := oras.Copy(ctx, source, "dev", r, "dev", oras.DefaultCopyOptions)
	if err != nil || pushed.Digest != n.Digest {
		t.Fatalf("pushed %s, %v, want %s", pushed.Digest, err, n.Digest)
	}
	target := memory.New()
	if _, err := oras.Copy(ctx, r, "dev", target, "dev", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	got, err := graph.Fetch(ctx, target, l, l.Size)
	if err != nil || string(got) != layer {
		t.Errorf("pulled %d bytes, %v", len(got), err)
	}
	if err := r.Delete(ctx, n); err == nil {
		t.Error("oras deletes a manifest")
	}
	if _, err := r.Resolve(ctx, "prod"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("resolving a missing tag: %v", err)
	}
}

func TestGoContainerRegistryWritesAnIndexAndReadsItBack(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	idx, err := random.Index(1024, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	tag := w.repo(t, "acme/base").Tag("dev")
	if err := ggcr.WriteIndex(tag, idx); err != nil {
		t.Fatal(err)
	}
	back, err := ggcr.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := back.Digest()
	want, _ := idx.Digest()
	if got != want {
		t.Errorf("read %s, wrote %s", got, want)
	}
	if err := ggcr.Delete(tag); err == nil {
		t.Error("go-containerregistry deletes a tag")
	}
}

func TestGoContainerRegistryStreamsALayerAboveTheChunkLimit(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	layer := static.NewLayer([]byte(strings.Repeat("x", rehearsal.MaxChunk+1)), types.OCIUncompressedLayer)
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := ggcr.Write(w.repo(t, "acme/base").Tag("dev"), img); err != nil {
		t.Error(err)
	}
}

func TestAMountIsDoneOrAnswered202(t *testing.T) { // fault row B15
	for refused, want := range map[bool]int{false: http.StatusCreated, true: http.StatusAccepted} {
		w := newWorld(t, rehearsal.Options{RefuseMounts: refused})
		w.request("PUT", withDigest(w.upload("acme/a"), "blob"), "blob").wants(t, 201, "")
		mount := "/v2/acme/b/blobs/uploads/?mount=" + digest.FromString("blob").String() + "&from=acme/a"
		w.request("POST", mount, "").wants(t, want, "")
		w.request("HEAD", "/v2/acme/b/blobs/"+digest.FromString("blob").String(), "").wants(t, map[bool]int{false: 200, true: 404}[refused], "")
	}
}

func TestBlobsLiveOnAnotherHostThatWantsNoAuthorization(t *testing.T) { // fault row B13
	w := newWorld(t, rehearsal.Options{})
	host := httptest.NewServer(w.github.BlobHost())
	t.Cleanup(host.Close)
	w.request("PUT", withDigest(w.upload("acme/a"), "blob"), "blob").wants(t, 201, "")
	w.github.RedirectBlobs(host.URL)

	path := "/v2/acme/a/blobs/" + digest.FromString("blob").String()
	to := w.request("GET", path, "").wants(t, http.StatusTemporaryRedirect, "").header.Get("Location")
	w.request("GET", to, "").wants(t, 200, "blob")
	w.request("GET", to, "", "Range: bytes=1-2").wants(t, http.StatusPartialContent, "lo")
	w.request("GET", to, "", "Authorization: Bearer x").wants(t, http.StatusBadRequest, "Authorization")
	w.request("GET", strings.Replace(to, "sig=", "s=", 1), "").wants(t, http.StatusForbidden, "")
	w.request("HEAD", path, "").wants(t, 200, "")
	w.request("GET", "/v2/acme/a/blobs/"+zeroDigest, "").wants(t, 404, "BLOB_UNKNOWN")

	n := w.push("acme/a", "dev", "a")
	if _, err := oras.Copy(context.Background(), w.repository("acme/a"), n.Digest.String(), memory.New(), "", oras.DefaultCopyOptions); err != nil {
		t.Errorf("oras pulls through the redirect: %v", err)
	}
}

func TestARepositoryOfAnEmptyIndexIsInTheSnapshot(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	w.request("PUT", manifests+"sha256-"+strings.Repeat("0", 64), indexOver(), "Content-Type: "+ocispec.MediaTypeImageIndex).wants(t, 201, "")
	if got := string(w.github.Snapshot()); !strings.HasPrefix(got, "repository acme/base\nmanifest ") {
		t.Errorf("snapshot %s", got)
	}
}

func TestAPathThatGitHubDoesNotServeIsAPageForPeople(t *testing.T) {
	newWorld(t, rehearsal.Options{}).request("GET", "/login", "").wants(t, 404, "for people")
}

func TestAManifestAbove4MiBIsRefused(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	w.request("PUT", manifests+"big", strings.Repeat(" ", graph.MaxManifest+1), "Content-Type: "+ocispec.MediaTypeImageManifest).wants(t, 413, "4 MiB")
}

func TestForeignLayersAreAccepted(t *testing.T) {
	w := newWorld(t, rehearsal.Options{})
	w.push("acme/base", "dev", "a") // its configuration, {}, is there now
	manifest := strings.Replace(manifestOver(digest.FromString("{}").String()), `"layers":[{"mediaType":"a/b","digest":"`+digest.FromString("{}").String()+`"`,
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","urls":["https://example.com/layer"],"digest":"`+zeroDigest+`"`, 1)
	w.request("PUT", manifests+"foreign", manifest, "Content-Type: "+ocispec.MediaTypeImageManifest).wants(t, 201, "")
}
