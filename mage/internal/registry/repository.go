package registry

import (
	"bytes"
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
	shelf    shelf
	subjects keyed // one attachment to a subject at a time
	ledger   ledger
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

// Fetch returns the content of a node; its reader fails at the end if size or digest differ.
// Manifests are read whole, checked, and remembered by digest.
func (r *Repository) Fetch(ctx context.Context, n graph.Node) (io.ReadCloser, error) {
	if !isManifest(n) {
		body, err := r.remote.Blobs().Fetch(ctx, n)
		if err != nil {
			return nil, classify(err, fault.Forged, "fetching", r.pin(n))
		}
		return verified(body, n), nil
	}
	content, ok := r.shelf.get(n.Digest)
	if !ok {
		var err error
		if content, err = graph.Fetch(ctx, r.remote.Manifests(), n, graph.MaxManifest); err != nil {
			return nil, classify(err, fault.Forged, "fetching", r.pin(n))
		}
		r.shelf.put(n.Digest, content)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

// Exists asks the registry for a node.
func (r *Repository) Exists(ctx context.Context, n graph.Node) (bool, error) {
	var there bool
	var err error
	if isManifest(n) {
		there, err = r.remote.Manifests().Exists(ctx, n)
	} else {
		there, err = r.remote.Blobs().Exists(ctx, n)
	}
	return there, classify(err, fault.Unavailable, "looking for", r.pin(n))
}

// Push stores a node whose bytes are checked on the way. A manifest that has a subject is also
// listed among its subject's referrers.
func (r *Repository) Push(ctx context.Context, n graph.Node, content io.Reader) error {
	if !isManifest(n) {
		return classify(r.remote.Blobs().Push(ctx, n, verified(content, n)), fault.Unavailable, "pushing", r.pin(n))
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
	defer r.subjects.lock(subject.Digest)()
	return enlist(ctx, r, *subject, entry)
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
	n, there, err := r.at(ctx, d.String())
	if err == nil && there && n.Digest != d {
		return graph.Node{}, false, fault.New(fault.Forged, "fetching", r.name.String()+"@"+d.String(), "the registry answered with %s", n.Digest)
	}
	return n, there, err
}

// Tags returns every tag, sorted, those of the referrers fallback included. A repository that
// does not exist has none.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var all []string
	err := r.remote.Tags(ctx, "", func(page []string) error {
		all = append(all, page...)
		return nil
	})
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err, fault.Unavailable, "listing tags of", r.name.String())
	}
	slices.Sort(all)
	return slices.Compact(all), nil
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
	r.shelf.put(n.Digest, content)
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
		r.shelf.put(n.Digest, content)
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

// maxShelf bounds the manifests a repository keeps in memory, in bytes.
const maxShelf = 64 << 20

// shelf remembers manifests by digest: what has a digest cannot change.
type shelf struct {
	mu    sync.Mutex
	size  int
	items map[digest.Digest][]byte
}

func (s *shelf) get(d digest.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.items[d]
	return content, ok
}

func (s *shelf) put(d digest.Digest, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items == nil || s.size+len(content) > maxShelf {
		s.items, s.size = map[digest.Digest][]byte{}, 0
	}
	if _, ok := s.items[d]; !ok {
		s.items[d] = content
		s.size += len(content)
	}
}
