package rehearsal

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// address is what a path of the Packages API names.
type address struct {
	form    string // orgs, users, user
	owner   string // "" for user
	name    string // of a package, unescaped; "" for the list
	version string // digits; "" for the package, or the list of its versions
	list    bool   // the list of versions
	restore bool
}

// The paths of the Packages API, percent-encoded; a slash in a package's name is %2F.
var addressGrammar = lazyregexp.New(`^/(?:(orgs|users)/([^/]+)|user)/packages(?:/container/([^/]+)(/versions(?:/([0-9]{1,18}))?)?(/restore)?)?$`)

func parseAddress(escaped string) (address, bool) {
	m := addressGrammar.FindStringSubmatch(escaped)
	if m == nil {
		return address{}, false
	}
	a := address{form: m[1], owner: unescape(m[2]), name: unescape(m[3]), version: m[5], list: m[4] != "" && m[5] == "", restore: m[6] != ""}
	if a.form == "" {
		a.form = "user"
	}
	bad := m[3] != "" && a.name == "" || m[2] != "" && a.owner == "" || a.list && a.restore
	return a, !bad
}

// servePackages is the Packages REST API for containers. It has no PATCH and no PUT: nothing here
// sets a visibility, edits a tag or links a repository.
func (g *GitHub) servePackages(w http.ResponseWriter, r *http.Request, by caller) {
	a, ok := parseAddress(r.URL.EscapedPath())
	if ok {
		ok = g.locate(&a, by)
	}
	route := r.Method
	if a.restore {
		route += " restore"
	}
	switch {
	case !ok:
		decline(w, http.StatusNotFound, "Not Found")
	case a.name == "" && route == "GET":
		g.listPackages(w, r, a, by)
	case a.name == "":
		decline(w, http.StatusNotFound, "Not Found")
	case a.list && route == "GET":
		g.listVersions(w, r, a, by)
	case a.list:
		decline(w, http.StatusNotFound, "Not Found")
	case route == "GET":
		g.readOne(w, a, by)
	case route == "DELETE":
		g.remove(w, a, by)
	case route == "POST restore":
		g.restore(w, a, by)
	default:
		decline(w, http.StatusNotFound, "Not Found")
	}
}

// locate fills in the owner and reports whether the form of the path fits it: /user is the token's
// own account, and a GITHUB_TOKEN's is a bot's, which owns nothing.
func (g *GitHub) locate(a *address, by caller) bool {
	isUser := slices.Contains(g.options.Users, a.owner)
	switch a.form {
	case "orgs":
		return !isUser
	case "users":
		return isUser
	}
	if by.token == nil || by.token.Repository != "" {
		return false
	}
	a.owner = by.token.Login
	return true
}

// listPackages lists an owner's packages that the caller may see.
func (g *GitHub) listPackages(w http.ResponseWriter, r *http.Request, a address, by caller) {
	if !by.may(string(pull)) {
		decline(w, http.StatusForbidden, "You need at least read:packages scope to list packages.")
		return
	}
	query := r.URL.Query()
	if query.Get("package_type") != "container" {
		decline(w, http.StatusUnprocessableEntity, "package_type must be container: the model holds no other")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	list := []packageForm{}
	for _, p := range newestFirst(g.packages) {
		visibility := query.Get("visibility")
		if p.owner() == a.owner && p.deleted.IsZero() && p.visibleTo(by) && (visibility == "" || visibility == p.visibility()) {
			list = append(list, g.form(p, a))
		}
	}
	reply(w, http.StatusOK, append([]packageForm{}, paged(w, r, list)...))
}

// visibleTo reports whether a caller may read the package: the roles hold for workflows.
func (p *pkg) visibleTo(by caller) bool {
	return by.anybody || p.public || by.token != nil && (by.token.Repository == "" || p.roles[by.token.Repository] >= RoleRead)
}

func (p *pkg) visibility() string {
	if p.public {
		return "public"
	}
	return "private"
}

// readOne answers with a package or one active version of it.
func (g *GitHub) readOne(w http.ResponseWriter, a address, by caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.reachable(w, a, by)
	switch {
	case p == nil:
	case a.version == "":
		reply(w, http.StatusOK, g.form(p, a))
	default:
		if v := p.numbered(a.version); v != nil && v.deleted.IsZero() {
			reply(w, http.StatusOK, formOf(v, p, a))
			return
		}
		decline(w, http.StatusNotFound, "Package not found.")
	}
}

// reachable returns the active package of an address, or refuses and returns nil.
func (g *GitHub) reachable(w http.ResponseWriter, a address, by caller) *pkg {
	if !by.may(string(pull)) {
		decline(w, http.StatusForbidden, "You need at least read:packages scope to get a package.")
		return nil
	}
	p := g.find(a.owner + "/" + a.name)
	if p == nil || !p.visibleTo(by) {
		decline(w, http.StatusNotFound, "Package not found.")
		return nil
	}
	return p
}

// packageForm is the schema "package" of GitHub's OpenAPI description.
type packageForm struct {
	ID           int64           `json:"id"`
	Name         string          `json:"name"`
	PackageType  string          `json:"package_type"`
	Owner        ownerForm       `json:"owner"`
	VersionCount int             `json:"version_count"`
	Visibility   string          `json:"visibility"`
	URL          string          `json:"url"`
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
	Repository   *repositoryForm `json:"repository,omitempty"`
	HTMLURL      string          `json:"html_url"`
}

type ownerForm struct {
	Login string `json:"login"`
	Type  string `json:"type"`
}

type repositoryForm struct {
	Name     string `json:"name"`
	FullName string `json:"full_name"`
}

func (g *GitHub) form(p *pkg, a address) packageForm {
	kind := "Organization"
	if slices.Contains(g.options.Users, p.owner()) {
		kind = "User"
	}
	f := packageForm{
		ID: p.id, Name: p.name(), PackageType: "container", Owner: ownerForm{p.owner(), kind},
		VersionCount: len(p.active()), Visibility: p.visibility(), URL: p.url(a),
		CreatedAt: p.created, UpdatedAt: p.updated, HTMLURL: p.page(),
	}
	if _, name, ok := strings.Cut(p.repository, "/"); ok {
		f.Repository = &repositoryForm{name, p.repository}
	}
	return f
}

func (p *pkg) url(a address) string {
	form := a.form
	if form == "user" {
		form = "users"
	}
	return "https://api.github.com/" + form + "/" + p.owner() + "/packages/container/" + url.PathEscape(p.name())
}

func (p *pkg) page() string {
	return "https://github.com/orgs/" + p.owner() + "/packages/container/package/" + url.PathEscape(p.name())
}

// numbered returns the version with an id, deleted or not, or nil.
func (p *pkg) numbered(id string) *version {
	i := slices.IndexFunc(p.versions, func(v *version) bool { return strconv.FormatInt(v.id, 10) == id })
	if i < 0 {
		return nil
	}
	return p.versions[i]
}
