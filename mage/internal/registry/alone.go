package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// alone keeps all other attachments to a subject out until release: those of this process, and of
// the processes on this machine that share its cache, whose locks end with them. Attachments from
// elsewhere cannot be kept out; Settle finds what they overwrote.
func (r *Repository) alone(ctx context.Context, subject digest.Digest) (release func(), err error) {
	if err := subject.Validate(); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "attaching to", r.name.String()+"@"+subject.String())
	}
	unlock := r.subjects.lock(subject)
	f := r.client.lockFile(subject)
	if f == nil {
		return unlock, nil
	}
	release = func() { _ = f.Close(); unlock() }
	for {
		err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return release, nil // it is ours, or this file system has no locks
		}
		if err := sleep(ctx, r.client.pause); err != nil {
			release()
			return nil, err
		}
	}
}

// lockFile opens the file that stands for a subject, one of 256. There is none without a directory
// that processes share, or when its disk refuses: the cache's failures cost no release.
func (c *Client) lockFile(subject digest.Digest) *os.File {
	if c.locks == "" || os.MkdirAll(c.locks, 0o700) != nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(c.locks, subject.Encoded()[:2]), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil
	}
	return f
}
