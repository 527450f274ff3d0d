package graph_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestLinksOfEveryKindOfManifest(t *testing.T) {
	a := graph.Node{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:" + hexA, Size: 7}
	for name, test := range map[string]struct {
		mediaType, content string
		want               graph.Links
	}{
		"an index":                 {ocispec.MediaTypeImageIndex, `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + hexA + `","size":7}]}`, graph.Links{Children: []graph.Node{a}}},
		"a Docker list":            {"application/vnd.docker.distribution.manifest.list.v2+json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + hexA + `","size":7}]}`, graph.Links{Children: []graph.Node{a}}},
		"an image":                 {ocispec.MediaTypeImageManifest, `{"config":{"mediaType":"c/c","digest":"sha256:` + hexA + `","size":7},"layers":[{"digest":"sha256:` + hexB + `","size":9}],"annotations":{"org.opencontainers.image.base.digest":"sha256:` + hexB + `"}}`, graph.Links{ArtifactType: "c/c", Bytes: 16, Base: "sha256:" + hexB}},
		"a referrer":               {ocispec.MediaTypeImageManifest, `{"artifactType":"a/b","config":{"mediaType":"c/c","digest":"sha256:` + hexA + `","size":2},"subject":{"digest":"sha256:` + hexB + `"}}`, graph.Links{ArtifactType: "a/b", Bytes: 2, Subject: "sha256:" + hexB}},
		"an old artifact":          {"application/vnd.oci.artifact.manifest.v1+json", `{"artifactType":"a/b","blobs":[{"digest":"sha256:` + hexA + `","size":3}],"subject":{"digest":"sha256:` + hexB + `"}}`, graph.Links{ArtifactType: "a/b", Bytes: 3, Subject: "sha256:" + hexB}},
		"a base that is no digest": {ocispec.MediaTypeImageManifest, `{"annotations":{"org.opencontainers.image.base.digest":"debian"}}`, graph.Links{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := graph.ReadLinks(graph.NewNode(test.mediaType, []byte(test.content)), []byte(test.content))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLinksThatCannotBeReadAreNoLinks(t *testing.T) {
	for name, test := range map[string]struct {
		mediaType, content string
		kind               fault.Kind
	}{
		"an unknown media type": {"application/vnd.other", `{}`, fault.Refused},
		"no JSON":               {ocispec.MediaTypeImageIndex, `<html>`, fault.Forged},
		"a child without one":   {ocispec.MediaTypeImageIndex, `{"manifests":[{"digest":"sha256:1"}]}`, fault.Forged},
		"a subject without one": {ocispec.MediaTypeImageManifest, `{"subject":{"digest":"x"}}`, fault.Forged},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := graph.ReadLinks(graph.NewNode(test.mediaType, []byte(test.content)), []byte(test.content))
			if !errors.Is(err, test.kind) {
				t.Errorf("ReadLinks() = %v, want %v", err, test.kind)
			}
		})
	}
}

func TestATagStandsForADigestOrIsAName(t *testing.T) {
	for tag, want := range map[string]graph.Via{
		"sha256-" + hexA:          graph.Fallback,
		"sha256-" + hexA + ".sig": graph.Legacy,
		"sha256-" + hexA + ".att": graph.Legacy,
		"sha256-" + hexA + "-x":   "",
		"sha256-" + hexA[:63]:     "",
		"dev":                     "",
		"sha-" + hexA[:40]:        "",
	} {
		d, via, ok := graph.TagSubject(tag)
		if via != want || ok != (want != "") || ok && d != digest.Digest("sha256:"+hexA) {
			t.Errorf("TagSubject(%q) = %s, %s, %v", tag, d, via, ok)
		}
		if via == graph.Fallback && graph.FallbackTag(d) != tag {
			t.Errorf("FallbackTag(%s) = %s", d, graph.FallbackTag(d))
		}
	}
}

func FuzzReadLinks(f *testing.F) {
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[{"digest":"sha256:`+hexA+`"}]}`))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		l, err := graph.ReadLinks(graph.NewNode(mediaType, content), content)
		if err == nil && l.Subject != "" && l.Subject.Validate() != nil {
			t.Errorf("subject %q was accepted", l.Subject)
		}
	})
}
