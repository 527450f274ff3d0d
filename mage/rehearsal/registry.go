package rehearsal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// MaxChunk is the most that GHCR takes in one chunk of a chunked upload, in bytes
// (ocx-sh/ocx#237, wasmCloud/wash-archive#268).
const MaxChunk = 4 << 20

// target is what a path below /v2/ names.
type target struct {
	repo string // owner/name
	kind string // manifests, blobs, tags, referrers
	name string // a tag, a digest, "list", "uploads/…"
}

// The path of a repository may hold the words of the API; the last of them counts.
var targetGrammar = lazyregexp.New(`^/v2/(.+)/(manifests|blobs|tags|referrers)/(.+)$`)

// parseTarget reads a path below /v2/; on GHCR a repository has an owner and a name.
func parseTarget(path string) (target, bool) {
	m := targetGrammar.FindStringSubmatch(path)
	if m == nil || !strings.Contains(strings.Trim(m[1], "/"), "/") {
		return target{}, false
	}
	return target{m[1], m[2], m[3]}, true
}

// serveRegistry is GHCR: what it refuses it refuses here, the rest is the base registry's.
func (g *GitHub) serveRegistry(w http.ResponseWriter, r *http.Request) {
	t, known := parseTarget(r.URL.Path)
	by, ok := g.enter(w, r, t)
	switch {
	case !ok: // refused already
	case r.URL.Path == "/v2/" || r.URL.Path == "/v2":
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		reply(w, http.StatusOK, struct{}{})
	case r.URL.Path == "/v2/_catalog":
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
	case !known:
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	case r.Method == http.MethodDelete && !strings.HasPrefix(t.name, "uploads/"):
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
	case t.kind == "referrers":
		g.serveReferrers(w, r)
	case t.kind == "tags":
		g.serveTags(w, r, t)
	case t.kind == "manifests" && r.Method == http.MethodPut:
		g.putManifest(w, r, t, by)
	case t.kind == "manifests":
		g.readManifest(w, r, t)
	default:
		g.serveBlob(w, r, t, by)
	}
}

// serveReferrers answers as the option says, and never what was asked.
func (g *GitHub) serveReferrers(w http.ResponseWriter, r *http.Request) {
	empty := encode(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []string{}})
	switch g.options.Referrers {
	case ReferrersEmpty:
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_, _ = io.WriteString(w, empty)
	case ReferrersMistyped:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, empty)
	case ReferrersPage:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page)
	case ReferrersRedirect:
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	default:
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	}
}

// serveTags lists tags in lexical order, a page at a time, with a relative Link to the next
// (distribution specification v1.1, "Listing Tags").
func (g *GitHub) serveTags(w http.ResponseWriter, r *http.Request, t target) {
	n, ok := pageSize(r.URL.Query().Get("n"), g.options.TagPage)
	if !ok {
		refuse(w, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results requested")
		return
	}
	g.mu.Lock()
	p := g.find(t.repo)
	var tags []string
	if p != nil {
		tags = p.tags()
	}
	g.mu.Unlock()
	if p == nil || t.name != "list" {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	last := r.URL.Query().Get("last")
	tags = slices.DeleteFunc(tags, func(tag string) bool { return tag <= last })
	if len(tags) > n {
		tags = tags[:n]
		if n > 0 {
			next := url.Values{"last": {tags[n-1]}, "n": {strconv.Itoa(n)}}
			w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), next.Encode()))
		}
	}
	reply(w, http.StatusOK, map[string]any{"name": t.repo, "tags": append([]string{}, tags...)})
}

// pageSize reads the n of a tag list; a larger one than the registry's own is cut to it.
func pageSize(n string, most int) (int, bool) {
	if n == "" {
		return most, true
	}
	asked, err := strconv.Atoi(n)
	return min(asked, most), err == nil && asked >= 0
}

// readManifest resolves the name as this read sees it and lets the base registry serve the digest.
func (g *GitHub) readManifest(w http.ResponseWriter, r *http.Request, t target) {
	g.mu.Lock()
	var v *version
	if p := g.find(t.repo); p != nil {
		v = p.see(t.name, isLook(r))
	}
	if v != nil && r.Method == http.MethodGet && !isLook(r) {
		v.downloads++
	}
	g.mu.Unlock()
	if v == nil {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	g.base.ServeHTTP(w, pathed(r, "/v2/"+t.repo+"/manifests/"+v.digest))
}

// putManifest lets the base registry check and keep the manifest, and records its name.
func (g *GitHub) putManifest(w http.ResponseWriter, r *http.Request, t target, by *Token) {
	content, err := io.ReadAll(io.LimitReader(r.Body, graph.MaxManifest+1))
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "the body ended early")
		return
	}
	if len(content) > graph.MaxManifest {
		drain(r)
		refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "the manifest exceeds 4 MiB")
		return
	}
	if missing := g.deletedChild(t.repo, content); missing != "" {
		refuse(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: "+missing)
		return
	}
	kept := r.Clone(r.Context())
	kept.Body = io.NopCloser(bytes.NewReader(content))
	a := catch(g.base, kept)
	if a.status == http.StatusCreated {
		v := version{digest: digest.FromBytes(content).String(), mediaType: r.Header.Get("Content-Type"), size: len(content)}
		g.record(t, v, by)
	}
	a.send(w)
}

// record names a manifest that the base registry took.
func (g *GitHub) record(t target, v version, by *Token) {
	tag := t.name
	if isDigest(tag) {
		tag = ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.find(t.repo)
	if p == nil {
		p = g.create(t.repo, by)
	}
	g.put(p, v, tag)
}

// deletedChild returns the first manifest of an index that the base registry still has and GitHub
// does not, because its version was deleted; "" when there is none.
func (g *GitHub) deletedChild(repo string, content []byte) string {
	var index struct{ Manifests []ocispec.Descriptor }
	if json.Unmarshal(content, &index) != nil {
		return "" // the base registry says what is wrong
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.find(repo)
	for _, child := range index.Manifests {
		if p == nil || p.live(child.Digest.String()) == nil {
			return child.Digest.String()
		}
	}
	return ""
}

// pathed is the request with another path.
func pathed(r *http.Request, path string) *http.Request {
	other := r.Clone(r.Context())
	other.URL.Path, other.URL.RawPath, other.RequestURI = path, "", path
	return other
}
