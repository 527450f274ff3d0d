// Package ref holds the names of a registry: a [Repo], a [Tagged] name that can move and a
// [Pinned] one that cannot.
//
// Invariant: a value of these types, made by its parser, satisfies the grammar of the OCI
// distribution specification v1.1 ("Pulling manifests"); strings stop here.
package ref

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Repo names a repository: a registry host (with optional port) and a path below it.
type Repo struct{ Host, Path string }

// Tagged is a name that can move.
type Tagged struct {
	Repo Repo
	Tag  string
}

// Pinned is a name that cannot move.
type Pinned struct {
	Repo   Repo
	Digest digest.Digest
}

// The grammar of https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests.
var (
	pathGrammar = lazyregexp.New(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = lazyregexp.New(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostGrammar = lazyregexp.New(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	portGrammar = lazyregexp.New(`:[0-9]{1,5}$`)
)

// maxPath is the longest repository name, host included, that registries accept.
const maxPath = 255

// ParseRepo reads "host[:port]/path". Upper case is refused, never silently lowered.
func ParseRepo(s string) (Repo, error) {
	host, path, ok := strings.Cut(s, "/")
	if !ok || !hostGrammar.MatchString(host) || !pathGrammar.MatchString(path) || len(s) > maxPath {
		return Repo{}, invalid(s, "a repository is host[:port]/lower-case/path")
	}
	return Repo{Host: host, Path: path}, nil
}

// ParseTag checks one tag. Names that begin with "sha256-" belong to the referrers fallback.
func ParseTag(s string) (string, error) {
	if !tagGrammar.MatchString(s) {
		return "", invalid(s, "a tag is 1 to 128 of [a-zA-Z0-9._-] and begins with a letter, a digit or _")
	}
	if strings.HasPrefix(s, "sha256-") {
		return "", invalid(s, "names that begin with sha256- are reserved for evidence")
	}
	return s, nil
}

// Parse reads "host/path:tag" or "host/path@sha256:…"; exactly one of the results is set.
func Parse(s string) (Tagged, Pinned, error) {
	if name, hex, ok := strings.Cut(s, "@"); ok {
		repo, err := ParseRepo(name)
		if err != nil {
			return Tagged{}, Pinned{}, err
		}
		d, err := digest.Parse(hex)
		if err != nil {
			return Tagged{}, Pinned{}, invalid(s, err.Error())
		}
		return Tagged{}, Pinned{repo, d}, nil
	}
	colon := strings.LastIndex(s, ":")
	if colon <= strings.LastIndex(s, "/") {
		return Tagged{}, Pinned{}, invalid(s, "add a tag (:dev) or a digest (@sha256:…)")
	}
	repo, err := ParseRepo(s[:colon])
	if err != nil {
		return Tagged{}, Pinned{}, err
	}
	tag, err := ParseTag(s[colon+1:])
	return Tagged{repo, tag}, Pinned{}, err
}

// Loopback reports whether the host is this machine, the only place where plain HTTP is used.
func (r Repo) Loopback() bool {
	host := strings.TrimSuffix(r.Host, portGrammar.FindString(r.Host))
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (r Repo) String() string   { return r.Host + "/" + r.Path }
func (t Tagged) String() string { return t.Repo.String() + ":" + t.Tag }
func (p Pinned) String() string { return p.Repo.String() + "@" + p.Digest.String() }

func invalid(s, why string) error {
	return &fault.Error{Op: "parsing reference", Subject: fmt.Sprintf("%q", s), Kind: fault.Invalid, Err: fmt.Errorf("%s", why)}
}
