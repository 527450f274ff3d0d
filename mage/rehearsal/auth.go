package rehearsal

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The refusals that docker prints as "denied: permission_denied: …".
const (
	scopesMismatch = "permission_denied: The token provided does not match expected scopes."
	writeDenied    = "permission_denied: write_package"
)

// action is what a bearer token is asked for, as in the token scope "repository:acme/base:pull,push".
type action string

const (
	pull  action = "pull"
	push  action = "push"
	every action = "*" // what skopeo asks for to delete
)

// bearer is a token of the registry, which a client had for a Token, or for none.
type bearer struct {
	account *Token // nil: anonymous
	scopes  map[string][]action
	uses    int
}

func (b *bearer) covers(repo string, a action) bool {
	return repo == "" || slices.Contains(b.scopes[repo], a) || slices.Contains(b.scopes[repo], every)
}

// enter lets a call to the registry in, or refuses it and reports false: 401 with a challenge where
// another token would help, 403 where none of this account does.
func (g *GitHub) enter(w http.ResponseWriter, r *http.Request, t target) (*Token, bool) {
	if g.open() {
		return nil, true
	}
	a := push
	if isRead(r.Method) {
		a = pull
	}
	b := g.present(r)
	switch {
	case b == nil || !b.covers(t.repo, a):
		drain(r)
		challenge(w, r, t.repo, a)
		return nil, false
	case t.repo != "" && !g.allows(b.account, t.repo, a):
		drain(r)
		refuse(w, http.StatusForbidden, "DENIED", g.denial(b.account, a))
		return nil, false
	}
	return b.account, true
}

// open reports whether nobody is asked who they are.
func (g *GitHub) open() bool { return len(g.options.Tokens) == 0 }

// present returns the bearer token of a request and counts its use; nil when there is none that holds.
func (g *GitHub) present(r *http.Request) *bearer {
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.bearers[secret]
	if !ok || b == nil {
		return nil
	}
	if !isLook(r) {
		b.uses++
	}
	if most := g.options.BearerUses; most > 0 && b.uses > most {
		delete(g.bearers, secret)
		return nil
	}
	return b
}

// challenge says where to have a token (distribution's token authentication specification).
func challenge(w http.ResponseWriter, r *http.Request, repo string, a action) {
	value := fmt.Sprintf(`Bearer realm="%s/token",service="%s"`, origin(r), r.Host)
	if repo != "" {
		scope := "pull"
		if a == push {
			scope = "pull,push"
		}
		value += fmt.Sprintf(`,scope="repository:%s:%s"`, repo, scope)
	}
	w.Header().Set("WWW-Authenticate", value)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// origin is the URL under which the client reaches the model.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// serveToken gives a bearer token for a Token sent as the password of Basic authentication, whatever
// the user's name, or an anonymous one. Who may pull nothing of what is asked for gets none.
func (g *GitHub) serveToken(w http.ResponseWriter, r *http.Request) {
	account, ok := g.login(r)
	if !ok || r.Method != http.MethodGet {
		refuse(w, http.StatusForbidden, "DENIED", "denied")
		return
	}
	scopes := map[string][]action{}
	for _, scope := range r.URL.Query()["scope"] {
		for _, part := range strings.Fields(scope) {
			if repo, actions, ok := parseScope(part); ok {
				scopes[repo] = append(scopes[repo], actions...)
			}
		}
	}
	if denied := func(repo string) bool { return !g.allows(account, repo, pull) }; len(scopes) > 0 && all(scopes, denied) {
		refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
		return
	}
	g.mu.Lock()
	secret := "bearer-" + digest.FromString(fmt.Sprint(g.nextID())).Encoded() // long enough to be found where it should not be
	g.bearers[secret] = &bearer{account: account, scopes: scopes}
	g.mu.Unlock()
	reply(w, http.StatusOK, map[string]string{"token": secret})
}

func all(scopes map[string][]action, fact func(string) bool) bool {
	for repo := range scopes {
		if !fact(repo) {
			return false
		}
	}
	return true
}

// login returns whose Basic credentials they are: nil for none, false for wrong ones.
func (g *GitHub) login(r *http.Request) (*Token, bool) {
	_, password, ok := r.BasicAuth()
	if !ok {
		return nil, true
	}
	account := g.account(password)
	return account, account != nil || g.open()
}

// account returns the token of a secret, unless it is unknown or revoked.
func (g *GitHub) account(secret string) *Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, token := range g.options.Tokens {
		if token.Secret == secret && !g.revoked[secret] {
			return &g.options.Tokens[i]
		}
	}
	return nil
}

// parseScope reads "repository:acme/base:pull,push".
func parseScope(scope string) (repo string, actions []action, ok bool) {
	kind, rest, _ := strings.Cut(scope, ":")
	colon := strings.LastIndex(rest, ":")
	if kind != "repository" || colon <= 0 {
		return "", nil, false
	}
	for name := range strings.SplitSeq(rest[colon+1:], ",") {
		actions = append(actions, action(name))
	}
	return rest[:colon], actions, true
}

// allows reports whether an account may pull from or push to a repository now. A repository that
// does not exist yet may be asked about by everybody who could create it.
func (g *GitHub) allows(account *Token, repo string, a action) bool {
	if g.open() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.find(repo)
	switch {
	case a == pull && p != nil && p.public:
		return true
	case account == nil || !account.may(string(a)):
		return false
	case account.Repository == "" || p == nil:
		return true
	case a == pull:
		return p.roles[account.Repository] >= RoleRead
	}
	return p.roles[account.Repository] >= RoleWrite
}

// denial is why an account is refused.
func (g *GitHub) denial(account *Token, a action) string {
	switch {
	case a == pull:
		return "requested access to the resource is denied"
	case account != nil && account.may(string(push)):
		return writeDenied
	}
	return scopesMismatch
}

// may reports whether the token's scopes cover something; to write is to read as well.
func (t *Token) may(what string) bool {
	switch what {
	case string(pull):
		return slices.Contains(t.Scopes, "read:packages") || slices.Contains(t.Scopes, "write:packages")
	case string(push):
		return slices.Contains(t.Scopes, "write:packages")
	}
	return slices.Contains(t.Scopes, what)
}
