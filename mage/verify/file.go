package verify

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// File is an evidence file: a tar of one OCI image layout with everything a [Verifier] asks a
// registry for, and no image layers. It is a pipeline.Registry that cannot be written to. Names in
// its index.json are "member:tag". Nothing in it is believed: it stands where a registry stands.
type File struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]graph.Node
	tags      map[string]graph.Node // "member:tag"
	referrers map[digest.Digest][]pipeline.Referrer
}

// Limits of an evidence file, all of them met before anything is parsed.
const (
	maxFile      = 1 << 30 // bytes, headers and content of all entries
	maxEntries   = 1 << 14
	maxManifests = 1 << 13
	maxLayers    = 256 // of one manifest that speaks about another
)

const blobsPrefix = ocispec.ImageBlobsDir + "/sha256/"

// OpenFile reads an evidence file into memory and checks every blob against its name. What is not
// an evidence file is fault.Forged, one that does not come whole within the limits fault.Unavailable.
func OpenFile(r io.Reader) (*File, error) {
	f := &File{
		blobs: map[digest.Digest][]byte{}, manifests: map[digest.Digest]graph.Node{},
		tags: map[string]graph.Node{}, referrers: map[digest.Digest][]pipeline.Referrer{},
	}
	names, err := f.unpack(r)
	if err == nil {
		err = f.list(names[ocispec.ImageLayoutFile], names[ocispec.ImageIndexFile])
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Forged, "reading", "evidence file")
	}
	return f, nil
}

// unpack reads the entries: blobs into f, the two files beside them into the result.
func (f *File) unpack(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	tr := tar.NewReader(&capped{r, maxFile})
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, unreadable(err)
		}
		if n == maxEntries {
			return nil, refuse(fault.Unavailable, "evidence file", Endless, "more than %d entries", maxEntries)
		}
		content, err := entry(tr, h)
		if err != nil {
			return nil, err
		}
		if err := f.keep(h.Name, content, files); err != nil {
			return nil, err
		}
	}
}

// capped ends with an error where io.LimitReader would end as if that were all: a tar may have no end.
type capped struct {
	r    io.Reader
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, refuse(fault.Unavailable, "evidence file", Endless, "more than %d bytes", maxFile)
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// entry reads one regular file of a size that no honest entry exceeds.
func entry(tr *tar.Reader, h *tar.Header) ([]byte, error) {
	limit := int64(graph.MaxManifest)
	if strings.HasPrefix(h.Name, blobsPrefix) {
		limit = pipeline.MaxBundle
	}
	if h.Typeflag != tar.TypeReg {
		return nil, fault.New(fault.Forged, "reading", h.Name, "it is of type %q, not a file", h.Typeflag)
	}
	if sparse(h) {
		return nil, fault.New(fault.Forged, "reading", h.Name, "it is sparse: its holes would be read as content that was never sent")
	}
	if h.Size > limit {
		return nil, refuse(fault.Unavailable, h.Name, Endless, "it has %d bytes, at most %d", h.Size, limit)
	}
	var content bytes.Buffer // grows with what arrives, not with what the header promises
	if _, err := io.Copy(&content, tr); err != nil {
		return nil, unreadable(err)
	}
	return content.Bytes(), nil
}

// sparse reports whether the tar reader would fill holes in an entry: a few bytes become as many as
// the entry's limit allows, which the limit of the file does not see. The old GNU form is a type of
// its own; the records of the PAX forms all begin alike
// (https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (f *File) keep(name string, content []byte, files map[string][]byte) error {
	hex, isBlob := strings.CutPrefix(name, blobsPrefix)
	if !isBlob {
		if _, twice := files[name]; twice || name != ocispec.ImageLayoutFile && name != ocispec.ImageIndexFile {
			return fault.New(fault.Forged, "reading", "evidence file", "%q does not belong there, or stands there twice", name)
		}
		files[name] = content
		return nil
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if _, twice := f.blobs[d]; twice || digest.FromBytes(content) != d {
		return fault.New(fault.Forged, "reading", "evidence file", "blob %q has another digest, or stands there twice", hex)
	}
	f.blobs[d] = content
	return nil
}

// list reads the layout's index: what is a manifest, what it is called, what it speaks about.
func (f *File) list(layout, index []byte) error {
	var version ocispec.ImageLayout
	if err := json.Unmarshal(layout, &version); err != nil || version.Version != ocispec.ImageLayoutVersion {
		return fault.New(fault.Forged, "reading", "evidence file", "its layout has version %q, want %s", version.Version, ocispec.ImageLayoutVersion)
	}
	var x ocispec.Index
	if err := json.Unmarshal(index, &x); err != nil {
		return err
	}
	if len(x.Manifests) > maxManifests {
		return refuse(fault.Unavailable, "evidence file", Endless, "it has %d manifests, at most %d", len(x.Manifests), maxManifests)
	}
	for _, m := range x.Manifests {
		if err := f.enter(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) enter(m graph.Node) error {
	name := m.Annotations[ocispec.AnnotationRefName]
	node := graph.Node{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}
	content := f.blobs[m.Digest] // what is not there does not parse, if it has the size
	known, again := f.manifests[m.Digest]
	if m.Size > graph.MaxManifest {
		return refuse(fault.Unavailable, "evidence file", Endless, "manifest %s has %d bytes, at most %d", m.Digest, m.Size, graph.MaxManifest)
	}
	if int64(len(content)) != m.Size || again && known.MediaType != m.MediaType {
		return fault.New(fault.Forged, "reading", "evidence file", "manifest %s is not there as described", m.Digest)
	}
	if name != "" {
		if _, twice := f.tags[name]; twice {
			return fault.New(fault.Forged, "reading", "evidence file", "the name %q stands there twice", name)
		}
		f.tags[name] = node
	}
	if again {
		return nil
	}
	f.manifests[m.Digest] = node
	return f.refer(node, content)
}

// refer notes what a manifest says of itself as evidence about another.
func (f *File) refer(node graph.Node, content []byte) error {
	var m struct {
		ArtifactType string            `json:"artifactType"`
		Annotations  map[string]string `json:"annotations"`
		Config       graph.Node        `json:"config"`
		Layers       []graph.Node      `json:"layers"`
		Subject      *graph.Node       `json:"subject"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return err
	}
	if len(m.Layers) > maxLayers {
		return refuse(fault.Unavailable, "evidence file", Endless, "manifest %s has %d layers, at most %d", node.Digest, len(m.Layers), maxLayers)
	}
	if m.Subject != nil {
		r := pipeline.Referrer{Manifest: node, ArtifactType: cmp.Or(m.ArtifactType, m.Config.MediaType), Annotations: m.Annotations, Layers: m.Layers}
		f.referrers[m.Subject.Digest] = append(f.referrers[m.Subject.Digest], r)
	}
	return nil
}

// unreadable tells a tar that is none from a source that broke off.
func unreadable(err error) error {
	if err == tar.ErrHeader {
		return fault.Wrap(err, fault.Forged, "reading", "evidence file")
	}
	return fault.Wrap(err, fault.Unavailable, "reading", "evidence file")
}

// Repository returns a member's part of the file.
func (f *File) Repository(name string) pipeline.Repository { return shelf{f, name} }

// shelf is one member in an evidence file. Content is found by digest alone.
type shelf struct {
	file *File
	name string
}

func (s shelf) Name() ref.Repo { return ref.Repo{Host: "evidence.invalid", Path: s.name} }

func (s shelf) Fetch(_ context.Context, n graph.Node) (io.ReadCloser, error) {
	content, ok := s.file.blobs[n.Digest]
	if !ok {
		return nil, refuse(fault.Unverified, s.name, Missing, "the evidence file does not have %s", n.Digest)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (s shelf) Exists(_ context.Context, n graph.Node) (bool, error) {
	_, ok := s.file.blobs[n.Digest]
	return ok, nil
}

func (s shelf) Resolve(_ context.Context, tag string) (graph.Node, bool, error) {
	n, ok := s.file.tags[s.name+":"+tag]
	return n, ok, nil
}

func (s shelf) ByDigest(_ context.Context, d digest.Digest) (graph.Node, bool, error) {
	n, ok := s.file.manifests[d]
	return n, ok, nil
}

func (s shelf) Tags(context.Context) ([]string, error) {
	var tags []string
	for name := range s.file.tags {
		if tag, ok := strings.CutPrefix(name, s.name+":"); ok {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags, nil
}

func (s shelf) Referrers(_ context.Context, subject graph.Node) ([]pipeline.Referrer, error) {
	return s.file.referrers[subject.Digest], nil
}

func (s shelf) readOnly() error {
	return fault.New(fault.Refused, "writing", s.name, "an evidence file is not written to")
}

func (s shelf) Push(context.Context, graph.Node, io.Reader) error { return s.readOnly() }
func (s shelf) CopyFrom(context.Context, graph.Store, graph.Node) error {
	return s.readOnly()
}
func (s shelf) TagImmutable(context.Context, string, graph.Node) (bool, error) {
	return false, s.readOnly()
}
func (s shelf) MoveTag(context.Context, release.Move) (bool, error) { return false, s.readOnly() }
func (s shelf) Attach(context.Context, graph.Node, string, []byte, map[string]string) error {
	return s.readOnly()
}
func (s shelf) Settle(context.Context) error { return s.readOnly() }
