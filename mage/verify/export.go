package verify

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Export writes the evidence file of some channels, or of all that the channels document serves:
// the same content gives the same bytes. It checks nothing but digests; who reads it verifies.
func Export(ctx context.Context, w io.Writer, f *family.Family, registry pipeline.Registry, channels ...string) error {
	c := &collection{family: f, registry: registry, blobs: map[digest.Digest][]byte{}}
	if err := c.document(ctx, channels); err != nil {
		return err
	}
	return c.write(w)
}

// collection is an evidence file in the making.
type collection struct {
	family   *family.Family
	registry pipeline.Registry
	blobs    map[digest.Digest][]byte
	index    []graph.Node // with their names
	size     int64
}

func (c *collection) document(ctx context.Context, channels []string) error {
	name := c.family.ArtifactOf(family.Metadata)
	repo := c.registry.Repository(name)
	node, found, err := repo.Resolve(ctx, release.ChannelsTag)
	if err != nil {
		return err
	}
	if !found {
		return refuse(fault.Unverified, name, Missing, "it has no tag %s", release.ChannelsTag)
	}
	if err := c.artifact(ctx, name, node, release.ChannelsTag); err != nil {
		return err
	}
	d, err := pipeline.ReadDocument(ctx, repo, node)
	if err != nil {
		return err
	}
	if len(channels) == 0 {
		channels = d.Names()
	}
	for _, channel := range slices.Sorted(slices.Values(channels)) {
		state, ok := d.Channels[channel]
		if !ok {
			return refuse(fault.Unverified, "channel "+channel, Unserved, "the document has channels %q", d.Names())
		}
		if err := c.release(ctx, channel, state); err != nil {
			return err
		}
	}
	return nil
}

// release adds a channel's record, and every member with the tags that its users pull.
func (c *collection) release(ctx context.Context, channel string, s release.State) error {
	metadata := c.family.ArtifactOf(family.Metadata)
	repo := c.registry.Repository(metadata)
	node, found, err := repo.ByDigest(ctx, s.Record)
	if err != nil {
		return err
	}
	if !found {
		return refuse(fault.Unverified, "record "+s.Record.String(), Missing, "the registry does not have it")
	}
	if err := c.artifact(ctx, metadata, node, ""); err != nil {
		return err
	}
	record, err := pipeline.ReadRecord(ctx, repo, node)
	if err != nil {
		return err
	}
	for _, claim := range release.Claims(c.family, record, node) {
		if err := c.manifest(ctx, claim.Member, claim.Subject, ""); err != nil {
			return err
		}
	}
	for _, member := range slices.Sorted(maps.Keys(s.Members)) {
		for _, tag := range []string{channel, s.Tag, s.Version} {
			if err := c.tag(ctx, member, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// tag adds what a tag shows, whatever it is: the reader compares.
func (c *collection) tag(ctx context.Context, member, tag string) error {
	if tag == "" {
		return nil
	}
	node, found, err := c.registry.Repository(member).Resolve(ctx, tag)
	if err != nil || !found {
		return err
	}
	return c.manifest(ctx, member, node, tag)
}

// artifact adds a manifest with its layers; manifest adds one without, and its evidence whole.
func (c *collection) artifact(ctx context.Context, member string, node graph.Node, tag string) error {
	if err := c.manifest(ctx, member, node, tag); err != nil {
		return err
	}
	return c.layers(ctx, member, node)
}

func (c *collection) manifest(ctx context.Context, member string, node graph.Node, tag string) error {
	named := graph.Node{MediaType: node.MediaType, Digest: node.Digest, Size: node.Size}
	if tag != "" {
		named.Annotations = map[string]string{ocispec.AnnotationRefName: member + ":" + tag}
	}
	_, known := c.blobs[node.Digest]
	if !known || tag != "" {
		c.index = append(c.index, named)
	}
	if known {
		return nil
	}
	repo := c.registry.Repository(member)
	if err := c.blob(ctx, repo, node, graph.MaxManifest); err != nil {
		return err
	}
	referrers, err := repo.Referrers(ctx, node)
	if err != nil {
		return err
	}
	for _, r := range referrers {
		if !isEvidence(r) {
			continue
		}
		if err := c.evidence(ctx, repo, r); err != nil {
			return err
		}
	}
	return nil
}

// isEvidence reports whether a reader would look at something that hangs on a subject. Anybody may
// attach anything, and nothing of it may keep the rest from being exported.
func isEvidence(r pipeline.Referrer) bool {
	return (r.ArtifactType == evidence.BundleType || r.ArtifactType == evidence.SBOMType) && len(r.Layers) <= maxLayers
}

// evidence adds an attachment: its manifest, the config that says that there is none, and the one
// layer that a reader takes. Of more, or of one that is too large, the manifest says enough for the
// reader to refuse it. What hangs on evidence speaks about no subject of ours.
func (c *collection) evidence(ctx context.Context, repo pipeline.Repository, r pipeline.Referrer) error {
	if _, known := c.blobs[r.Manifest.Digest]; known {
		return nil
	}
	c.index = append(c.index, graph.Node{MediaType: r.Manifest.MediaType, Digest: r.Manifest.Digest, Size: r.Manifest.Size})
	if err := c.blob(ctx, repo, r.Manifest, graph.MaxManifest); err != nil {
		return err
	}
	c.blobs[ocispec.DescriptorEmptyJSON.Digest] = ocispec.DescriptorEmptyJSON.Data
	if len(r.Layers) != 1 || r.Layers[0].Size < 0 || r.Layers[0].Size > pipeline.MaxBundle {
		return nil
	}
	return c.blob(ctx, repo, r.Layers[0], pipeline.MaxBundle)
}

func (c *collection) layers(ctx context.Context, member string, node graph.Node) error {
	repo := c.registry.Repository(member)
	m, err := graph.Manifest(ctx, repo, node)
	if err != nil {
		return err
	}
	for _, n := range append([]graph.Node{m.Config}, m.Layers...) {
		if err := c.blob(ctx, repo, n, pipeline.MaxBundle); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) blob(ctx context.Context, repo pipeline.Repository, n graph.Node, limit int64) error {
	if _, there := c.blobs[n.Digest]; there {
		return nil
	}
	if c.size += n.Size; c.size > maxFile {
		return fault.New(fault.Refused, "exporting", "evidence", "it is larger than %d bytes", maxFile)
	}
	content, err := graph.Fetch(ctx, repo, n, limit)
	c.blobs[n.Digest] = content
	return err
}

// write puts the layout's two files first, then the blobs by digest.
func (c *collection) write(w io.Writer) error {
	slices.SortFunc(c.index, func(a, b graph.Node) int {
		return cmp.Or(strings.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName]), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: c.index})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	put := func(name string, content []byte) {
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)})
		}
		if err == nil {
			_, err = tw.Write(content)
		}
	}
	put(ocispec.ImageLayoutFile, layout)
	put(ocispec.ImageIndexFile, index)
	for _, d := range slices.Sorted(maps.Keys(c.blobs)) {
		put(blobsPrefix+d.Encoded(), c.blobs[d])
	}
	if err == nil {
		err = tw.Close()
	}
	return fault.Wrap(err, fault.Environment, "writing", "evidence file")
}
