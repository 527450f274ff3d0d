package rehearsal

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// pkg is a container package: what the registry calls a repository, and what the REST API lists.
// All of it is guarded by GitHub.mu.
type pkg struct {
	id         int64
	path       string // owner/name
	public     bool
	repository string          // that it is linked to, "" for none
	roles      map[string]Role // by repository
	versions   []*version      // every version there ever was, oldest first
	created    time.Time
	updated    time.Time
	deleted    time.Time // zero while the package is active
	lagging    map[string]*before
}

// version is one manifest. A tag belongs to at most one active version of its package.
type version struct {
	id        int64
	digest    string
	mediaType string
	size      int
	tags      []string // sorted
	created   time.Time
	updated   time.Time
	deleted   time.Time // zero while the version is active
	downloads int
}

// before is what a name meant before its last write, and for how many reads it still does.
type before struct {
	digest string // "" when there was nothing
	reads  int
}

func (p *pkg) owner() string { return p.path[:strings.Index(p.path, "/")] }
func (p *pkg) name() string  { return p.path[strings.Index(p.path, "/")+1:] }

// find returns the active package of that path, or nil.
func (g *GitHub) find(path string) *pkg {
	i := slices.IndexFunc(g.packages, func(p *pkg) bool { return p.path == path && p.deleted.IsZero() })
	if i < 0 {
		return nil
	}
	return g.packages[i]
}

// create adds a private package. One that a workflow pushes is linked to the workflow's repository,
// which gets the write role.
func (g *GitHub) create(path string, by *Token) *pkg {
	now := g.options.Now().UTC()
	p := &pkg{id: g.nextID(), path: path, created: now, updated: now, roles: map[string]Role{}, lagging: map[string]*before{}}
	if by != nil && by.Repository != "" {
		p.repository = by.Repository
		p.roles[by.Repository] = RoleWrite
	}
	g.packages = append(g.packages, p)
	return p
}

func (g *GitHub) nextID() int64 {
	g.last++
	return g.last
}

// put records a manifest that the registry took, under a tag unless it is "".
func (g *GitHub) put(p *pkg, v version, tag string) {
	now := g.options.Now().UTC()
	p.updated = now
	current := p.live(v.digest)
	if current == nil {
		v.id, v.created, v.updated = g.nextID(), now, now
		current = &v
		g.lag(p, v.digest, "")
		p.versions = append(p.versions, current)
	}
	if tag == "" || slices.Contains(current.tags, tag) {
		return
	}
	was := ""
	if holder := p.holder(tag); holder != nil {
		was = holder.digest
		holder.tags = slices.DeleteFunc(holder.tags, func(t string) bool { return t == tag })
		holder.updated = now
	}
	g.lag(p, tag, was)
	current.tags = append(current.tags, tag)
	slices.Sort(current.tags)
	current.updated = now
}

// lag lets the next reads of a name see what was there. A name that lags already goes on showing
// what its readers see.
func (g *GitHub) lag(p *pkg, name, was string) {
	if g.options.Lag <= 0 {
		return
	}
	if b := p.lagging[name]; b != nil {
		was = b.digest
	}
	p.lagging[name] = &before{digest: was, reads: g.options.Lag}
}

// see resolves a tag or a digest as one read does: nil when the reader finds nothing. A look is a
// read that leaves no trace.
func (p *pkg) see(name string, look bool) *version {
	b := p.lagging[name]
	if b == nil {
		return p.resolve(name)
	}
	if !look {
		b.reads--
		if b.reads == 0 {
			delete(p.lagging, name)
		}
	}
	return p.live(b.digest)
}

// resolve returns the active version of a tag or a digest, or nil.
func (p *pkg) resolve(name string) *version {
	if isDigest(name) {
		return p.live(name)
	}
	return p.holder(name)
}

func (p *pkg) live(digest string) *version {
	return p.first(func(v *version) bool { return v.digest == digest })
}

func (p *pkg) holder(tag string) *version {
	return p.first(func(v *version) bool { return slices.Contains(v.tags, tag) })
}

// first returns the first active version of which a fact is true, or nil.
func (p *pkg) first(fact func(*version) bool) *version {
	for _, v := range p.active() {
		if fact(v) {
			return v
		}
	}
	return nil
}

// active returns the versions that are not deleted, oldest first.
func (p *pkg) active() []*version {
	return slices.DeleteFunc(slices.Clone(p.versions), func(v *version) bool { return !v.deleted.IsZero() })
}

// tags returns the tags that a reader of the list sees, in lexical order; for each name that lags it
// is one of the reads that do not see the write.
func (p *pkg) tags() []string {
	names := map[string]bool{}
	for _, v := range p.active() {
		for _, tag := range v.tags {
			names[tag] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.lagging)) {
		if !isDigest(name) {
			names[name] = p.see(name, false) != nil
		}
	}
	maps.DeleteFunc(names, func(_ string, seen bool) bool { return !seen })
	return slices.Sorted(maps.Keys(names))
}

// isDigest tells a digest from a tag, which has no colon.
func isDigest(name string) bool { return strings.Contains(name, ":") }
