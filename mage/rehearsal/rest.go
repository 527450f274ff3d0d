package rehearsal

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// budget is what an account has used of its hour.
type budget struct {
	used  int
	since time.Time
}

// The primary rate limits of the REST API, in calls an hour
// (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api).
const (
	anonymousLimit = 60
	workflowLimit  = 1_000
	accountLimit   = 5_000
)

// caller is who calls the REST API: with a login, nobody, or anybody where none is asked for.
type caller struct {
	token   *Token // nil: nobody, or anybody
	anybody bool   // the model asks for no login
}

func (c caller) may(scope string) bool { return c.anybody || c.token != nil && c.token.may(scope) }

// limited lets a call to the REST API in, if its secret is good and its account has calls left.
func (g *GitHub) limited(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request, caller)) {
	secret := secretOf(r)
	token := g.account(secret)
	if secret != "" && token == nil && !g.open() {
		decline(w, http.StatusUnauthorized, "Bad credentials")
		return
	}
	if !g.spend(w, token) {
		decline(w, g.options.RateStatus, "API rate limit exceeded. Check the documentation for more details.")
		return
	}
	if token != nil && token.Repository == "" { // a person's classic token is told what it may do
		w.Header().Set("X-OAuth-Scopes", strings.Join(token.Scopes, ", "))
	}
	by := caller{token, g.open()}
	a := catch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next(w, r, by) }), r)
	a.send(w) // with no lock held, however slowly the client reads
}

// secretOf returns what stands in Authorization, under either of the names that GitHub takes.
func secretOf(r *http.Request) string {
	kind, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") && !strings.EqualFold(kind, "token") {
		return ""
	}
	return secret
}

// spend takes one call from an account's hour, tells what is left, and reports whether there was one.
func (g *GitHub) spend(w http.ResponseWriter, token *Token) bool {
	account, limit := "", anonymousLimit
	switch {
	case g.open():
		limit = accountLimit
	case token != nil && token.Repository != "":
		account, limit = token.Repository, workflowLimit // all jobs of a repository share it
	case token != nil:
		account, limit = token.Secret, accountLimit
	}
	if g.options.RateLimit > 0 {
		limit = g.options.RateLimit
	}
	now := g.options.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.budgets[account]
	if b == nil || now.Sub(b.since) >= time.Hour {
		b = &budget{since: now}
		g.budgets[account] = b
	}
	left := b.used < limit
	if left {
		b.used++
	}
	h := w.Header()
	h.Set("x-ratelimit-limit", strconv.Itoa(limit))
	h.Set("x-ratelimit-used", strconv.Itoa(b.used))
	h.Set("x-ratelimit-remaining", strconv.Itoa(limit-b.used))
	h.Set("x-ratelimit-reset", strconv.FormatInt(b.since.Add(time.Hour).Unix(), 10))
	h.Set("x-ratelimit-resource", "core")
	return left
}

// decline answers with an error of the REST API.
func decline(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]string{
		"message":           message,
		"documentation_url": "https://docs.github.com/rest/packages/packages",
		"status":            strconv.Itoa(status),
	})
}

// The page sizes of the REST API.
const (
	defaultPerPage = 30
	maxPerPage     = 100
)

// paged cuts the page that a request asks for and links its neighbours, with the query it came with.
func paged[T any](w http.ResponseWriter, r *http.Request, all []T) []T {
	per := min(positive(r, "per_page", defaultPerPage), maxPerPage)
	number := positive(r, "page", 1)
	last := max(1, (len(all)+per-1)/per)
	var links []string
	for _, link := range []struct {
		rel  string
		page int
		show bool
	}{
		{"prev", min(number-1, last), number > 1},
		{"next", number + 1, number < last},
		{"last", last, number < last},
		{"first", 1, number > 1},
	} {
		if link.show {
			links = append(links, fmt.Sprintf(`<%s>; rel="%s"`, pageURL(r, link.page), link.rel))
		}
	}
	if len(links) > 0 {
		w.Header().Set("Link", strings.Join(links, ", "))
	}
	if number > last {
		return nil
	}
	return all[(number-1)*per : min(number*per, len(all))]
}

// positive reads a number from the query; what is none is the default, as on GitHub.
func positive(r *http.Request, name string, otherwise int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 1 {
		return otherwise
	}
	return n
}

func pageURL(r *http.Request, page int) string {
	query := r.URL.Query()
	query.Set("page", strconv.Itoa(page))
	return origin(r) + r.URL.EscapedPath() + "?" + query.Encode()
}

// unescape undoes the percent-encoding of one segment of a path.
func unescape(segment string) string {
	plain, err := url.PathUnescape(segment)
	if err != nil {
		return ""
	}
	return plain
}

// newestFirst is the order of the REST API's lists.
func newestFirst[T any](oldestFirst []T) []T {
	list := slices.Clone(oldestFirst)
	slices.Reverse(list)
	return list
}
