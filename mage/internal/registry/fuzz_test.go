package registry

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/graph"
)

func FuzzDecodeIndexHoldsOnlyDigests(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../.."}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		x, err := decodeIndex(content)
		if err != nil {
			return
		}
		for _, n := range x.Manifests {
			if n.Digest.Validate() != nil {
				t.Errorf("accepted %q", n.Digest)
			}
		}
	})
}

func FuzzDecodeReferrerNamesAProperSubject(f *testing.F) {
	f.Add([]byte(`{"artifactType":"a/b","config":{"mediaType":"c/d"},"subject":{"digest":"sha256:` + strings.Repeat("0", 64) + `"}}`))
	f.Add([]byte(`{"subject":{}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		n := graph.NewNode(ocispec.MediaTypeImageManifest, content)
		subject, entry, err := decodeReferrer(n, content)
		if err != nil {
			return
		}
		if entry.Digest != digest.FromBytes(content) {
			t.Errorf("the entry names %s", entry.Digest)
		}
		if subject != nil && len(fallbackTag(*subject)) > 128 {
			t.Errorf("fallback tag %q", fallbackTag(*subject))
		}
	})
}

func FuzzDecodeMediaTypeNeverContradictsTheHeader(f *testing.F) {
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"mediaType":"`+ocispec.MediaTypeImageIndex+`"}`))
	f.Add("text/html; charset=utf-8", []byte(`{}`))
	f.Fuzz(func(t *testing.T, header string, content []byte) {
		if got, err := decodeMediaType(header, content); err == nil && !strings.HasPrefix(strings.ToLower(strings.TrimSpace(header)), got) {
			t.Errorf("%q became %q", header, got)
		}
	})
}
