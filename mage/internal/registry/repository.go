package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
)

// Limits of what a registry may answer.
const (
	tagPage          = 1_000 // a registry may give fewer; GHCR gives 100
	maxTagPages      = 1_000
	maxReferrerPages = 100
	maxErrorBody     = 64 << 10 // bytes
)

// Media types of manifests as Docker writes them. They are recognised, so that a tag that holds
// one is not taken for absent, and never copied.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Repository is one repository of a registry: a graph.Store with tags and referrers.
type Repository struct {
	client   *Client
	name     ref.Repo
	remote   *remote.Repository
	subjects keyed // one attachment to a subject at a time
	ledger   ledger
	wrote    set // manifests that this process has put
}

func newRepository(c *Client, name ref.Repo) (*Repository, error) {
	r, err := remote.NewRepository(name.String())
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "naming", name.String())
	}
	r.Client = c.auth
	r.PlainHTTP = name.Loopback()
	r.TagListPageSize = tagPage
	r.TagListMaxPages = maxTagPages
	r.ReferrerListMaxPages = maxReferrerPages
	// We keep the fallback tag ourselves (attach.go): oras-go decides by status code, writes it
	// without reading back, and deletes the old index, which GHCR refuses.
	if err := r.SetReferrersCapability(true); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "naming", name.String())
	}
	return &Repository{client: c, name: name, remote: r}, nil
}

// Name returns the repository's full name.
func (r *Repository) Name() ref.Repo { return r.name }

// Fetch returns the content of a node; its reader fails at the end if size or digest differ. What
// is small is read whole, checked, and remembered by digest; the rest is streamed.
func (r *Repository) Fetch(ctx context.Context, n graph.Node) (io.ReadCloser, error) {
	if content, ok := r.client.cache.get(n.Digest); ok && int64(len(content)) == n.Size {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if n.Size > maxCached && !isManifest(n) {
		return r.stream(ctx, n)
	}
	content, err := graph.Fetch(ctx, streamer{r}, n, maxCached)
	if err != nil {
		return nil, classify(err, fault.Forged, "fetching", r.pin(n))
	}
	r.client.cache.put(n.Digest, content)
	return io.NopCloser(bytes.NewReader(content)), nil
}

// confirmed reads a manifest that the registry says it has: one that is remembered may be gone.
func (r *Repository) confirmed(ctx context.Context, n graph.Node) ([]byte, error) {
	if r.client.cache.has(n.Digest) {
		there, err := r.Exists(ctx, n)
		if err == nil && !there {
			err = errdef.ErrNotFound
		}
		if err != nil {
			return nil, err
		}
	}
	return graph.Fetch(ctx, r, n, graph.MaxManifest)
}

// streamer is a repository without its memory.
type streamer struct{ *Repository }

func (s streamer) Fetch(ctx context.Context, n graph.Node) (io.ReadCloser, error) {
	return s.stream(ctx, n)
}

// altered is what to do about content that is not what its digest says.
const altered = "the registry, or something between it and you, gives other bytes than were pushed: do not use them; fetch again from another network, or release again"

// stream asks the registry for content.
func (r *Repository) stream(ctx context.Context, n graph.Node) (io.ReadCloser, error) {
	if !isManifest(n) {
		body, err := r.remote.Blobs().Fetch(ctx, n)
		if err != nil {
			return nil, classify(err, fault.Forged, "fetching", r.pin(n))
		}
		return verified(wire{body, r.pin(n)}, n).of(r.pin(n), altered), nil
	}
	var body io.ReadCloser
	var missing error
	_, err := r.awaitNamed(ctx, n.Digest, func() (there bool, err error) {
		body, err = r.remote.Manifests().Fetch(ctx, n)
		if errors.Is(err, errdef.ErrNotFound) {
			missing = err
			return false, nil
		}
		return true, err
	})
	if body == nil {
		return nil, classify(cmp.Or(err, missing), fault.Forged, "fetching", r.pin(n))
	}
	return verified(wire{body, r.pin(n)}, n).of(r.pin(n), altered), nil
}

// Exists asks the registry for a node. A manifest that this process has put is waited for: it is
// there, and the registry's reads may lag behind its writes.
func (r *Repository) Exists(ctx context.Context, n graph.Node) (bool, error) {
	if !isManifest(n) {
		there, err := r.remote.Blobs().Exists(ctx, n)
		return there, classify(err, fault.Unavailable, "looking for", r.pin(n))
	}
	return r.await(ctx, n.Digest, func() (bool, error) {
		there, err := r.remote.Manifests().Exists(ctx, n)
		return there, classify(err, fault.Unavailable, "looking for", r.pin(n))
	})
}

// await reads until a manifest is there; once, unless this process has put it.
func (r *Repository) await(ctx context.Context, d digest.Digest, read func() (bool, error)) (bool, error) {
	if r.wrote.has(d) {
		return r.reread(ctx, readBacks, read)
	}
	return read()
}

// foreignReads is how often a manifest is looked for that somebody named and this process did not
// put: another job may have, a moment ago. With the default pause 0.25 + 0.5 + 1 + 2 s.
const foreignReads = 4

// awaitNamed is await for a digest that something names.
func (r *Repository) awaitNamed(ctx context.Context, d digest.Digest, read func() (bool, error)) (bool, error) {
	if r.wrote.has(d) {
		return r.reread(ctx, readBacks, read)
	}
	return r.reread(ctx, foreignReads, read)
}

// reread reads until something is there, at most a number of times more than once.
func (r *Repository) reread(ctx context.Context, times int, read func() (bool, error)) (bool, error) {
	for try := 0; ; try++ {
		there, err := read()
		if err != nil || there || try == times {
			return there, err
		}
		if err := r.wait(ctx, try); err != nil {
			return false, err
		}
	}
}

// Push stores a node whose bytes are checked on the way. A manifest that has a subject is also
// listed among its subject's referrers.
func (r *Repository) Push(ctx context.Context, n graph.Node, content io.Reader) error {
	if !isManifest(n) {
		return r.pushBlob(ctx, n, content)
	}
	manifest, err := readManifest(n, content)
	if err != nil {
		return err
	}
	if err := r.put(ctx, n.Digest.String(), n, manifest); err != nil {
		return err
	}
	subject, entry, err := decodeReferrer(n, manifest)
	if err != nil || subject == nil {
		return err
	}
	return r.enlist(ctx, *subject, entry)
}

// readManifest reads at most graph.MaxManifest bytes and checks them against n.
func readManifest(n graph.Node, content io.Reader) ([]byte, error) {
	if n.Size > graph.MaxManifest {
		return nil, fault.New(fault.Refused, "reading", n.Digest.String(), "a manifest of %d bytes exceeds the limit of %d", n.Size, graph.MaxManifest)
	}
	manifest, err := io.ReadAll(verified(content, n))
	return manifest, classify(err, fault.Forged, "reading", n.Digest.String())
}

// Resolve returns what a tag names; a tag that does not exist is not an error. The digest is
// computed from the manifest's bytes.
func (r *Repository) Resolve(ctx context.Context, tag string) (graph.Node, bool, error) {
	if _, err := ref.ParseTag(tag); err != nil {
		return graph.Node{}, false, err
	}
	return r.at(ctx, tag)
}

// ByDigest returns the manifest with a digest, and whether the repository has it.
func (r *Repository) ByDigest(ctx context.Context, d digest.Digest) (graph.Node, bool, error) {
	if err := d.Validate(); err != nil {
		return graph.Node{}, false, fault.Wrap(err, fault.Invalid, "parsing digest", d.String())
	}
	var n graph.Node
	there, err := r.awaitNamed(ctx, d, func() (there bool, err error) {
		n, there, err = r.at(ctx, d.String())
		return there, err
	})
	if err == nil && there && n.Digest != d {
		return graph.Node{}, false, fault.New(fault.Forged, "fetching", r.name.String()+"@"+d.String(), "the registry answered with %s", n.Digest)
	}
	return n, there, err
}

// at reads a manifest by tag or digest: GET, never HEAD, because only the bytes prove the digest.
func (r *Repository) at(ctx context.Context, reference string) (graph.Node, bool, error) {
	subject := r.name.String() + ":" + reference
	resp, err := r.getManifest(ctx, reference)
	if err != nil {
		return graph.Node{}, false, classify(err, fault.Unavailable, "resolving", subject)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return graph.Node{}, false, nil
	default:
		return graph.Node{}, false, classify(readAnswer(resp), fault.Unavailable, "resolving", subject)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, graph.MaxManifest+1))
	if err != nil {
		return graph.Node{}, false, classify(err, fault.Unavailable, "resolving", subject)
	}
	if len(content) > graph.MaxManifest {
		return graph.Node{}, false, fault.New(fault.Refused, "resolving", subject, "the manifest exceeds %d bytes", graph.MaxManifest)
	}
	mediaType, err := decodeMediaType(resp.Header.Get("Content-Type"), content)
	if err != nil {
		return graph.Node{}, false, fault.Wrap(err, fault.Forged, "resolving", subject)
	}
	n := graph.NewNode(mediaType, content)
	r.client.cache.put(n.Digest, content)
	return n, true, nil
}

func (r *Repository) getManifest(ctx context.Context, reference string) (*http.Response, error) {
	scheme := "https"
	if r.remote.PlainHTTP {
		scheme = "http"
	}
	ctx = auth.AppendRepositoryScope(ctx, r.remote.Reference, auth.ActionPull)
	url := fmt.Sprintf("%s://%s/v2/%s/manifests/%s", scheme, r.remote.Reference.Host(), r.name.Path, reference)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", strings.Join([]string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest}, ", "))
	return r.client.auth.Do(req)
}

// readAnswer turns a refusal into the error that oras-go makes of it.
func readAnswer(resp *http.Response) error {
	answer := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&body); err == nil {
		answer.Errors = body.Errors
	}
	return answer
}

// decodeMediaType returns the media type of a manifest. The header and the document's own field
// must agree: image specification v1.1, "mediaType" of manifest and index.
func decodeMediaType(header string, content []byte) (string, error) {
	claimed, _, err := mime.ParseMediaType(header)
	if err != nil {
		return "", fmt.Errorf("content type %q: %w", header, err)
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return "", fmt.Errorf("it is not a manifest: %w", err)
	}
	if doc.MediaType != "" && doc.MediaType != claimed {
		return "", fmt.Errorf("the registry says %s, the document says %s", claimed, doc.MediaType)
	}
	return claimed, nil
}

// put stores a manifest under a tag or its own digest.
func (r *Repository) put(ctx context.Context, name string, n graph.Node, content []byte) error {
	err := r.remote.Manifests().PushReference(ctx, n, bytes.NewReader(content), name)
	if err == nil {
		r.client.cache.put(n.Digest, content)
		r.wrote.add(n.Digest)
	}
	return classify(err, fault.Unavailable, "pushing", r.name.String()+":"+name)
}

// native lists referrers through the registry's API, specification v1.1.1 "Listing Referrers". A
// registry without it has none to list; whether it has it is remembered, never trusted.
func (r *Repository) native(ctx context.Context, subject graph.Node) ([]graph.Node, error) {
	if r.client.noAPI.Load() {
		return nil, nil
	}
	var all []graph.Node
	err := r.remote.Referrers(ctx, subject, "", func(page []graph.Node) error {
		all = append(all, page...)
		return checkEntries(len(all))
	})
	var answer *errcode.ErrorResponse
	switch {
	case err == nil:
		return all, nil
	case errors.Is(err, errdef.ErrUnsupported):
		r.client.noAPI.Store(true)
		return nil, nil
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound: // no such repository yet
		return nil, nil
	case errors.As(err, &answer) && slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented}, answer.StatusCode):
		r.client.noAPI.Store(true)
		return nil, nil
	}
	return nil, classify(err, fault.Unavailable, "listing referrers of", r.pin(subject))
}

func (r *Repository) pin(n graph.Node) string {
	return ref.Pinned{Repo: r.name, Digest: n.Digest}.String()
}

// isManifest reports whether a node lives among the manifests of a registry.
func isManifest(n graph.Node) bool {
	switch n.MediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest:
		return true
	}
	return false
}

// set remembers digests. It is safe for concurrent use; the zero value is empty.
type set struct {
	mu    sync.Mutex
	items map[digest.Digest]bool
}

func (s *set) has(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[d]
}

func (s *set) add(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items == nil {
		s.items = map[digest.Digest]bool{}
	}
	s.items[d] = true
}
