package buildkit

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/pack"
)

// handedOverImage is an image as our builds hand it over: on one layer of its base in gzip, and layers in zstd,
// of which the configuration says the digests.
func handedOverImage(t *testing.T, store *oci.Store, base []byte, says []digest.Digest, layers ...string) graph.Node {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	push := func(mediaType string, content []byte) graph.Node {
		n, err := graph.PushBytes(t.Context(), store, mediaType, content)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	m.Layers = append(m.Layers, push(ocispec.MediaTypeImageLayerGzip, base))
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		m.Layers = append(m.Layers, push(ocispec.MediaTypeImageLayerZstd, encoder.EncodeAll([]byte(layer), nil)))
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: says}}
	m.Config = push(ocispec.MediaTypeImageConfig, encode(t, config))
	return push(ocispec.MediaTypeImageManifest, encode(t, m))
}

func TestALayerIsCompressedOnceForAllImages(t *testing.T) {
	_, from := newLayout(t)
	_, into := newLayout(t)
	base := gzipped(t, "the base")
	diffs := []digest.Digest{digest.FromString("the base"), digest.FromString("shared"), digest.FromString("own")}
	times, scratch := 0, t.TempDir()
	p := packer{created: time.Unix(1_700_000_000, 0), dir: scratch, packed: map[digest.Digest]graph.Node{}, compress: func(ctx context.Context, w io.Writer, r io.Reader) error {
		times++
		return pack.Compress(ctx, w, r)
	}}
	var layers [][]graph.Node
	for _, n := range []graph.Node{handedOverImage(t, from, base, diffs[:2], "shared"), handedOverImage(t, from, base, diffs, "shared", "own")} {
		got, err := p.image(t.Context(), from, into, n)
		if err != nil {
			t.Fatal(err)
		}
		m, config, err := readBuilt(t.Context(), into, got)
		if err != nil || !config.Created.Equal(p.created) {
			t.Errorf("the image was created %v, %v", config.Created, err)
		}
		for i, layer := range m.Layers {
			if content := string(fetchUnpacked(t, into, layer)); layer.MediaType != ocispec.MediaTypeImageLayerGzip || digest.FromString(content) != config.RootFS.DiffIDs[i] {
				t.Errorf("layer %d has type %s and content %q", i, layer.MediaType, content)
			}
		}
		layers = append(layers, m.Layers)
	}
	if times != 2 {
		t.Errorf("two layers were compressed %d times", times)
	}
	if layers[0][0].Digest != digest.FromBytes(base) {
		t.Errorf("the base's layer became %s", layers[0][0].Digest)
	}
	if layers[0][1].Digest != layers[1][1].Digest {
		t.Error("the image does not begin with its parent's layers")
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestALayerThatIsNotWhatItsImageSaysIsNotCollected(t *testing.T) {
	for name, says := range map[string][]digest.Digest{
		"another digest": {digest.FromString("the base"), digest.FromString("another")},
		"no digest":      {digest.FromString("the base")},
	} {
		t.Run(name, func(t *testing.T) {
			_, from := newLayout(t)
			_, into := newLayout(t)
			p := packer{dir: t.TempDir(), packed: map[digest.Digest]graph.Node{}, compress: pack.Compress}
			_, err := p.image(t.Context(), from, into, handedOverImage(t, from, gzipped(t, "the base"), says, "layer"))
			if kind, _ := fault.KindOf(err); kind != fault.BuildFailed || !strings.Contains(err.Error(), digest.FromString("layer").String()) {
				t.Errorf("image = %v, want a failed build that names the digest", err)
			}
		})
	}
}

func gzipped(t *testing.T, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := pack.Compress(t.Context(), &out, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fetchUnpacked(t *testing.T, s graph.Store, n graph.Node) []byte {
	t.Helper()
	blob, err := s.Fetch(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	content, err := unpacked(n.MediaType, blob)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	all, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
