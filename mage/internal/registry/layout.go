package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// Layout is an OCI image layout on disk, image specification v1.1, "Image Layout": a graph.Store
// with names and referrers. Blobs and index.json appear by rename, and nothing is kept in memory:
// several processes may use one layout, and a killed one leaves it whole.
type Layout struct{ dir string }

// OpenLayout opens a layout, or begins one where there is none.
func OpenLayout(dir string) (*Layout, error) {
	l := &Layout{dir: dir}
	for _, sub := range []string{filepath.Join(ocispec.ImageBlobsDir, "sha256"), ingestDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, classify(err, fault.Environment, "opening layout", dir)
		}
	}
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.sweep(); err != nil {
		return nil, classify(err, fault.Environment, "opening layout", dir)
	}
	if err := l.checkVersion(); err != nil {
		return nil, err
	}
	return l, l.checkIndex()
}

// damaged is what to do about a layout that holds other than it should.
const damaged = "the layout is damaged: remove it and build again"

// Dir returns the layout's directory.
func (l *Layout) Dir() string { return l.dir }

// Fetch returns the content of a node; its reader fails at the end if size or digest differ.
func (l *Layout) Fetch(_ context.Context, n graph.Node) (io.ReadCloser, error) {
	path, err := l.blob(n.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errdef.ErrNotFound, err)
	}
	if err != nil {
		return nil, classify(err, fault.Environment, "fetching", l.pin(n))
	}
	return verified(f, n).of(l.pin(n), damaged), nil
}

// Exists reports whether a blob of the right size is there; a torn one is not.
func (l *Layout) Exists(_ context.Context, n graph.Node) (bool, error) {
	path, err := l.blob(n.Digest)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular() && info.Size() == n.Size, classify(err, fault.Environment, "looking for", l.pin(n))
}

// Push stores a node whose bytes are checked on the way. A manifest that has a subject is also
// put into index.json, where other tools look for referrers.
func (l *Layout) Push(ctx context.Context, n graph.Node, content io.Reader) error {
	if !isManifest(n) {
		return l.ingest(n, content)
	}
	manifest, err := readManifest(n, content)
	if err != nil {
		return err
	}
	return l.put(ctx, n.Digest.String(), n, manifest)
}

// ingest writes a blob beside its place and renames it. It is not synced to the disk: what a power
// cut leaves is found by size or by digest, and made again.
func (l *Layout) ingest(n graph.Node, content io.Reader) error {
	path, err := l.blob(n.Digest)
	if err != nil {
		return err
	}
	f, err := l.newIngest(n.Digest)
	if err != nil {
		return classify(err, fault.Environment, "pushing", l.pin(n))
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = io.Copy(f, verified(content, n))
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return classify(errors.Join(err, f.Close()), fault.Environment, "pushing", l.pin(n))
}

// Name gives a manifest a name in index.json (org.opencontainers.image.ref.name); a name that
// exists moves.
func (l *Layout) Name(ctx context.Context, n graph.Node, name string) error {
	if !refName.MatchString(name) {
		return fault.New(fault.Invalid, "naming", fmt.Sprintf("%q", name), "a name in a layout is of letters, digits and -._:@/+")
	}
	content, err := graph.Fetch(ctx, l, n, graph.MaxManifest)
	if err != nil {
		return err
	}
	return l.put(ctx, name, n, content)
}

// refName is the grammar of org.opencontainers.image.ref.name, image specification v1.1,
// "Pre-Defined Annotation Keys".
var refName = lazyregexp.New(`^[A-Za-z0-9]+(([-._:@+]|--)[A-Za-z0-9]+)*(/[A-Za-z0-9]+(([-._:@+]|--)[A-Za-z0-9]+)*)*$`)

// Lookup returns what a name holds; a name that does not exist is not an error.
func (l *Layout) Lookup(ctx context.Context, name string) (graph.Node, bool, error) {
	return l.at(ctx, name)
}

// Resolve is Lookup of a tag.
func (l *Layout) Resolve(ctx context.Context, tag string) (graph.Node, bool, error) {
	if _, err := ref.ParseTag(tag); err != nil {
		return graph.Node{}, false, err
	}
	return l.at(ctx, tag)
}

// Tags returns every name, sorted.
func (l *Layout) Tags(context.Context) ([]string, error) {
	x, err := l.index()
	var names []string
	for _, n := range x.Manifests {
		if name := n.Annotations[ocispec.AnnotationRefName]; name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// TagImmutable gives a manifest a name that never changes: it creates the tag, writes nothing if
// the tag has that digest, and refuses with fault.Immutable if it has another.
func (l *Layout) TagImmutable(ctx context.Context, tag string, n graph.Node) (written bool, err error) {
	return tagImmutable(ctx, l, tag, n)
}

// MoveTag is [Repository.MoveTag]; a layout is one repository, whatever the move calls it.
func (l *Layout) MoveTag(ctx context.Context, m release.Move) (written bool, err error) {
	return moveTag(ctx, l, m.Tag.Tag, m.From, m.To)
}

// Attach is [Repository.Attach].
func (l *Layout) Attach(ctx context.Context, subject graph.Node, artifactType string, layer Layer, annotations map[string]string) (n graph.Node, written bool, err error) {
	return attach(ctx, l, subject, artifactType, layer, annotations)
}

// Referrers is [Repository.Referrers].
func (l *Layout) Referrers(ctx context.Context, subject graph.Node) ([]Referrer, error) {
	return referrers(ctx, l, subject)
}

// at reads a name from index.json.
func (l *Layout) at(_ context.Context, name string) (graph.Node, bool, error) {
	x, err := l.index()
	for _, n := range x.Manifests {
		if n.Annotations[ocispec.AnnotationRefName] == name {
			return graph.Node{MediaType: n.MediaType, Digest: n.Digest, Size: n.Size}, true, nil
		}
	}
	return graph.Node{}, false, err
}

// put stores a manifest and gives it a name, unless the name is its own digest.
func (l *Layout) put(_ context.Context, name string, n graph.Node, content []byte) error {
	if err := l.ingest(n, bytes.NewReader(content)); err != nil {
		return err
	}
	subject, entry, err := decodeReferrer(n, content)
	if err != nil {
		return err
	}
	return l.edit(func(x *ocispec.Index) bool {
		changed := false
		if name != n.Digest.String() {
			changed = setName(x, n, name)
		}
		if subject != nil && !slices.ContainsFunc(x.Manifests, is(n)) {
			x.Manifests = append(x.Manifests, entry)
			changed = true
		}
		return changed
	})
}

func setName(x *ocispec.Index, n graph.Node, name string) (changed bool) {
	for i, old := range x.Manifests {
		if old.Annotations[ocispec.AnnotationRefName] == name {
			if old.Digest == n.Digest {
				return false
			}
			x.Manifests = slices.Delete(x.Manifests, i, i+1)
			break
		}
	}
	x.Manifests = append(x.Manifests, graph.Node{
		MediaType: n.MediaType, Digest: n.Digest, Size: n.Size, Platform: n.Platform,
		Annotations: map[string]string{ocispec.AnnotationRefName: name},
	})
	return true
}

// native finds the referrers of a subject among the manifests of index.json.
func (l *Layout) native(ctx context.Context, subject graph.Node) ([]graph.Node, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	var found []graph.Node
	for _, n := range x.Manifests {
		if !isManifest(n) {
			continue
		}
		content, err := graph.Fetch(ctx, l, n, graph.MaxManifest)
		if errors.Is(err, errdef.ErrNotFound) {
			continue // a sparse layout may name what it does not hold
		}
		if err != nil {
			return nil, err
		}
		about, entry, err := decodeReferrer(n, content)
		if err != nil {
			return nil, err
		}
		if about != nil && about.Digest == subject.Digest {
			found = append(found, entry)
		}
	}
	return found, checkEntries(len(found))
}

// A layout lists its referrers by itself and its reads do not lag.
func (l *Layout) remember(_ digest.Digest, entries []graph.Node) []graph.Node { return entries }
func (l *Layout) forget(digest.Digest, []graph.Node)                          {}
func (l *Layout) wait(ctx context.Context, _ int) error                       { return ctx.Err() }

// confirmed reads a manifest; a layout remembers nothing.
func (l *Layout) confirmed(ctx context.Context, n graph.Node) ([]byte, error) {
	return graph.Fetch(ctx, l, n, graph.MaxManifest)
}

func (l *Layout) pin(n graph.Node) string { return l.dir + "@" + n.Digest.String() }

// blob returns the path of a digest, which is checked: it becomes a file name.
func (l *Layout) blob(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return "", fault.New(fault.Invalid, "reading layout", l.dir, "%q is not a SHA-256 digest", d)
	}
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, "sha256", d.Encoded()), nil
}
