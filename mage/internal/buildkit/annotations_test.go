package buildkit

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

func TestAnnotationsStateNoBaseThatTheyDoNotKnow(t *testing.T) {
	f := testFamily([]string{"linux/amd64"}, "app")
	src := release.Source{Commit: strings.Repeat("a", 40), Dirty: "deadbeef", Epoch: time.Unix(1_700_000_000, 0).In(time.FixedZone("east", 3600))}
	common := map[string]string{
		"org.opencontainers.image.created":  "2023-11-14T22:13:20Z",
		"org.opencontainers.image.revision": src.Commit + "-dirty-deadbeef",
		"org.opencontainers.image.source":   f.Source,
		"org.opencontainers.image.version":  "sha-" + src.Commit + "-dirty-deadbeef",
	}
	pinned := osBase{name: "docker.io/library/debian:bookworm-slim", digest: digest.FromString("debian")}
	based := map[string]string{"org.opencontainers.image.base.name": pinned.name, "org.opencontainers.image.base.digest": pinned.digest.String()}
	for name, test := range map[string]struct {
		target string
		base   osBase
		more   map[string]string
	}{
		"a root on the pinned image":                 {"base", pinned, based},
		"a root on a mirror's root file system":      {"base", osBase{local: true}, nil},
		"an image whose parent is of the same solve": {"app", pinned, nil},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]string{}
			for _, m := range []map[string]string{common, test.more} {
				for key, value := range m {
					want[key] = value
				}
			}
			labels := map[string]string{"org.opencontainers.image.base.digest": "a lie", "maintainer": "nobody"}
			got := annotations(release.Plan{Family: f, Source: src}, Target{Name: test.target, Labels: labels}, test.base)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("annotations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnIndexSaysWhatAllItsManifestsSayAndItsParent(t *testing.T) {
	s := memory.New()
	manifests := map[string]graph.Node{}
	for _, platform := range []string{"amd64", "arm64"} {
		content, err := json.Marshal(ocispec.Manifest{
			MediaType:   ocispec.MediaTypeImageManifest,
			Annotations: map[string]string{"same": "on both", "differs": platform, platform: "alone"},
		})
		if err != nil {
			t.Fatal(err)
		}
		n, err := graph.PushBytes(t.Context(), s, ocispec.MediaTypeImageManifest, content)
		if err != nil {
			t.Fatal(err)
		}
		n.Platform = &ocispec.Platform{OS: "linux", Architecture: platform}
		manifests["linux/"+platform] = n
	}
	parent := digest.FromString("parent")
	for name, test := range map[string]struct {
		parent graph.Node
		want   map[string]string
	}{
		"an image": {graph.Node{Digest: parent}, map[string]string{"same": "on both", "org.opencontainers.image.base.digest": parent.String()}},
		"the base": {graph.Node{}, map[string]string{"same": "on both"}},
	} {
		t.Run(name, func(t *testing.T) {
			node, err := assemble(t.Context(), s, manifests, test.parent)
			if err != nil {
				t.Fatal(err)
			}
			index, err := graph.Index(t.Context(), s, node)
			if diff := cmp.Diff(test.want, index.Annotations); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
