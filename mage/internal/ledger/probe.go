package ledger

import "context"

// Writable asks whether the ledger may be moved, and moves nothing: the remote is asked as for a
// push, with what it has already. A ledger of this machine is as writable as its directory.
func (l *Ledger) Writable(ctx context.Context) error {
	if l.remote == nil {
		return nil
	}
	id, err := l.tip(ctx)
	if err == nil && id == "" {
		id, err = l.resolve(ctx, "HEAD")
	}
	if err != nil || id == "" {
		return err
	}
	_, err = l.talk(ctx, writing, "push", "--dry-run", "--quiet", "--no-follow-tags", "--recurse-submodules=no", "--", l.remote.target, id+":"+l.ref)
	return err
}
