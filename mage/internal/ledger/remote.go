package ledger

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// Credentials are what one git process is given to talk to the remote. They are never in its
// arguments, in a file or in an error.
type Credentials struct {
	Token string // for the remote's own https URL, as GITHUB_TOKEN in GitHub Actions; empty leaves it to git's credential helpers
	Agent string // socket of the SSH agent (SSH_AUTH_SOCK); empty: none
}

// check refuses what would become another header.
func (c Credentials) check() error {
	for _, r := range c.Token {
		if r <= ' ' || r > '~' {
			return fault.New(fault.Invalid, "reading credentials", "token", "it holds a space or a character that no token has")
		}
	}
	return nil
}

// remote is where the ledger's branch is shared.
type remote struct {
	name        string // as in .git/config
	target      string // what git is told: the name, or the URL to push to where the name means two
	url         string // with the user's url.*.insteadOf applied
	branch      string
	credentials Credentials
}

// chooseRemote picks a remote from the output of git remote --verbose: origin, or the only one;
// nil when there is none.
func chooseRemote(listing, branch string) (*remote, error) {
	fetch, push, names := parseRemotes(listing)
	if len(names) == 0 {
		return nil, nil
	}
	name := names[0]
	if len(fetch["origin"]) > 0 {
		name = "origin"
	} else if len(names) > 1 {
		return nil, fault.New(fault.Environment, "opening ledger", branch, "the clone has the remotes %s and none is origin", strings.Join(names, ", ")).
			WithHint("git remote rename %s origin", names[0])
	}
	if len(push[name]) != 1 {
		return nil, fault.New(fault.Environment, "opening ledger", branch, "%s has %d URLs to push to; a ledger is in one place", name, len(push[name])).
			WithHint("git remote set-url --delete --push %s URL", name)
	}
	r := &remote{name: name, target: name, url: push[name][0], branch: branch}
	if fetch[name][0] != r.url { // read where we write: a mirror may be behind
		r.target = r.url
	}
	return r, nil
}

// parseRemotes reads lines of "name<TAB>URL (fetch)" and "name<TAB>URL (push)"; a partial clone
// has its filter behind, in brackets. Names are in the order of the listing.
func parseRemotes(listing string) (fetch, push map[string][]string, names []string) {
	fetch, push = map[string][]string{}, map[string][]string{}
	for line := range strings.Lines(listing) {
		name, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if location, ok := strings.CutSuffix(rest, " (push)"); ok {
			push[name] = append(push[name], location)
			continue
		}
		if i := strings.LastIndex(rest, " (fetch)"); i >= 0 {
			if len(fetch[name]) == 0 {
				names = append(names, name)
			}
			fetch[name] = append(fetch[name], rest[:i])
		}
	}
	return fetch, push, names
}

// tracking is the ref of this clone that remembers what the remote last showed.
func (r *remote) tracking() string { return "refs/containai/remote/" + r.branch }

// fetchTip brings the branch here and returns its commit. One fetch asks and transfers at once,
// so an unchanged ledger costs what ls-remote costs, and a changed one less than both.
//
// The tracking ref moves only forward: a branch that no longer holds what this clone has seen of
// it was rewritten, and that is fault.Forged.
func (l *Ledger) fetchTip(ctx context.Context) (string, error) {
	r := l.remote
	failure := l.fetch(ctx, l.ref+":"+r.tracking())
	seen, err := l.resolve(ctx, r.tracking())
	if failure == nil || err != nil {
		return seen, err
	}
	id, err := l.advertised(ctx)
	switch {
	case err != nil:
		return "", err
	case id == seen:
		return id, nil
	case id == "":
		return "", l.rewritten(seen, "it is gone")
	case !l.has(ctx, id):
		return "", failure
	case seen == "" || l.descends(ctx, id, seen): // another process of this clone held the tracking ref
		return id, nil
	}
	return "", l.rewritten(seen, "it is "+id)
}

func (l *Ledger) rewritten(seen, now string) error {
	r := l.remote
	return fault.New(fault.Forged, "reading ledger", r.name+" "+l.ref, "%s; this clone has seen %s on it, which nobody may take away", now, seen).
		WithHint("look at what is missing: git log %s; when the owners meant it: git update-ref -d %s", r.tracking(), r.tracking())
}

// advertised asks the remote for the branch's commit, "" when it has no such branch.
func (l *Ledger) advertised(ctx context.Context) (string, error) {
	out, err := l.talk(ctx, reading, "ls-remote", "--refs", "--", l.remote.target, l.ref)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if id, ref, _ := strings.Cut(strings.TrimSpace(line), "\t"); ref == l.ref && isID(id) {
			return id, nil
		}
	}
	return "", nil
}

// fetch transfers a refspec and touches no other ref, not even FETCH_HEAD.
func (l *Ledger) fetch(ctx context.Context, refspec string, options ...string) error {
	args := append([]string{"fetch", "--quiet", "--no-tags", "--no-prune", "--no-filter", "--no-write-fetch-head", "--refmap="}, options...)
	_, err := l.talk(ctx, reading, append(args, "--", l.remote.target, refspec)...)
	return err
}

// deepen fetches the generations before g, which a shallow clone lacks.
func (l *Ledger) deepen(ctx context.Context, g *generation) error {
	missing := &fault.Error{Op: "reading ledger", Subject: l.ref, Kind: fault.Environment,
		Err: fmt.Errorf("this clone holds nothing before generation %d (commit %s)", g.head.Document.Generation, g.head.ID)}
	if l.remote == nil {
		return missing.WithHint("git fsck shows what is damaged")
	}
	depth := fmt.Sprintf("--depth=%d", maxGenerations) // not --unshallow: that would bring the sources' history, too
	_ = missing.WithHint("git fetch %s %s %s", depth, l.remote.name, l.ref)
	if l.offline {
		return missing
	}
	if err := l.fetch(ctx, l.ref, depth); err != nil {
		return err
	}
	if !l.has(ctx, g.parent) {
		return missing
	}
	return nil
}

// push asks the remote to move the branch from old to id, and to refuse when it is elsewhere.
func (l *Ledger) push(ctx context.Context, old, id string) error {
	_, err := l.talk(ctx, writing, "push", "--quiet", "--no-follow-tags", "--recurse-submodules=no",
		"--force-with-lease="+l.ref+":"+old, "--", l.remote.target, id+":"+l.ref)
	if err == nil {
		// The next read finds out what this one cannot note.
		_, _ = l.git(ctx, nil, "update-ref", "--no-deref", l.remote.tracking(), id, old)
	}
	return err
}

// lastSeen returns the newest commit of the branch in this clone: what the ledger last read, or
// what git fetch brought.
func (l *Ledger) lastSeen(ctx context.Context) (string, error) {
	r := l.remote
	seen, err := l.resolve(ctx, r.tracking())
	if err != nil {
		return "", err
	}
	cloned, err := l.resolve(ctx, "refs/remotes/"+r.name+"/"+r.branch)
	switch {
	case err != nil:
		return "", err
	case seen == "" && cloned == "":
		return "", fault.New(fault.Unavailable, "reading ledger", l.ref, "this clone never read it").WithHint("git fetch %s %s:%s", r.name, l.ref, r.tracking())
	case cloned == "" || seen != "" && l.descends(ctx, seen, cloned):
		return seen, nil
	case seen == "" || l.descends(ctx, cloned, seen):
		return cloned, nil
	}
	return "", l.rewritten(seen, "it is "+cloned)
}

// talk runs a command that talks to the remote, with the credentials. Its error is classified
// and says what git said.
func (l *Ledger) talk(ctx context.Context, purpose purpose, args ...string) ([]byte, error) {
	settings, env := l.remote.authorization()
	settings = append(settings,
		setting{"remote." + l.remote.name + ".mirror", "false"}, // a push of one branch
		setting{"protocol.version", "0"})                        // refs come with the greeting: a round trip less for every look
	out, err := l.run(ctx, nil, settings, env, args...)
	return out, l.explain(err, purpose)
}

// authorization hands the credentials to one git process. The token is a header of the remote's
// own URL; it replaces one that a checkout left in the configuration, and is not redirected.
func (r *remote) authorization() ([]setting, []string) {
	var env []string
	if r.credentials.Agent != "" {
		env = append(env, "SSH_AUTH_SOCK="+r.credentials.Agent)
	}
	scope := r.scope()
	if r.credentials.Token == "" || scope == "" {
		return nil, env
	}
	header := "http." + scope + ".extraHeader"
	return []setting{
		{header, ""}, {header, "Authorization: Basic " + r.credentials.basic()},
		{"http." + scope + ".followRedirects", "false"},
		{"credential.helper", ""},
	}, env
}

// basic is the user and password of RFC 7617 that GitHub takes for a token.
func (c Credentials) basic() string {
	return base64.StdEncoding.EncodeToString([]byte("x-access-token:" + c.Token))
}

// scope is the URL that may see the token: https, or http on this machine; otherwise none.
func (r *remote) scope() string {
	u, err := url.Parse(r.url)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
