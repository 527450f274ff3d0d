package buildkit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/fault"
)

// reap ends the daemon of a run that was killed. The kernel should have done that; but we hold
// the state directory's lock, so whatever still runs there belongs to nobody and is in our way.
func (b *Builder) reap(ctx context.Context) error {
	content, err := os.ReadFile(b.state("pid"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", b.state("pid"))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err == nil && b.isOurs(pid) {
		b.notice("ending the BuildKit of a run that was killed")
		if err := endProcess(ctx, pid); err != nil {
			return err
		}
	}
	return fault.Wrap(os.Remove(b.state("pid")), fault.Environment, "removing", b.state("pid"))
}

// isOurs reports whether a process is our daemon or the unshare around it: a process id alone may
// have been given to somebody else since.
func (b *Builder) isOurs(pid int) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || !slices.Contains([]string{"unshare", "buildkitd"}, strings.TrimSuffix(filepath.Base(exe), " (deleted)")) {
		return false
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && slices.Contains(strings.Split(string(cmdline), "\x00"), b.state("buildkitd.toml"))
}

// endProcess ends a process that is not our child and waits until it is gone.
func endProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, fault.Environment, "ending process", strconv.Itoa(pid))
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fault.Wrap(err, fault.Environment, "ending process", strconv.Itoa(pid))
	}
	ended, err := waitPidfd(ctx, fd)
	if err == nil && !ended {
		return fault.New(fault.Environment, "ending process", strconv.Itoa(pid), "it does not end").WithHint("kill -9 %d", pid)
	}
	return err
}

// waitPidfd waits until the process behind a pidfd has ended, at most stopTime.
func waitPidfd(ctx context.Context, fd int) (bool, error) {
	for {
		if ctx.Err() != nil {
			return false, fault.Wrap(context.Cause(ctx), fault.Interrupted, "waiting for", "an old buildkitd")
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(stopTime.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0, nil
		}
	}
}
