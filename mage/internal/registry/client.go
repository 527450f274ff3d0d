// Package registry moves content between stores and gives it names in them.
//
// A [Client] speaks to one owner on one registry; its [Repository] values and a [Layout], which
// is an OCI image layout on disk, are graph stores with tags and referrers. [Copy] moves whatever
// a node reaches from one store to another, [Verify] proves that it is all there. Invariant:
// content is stored before the manifest that names it, a manifest before the tag that names it,
// and what is tagged are the very bytes that were built: nothing here makes a new digest of them.
package registry

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/ref"
)

// Options are the optional parts of a client.
type Options struct {
	Credential auth.CredentialFunc // nil means Docker's configuration and its helpers, read when a registry asks
	Login      auth.Credential     // for this registry's host alone, where Docker's configuration has none
	UserAgent  string              // empty means "containai"
	Pause      time.Duration       // unit of every wait; zero means 1 s before a repetition and 250 ms before a read-back, growing
	Budget     time.Duration       // longest time an operation goes without a good answer; zero means 600 pauses: 10 min
	Secrets    *term.Secrets       // learns what registries are shown; nil: nobody asks
	Cache      string              // directory of immutable content and of locks, for processes to share; empty means memory only
}

// Client speaks to the repositories of one owner on one registry. It is safe for concurrent use.
type Client struct {
	base  ref.Repo
	auth  *auth.Client
	meter *meter
	waits waits
	pause time.Duration
	cache *cache

	locks     string      // directory of the locks that processes share; empty means none
	transfers keyed       // one upload of a digest at a time, so that the second can mount the first
	noAPI     atomic.Bool // the registry answered that it has no referrers API

	mu    sync.Mutex
	repos map[string]*Repository
	homes map[digest.Digest]string // blob → path of a repository that has it
}

// New returns a client for "host[:port]/owner". It sends nothing. Plain HTTP is used for loopback
// addresses and nowhere else.
func New(base string, o Options) (*Client, error) {
	owner, err := ref.ParseRepo(base)
	if err != nil {
		return nil, err
	}
	if o.Credential == nil {
		o.Credential = orElse(dockerLogin(), owner.Host, o.Login)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return newClient(owner, o, newTransport(dialer.DialContext, time.Now)), nil
}

// newClient returns a client over a wire.
func newClient(owner ref.Repo, o Options, wire http.RoundTripper) *Client {
	count := &meter{calls: map[string]int{}}
	w := newWaits(cmp.Or(max(o.Pause, 0), time.Second), o.Budget)
	login := &auth.Client{Client: newHTTP(wire, count, w, o.Secrets, time.Now), Credential: o.Credential, Cache: auth.NewCache()}
	locks := ""
	if o.Cache != "" {
		locks = filepath.Join(o.Cache, "subjects")
	}
	login.SetUserAgent(cmp.Or(o.UserAgent, "containai"))
	return &Client{
		base: owner, auth: login, meter: count, waits: w, pause: cmp.Or(max(o.Pause, 0), 250*time.Millisecond), cache: newCache(o.Cache, time.Now),
		locks: locks, repos: map[string]*Repository{}, homes: map[digest.Digest]string{},
	}
}

// dockerLogin finds credentials where docker login keeps them. A registry that asks for none never
// causes the configuration to be read, or a helper to be run.
func dockerLogin() auth.CredentialFunc {
	open := sync.OnceValues(func() (auth.CredentialFunc, error) {
		store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return nil, &fault.Error{
				Op: "reading", Subject: "Docker configuration", Kind: fault.Environment, Err: err,
				Hint: "correct config.json in ~/.docker, or where DOCKER_CONFIG points, or remove it and log in again with docker login",
			}
		}
		return credentials.Credential(store), nil
	})
	return func(ctx context.Context, host string) (auth.Credential, error) {
		find, err := open()
		if err != nil {
			return auth.EmptyCredential, err
		}
		found, err := find(ctx, host)
		if err != nil {
			return auth.EmptyCredential, &fault.Error{
				Op: "asking Docker's credential helper about", Subject: host, Kind: fault.Environment, Err: err,
				Hint: "install or unlock the helper that config.json names, or log in with docker login " + host,
			}
		}
		return found, nil
	}
}

// orElse is a login for one host, where another has none.
func orElse(first auth.CredentialFunc, host string, login auth.Credential) auth.CredentialFunc {
	if login == auth.EmptyCredential {
		return first
	}
	return func(ctx context.Context, asked string) (auth.Credential, error) {
		found, err := first(ctx, asked)
		if err == nil && found == auth.EmptyCredential && asked == host {
			return login, nil
		}
		return found, err
	}
}

// Repo returns the repository "host/owner/name"; the same name gives the same value.
func (c *Client) Repo(name string) (*Repository, error) {
	full, err := ref.ParseRepo(c.base.String() + "/" + name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.repos[name]; ok {
		return r, nil
	}
	r, err := newRepository(c, full)
	if err != nil {
		return nil, err
	}
	c.repos[name] = r
	return r, nil
}

// Base returns the host and owner this client was made for.
func (c *Client) Base() ref.Repo { return c.base }

// Counts returns how many requests were sent so far, and what waiting cost.
func (c *Client) Counts() Counts { return c.meter.counts() }

// home returns the path of a repository that has a blob, or "".
func (c *Client) home(d digest.Digest) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.homes[d]
}

func (c *Client) setHome(d digest.Digest, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.homes[d] = path
}

// keyed is a mutex per digest.
type keyed struct {
	mu    sync.Mutex
	locks map[digest.Digest]*sync.Mutex
}

// lock locks one digest and returns what unlocks it.
func (k *keyed) lock(d digest.Digest) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[digest.Digest]*sync.Mutex{}
	}
	if k.locks[d] == nil {
		k.locks[d] = &sync.Mutex{}
	}
	m := k.locks[d]
	k.mu.Unlock()
	m.Lock()
	return m.Unlock
}
