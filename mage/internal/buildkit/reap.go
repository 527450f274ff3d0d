package buildkit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/fault"
)

// reap ends the daemon of a run that was killed, and clears what is left of its build steps.
func (b *Builder) reap(ctx context.Context) error {
	if err := b.reapDaemon(ctx); err != nil {
		return err
	}
	return b.clearSteps(stopTime)
}

// reapDaemon ends a daemon that is still there. The kernel should have done that; but we hold the
// state directory's lock, so whatever still runs there belongs to nobody and is in our way.
func (b *Builder) reapDaemon(ctx context.Context) error {
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

// clearSteps removes what build steps leave outside the cache when nobody ends them in order:
// runc's notes, BuildKit's bundles, control groups. The daemon does not run. Its own start drops
// the leases of unfinished steps, and with them their snapshots.
func (b *Builder) clearSteps(limit time.Duration) error {
	left, err := fs.Glob(os.DirFS(b.state()), "root/runc-*/executor")
	if err != nil {
		return fault.Wrap(err, fault.Environment, "looking for", "bundles of build steps")
	}
	for _, dir := range append(left, "steps") {
		if err := os.RemoveAll(b.state(dir)); err != nil {
			return fault.Wrap(err, fault.Environment, "clearing", b.state(dir))
		}
	}
	return removeCgroups(cgroupRoot, b.cgroup(), limit)
}

// cgroupRoot is where every system mounts control groups: the hierarchy itself, or, of version 1,
// one below it for each controller. Control groups outlive the processes in them.
const cgroupRoot = "/sys/fs/cgroup"

func removeCgroups(root, name string, limit time.Duration) error {
	dirs, err := fs.Glob(os.DirFS(root), "*/"+name)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "looking for control groups", name)
	}
	for _, dir := range append(dirs, name) {
		if err := removeCgroup(filepath.Join(root, dir), limit); err != nil {
			return fault.Wrap(err, fault.Environment, "removing control group", filepath.Join(root, dir))
		}
	}
	return nil
}

// busyPoll is how often a control group is tried again while the kernel ends what was in it;
// version 1 tells nobody when it is empty.
const busyPoll = 20 * time.Millisecond

func removeCgroup(dir string, limit time.Duration) error {
	over, retry := time.NewTimer(limit), time.NewTicker(busyPoll)
	defer over.Stop()
	defer retry.Stop()
	for {
		err := rmdirs(dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-retry.C:
		case <-over.C:
			return err
		}
	}
}

// rmdirs removes directories from the leaves up; the files in them are the kernel's and go along.
func rmdirs(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() && err == nil {
			err = rmdirs(filepath.Join(dir, entry.Name()))
		}
	}
	if err == nil {
		err = unix.Rmdir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
