package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// TagImmutable gives a manifest a name that never changes: it creates the tag, writes nothing if
// the tag has that digest, and refuses with fault.Immutable if it has another.
func (r *Repository) TagImmutable(ctx context.Context, tag string, n graph.Node) (written bool, err error) {
	return tagImmutable(patient(ctx), r, tag, n)
}

// MoveTag moves a tag from the digest the plan saw to another. It refuses with fault.Conflict if
// the tag stands elsewhere, and writes nothing if it is already there.
func (r *Repository) MoveTag(ctx context.Context, m release.Move) (written bool, err error) {
	if m.Tag.Repo != r.name {
		return false, fault.New(fault.Invalid, "moving tag", m.Tag.String(), "it is not a tag of %s", r.name)
	}
	return moveTag(patient(ctx), r, m.Tag.Tag, m.From, m.To)
}

// backend is what tags and referrers need of a store: a repository or a layout.
type backend interface {
	graph.Store
	at(ctx context.Context, name string) (graph.Node, bool, error)             // what a name holds
	put(ctx context.Context, name string, n graph.Node, content []byte) error  // store a manifest under a name
	native(ctx context.Context, subject graph.Node) ([]graph.Node, error)      // referrers the store lists by itself
	remember(subject digest.Digest, entries []graph.Node) (known []graph.Node) // referrers ever seen on a subject
	forget(subject digest.Digest, gone []graph.Node)                           // of those, what is no more
	wait(ctx context.Context, try int) error                                   // before the next read-back
	confirmed(ctx context.Context, n graph.Node) ([]byte, error)               // a manifest that the store has now
	pin(n graph.Node) string
}

// readBacks is how often a write is read again before it counts as not done: with the default
// pause 0.25 + 0.5 + … = 16 s for a registry whose reads lag behind its writes.
const readBacks = 7

// tagImmutable creates a tag, or finds it with the same digest, or refuses.
func tagImmutable(ctx context.Context, b backend, tag string, n graph.Node) (written bool, err error) {
	if _, err := ref.ParseTag(tag); err != nil {
		return false, err
	}
	now, there, err := b.at(ctx, tag)
	switch {
	case err != nil:
		return false, err
	case there && now.Digest == n.Digest:
		return false, nil
	case there:
		return false, immutable(tag, now, n)
	}
	if now, written, err = write(ctx, b, tag, "", n); err != nil {
		return written, err
	}
	if now.Digest != n.Digest {
		return true, immutable(tag, now, n)
	}
	return true, nil
}

// moveTag moves a tag from one digest to another. An empty from means: it must not exist.
func moveTag(ctx context.Context, b backend, tag string, from digest.Digest, to graph.Node) (written bool, err error) {
	if _, err := ref.ParseTag(tag); err != nil {
		return false, err
	}
	now, _, err := b.at(ctx, tag) // an absent tag has the digest ""
	switch {
	case err != nil:
		return false, err
	case now.Digest == to.Digest:
		return false, nil
	case now.Digest != from:
		return false, moved(tag, now, from)
	}
	if now, written, err = write(ctx, b, tag, from, to); err != nil {
		return written, err
	}
	if now.Digest != to.Digest {
		return true, moved(tag, now, to.Digest)
	}
	return true, nil
}

// write puts the bytes of a stored manifest under a tag and reads the tag until it holds them.
// It returns what the tag holds, which is other than n if somebody else wrote at the same time, and
// whether it may have written: a registry that refused has not.
func write(ctx context.Context, b backend, tag string, was digest.Digest, n graph.Node) (now graph.Node, written bool, err error) {
	content, err := graph.Fetch(ctx, b, n, graph.MaxManifest)
	if err != nil {
		return graph.Node{}, false, err
	}
	put := func() error { return b.put(ctx, tag, n, content) }
	if err := insist(ctx, b, put, nil); err != nil {
		return graph.Node{}, !errors.Is(err, fault.Environment) && !errors.Is(err, fault.Refused), err
	}
	for try := range readBacks {
		now, there, err := b.at(ctx, tag)
		if err != nil {
			return graph.Node{}, true, err
		}
		if there && now.Digest != was {
			return now, true, nil
		}
		if err := b.wait(ctx, try); err != nil {
			return graph.Node{}, true, err
		}
	}
	return graph.Node{}, true, unread(b.pin(n), fmt.Sprintf("tag %q was written and does not read back", tag))
}

// unread is the error of a write that the registry does not show within the time we give it.
func unread(subject, what string) error {
	return fault.New(fault.Unavailable, "reading back", subject, "%s", what).
		WithHint("the registry lags behind its own writes; run the same command again")
}

// insist pushes a manifest. A registry that says it lacks what was sent before it (seen at GHCR,
// though it had confirmed the upload) gets what is really missing again, and is asked again.
func insist(ctx context.Context, b backend, push, resend func() error) error {
	for try := 0; ; try++ {
		err := push()
		if !lacksContent(err) || try == readBacks {
			return err
		}
		if resend != nil {
			if err := resend(); err != nil {
				return err
			}
		}
		if err := b.wait(ctx, try); err != nil {
			return err
		}
	}
}

// lacksContent reports whether a registry refused a manifest because it misses what that names.
// The codes are those of the distribution specification v1.1.1, "Error Codes"; the text was seen
// at GHCR.
func lacksContent(err error) bool {
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) {
		return false
	}
	return slices.ContainsFunc(answer.Errors, func(e errcode.Error) bool {
		switch e.Code {
		case errcode.ErrorCodeBlobUnknown, errcode.ErrorCodeManifestBlobUnknown, errcode.ErrorCodeManifestUnknown:
			return true
		}
		return strings.Contains(strings.ToLower(e.Message), "unknown blob")
	})
}

func immutable(tag string, found, want graph.Node) error {
	return fault.New(fault.Immutable, "tagging", tag, "it names %s, and would have to name %s", found.Digest, want.Digest).
		WithHint("an immutable tag never changes; release another commit, or a rebuild of this one under its own -r tag")
}

func moved(tag string, found graph.Node, want digest.Digest) error {
	return fault.New(fault.Conflict, "moving tag", tag, "it stands at %s, not at %s", orAbsent(found.Digest), orAbsent(want)).
		WithHint("somebody moved it: plan again")
}

func orAbsent(d digest.Digest) string {
	if d == "" {
		return "absent"
	}
	return d.String()
}

// wait doubles the pause with every try.
func (r *Repository) wait(ctx context.Context, try int) error {
	return sleep(ctx, min(r.client.pause<<try, maxPause))
}

// maxPause is the longest time between two read-backs.
const maxPause = 8 * time.Second
