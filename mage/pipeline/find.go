package pipeline

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/release"
)

// Find returns the published release that somebody names: another channel, a version, a commit or
// its beginning, an immutable tag, or a record's digest.
func (p *Pipeline) Find(ctx context.Context, head release.Head, name string) (Published, string, error) {
	if s, ok := head.Document.Channels[name]; ok {
		pub, err := p.Load(ctx, s.Record)
		return pub, s.Version, err
	}
	if d, err := digest.Parse(name); err == nil {
		pub, err := p.Load(ctx, d)
		return pub, "", err
	}
	tag, version := name, ""
	switch {
	case commitGrammar.MatchString(name):
		tag = "sha-" + name
	case shortened(name) != "":
		commit, err := p.History.Resolve(ctx, shortened(name))
		if err != nil {
			return Published{}, "", err
		}
		tag = "sha-" + commit
	case release.CheckVersion(name) == nil:
		version = name
	case !strings.HasPrefix(name, "sha-"):
		return Published{}, "", fault.New(fault.Invalid, "looking for", name, "it is no channel of %s, version, commit, sha- tag or digest", strings.Join(head.Document.Names(), ", "))
	}
	node, found, err := p.metadata().Resolve(ctx, tag)
	if err == nil && !found {
		err = fault.New(fault.Unverified, "looking for", name, "%s has no tag %s", p.Family.ArtifactOf(family.Metadata), tag).
			WithHint("nothing was released under that name; mage ops:history shows what was")
	}
	if err != nil {
		return Published{}, "", err
	}
	pub, err := p.Load(ctx, node.Digest)
	return pub, version, err
}

var (
	commitGrammar = lazyregexp.New(`^[0-9a-f]{40}$`)
	shortGrammar  = lazyregexp.New(`^(?:sha-)?([0-9a-f]{7,39})$`)
)

// shortened is the beginning of a commit that a name is, as tables show it: with "sha-" or without.
// Any other name gives "".
func shortened(name string) string {
	if m := shortGrammar.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// Load reads a record by its digest.
func (p *Pipeline) Load(ctx context.Context, record digest.Digest) (Published, error) {
	node, err := p.node(ctx, p.Family.ArtifactOf(family.Metadata), record)
	if err != nil {
		return Published{}, err
	}
	r, err := ReadRecord(ctx, p.metadata(), node)
	if err == nil && r.Family != p.Family.Name {
		err = fault.New(fault.Forged, "reading record", record.String(), "it is of family %q", r.Family)
	}
	return Published{Record: r, Node: node}, err
}
