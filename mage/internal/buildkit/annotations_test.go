package buildkit

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

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
		"the vetted base on the pinned image":        {"base", pinned, based},
		"the vetted base on a mirror's root":         {"base", osBase{local: true}, nil},
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
