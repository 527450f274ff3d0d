// Package source reads what a release is made from: the commit of a work tree, how it differs
// from that commit, and which commits descend from which.
//
// Invariant: two work trees with the same [release.Source] hold the same tracked and untracked
// bytes; what .gitignore excludes is not part of a source.
package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Repository is a git work tree.
type Repository struct{ root string }

// Open finds the work tree that holds dir.
func Open(ctx context.Context, dir string) (*Repository, error) {
	root, err := (&Repository{root: dir}).git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, &fault.Error{Op: "opening", Subject: dir, Kind: fault.Environment, Err: fmt.Errorf("it is not in a git work tree: %w", err),
			Hint: "a release is made from a commit: git init, git add -A, git commit -m first"}
	}
	return &Repository{root: root}, nil
}

// Root is the top of the work tree.
func (r *Repository) Root() string { return r.root }

// Read returns the source as it stands now.
func (r *Repository) Read(ctx context.Context) (release.Source, error) {
	line, err := r.git(ctx, "log", "-1", "--no-show-signature", "--no-color", "--format=%H %ct")
	if err != nil {
		return release.Source{}, &fault.Error{Op: "reading commit of", Subject: r.root, Kind: fault.Environment, Err: err,
			Hint: "the repository has no commit yet: git add -A && git commit"}
	}
	var commit string
	var seconds int64
	if _, err := fmt.Sscan(line, &commit, &seconds); err != nil {
		return release.Source{}, fault.Wrap(err, fault.Environment, "reading commit of", r.root)
	}
	dirty, err := r.difference(ctx)
	if err != nil {
		return release.Source{}, err
	}
	return release.Source{Commit: commit, Ref: r.ref(ctx), Epoch: time.Unix(seconds, 0).UTC(), Dirty: dirty}, nil
}

// Copy writes what belongs to the source, tracked or not yet, into an empty directory as a checkout
// under the umask 077 would: what .gitignore excludes stays behind, and only the owner may read.
func (r *Repository) Copy(ctx context.Context, to string) error {
	listed, err := r.raw(ctx, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return err
	}
	for name := range bytes.SplitSeq(bytes.TrimRight(listed, "\x00"), []byte{0}) {
		if err := r.copyFile(string(name), filepath.Join(to, string(name))); err != nil {
			return fault.Wrap(err, fault.Environment, "copying", string(name))
		}
	}
	return nil
}

func (r *Repository) copyFile(name, to string) error {
	from := filepath.Join(r.root, name)
	info, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted, and not yet committed
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err != nil || info.IsDir() { // a submodule's
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600|info.Mode().Perm()&0o100)
}

// difference returns 8 hex digits over everything that differs from the commit, or "".
func (r *Repository) difference(ctx context.Context) (string, error) {
	status, err := r.git(ctx, "status", "--porcelain", "--untracked-files=all", "--ignore-submodules=none")
	if err != nil || status == "" {
		return "", err
	}
	hash := sha256.New()
	diff, err := r.raw(ctx, "diff", "HEAD", "--binary", "--full-index", "--unified=3", "--diff-algorithm=myers", "--no-renames",
		"--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=none")
	if err != nil {
		return "", err
	}
	hash.Write(diff)
	untracked, err := r.raw(ctx, "ls-files", "-z", "--others", "--exclude-standard")
	if err != nil {
		return "", err
	}
	for name := range bytes.SplitSeq(bytes.TrimRight(untracked, "\x00"), []byte{0}) {
		if err := r.hashFile(hash, string(name)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:8], nil
}

func (r *Repository) hashFile(w io.Writer, name string) error {
	if name == "" {
		return nil
	}
	path := filepath.Join(r.root, name)
	info, err := os.Lstat(path)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", name)
	}
	fmt.Fprintf(w, "%s\x00%o\x00%d\x00", name, info.Mode(), info.Size())
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", name)
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// ref is the full name of what is checked out; a detached HEAD is "HEAD".
func (r *Repository) ref(ctx context.Context) string {
	name, err := r.git(ctx, "symbolic-ref", "--quiet", "HEAD")
	if err != nil {
		return "HEAD"
	}
	return name
}
