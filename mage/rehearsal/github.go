package rehearsal

import (
	"crypto/rsa"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options says which GitHub is rehearsed. The zero value is one that asks for no login, whose reads
// see every write at once, and whose clock stands at [Epoch].
type Options struct {
	Now func() time.Time // the model's clock, also of its Date headers; nil: it stands at Epoch

	// The registry.
	Lag          int       // reads of a tag or a digest that are still answered as before, after each write of it
	Referrers    Referrers // what the referrers API answers; the zero value is today's 404
	TagPage      int       // most tags in one page; 0: 100
	RefuseMounts bool      // a mount from another repository is answered 202, as the specification allows

	// Login. Without Tokens nobody is asked who they are and everybody may do everything.
	Tokens     []Token
	BearerUses int // calls to the registry that one bearer token is good for, then 401; 0: no end

	// The REST API.
	Users      []string // owners that are users; every other owner is an organisation
	RateLimit  int      // calls of one account, or of all jobs of a repository, within an hour; 0: 5,000, for a GITHUB_TOKEN 1,000, without login 60
	RateStatus int      // how a call over the limit is answered, 403 or 429; 0: 403

	Private      []string // "owner/name" of private repositories, which keep no attestations; every other is public
	BundlesApart bool     // the list of attestations names where each bundle is, as since July 2026, instead of holding it

	// The OIDC issuer: claims beside and instead of the model's own.
	Claims map[string]string
}

// Epoch is where the clock stands that nobody set.
func Epoch() time.Time { return time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC) }

// Token is a secret that GitHub knows: a classic personal access token or, with a Repository, the
// GITHUB_TOKEN of a workflow there.
type Token struct {
	Secret     string
	Login      string   // whose token it is
	Scopes     []string // read:packages, write:packages (reads as well), delete:packages; for a workflow also id-token:write, attestations:write
	Repository string   // "owner/name" for a GITHUB_TOKEN, which may do no more than the package grants that repository
}

// Referrers is what GET /v2/…/referrers/… answers.
type Referrers int

// The answers that were seen or feared; fault row B11.
const (
	ReferrersMissing  Referrers = iota // 404 MANIFEST_UNKNOWN, also for manifests that exist
	ReferrersEmpty                     // 200 with an empty index, whatever is attached
	ReferrersMistyped                  // 200 with an empty index as application/json
	ReferrersPage                      // 200 with an HTML page
	ReferrersRedirect                  // 303 to a page for people
)

// Role is what a package grants a repository under "Manage Actions access".
type Role int

// The roles, each including the ones before it.
const (
	RoleNone Role = iota
	RoleRead
	RoleWrite
	RoleAdmin
)

// GitHub is the model. It is an http.Handler, safe for concurrent use, and holds all state in memory.
type GitHub struct {
	options Options
	base    http.Handler // the true registry
	key     func() *rsa.PrivateKey

	mu           sync.Mutex
	last         int64 // the last id that was given
	packages     []*pkg
	blobs        map[string]map[string]bool // repository → digests
	revoked      map[string]bool            // secrets and bearer tokens
	bearers      map[string]*bearer
	budgets      map[string]*budget // by account
	attestations []attestation
	redirect     string // base URL of the blobs' host, "" when they are served here
}

// New returns a model that holds nothing yet.
func New(o Options) *GitHub {
	if o.Now == nil {
		o.Now = Epoch
	}
	if o.TagPage <= 0 {
		o.TagPage = 100
	}
	if o.RateStatus == 0 {
		o.RateStatus = http.StatusForbidden
	}
	return &GitHub{
		options: o,
		base:    newBase(),
		key:     sync.OnceValue(newKey),
		blobs:   map[string]map[string]bool{},
		revoked: map[string]bool{},
		bearers: map[string]*bearer{},
		budgets: map[string]*budget{},
	}
}

// ServeHTTP answers for every host of GitHub: the registry under /v2/ and /token, the REST API under
// /orgs, /users, /user and /repos, the OIDC issuer under /oidc and /.well-known.
func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", g.options.Now().UTC().Format(http.TimeFormat))
	switch root, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); root {
	case "v2":
		g.serveRegistry(w, r)
	case "token":
		g.serveToken(w, r)
	case "orgs", "users", "user":
		g.limited(w, r, g.servePackages)
	case "repos":
		g.limited(w, r, g.serveAttestations)
	case "bundles":
		g.serveBundle(w, r)
	case "oidc", ".well-known":
		g.serveOIDC(w, r)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(page))
	}
}

// page is what GitHub shows people.
const page = "<!DOCTYPE html><title>GitHub</title><p>This page is for people.</p>\n"

// BlobHost is the second host, where the registry keeps its blobs: it serves them without login and
// refuses a request that carries Authorization, as storage behind signed URLs does.
func (g *GitHub) BlobHost() http.Handler { return http.HandlerFunc(g.serveBlobHost) }

// RedirectBlobs answers every GET of a blob with a 307 to that host, from now on; base is the URL
// under which [GitHub.BlobHost] is served.
func (g *GitHub) RedirectBlobs(base string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.redirect = strings.TrimSuffix(base, "/")
}

// Publish makes a package public, as a person does on its settings page: no API can. It reports
// whether there is such a package; the name is "owner/name".
func (g *GitHub) Publish(name string) bool {
	return g.change(name, func(p *pkg) { p.public = true })
}

// Grant gives a repository a role on a package, as its settings page does, and reports whether there
// is such a package.
func (g *GitHub) Grant(name, repository string, role Role) bool {
	return g.change(name, func(p *pkg) { p.roles[repository] = role })
}

// Download counts n more downloads of a version; each GET of its manifest counts one by itself. It
// reports whether there is such a package.
func (g *GitHub) Download(name, digest string, n int) bool {
	return g.change(name, func(p *pkg) {
		if v := p.live(digest); v != nil {
			v.downloads += n
		}
	})
}

// Revoke ends a token, and with it every bearer token that was had for it; Revoke("") ends the
// bearer tokens alone, as when all of them expire.
func (g *GitHub) Revoke(secret string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revoked[secret] = secret != ""
	for name, b := range g.bearers {
		if secret == "" || b.account != nil && b.account.Secret == secret {
			delete(g.bearers, name)
		}
	}
}

func (g *GitHub) change(name string, by func(*pkg)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.find(name)
	if p != nil {
		by(p)
	}
	return p != nil
}
