package rehearsal

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// serveBlob reads blobs and takes uploads.
func (g *GitHub) serveBlob(w http.ResponseWriter, r *http.Request, t target, by *Token) {
	if !strings.HasPrefix(t.name, "uploads") {
		g.readBlob(w, r, t)
		return
	}
	if r.Header.Get("Content-Range") != "" {
		if refusal := checkRange(r); refusal != "" {
			drain(r)
			refuse(w, http.StatusRequestedRangeNotSatisfiable, "REQUESTED_RANGE_NOT_SATISFIABLE", refusal)
			return
		}
	}
	query := r.URL.Query()
	if from := query.Get("from"); from != "" && (g.options.RefuseMounts || !g.allows(by, from, pull)) {
		r = pathed(r, r.URL.Path)
		query.Del("from")
		query.Del("mount")
		r.URL.RawQuery = query.Encode()
	}
	a := catch(g.base, r)
	if a.status == http.StatusCreated {
		g.keepBlob(t.repo, a.header.Get("Docker-Content-Digest"))
	}
	a.send(w)
}

// checkRange refuses what GHCR refuses of an upload with a Content-Range: a chunk above the limit, and
// a whole blob that claims to be a range. A PATCH without a range is a stream, which docker and crane
// send for layers of any size. A chunk is kept in memory to know its length before it has an effect.
func checkRange(r *http.Request) string {
	if r.Method != http.MethodPatch {
		if r.ContentLength != 0 && strings.HasPrefix(r.Header.Get("Content-Range"), "0-") {
			return "a monolithic upload must not carry Content-Range"
		}
		return ""
	}
	chunk, err := io.ReadAll(io.LimitReader(r.Body, MaxChunk+1))
	if err != nil || len(chunk) > MaxChunk {
		return "the request body is too large and exceeds the maximum permissible limit of 4.00MiB"
	}
	r.Body = io.NopCloser(bytes.NewReader(chunk))
	return ""
}

func (g *GitHub) keepBlob(repo, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.blobs[repo] == nil {
		g.blobs[repo] = map[string]bool{}
	}
	g.blobs[repo][digest] = true
}

// readBlob serves a blob, or sends its reader to the blobs' host.
func (g *GitHub) readBlob(w http.ResponseWriter, r *http.Request, t target) {
	g.mu.Lock()
	host, known := g.redirect, g.blobs[t.repo][t.name]
	g.mu.Unlock()
	if host == "" || !known || r.Method != http.MethodGet {
		g.base.ServeHTTP(w, r)
		return
	}
	http.Redirect(w, r, host+"/"+t.repo+"/blobs/"+t.name+"?sig=model", http.StatusTemporaryRedirect)
}

// serveBlobHost serves what readBlob sends here.
func (g *GitHub) serveBlobHost(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Authorization") != "":
		http.Error(w, "InvalidAuthenticationInfo: the URL is signed; Authorization must not be sent here", http.StatusBadRequest)
	case !isRead(r.Method) || r.URL.Query().Get("sig") != "model":
		http.Error(w, "AuthenticationFailed", http.StatusForbidden)
	default:
		g.base.ServeHTTP(w, pathed(r, "/v2"+r.URL.Path))
	}
}
