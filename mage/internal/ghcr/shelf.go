package ghcr

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// Shelf is a package: a repository whose manifests have numbers and can be taken away.
type Shelf struct {
	Reader
	client *Client
	name   string // of the package, below its owner
}

// Reader reads the repository of a package through the registry.
type Reader interface {
	Name() ref.Repo
	Manifest(ctx context.Context, d digest.Digest) (n graph.Node, content []byte, found bool, err error)
}

// Shelf returns the package of a repository.
func (c *Client) Shelf(name string, r Reader) *Shelf { return &Shelf{r, c, name} }

// Limits of a list.
const (
	perPage  = 100 // the most that GitHub gives
	maxPages = 1_000
	listings = 4 // how often a list is read that changes while it is read
	parallel = 8
)

// version is the part of GitHub's schema "package-version" that is used.
type version struct {
	ID       int64     `json:"id"`
	Name     string    `json:"name"` // the manifest's digest
	Created  time.Time `json:"created_at"`
	Metadata struct {
		Container struct {
			Tags []string `json:"tags"`
		} `json:"container"`
	} `json:"metadata"`
}

// Package is what GitHub says of a package.
type Package struct {
	Visibility string `json:"visibility"` // public, private, internal
	Versions   int    `json:"version_count"`
	Page       string `json:"html_url"`
	Repository *struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
}

// Package reads the package; false means that there is none, or that the token may not see it.
func (s *Shelf) Package(ctx context.Context) (Package, bool, error) {
	p, _, found, err := s.read(ctx)
	return p, found, err
}

// Scopes returns what GitHub says this client's token may do, and false where it does not say: it
// does for a person's classic token alone. A token that GitHub does not know is an error.
// https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps
func (c *Client) Scopes(ctx context.Context) (scopes []string, told bool, err error) {
	a, err := c.call(ctx, http.MethodGet, "/orgs/"+url.PathEscape(c.owner)+"/packages?package_type=container&per_page=1")
	if err != nil {
		return nil, false, err
	}
	if a.status == http.StatusUnauthorized {
		return nil, false, a.fault("reading the token's scopes for", c.owner)
	}
	values, told := a.header[http.CanonicalHeaderKey("X-OAuth-Scopes")]
	for scope := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			scopes = append(scopes, scope)
		}
	}
	return scopes, told, nil
}

// read finds the package below an organisation or a user, and GitHub's time.
func (s *Shelf) read(ctx context.Context) (p Package, at time.Time, found bool, err error) {
	for _, form := range s.client.forms() {
		a, err := s.client.call(ctx, http.MethodGet, s.path(form))
		if err != nil {
			return p, at, false, err
		}
		switch a.status {
		case http.StatusOK:
			s.client.settle(form)
			if at, err = http.ParseTime(a.header.Get("Date")); err == nil {
				err = json.Unmarshal(a.body, &p)
			}
			return p, at, true, fault.Wrap(err, fault.Forged, "reading package", s.Name().String())
		case http.StatusNotFound:
		default:
			return p, at, false, a.fault("reading package", s.Name().String())
		}
	}
	return p, at, false, nil
}

// forms are the paths that may lead to the owner.
func (c *Client) forms() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.form != "" {
		return []string{c.form}
	}
	return []string{"orgs", "users"}
}

func (c *Client) settle(form string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form = form
}

func (s *Shelf) path(form string) string {
	return "/" + form + "/" + url.PathEscape(s.client.owner) + "/packages/container/" + url.PathEscape(s.name)
}

// versions is the path of the versions, or of one.
func (s *Shelf) versions(rest string) string { return s.path(s.client.forms()[0]) + "/versions" + rest }

// List returns every version, without what it names, and GitHub's time. A part is never taken for the
// whole: a list has as many versions as GitHub counts before it and after it, or is read again until
// two in a row are the same.
func (s *Shelf) List(ctx context.Context) ([]graph.Item, time.Time, error) {
	var last []graph.Item
	for range listings {
		before, at, found, err := s.read(ctx)
		if err != nil || !found {
			return nil, at, err
		}
		items, err := s.pages(ctx)
		if err != nil {
			return nil, at, err
		}
		after, _, _, err := s.read(ctx)
		if err != nil {
			return nil, at, err
		}
		if before.Versions == after.Versions && distinct(items) && (len(items) == before.Versions || same(items, last)) {
			return items, at, nil
		}
		last = items
	}
	return nil, time.Time{}, fault.New(fault.Unavailable, "listing", s.Name().String(), "it changed during each of %d listings", listings).
		WithHint("somebody is pushing or deleting: run the same command again")
}

func distinct(items []graph.Item) bool {
	seen := map[int64]bool{}
	for _, it := range items {
		if seen[it.ID] {
			return false
		}
		seen[it.ID] = true
	}
	return true
}

// same reports whether a list is there and has the same versions with the same tags as another.
func same(a, b []graph.Item) bool {
	return len(b) > 0 && slices.EqualFunc(a, b, func(x, y graph.Item) bool { return x.ID == y.ID && slices.Equal(x.Tags, y.Tags) })
}

// pages reads the first page, which says how many there are, and then all others at once; and so on,
// as long as one of them knows of more.
func (s *Shelf) pages(ctx context.Context) ([]graph.Item, error) {
	first, last, err := s.page(ctx, 1)
	if err != nil {
		return nil, err
	}
	pages := [][]graph.Item{first}
	for len(pages) < last {
		if last > maxPages {
			return nil, fault.New(fault.Refused, "listing", s.Name().String(), "%d pages exceed the limit of %d", last, maxPages)
		}
		known := len(pages)
		if pages, last, err = s.more(ctx, pages, last); err != nil {
			return nil, err
		}
		if same(pages[known], first) { // the list of a user's package is documented without pages
			return slices.Concat(pages[:known]...), nil
		}
	}
	return slices.Concat(pages...), nil
}

// more reads the pages up to one, beside those that were read, and returns the highest that is known now.
func (s *Shelf) more(ctx context.Context, pages [][]graph.Item, to int) ([][]graph.Item, int, error) {
	read, lasts := make([][]graph.Item, to-len(pages)), make([]int, to-len(pages))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range read {
		group.Go(func() (err error) {
			read[i], lasts[i], err = s.page(ctx, len(pages)+i+1)
			return err
		})
	}
	err := group.Wait()
	return append(pages, read...), max(to, slices.Max(lasts)), err
}

// page reads one page; last is the number of the last one, as its links say.
func (s *Shelf) page(ctx context.Context, n int) (items []graph.Item, last int, err error) {
	a, err := s.client.call(ctx, http.MethodGet, s.versions(fmt.Sprintf("?per_page=%d&page=%d", perPage, n)))
	if err != nil {
		return nil, 0, err
	}
	if a.status != http.StatusOK {
		return nil, 0, a.fault("listing", s.Name().String())
	}
	var list []version
	if err := json.Unmarshal(a.body, &list); err != nil {
		return nil, 0, fault.Wrap(err, fault.Forged, "listing", s.Name().String())
	}
	for _, v := range list {
		it, err := s.item(v)
		if err != nil {
			return nil, 0, err
		}
		items = append(items, it)
	}
	last = lastPage(a.header.Get("Link"), n)
	if a.header.Get("Link") == "" && len(list) >= perPage {
		last = n + 1 // nothing says that a full page is the last one
	}
	return items, last, nil
}

func (s *Shelf) item(v version) (graph.Item, error) {
	d, err := digest.Parse(v.Name)
	if err != nil || v.ID == 0 {
		return graph.Item{}, fault.New(fault.Forged, "listing", s.Name().String(), "version %d is named %q, not by a digest", v.ID, v.Name)
	}
	tags := slices.Sorted(slices.Values(v.Metadata.Container.Tags))
	return graph.Item{At: ref.Pinned{Repo: s.Name(), Digest: d}, ID: v.ID, Tags: tags, Since: v.Created}, nil
}

var lastLink = lazyregexp.New(`<[^>]*[?&]page=([0-9]+)[^>]*>; rel="(last|next)"`)

// lastPage returns the highest page that the links of one name.
func lastPage(links string, here int) int {
	last := here
	for _, m := range lastLink.FindAllStringSubmatch(links, -1) {
		if n, err := strconv.Atoi(m[1]); err == nil {
			last = max(last, n)
		}
	}
	return last
}

// Recent returns the newest versions, back to one that is known.
func (s *Shelf) Recent(ctx context.Context, known func(ref.Pinned) bool) ([]graph.Item, error) {
	var all []graph.Item
	for n := 1; n <= maxPages; n++ {
		items, last, err := s.page(ctx, n)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if n >= last || slices.ContainsFunc(items, func(it graph.Item) bool { return known(it.At) }) {
			return all, nil
		}
	}
	return all, nil
}

// Look reads one version as it is now.
func (s *Shelf) Look(ctx context.Context, it graph.Item) (tags []string, found bool, err error) {
	a, err := s.client.call(ctx, http.MethodGet, s.versions("/"+strconv.FormatInt(it.ID, 10)))
	switch {
	case err != nil:
		return nil, false, err
	case a.status == http.StatusNotFound:
		return nil, false, nil
	case a.status != http.StatusOK:
		return nil, false, a.fault("looking at", it.At.String())
	}
	var v version
	if err := json.Unmarshal(a.body, &v); err != nil {
		return nil, false, fault.Wrap(err, fault.Forged, "looking at", it.At.String())
	}
	now, err := s.item(v)
	if err == nil && now.At != it.At {
		err = fault.New(fault.Forged, "looking at", it.At.String(), "version %d is %s", it.ID, now.At.Digest)
	}
	return now.Tags, true, err
}

// Delete takes a version away, with all of its tags. GitHub refuses some with 400 and says why in
// the body alone: the last tagged one, the last of all, and public ones that many downloaded.
func (s *Shelf) Delete(ctx context.Context, it graph.Item) (retention.Outcome, string, error) {
	a, err := s.client.call(ctx, http.MethodDelete, s.versions("/"+strconv.FormatInt(it.ID, 10)))
	switch {
	case err != nil:
		return "", "", err
	case a.status == http.StatusNoContent:
		return retention.Deleted, "", nil
	case a.status == http.StatusNotFound:
		return retention.Absent, "", nil
	case a.status == http.StatusBadRequest:
		return retention.Retained, a.message(), nil
	}
	return "", "", a.fault("deleting", it.At.String())
}

// Restore brings a version back by its number, within 30 days and unless its digest was pushed again.
// GitHub gives its tags back with it.
func (s *Shelf) Restore(ctx context.Context, e retention.Entry, _ []byte) error {
	switch _, _, found, err := s.read(ctx); {
	case err != nil:
		return err
	case !found:
		return fault.New(fault.Environment, "restoring", e.At, "the package does not exist, or this token may not see it").WithHint("mage ops:visibility")
	}
	a, err := s.client.call(ctx, http.MethodPost, s.versions("/"+strconv.FormatInt(e.ID, 10)+"/restore"))
	switch {
	case err != nil:
		return err
	case a.status == http.StatusNoContent:
		return nil
	case a.status == http.StatusNotFound, a.status == http.StatusBadRequest:
		return fault.New(fault.Unverified, "restoring", e.At, "GitHub does not give it back: %s", a.message()).
			WithHint("30 days have passed, or the same digest was pushed again: release the commit anew")
	}
	return a.fault("restoring", e.At)
}
