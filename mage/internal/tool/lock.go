package tool

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
)

// lockPoll is how often a busy lock is tried again; flock(2) cannot wait for a context.
const lockPoll = 200 * time.Millisecond

// Lock takes an exclusive lock on a file, which it creates, and returns how to release it. The
// kernel releases it when the process ends, however it ends. While another process holds it,
// waiting is called once.
func Lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "opening lock", path)
	}
	retry := time.NewTicker(lockPoll)
	defer retry.Stop()
	for first := true; ; first = false {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return closer(file), nil
		}
		if err != syscall.EWOULDBLOCK {
			file.Close()
			return nil, fault.Wrap(err, fault.Environment, "locking", path)
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			file.Close()
			return nil, fault.Wrap(context.Cause(ctx), fault.Interrupted, "waiting for lock", path)
		}
	}
}

func closer(c io.Closer) func() { return func() { c.Close() } }
