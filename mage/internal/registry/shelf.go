package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// Manifest returns a manifest by its digest. What was read once, by this process or another of this
// machine, is not asked for again: it cannot have changed. It may be gone from the registry, though,
// so that who wants to know asks [Repository.Exists].
func (r *Repository) Manifest(ctx context.Context, d digest.Digest) (graph.Node, []byte, bool, error) {
	if content, ok := r.client.cache.get(d); ok {
		if mediaType := guessMediaType(content); mediaType != "" {
			return graph.NewNode(mediaType, content), content, true, nil
		}
	}
	n, found, err := r.ByDigest(ctx, d)
	if err != nil || !found {
		return graph.Node{}, nil, false, err
	}
	content, err := graph.Fetch(ctx, r, n, graph.MaxManifest)
	return n, content, err == nil, err
}

// guessMediaType returns what a manifest says it is or, if it does not, what OCI calls its shape;
// empty for what is neither.
func guessMediaType(content []byte) string {
	var doc struct {
		MediaType string           `json:"mediaType"`
		Manifests *json.RawMessage `json:"manifests"`
		Config    *json.RawMessage `json:"config"`
	}
	switch err := json.Unmarshal(content, &doc); {
	case err != nil:
		return ""
	case doc.MediaType != "":
		return doc.MediaType
	case doc.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case doc.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

// Shelf is a repository of a registry that deletes by the distribution specification. It has no list
// of manifests without a tag: what is listed is what tags reach, unless the registry's own is at hand.
type Shelf struct {
	*Repository
	all func(ctx context.Context, repo ref.Repo) (map[digest.Digest]time.Time, error)

	mu   sync.Mutex
	tags map[string]digest.Digest // as last listed
}

// NewShelf returns the shelf of a repository. all lists every manifest of it and since when it is
// there; nil where nobody can.
func NewShelf(r *Repository, all func(ctx context.Context, repo ref.Repo) (map[digest.Digest]time.Time, error)) *Shelf {
	return &Shelf{Repository: r, all: all}
}

// parallelReads bounds the manifests of one repository that are read at a time.
const parallelReads = 16

// List returns what the repository holds, as far as it can be known, and the registry's time.
func (s *Shelf) List(ctx context.Context) ([]graph.Item, time.Time, error) {
	now, err := s.date(ctx)
	if err != nil {
		return nil, now, err
	}
	tags, err := s.resolveAll(ctx)
	if err != nil {
		return nil, now, err
	}
	since := map[digest.Digest]time.Time{}
	if s.all != nil {
		if since, err = s.all(ctx, s.name); err != nil {
			return nil, now, err
		}
	}
	items, err := s.walk(ctx, tags, since)
	return items, now, err
}

// date asks the registry for its time: ages are never measured with our clock.
func (s *Shelf) date(ctx context.Context) (time.Time, error) {
	resp, err := s.ask(ctx, http.MethodGet, "tags/list?n=1", auth.ActionPull)
	if err != nil {
		return time.Time{}, classify(err, fault.Unavailable, "asking the time of", s.name.Host)
	}
	drop(resp)
	at, err := http.ParseTime(resp.Header.Get("Date"))
	return at, fault.Wrap(err, fault.Unavailable, "asking the time of", s.name.Host)
}

func (s *Shelf) ask(ctx context.Context, method, path string, actions ...string) (*http.Response, error) {
	scheme := "https"
	if s.remote.PlainHTTP {
		scheme = "http"
	}
	ctx = auth.AppendRepositoryScope(ctx, s.remote.Reference, actions...)
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s://%s/v2/%s/%s", scheme, s.remote.Reference.Host(), s.name.Path, path), nil)
	if err != nil {
		return nil, err
	}
	return s.client.auth.Do(req)
}

// resolveAll reads every tag. One that is listed and shows nothing is asked for again with a new list:
// what goes meanwhile is left out, what a registry mislaid for a moment is not.
func (s *Shelf) resolveAll(ctx context.Context) (map[string]digest.Digest, error) {
	tags := map[string]digest.Digest{}
	for range 2 {
		names, err := s.Tags(ctx)
		if err != nil {
			return nil, err
		}
		names = slices.DeleteFunc(slices.Clone(names), func(tag string) bool { return tags[tag] != "" })
		found, err := s.resolve(ctx, names)
		if err != nil {
			return nil, err
		}
		for i, tag := range names {
			if found[i] != "" {
				tags[tag] = found[i]
			}
		}
		if !slices.Contains(found, "") {
			break
		}
	}
	s.mu.Lock()
	s.tags = tags
	s.mu.Unlock()
	return tags, nil
}

// resolve returns the digest under each tag, empty for what shows nothing.
func (s *Shelf) resolve(ctx context.Context, names []string) ([]digest.Digest, error) {
	found := make([]digest.Digest, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for i, tag := range names {
		group.Go(func() error {
			n, _, err := s.at(ctx, tag)
			found[i] = n.Digest
			return err
		})
	}
	return found, group.Wait()
}

// walk finds everything that tags and the registry's own list lead to, layer by layer.
func (s *Shelf) walk(ctx context.Context, tags map[string]digest.Digest, since map[digest.Digest]time.Time) ([]graph.Item, error) {
	items := map[digest.Digest]*graph.Item{}
	var next []digest.Digest
	add := func(d digest.Digest) {
		if items[d] == nil {
			items[d] = &graph.Item{At: ref.Pinned{Repo: s.name, Digest: d}, Since: since[d]}
			next = append(next, d)
		}
	}
	sure := map[digest.Digest]bool{} // that they are there now
	for tag, d := range tags {
		add(d)
		items[d].Tags = append(items[d].Tags, tag)
		sure[d] = true
	}
	for d := range since {
		add(d)
		sure[d] = true
	}
	for len(next) > 0 {
		layer := next
		next = nil
		leads, gone, err := s.read(ctx, layer, sure)
		if err != nil {
			return nil, err
		}
		for _, d := range gone {
			delete(items, d)
		}
		for _, d := range leads {
			add(d)
		}
	}
	list := make([]graph.Item, 0, len(items))
	for _, it := range items {
		slices.Sort(it.Tags)
		list = append(list, *it)
	}
	slices.SortFunc(list, func(a, b graph.Item) int { return cmp.Compare(a.At.Digest, b.At.Digest) })
	return list, nil
}

// read reads manifests at once and returns what they lead to, and which of them are not there. One
// that cannot be read leads nowhere here; the scan that reads it again says so.
func (s *Shelf) read(ctx context.Context, layer []digest.Digest, sure map[digest.Digest]bool) (leads, gone []digest.Digest, err error) {
	found := make([][]digest.Digest, len(layer))
	missing := make([]bool, len(layer))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for i, d := range layer {
		group.Go(func() (err error) {
			found[i], missing[i], err = s.leads(groupCtx, d, sure[d])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for i, d := range layer {
		if missing[i] {
			gone = append(gone, d)
		}
		leads = append(leads, found[i]...)
	}
	return leads, gone, nil
}

func (s *Shelf) leads(ctx context.Context, d digest.Digest, sure bool) (to []digest.Digest, missing bool, err error) {
	n, content, found, err := s.Manifest(ctx, d)
	if err != nil {
		return nil, false, ctx.Err()
	}
	if found && !sure { // it may have come from the cache
		if found, err = s.Exists(ctx, n); err != nil {
			return nil, false, err
		}
	}
	if !found {
		return nil, true, nil
	}
	if l, err := graph.ReadLinks(n, content); err == nil {
		for _, c := range l.Children {
			if slices.Contains(graph.ManifestTypes(), c.MediaType) {
				to = append(to, c.Digest)
			}
		}
	}
	listed, err := s.native(ctx, n)
	for _, r := range listed {
		to = append(to, r.Digest)
	}
	return to, false, err
}

// Recent lists everything anew: such a registry does not say what is new.
func (s *Shelf) Recent(ctx context.Context, _ func(ref.Pinned) bool) ([]graph.Item, error) {
	items, _, err := s.List(ctx)
	return items, err
}

// Look returns the tags of an item now: those it had, and those that appeared since the last list.
func (s *Shelf) Look(ctx context.Context, it graph.Item) (tags []string, found bool, err error) {
	found, err = s.Exists(ctx, graph.Node{MediaType: it.MediaType, Digest: it.At.Digest, Size: it.Size})
	if err != nil || !found {
		return nil, false, err
	}
	names, err := s.Tags(ctx)
	if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	listed := s.tags
	s.mu.Unlock()
	for _, tag := range names {
		if d, known := listed[tag]; known && d != it.At.Digest {
			continue
		}
		n, _, err := s.at(ctx, tag)
		if err != nil {
			return nil, false, err
		}
		if n.Digest == it.At.Digest {
			tags = append(tags, tag)
		}
	}
	return tags, true, nil
}

// Delete removes a manifest by its digest, then the tags that still show it: some registries keep
// them.
func (s *Shelf) Delete(ctx context.Context, it graph.Item) (retention.Outcome, string, error) {
	outcome, why, err := s.remove(ctx, it.At.Digest.String())
	if err != nil || outcome == retention.Retained {
		return outcome, why, err
	}
	for _, tag := range it.Tags {
		n, found, err := s.at(ctx, tag)
		if err == nil && found && n.Digest == it.At.Digest {
			_, _, err = s.remove(ctx, tag)
		}
		if err != nil {
			return outcome, why, err
		}
	}
	return outcome, why, nil
}

func (s *Shelf) remove(ctx context.Context, name string) (retention.Outcome, string, error) {
	subject := s.name.String() + ":" + name
	resp, err := s.ask(ctx, http.MethodDelete, "manifests/"+name, auth.ActionPull, auth.ActionDelete)
	if err != nil {
		return "", "", classify(err, fault.Unavailable, "deleting", subject)
	}
	defer drop(resp)
	switch resp.StatusCode {
	case http.StatusAccepted, http.StatusOK, http.StatusNoContent:
		return retention.Deleted, "", nil
	case http.StatusNotFound:
		return retention.Absent, "", nil
	case http.StatusConflict, http.StatusPreconditionFailed: // as registries with immutable tags say it
		return retention.Retained, readAnswer(resp).Error(), nil
	case http.StatusMethodNotAllowed:
		return "", "", (&fault.Error{Op: "deleting", Subject: subject, Kind: fault.Environment, Err: readAnswer(resp)}).
			WithHint("this registry does not delete: allow it in its configuration (REGISTRY_STORAGE_DELETE_ENABLED=true for distribution)")
	}
	return "", "", classify(readAnswer(resp), fault.Unavailable, "deleting", subject)
}

// Restore puts a manifest back, under its digest and those of its tags that nobody took meanwhile.
// The registry refuses it when its blobs are gone.
func (s *Shelf) Restore(ctx context.Context, e retention.Entry, content []byte) error {
	n := graph.NewNode(e.MediaType, content)
	if !strings.HasSuffix(e.At, "/"+s.name.Path+"@"+n.Digest.String()) {
		return fault.New(fault.Forged, "restoring", e.At, "what was kept of it has the digest %s", n.Digest)
	}
	if err := s.put(ctx, n.Digest.String(), n, content); err != nil {
		if lacksContent(err) || errors.Is(err, fault.Refused) {
			return (&fault.Error{Op: "restoring", Subject: e.At, Kind: fault.Unverified, Err: err}).
				WithHint("what it names was collected: restore that first, or release the commit anew")
		}
		return err
	}
	for _, tag := range e.Tags {
		if _, taken, err := s.at(ctx, tag); err != nil || taken {
			if err != nil {
				return err
			}
			continue
		}
		if err := s.put(ctx, tag, n, content); err != nil {
			return err
		}
	}
	return nil
}
