package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// Difference is the first thing in which two builds of an image on a platform are not the same.
type Difference struct {
	Layer       int      `json:"layer"`                 // 1 is the lowest; 0: the layers are the same, what speaks of them is not
	Instruction string   `json:"instruction,omitempty"` // what made the layer
	Path        string   `json:"path,omitempty"`        // the first that differs; empty: only the packing does
	What        []string `json:"what"`                  // of the path: content, mode, modification time, owner …
	Others      int      `json:"others"`                // paths of the layer that differ beside it
}

// maxEntries bounds the files of one layer that is compared.
const maxEntries = 2_000_000

// Compare returns the first difference of two builds of one platform manifest, each in the store that
// holds it; nil when they are the same bytes.
func Compare(ctx context.Context, first, second graph.Store, a, b graph.Node) (*Difference, error) {
	if a.Digest == b.Digest {
		return nil, nil
	}
	was, config, err := readBuilt(ctx, first, a)
	if err != nil {
		return nil, err
	}
	is, _, err := readBuilt(ctx, second, b)
	if err != nil {
		return nil, err
	}
	for i := range min(len(was.Layers), len(is.Layers)) {
		if was.Layers[i].Digest == is.Layers[i].Digest {
			continue
		}
		d, err := compareLayers(ctx, first, second, was.Layers[i], is.Layers[i])
		if err != nil {
			return nil, err
		}
		d.Layer, d.Instruction = i+1, instruction(config, i)
		return &d, nil
	}
	if len(was.Layers) != len(is.Layers) {
		return &Difference{Layer: min(len(was.Layers), len(is.Layers)) + 1, What: []string{fmt.Sprintf("%d layers, then %d", len(was.Layers), len(is.Layers))}}, nil
	}
	if was.Config.Digest != is.Config.Digest {
		a, b = was.Config, is.Config
	}
	what, err := differentMembers(ctx, first, second, a, b)
	return &Difference{What: what}, err
}

func readBuilt(ctx context.Context, s graph.Store, n graph.Node) (ocispec.Manifest, ocispec.Image, error) {
	m, err := graph.Manifest(ctx, s, n)
	if err != nil {
		return m, ocispec.Image{}, err
	}
	c, err := graph.Config(ctx, s, m.Config)
	return m, c, err
}

// instruction is the line of the Dockerfile that made a layer, as the history has it.
func instruction(c ocispec.Image, layer int) string {
	for _, h := range c.History {
		if h.EmptyLayer {
			continue
		}
		if layer == 0 {
			return strings.TrimSuffix(h.CreatedBy, " # buildkit")
		}
		layer--
	}
	return ""
}

// differentMembers names the members of two builds' configurations, or of their manifests, that are
// not the same.
func differentMembers(ctx context.Context, first, second graph.Store, a, b graph.Node) ([]string, error) {
	was, err := members(ctx, first, a)
	if err != nil {
		return nil, err
	}
	is, err := members(ctx, second, b)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(name string) bool {
		return bytes.Equal(was[name], is[name])
	}), nil
}

func members(ctx context.Context, s graph.Store, n graph.Node) (map[string]json.RawMessage, error) {
	var all map[string]json.RawMessage
	content, err := graph.Fetch(ctx, s, n, graph.MaxManifest)
	if err == nil {
		err = json.Unmarshal(content, &all)
	}
	return all, fault.Wrap(err, fault.BuildFailed, "reading", n.Digest.String())
}

// entry is one path of a layer.
type entry struct {
	header *tar.Header
	sum    [sha256.Size]byte // of its content
}

// compareLayers finds the first path that differs, in the order of the archive that was made first.
func compareLayers(ctx context.Context, first, second graph.Store, a, b graph.Node) (Difference, error) {
	was, order, err := readLayer(ctx, first, a)
	if err != nil {
		return Difference{}, err
	}
	is, _, err := readLayer(ctx, second, b)
	if err != nil {
		return Difference{}, err
	}
	for _, path := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[path]; !ok {
			order = append(order, path)
		}
	}
	var d Difference
	for _, path := range order {
		what := differences(was, is, path)
		switch {
		case len(what) == 0:
		case d.Path == "":
			d.Path, d.What = path, what
		default:
			d.Others++
		}
	}
	if d.Path == "" {
		d.What = []string{"the order or the packing of the same files"}
	}
	return d, nil
}

// differences says in what a path differs between two layers.
func differences(was, is map[string]entry, path string) (what []string) {
	a, in := was[path]
	b, still := is[path]
	if !in || !still {
		return []string{map[bool]string{true: "only in the first build", false: "only in the second build"}[in]}
	}
	say := func(name, x, y string) {
		if x != y {
			what = append(what, fmt.Sprintf("%s %s, then %s", name, x, y))
		}
	}
	say("type", kindOf(a.header), kindOf(b.header))
	if a.sum != b.sum || a.header.Size != b.header.Size {
		what = append(what, "content")
	}
	say("mode", fmt.Sprintf("%04o", a.header.Mode), fmt.Sprintf("%04o", b.header.Mode))
	say("modification time", timeOf(a.header), timeOf(b.header))
	say("owner", ownerOf(a.header), ownerOf(b.header))
	say("link to", strconv.Quote(a.header.Linkname), strconv.Quote(b.header.Linkname))
	if !maps.Equal(a.header.PAXRecords, b.header.PAXRecords) && len(what) == 0 {
		what = append(what, "extended attributes")
	}
	return what
}

func kindOf(h *tar.Header) string { return strconv.QuoteRune(rune(h.Typeflag)) }
func timeOf(h *tar.Header) string { return h.ModTime.UTC().Format(time.RFC3339Nano) }

func ownerOf(h *tar.Header) string { return fmt.Sprintf("%d:%d", h.Uid, h.Gid) }

// readLayer returns what a layer holds, and its paths in their order.
func readLayer(ctx context.Context, s graph.Store, n graph.Node) (map[string]entry, []string, error) {
	blob, err := s.Fetch(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	defer blob.Close()
	content, err := unpacked(n.MediaType, blob)
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.BuildFailed, "reading layer", n.Digest.String())
	}
	defer content.Close()
	entries, order := map[string]entry{}, []string(nil)
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries, order, nil
		}
		if err == nil && len(order) == maxEntries {
			err = fmt.Errorf("it has more than %d files", maxEntries)
		}
		sum := sha256.New()
		if err == nil {
			_, err = io.Copy(sum, archive)
		}
		if err != nil {
			return nil, nil, fault.Wrap(err, fault.BuildFailed, "reading layer", n.Digest.String())
		}
		entries[header.Name] = entry{header, [sha256.Size]byte(sum.Sum(nil))}
		order = append(order, header.Name)
	}
}

// unpacked reads the media types that builders give layers.
func unpacked(mediaType string, blob io.Reader) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(mediaType, "+gzip"):
		return gzip.NewReader(blob)
	case strings.HasSuffix(mediaType, "+zstd"):
		r, err := zstd.NewReader(blob)
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	case mediaType == ocispec.MediaTypeImageLayer:
		return io.NopCloser(blob), nil
	}
	return nil, fmt.Errorf("nobody knows layers of type %q", mediaType)
}
