package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// Layer is the one content of an attachment.
type Layer struct {
	MediaType string
	Content   []byte
}

// Referrer is a manifest that names a subject. What it says of itself is read from the manifest;
// a list may say something else (go-containerregistry's registry does). Missing means: listed, and
// not there; then nothing is known of it but its node.
type Referrer struct {
	Node         graph.Node
	ArtifactType string
	Annotations  map[string]string
	Layers       []graph.Node
	Missing      bool
}

// Attach hangs content on a subject as an OCI 1.1 referrer and makes sure it is listed. The same
// content gives the same manifest: attaching it again writes nothing.
func (r *Repository) Attach(ctx context.Context, subject graph.Node, artifactType string, layer Layer, annotations map[string]string) (n graph.Node, written bool, err error) {
	ctx = patient(ctx)
	release, err := r.alone(ctx, subject.Digest)
	if err != nil {
		return graph.Node{}, false, err
	}
	defer release()
	return attach(ctx, r, subject, artifactType, layer, annotations)
}

// Referrers returns the manifests that name a subject, sorted by digest.
func (r *Repository) Referrers(ctx context.Context, subject graph.Node) ([]Referrer, error) {
	return referrers(patient(ctx), r, subject)
}

// Settle reads the referrers of every subject this process attached to once more, and lists again
// what a simultaneous writer's index left out: the fallback tag has no compare-and-swap.
func (r *Repository) Settle(ctx context.Context) error {
	for _, subject := range r.ledger.subjects() {
		if err := r.enlist(ctx, subject); err != nil {
			return err
		}
	}
	return nil
}

// enlist lists entries, and all that was ever seen on the subject, while nobody else does.
func (r *Repository) enlist(ctx context.Context, subject graph.Node, entries ...graph.Node) error {
	release, err := r.alone(ctx, subject.Digest)
	if err != nil {
		return err
	}
	defer release()
	_, err = enlist(patient(ctx), r, subject, entries...)
	return err
}

func attach(ctx context.Context, b backend, subject graph.Node, artifactType string, layer Layer, annotations map[string]string) (graph.Node, bool, error) {
	content := graph.NewNode(layer.MediaType, layer.Content)
	manifest, err := graph.EncodeArtifact(artifactType, &subject, []graph.Node{content}, annotations)
	if err != nil {
		return graph.Node{}, false, err
	}
	n := graph.NewNode(ocispec.MediaTypeImageManifest, manifest)
	entry := n
	entry.ArtifactType, entry.Annotations = artifactType, annotations
	there, err := store(ctx, b, n, manifest, layer)
	if err != nil {
		return n, !there, err
	}
	listed, err := enlist(ctx, b, subject, entry)
	return n, !there || listed, err
}

// store pushes a referrer, its layer, the empty configuration and its manifest, and reports whether it
// was there. What is missing of the three is found out at once.
func store(ctx context.Context, b backend, n graph.Node, manifest []byte, layer Layer) (there bool, err error) {
	blobs := func() error {
		group, each := errgroup.WithContext(ctx)
		for mediaType, content := range map[string][]byte{layer.MediaType: layer.Content, ocispec.MediaTypeEmptyJSON: ocispec.DescriptorEmptyJSON.Data} {
			group.Go(func() error {
				_, err := graph.PushBytes(each, b, mediaType, content)
				return err
			})
		}
		return group.Wait()
	}
	var group errgroup.Group
	group.Go(blobs)
	group.Go(func() (err error) {
		there, err = b.Exists(ctx, n)
		return err
	})
	if err := group.Wait(); err != nil || there {
		return there, err
	}
	return false, insist(ctx, b, func() error { return b.put(ctx, n.Digest.String(), n, manifest) }, blobs)
}

// enlist makes sure that entries, and all that was ever seen on the subject, are listed: by the
// store itself if it truly does, otherwise in the index under the fallback tag, by union. A write
// counts when it reads back; an answer older than our write is waited for, not written over.
func enlist(ctx context.Context, b backend, subject graph.Node, entries ...graph.Node) (wrote bool, err error) {
	b.remember(subject.Digest, entries)
	native, err := b.native(ctx, subject)
	if err != nil {
		return false, err
	}
	before := digest.Digest("")
	for try := range readBacks {
		listed, at, err := fallback(ctx, b, subject)
		if err != nil {
			return wrote, err
		}
		want := without(b.remember(subject.Digest, listed), native)
		switch stale := wrote && at == before; {
		case len(without(want, listed)) == 0:
			return wrote, nil
		case stale:
			err = b.wait(ctx, try)
		default:
			wrote, before = true, at
			err = putIndex(ctx, b, subject, want, entries)
		}
		if err != nil {
			return wrote, err
		}
	}
	return wrote, unread(b.pin(subject), "the index under "+fallbackTag(subject)+" does not show what was attached")
}

// putIndex writes the fallback index. Some registries refuse one that names a manifest that is
// gone; then it is written without those, and they are forgotten. Fresh entries stay: we have just
// stored them, and a registry that does not see them yet is only slow.
func putIndex(ctx context.Context, b backend, subject graph.Node, want, fresh []graph.Node) error {
	err := putEntries(ctx, b, subject, want)
	if !errors.Is(err, fault.Refused) && !errors.Is(err, fault.Environment) {
		return err
	}
	var gone []graph.Node
	for _, n := range without(want, fresh) {
		there, lookErr := b.Exists(ctx, n)
		if lookErr != nil {
			return lookErr
		}
		if !there {
			gone = append(gone, n)
		}
	}
	if len(gone) == 0 {
		return err
	}
	b.forget(subject.Digest, gone)
	return putEntries(ctx, b, subject, without(want, gone))
}

func putEntries(ctx context.Context, b backend, subject graph.Node, entries []graph.Node) error {
	if err := checkEntries(len(entries)); err != nil {
		return err
	}
	content, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
	if err != nil {
		return err
	}
	n := graph.NewNode(ocispec.MediaTypeImageIndex, content)
	if n.Size > graph.MaxManifest {
		return fault.New(fault.Refused, "attaching to", b.pin(subject), "the index of its referrers exceeds %d bytes", graph.MaxManifest)
	}
	return b.put(ctx, fallbackTag(subject), n, content)
}

// fallbackTag is the referrers tag of a subject, distribution specification v1.1.1, "Referrers
// Tag Schema".
func fallbackTag(subject graph.Node) string {
	algorithm := subject.Digest.Algorithm().String()
	return algorithm[:min(len(algorithm), 32)] + "-" + subject.Digest.Encoded()[:64]
}

// fallback reads the entries under the fallback tag, and the digest of the index that holds them.
// A registry that answers with the subject itself has none.
func fallback(ctx context.Context, b backend, subject graph.Node) (entries []graph.Node, at digest.Digest, err error) {
	tag := fallbackTag(subject)
	n, there, err := b.at(ctx, tag)
	if err != nil || !there || n.Digest == subject.Digest {
		return nil, "", err
	}
	if !graph.IsIndex(n) {
		return nil, "", fault.New(fault.Refused, "listing referrers of", b.pin(subject), "%s holds a %s, not an index", tag, n.MediaType)
	}
	x, err := graph.Index(ctx, b, n)
	if err != nil {
		return nil, "", err
	}
	return x.Manifests, n.Digest, checkEntries(len(x.Manifests))
}

// list returns every entry known to the store or under the fallback tag, each once, by digest.
func list(ctx context.Context, b backend, subject graph.Node) ([]graph.Node, error) {
	native, err := b.native(ctx, subject)
	if err != nil {
		return nil, err
	}
	tagged, _, err := fallback(ctx, b, subject)
	if err != nil {
		return nil, err
	}
	all := union(tagged, native)
	return all, checkEntries(len(all))
}

func referrers(ctx context.Context, b backend, subject graph.Node) ([]Referrer, error) {
	listed, err := list(ctx, b, subject)
	if err != nil {
		return nil, err
	}
	if err := checkBytes(listed); err != nil {
		return nil, err
	}
	all := make([]Referrer, len(listed))
	index := map[digest.Digest]int{}
	for i, n := range listed {
		index[n.Digest] = i
	}
	return all, each(ctx, listed, func(ctx context.Context, n graph.Node) error {
		var err error
		all[index[n.Digest]], err = readReferrer(ctx, b, subject, n)
		return err
	})
}

func readReferrer(ctx context.Context, b backend, subject, listed graph.Node) (Referrer, error) {
	n := graph.Node{MediaType: listed.MediaType, Digest: listed.Digest, Size: listed.Size}
	if !isManifest(n) {
		return Referrer{}, fault.New(fault.Refused, "reading referrer", b.pin(n), "media type %q is not a manifest", n.MediaType)
	}
	content, err := b.confirmed(ctx, n)
	if errors.Is(err, errdef.ErrNotFound) {
		return Referrer{Node: n, Missing: true}, nil
	}
	if err != nil {
		return Referrer{}, err
	}
	about, entry, err := decodeReferrer(n, content)
	if err != nil {
		return Referrer{}, err
	}
	if about == nil || about.Digest != subject.Digest {
		return Referrer{}, fault.New(fault.Forged, "reading referrer", b.pin(n), "it is listed for %s and does not name it as its subject", subject.Digest)
	}
	layers, err := graph.Children(ctx, b, n)
	if err != nil || len(layers) == 0 {
		return Referrer{Node: n, ArtifactType: entry.ArtifactType, Annotations: entry.Annotations}, err
	}
	return Referrer{Node: n, ArtifactType: entry.ArtifactType, Annotations: entry.Annotations, Layers: layers[1:]}, nil
}

// decodeReferrer returns the subject of a manifest, nil if it has none, and the entry that lists
// it: artifactType falls back to the media type of the configuration, as the distribution
// specification v1.1.1 says in "Listing Referrers".
func decodeReferrer(n graph.Node, content []byte) (subject *graph.Node, entry graph.Node, err error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, graph.Node{}, fault.Wrap(err, fault.Forged, "decoding", n.Digest.String())
	}
	if m.Subject != nil {
		if err := m.Subject.Digest.Validate(); err != nil {
			return nil, graph.Node{}, fault.Wrap(err, fault.Forged, "decoding subject of", n.Digest.String())
		}
	}
	entry = graph.Node{
		MediaType: n.MediaType, Digest: n.Digest, Size: n.Size,
		ArtifactType: cmp.Or(m.ArtifactType, m.Config.MediaType), Annotations: m.Annotations,
	}
	return m.Subject, entry, nil
}

// maxEntries bounds the referrers of one subject.
const maxEntries = 10_000

func checkEntries(n int) error {
	if n > maxEntries {
		return fault.New(fault.Refused, "listing", "referrers", "%d entries exceed the limit of %d", n, maxEntries)
	}
	return nil
}

// maxBytes bounds the manifests of one subject's referrers: each is read, and has a kilobyte or two.
const maxBytes = 16 << 20

func checkBytes(listed []graph.Node) error {
	left := int64(maxBytes)
	for _, n := range listed {
		if left -= max(n.Size, 0); left < 0 || n.Size > maxBytes {
			return fault.New(fault.Refused, "listing", "referrers", "their manifests exceed %d bytes in all", maxBytes)
		}
	}
	return nil
}

// ledger remembers what was seen on each subject that this process attached to, so that a stale
// or overwritten index never makes it forget.
type ledger struct {
	mu   sync.Mutex
	seen map[digest.Digest][]graph.Node
}

func (r *Repository) remember(subject digest.Digest, entries []graph.Node) []graph.Node {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if r.ledger.seen == nil {
		r.ledger.seen = map[digest.Digest][]graph.Node{}
	}
	r.ledger.seen[subject] = union(r.ledger.seen[subject], entries)
	return r.ledger.seen[subject]
}

func (r *Repository) forget(subject digest.Digest, gone []graph.Node) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.ledger.seen[subject] = without(r.ledger.seen[subject], gone)
}

func (l *ledger) subjects() []graph.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []graph.Node
	for _, d := range slices.Sorted(maps.Keys(l.seen)) {
		all = append(all, graph.Node{Digest: d})
	}
	return all
}

// union returns the nodes of both lists, each digest once, by digest; a's entry wins.
func union(a, b []graph.Node) []graph.Node {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y graph.Node) int { return cmp.Compare(x.Digest, y.Digest) })
	return slices.CompactFunc(all, func(x, y graph.Node) bool { return x.Digest == y.Digest })
}

// without returns the nodes of a that are not in b.
func without(a, b []graph.Node) []graph.Node {
	return slices.DeleteFunc(slices.Clone(a), func(n graph.Node) bool { return slices.ContainsFunc(b, is(n)) })
}

func is(n graph.Node) func(graph.Node) bool {
	return func(other graph.Node) bool { return other.Digest == n.Digest }
}
