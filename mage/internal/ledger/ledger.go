// Package ledger keeps the channels' history in a git ref, a commit per generation.
//
// Each commit's tree holds channels.json, the exact bytes of that generation's document; its
// only parent is the generation before; `git log` of the ref is the audit trail. Invariant:
// the ref moves by compare-and-swap alone, so of two movers who saw the same head one wins and
// the other gets fault.Conflict.
package ledger

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/release"
)

// file is the name of the document in each commit's tree.
const file = "channels.json"

// Ledger is a git ref, here or on a remote.
type Ledger struct {
	dir    string // git directory
	remote string // name or URL; empty: the ref is in dir itself
	ref    string
}

// OpenLocal opens a ledger in a bare repository of its own, making it when it is not there.
func OpenLocal(ctx context.Context, dir, ref string) (*Ledger, error) {
	l := &Ledger{dir: dir, ref: ref}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return l, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Wrap(err, fault.Environment, "creating", dir)
	}
	_, err := l.git(ctx, nil, "init", "--bare", "--quiet")
	return l, err
}

// OpenClone opens the ledger of a clone: branch on its remote, or ref in the clone itself when
// it has no remote.
func OpenClone(ctx context.Context, root, branch, ref string) (*Ledger, error) {
	dir := filepath.Join(root, ".git")
	l := &Ledger{dir: dir, ref: ref}
	remotes, err := l.git(ctx, nil, "remote")
	if err != nil {
		return nil, err
	}
	if name, _, _ := strings.Cut(remotes, "\n"); name != "" {
		l.remote, l.ref = name, "refs/heads/"+branch
	}
	return l, nil
}

// Head reads the newest generation; the zero Head means that nothing was released yet.
func (l *Ledger) Head(ctx context.Context) (release.Head, error) {
	id, err := l.tip(ctx)
	if err != nil || id == "" {
		return release.Head{}, err
	}
	return l.at(ctx, id)
}

// Append makes the document's bytes the generation after head. It fails with fault.Conflict when
// the ledger is no longer at head.
func (l *Ledger) Append(ctx context.Context, after release.Head, content []byte, message string) (release.Head, error) {
	document, err := release.DecodeDocument(content)
	if err != nil {
		return release.Head{}, err
	}
	id, err := l.commit(ctx, after.ID, content, message)
	if err != nil {
		return release.Head{}, err
	}
	if err := l.swap(ctx, after.ID, id); err != nil {
		return release.Head{}, err
	}
	return release.Head{ID: id, Content: content, Document: document}, nil
}

// History yields every generation, newest first.
func (l *Ledger) History(ctx context.Context) iter.Seq2[release.Head, error] {
	return func(yield func(release.Head, error) bool) {
		id, err := l.tip(ctx)
		for id != "" && err == nil {
			var head release.Head
			if head, err = l.at(ctx, id); err != nil || !yield(head, nil) {
				break
			}
			id, err = l.git(ctx, nil, "log", "-1", "--format=%P", id)
		}
		if err != nil {
			yield(release.Head{}, err)
		}
	}
}

func (l *Ledger) at(ctx context.Context, id string) (release.Head, error) {
	content, err := l.raw(ctx, nil, "cat-file", "blob", id+":"+file)
	if err != nil {
		return release.Head{}, err
	}
	document, err := release.DecodeDocument(content)
	return release.Head{ID: id, Content: content, Document: document}, err
}

// tip returns the commit the ref shows, fetched when it is remote; empty when there is none.
func (l *Ledger) tip(ctx context.Context) (string, error) {
	if l.remote == "" {
		id, err := l.git(ctx, nil, "rev-parse", "--verify", "--quiet", l.ref)
		if tool.ExitCode(err) == 1 {
			return "", nil
		}
		return id, err
	}
	line, err := l.git(ctx, nil, "ls-remote", l.remote, l.ref)
	if err != nil {
		return "", fault.Wrap(err, fault.Unavailable, "reading ledger", l.remote+" "+l.ref)
	}
	id, _, _ := strings.Cut(line, "\t")
	if id == "" {
		return "", nil
	}
	_, err = l.git(ctx, nil, "fetch", "--quiet", "--no-tags", l.remote, l.ref)
	return id, err
}

func (l *Ledger) commit(ctx context.Context, parent string, content []byte, message string) (string, error) {
	blob, err := l.git(ctx, content, "hash-object", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	tree, err := l.git(ctx, fmt.Appendf(nil, "100644 blob %s\t%s\n", blob, file), "mktree")
	if err != nil {
		return "", err
	}
	args := []string{"commit-tree", tree, "-m", message}
	if parent != "" {
		args = append(args, "-p", parent)
	}
	return l.git(ctx, nil, args...)
}

// swap is the commit point: the ref moves from old to id, or not at all.
func (l *Ledger) swap(ctx context.Context, old, id string) error {
	var err error
	if l.remote == "" {
		expected := old
		if expected == "" {
			expected = strings.Repeat("0", 40)
		}
		_, err = l.git(ctx, nil, "update-ref", l.ref, id, expected)
	} else {
		_, err = l.git(ctx, nil, "push", "--quiet", "--force-with-lease="+l.ref+":"+old, l.remote, id+":"+l.ref)
	}
	if err == nil {
		return nil
	}
	now, tipErr := l.tip(ctx)
	switch {
	case tipErr == nil && now == id: // the answer was lost, the move was not
		return nil
	case tipErr == nil && now == old:
		return fault.Wrap(err, fault.Environment, "appending to ledger", l.ref)
	}
	return &fault.Error{Op: "appending to ledger", Subject: l.ref, Kind: fault.Conflict, Err: fmt.Errorf("it moved from %q to %q meanwhile", old, now),
		Hint: "another release won this generation; run the same command again"}
}

func (l *Ledger) git(ctx context.Context, stdin []byte, args ...string) (string, error) {
	out, err := l.raw(ctx, stdin, args...)
	return strings.TrimSpace(string(out)), err
}

func (l *Ledger) raw(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	return tool.Output(ctx, tool.Command{
		Path: "git", Args: append([]string{"--git-dir", l.dir}, args...), Stdin: bytes.NewReader(stdin),
		Env: []string{
			"GIT_AUTHOR_NAME=containai", "GIT_AUTHOR_EMAIL=ledger@containai.invalid",
			"GIT_COMMITTER_NAME=containai", "GIT_COMMITTER_EMAIL=ledger@containai.invalid", "GIT_TERMINAL_PROMPT=0",
		},
	}, fault.Environment)
}
