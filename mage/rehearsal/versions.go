package rehearsal

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxDownloads is above how many downloads GitHub deletes no public version.
const maxDownloads = 5_000

// restorable is how long what was deleted can be brought back.
const restorable = 30 * 24 * time.Hour

// The refusals, all of them 400 with the reason in the body alone
// (kairos-io/kairos#4723, actions/delete-package-versions#231, chizkiyahu/delete-untagged-ghcr-action#40).
const (
	lastTagged = "You cannot delete the last tagged version of a package. You must delete the package instead."
	lastOne    = "You cannot delete the last version of a package. You must delete the package instead."
	tooPopular = "Publicly visible package versions with more than 5000 downloads cannot be deleted. Contact GitHub support for further assistance."
	noAdmin    = "Resource not accessible by integration"
	notFound   = "Package not found."
)

// listVersions lists versions, newest first. The form for users documents neither pages nor states:
// it lists all that is active at once.
func (g *GitHub) listVersions(w http.ResponseWriter, r *http.Request, a address, by caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.reachable(w, a, by)
	if p == nil {
		return
	}
	deleted := r.URL.Query().Get("state") == "deleted" && a.form != "users"
	list := []versionForm{}
	for _, v := range newestFirst(p.versions) {
		if v.deleted.IsZero() != deleted {
			list = append(list, formOf(v, p, a))
		}
	}
	if a.form != "users" {
		list = append([]versionForm{}, paged(w, r, list)...)
	}
	reply(w, http.StatusOK, list)
}

// remove deletes a version with all its tags, or a package; nothing else goes with them.
func (g *GitHub) remove(w http.ResponseWriter, a address, by caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.administered(w, a, by, "delete:packages")
	if p == nil {
		return
	}
	now := g.options.Now().UTC()
	if a.version == "" {
		if refusal := p.keepsAll(); refusal != "" {
			decline(w, http.StatusBadRequest, refusal)
			return
		}
		p.deleted = now
		w.WriteHeader(http.StatusNoContent)
		return
	}
	v := p.numbered(a.version)
	if v == nil || !v.deleted.IsZero() {
		decline(w, http.StatusNotFound, notFound)
		return
	}
	if refusal := p.keeps(v); refusal != "" {
		decline(w, http.StatusBadRequest, refusal)
		return
	}
	v.deleted = now
	w.WriteHeader(http.StatusNoContent)
}

// keeps says why a version cannot be deleted, or "".
func (p *pkg) keeps(v *version) string {
	active := p.active()
	tagged := slices.DeleteFunc(slices.Clone(active), func(v *version) bool { return len(v.tags) == 0 })
	switch {
	case len(active) == 1:
		return lastOne
	case len(tagged) == 1 && tagged[0] == v:
		return lastTagged
	case p.public && v.downloads > maxDownloads:
		return tooPopular
	}
	return ""
}

func (p *pkg) keepsAll() string {
	popular := p.first(func(v *version) bool { return v.downloads > maxDownloads })
	if p.public && popular != nil {
		return tooPopular
	}
	return ""
}

// restore brings back a version by its id, or a package by its name, within 30 days and unless its
// digest, or its name, was used again. Its tags come back with it but for those that moved on.
func (g *GitHub) restore(w http.ResponseWriter, a address, by caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.version == "" {
		g.restorePackage(w, a, by)
		return
	}
	p := g.administered(w, a, by, string(push))
	if p == nil {
		return
	}
	v := p.numbered(a.version)
	switch {
	case v == nil || v.deleted.IsZero() || g.expired(v.deleted):
		decline(w, http.StatusNotFound, notFound)
	case p.live(v.digest) != nil:
		decline(w, http.StatusBadRequest, "The version was published again and cannot be restored.")
	default:
		v.tags = slices.DeleteFunc(v.tags, func(tag string) bool { return p.holder(tag) != nil }) // moved meanwhile
		v.deleted = time.Time{}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (g *GitHub) restorePackage(w http.ResponseWriter, a address, by caller) {
	path := a.owner + "/" + a.name
	i := slices.IndexFunc(newestFirst(g.packages), func(p *pkg) bool { return p.path == path && !p.deleted.IsZero() && !g.expired(p.deleted) })
	switch {
	case g.find(path) != nil:
		decline(w, http.StatusBadRequest, "The package's name is in use and it cannot be restored.")
	case i < 0:
		decline(w, http.StatusNotFound, notFound)
	default:
		p := newestFirst(g.packages)[i]
		if p.grants(w, by, string(push)) {
			p.deleted = time.Time{}
			w.WriteHeader(http.StatusNoContent)
		}
	}
}

func (g *GitHub) expired(deleted time.Time) bool {
	return g.options.Now().Sub(deleted) > restorable
}

// administered returns the package of an address for a caller who may change it, or refuses.
func (g *GitHub) administered(w http.ResponseWriter, a address, by caller, scope string) *pkg {
	p := g.reachable(w, a, by)
	if p == nil || !p.grants(w, by, scope) {
		return nil
	}
	return p
}

// grants reports whether a caller may delete and restore, or refuses. A personal token needs the
// scope, and its person is the package's admin; a GITHUB_TOKEN needs packages: write, and the Admin
// role for its repository.
func (p *pkg) grants(w http.ResponseWriter, by caller, scope string) bool {
	workflow := by.token != nil && by.token.Repository != ""
	switch {
	case by.anybody:
		return true
	case workflow && by.may(string(push)) && p.roles[by.token.Repository] >= RoleAdmin:
		return true
	case workflow:
		decline(w, http.StatusForbidden, noAdmin)
		return false
	case !by.may(scope):
		decline(w, http.StatusForbidden, "You need at least the scopes read:packages and "+scope+".")
		return false
	}
	return true
}

// versionForm is the schema "package-version" of GitHub's OpenAPI description: no size, no media
// type, no parent and no downloads.
type versionForm struct {
	ID             int64        `json:"id"`
	Name           string       `json:"name"` // the manifest's digest
	URL            string       `json:"url"`
	PackageHTMLURL string       `json:"package_html_url"`
	HTMLURL        string       `json:"html_url"`
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
	DeletedAt      *time.Time   `json:"deleted_at,omitempty"`
	Metadata       metadataForm `json:"metadata"`
}

type metadataForm struct {
	PackageType string        `json:"package_type"`
	Container   containerForm `json:"container"`
}

type containerForm struct {
	Tags []string `json:"tags"`
}

func formOf(v *version, p *pkg, a address) versionForm {
	id := strconv.FormatInt(v.id, 10)
	f := versionForm{
		ID: v.id, Name: v.digest, URL: p.url(a) + "/versions/" + id, PackageHTMLURL: p.page(), HTMLURL: p.page() + "/" + id,
		CreatedAt: v.created, UpdatedAt: v.updated,
		Metadata: metadataForm{"container", containerForm{append([]string{}, v.tags...)}},
	}
	if !v.deleted.IsZero() {
		f.DeletedAt = &v.deleted
	}
	return f
}
