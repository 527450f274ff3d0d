// Package ledger keeps the channels' history in a git ref, a commit per generation.
//
// Each commit's tree holds channels.json and nothing else: the exact bytes of that generation's
// document; its only parent is the generation before; `git log` of the ref is the audit trail.
// The ref is in a repository of its own ([OpenLocal]), or in a clone or on the clone's remote
// ([OpenClone]); what was last read from a remote is kept, so that it can be read again without
// one ([Ledger.Offline]). Every object is checked against its hash, from the ref down.
//
// Invariant: the ref moves by compare-and-swap alone, so of two movers who saw the same head one
// wins and the other gets fault.Conflict.
package ledger

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Ledger is a git ref, here or on a remote.
type Ledger struct {
	dir     string  // git directory
	ref     string  // full name of the ref that holds the newest generation
	remote  *remote // nil: the ref is in dir itself
	offline bool    // read what was last seen of the remote, and never write
}

// OpenLocal opens a ledger in a bare repository of its own, making it when it is not there.
func OpenLocal(ctx context.Context, dir, ref string) (*Ledger, error) {
	l := &Ledger{dir: dir, ref: ref}
	if _, err := os.Stat(filepath.Join(dir, "objects", "info")); err == nil { // the last thing that init makes
		return l, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Wrap(err, fault.Environment, "creating", dir)
	}
	_, err := l.git(ctx, nil, "init", "--bare", "--quiet", "--template=", "--object-format=sha1")
	return l, err
}

// OpenClone opens the ledger of a clone: branch on its remote, or ref in the clone itself when
// it has no remote. Of several remotes it takes origin.
func OpenClone(ctx context.Context, root, branch, ref string) (*Ledger, error) {
	l := &Ledger{dir: filepath.Join(root, ".git"), ref: ref}
	listing, err := l.git(ctx, nil, "remote", "--verbose")
	if err != nil {
		return nil, err
	}
	if l.remote, err = chooseRemote(string(listing), branch); err != nil {
		return nil, err
	}
	if l.remote != nil {
		l.ref = "refs/heads/" + branch
	}
	return l, nil
}

// With returns the ledger as somebody with credentials uses it. It fails with fault.Invalid for
// a token that cannot be one.
func (l *Ledger) With(c Credentials) (*Ledger, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	with := *l
	if l.remote != nil {
		r := *l.remote
		r.credentials = c
		with.remote = &r
	}
	return &with, nil
}

// Offline returns the ledger as this clone last saw it, to be read without a network. A ledger
// without a remote is what it always was.
func (l *Ledger) Offline() *Ledger {
	offline := *l
	offline.offline = l.remote != nil
	return &offline
}

// Head reads the newest generation; the zero Head means that nothing was released yet.
func (l *Ledger) Head(ctx context.Context) (release.Head, error) {
	id, err := l.tip(ctx)
	if err != nil || id == "" {
		return release.Head{}, err
	}
	contents, err := l.contents(ctx, []string{id})
	if err != nil {
		return release.Head{}, err
	}
	g, err := parseGeneration(id, contents[0])
	return g.head, g.fault(err, nil)
}

// Append makes the document's bytes the generation after head. It fails with fault.Conflict when
// the ledger is no longer at head, with fault.Environment when it may not be written, and with
// fault.Unavailable when the remote cannot be reached.
func (l *Ledger) Append(ctx context.Context, after release.Head, content []byte, message string) (release.Head, error) {
	if l.offline {
		return release.Head{}, fault.New(fault.Unavailable, "appending to ledger", l.ref, "it was opened offline, to be read").
			WithHint("connect to %s and run the same command again", l.remote.name)
	}
	document, err := release.DecodeDocument(content)
	if err != nil {
		return release.Head{}, err
	}
	if want := after.Document.Generation + 1; document.Generation != want {
		return release.Head{}, fault.New(fault.Invalid, "appending to ledger", l.ref, "the document is generation %d, the next is %d", document.Generation, want)
	}
	id, err := l.commit(ctx, after.ID, content, document.Issued, message)
	if err != nil {
		return release.Head{}, err
	}
	if err := l.swap(ctx, after.ID, id); err != nil {
		return release.Head{}, err
	}
	return release.Head{ID: id, Content: content, Document: document}, nil
}

// History yields every generation, newest first. A commit that cannot have been appended is a
// fault.Forged that names it, and ends the sequence.
func (l *Ledger) History(ctx context.Context) iter.Seq2[release.Head, error] {
	return func(yield func(release.Head, error) bool) {
		err := l.walk(ctx, func(h release.Head) bool { return yield(h, nil) })
		if err != nil {
			yield(release.Head{}, err)
		}
	}
}

// tip returns the commit of the newest generation, or "" when there is none.
func (l *Ledger) tip(ctx context.Context) (string, error) {
	switch {
	case l.offline:
		return l.lastSeen(ctx)
	case l.remote != nil:
		return l.fetchTip(ctx)
	}
	return l.resolve(ctx, l.ref)
}

// commit writes the objects of the next generation; no ref shows them yet. Its time is the
// document's, so that one document after one parent is one commit, whoever writes it again.
func (l *Ledger) commit(ctx context.Context, parent string, content []byte, issued time.Time, message string) (string, error) {
	if parent != "" && !l.has(ctx, parent) { // a head that somebody read in another clone
		if _, err := l.tip(ctx); err != nil {
			return "", err
		}
	}
	blob, err := l.id(ctx, content, nil, "hash-object", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	tree, err := l.id(ctx, fmt.Appendf(nil, "%s blob %s\t%s\n", fileMode, blob, fileName), nil, "mktree")
	if err != nil {
		return "", err
	}
	args := []string{"commit-tree", tree, "-F", "-"}
	if parent != "" {
		args = append(args, "-p", parent)
	}
	date := fmt.Sprintf("@%d +0000", issued.Unix())
	return l.id(ctx, []byte(message+"\n"), []string{"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date}, args...)
}

// swap is the commit point: the ref moves from old to id, or not at all. An empty old means that
// the ref must not exist.
func (l *Ledger) swap(ctx context.Context, old, id string) error {
	if l.remote != nil {
		err := l.push(ctx, old, id)
		if err == nil || isDenied(err) {
			return err
		}
		return l.settle(ctx, old, id, err)
	}
	_, err := l.git(ctx, nil, "update-ref", "--no-deref", l.ref, id, old)
	if err == nil {
		return nil
	}
	return l.settle(ctx, old, id, err)
}

// settle decides what a failed swap means by what the ledger shows now: a move whose answer was
// lost is a move.
func (l *Ledger) settle(ctx context.Context, old, id string, failure error) error {
	now, err := l.tip(ctx)
	switch {
	case err != nil:
		return fault.Wrap(fmt.Errorf("%w; whether it was appended is not known: %w", failure, err), fault.Unavailable, "appending to ledger", l.ref)
	case now == id || now != "" && now != old && l.descends(ctx, now, id):
		return nil
	case now == old:
		return fault.Wrap(failure, fault.Environment, "appending to ledger", l.ref)
	}
	return fault.New(fault.Conflict, "appending to ledger", l.ref, "it moved from %q to %q meanwhile", old, now).
		WithHint("another release won this generation; run the same command again")
}
