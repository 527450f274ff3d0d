package buildkit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/fault"
)

// reap ends the daemon of a run that was killed, and unmounts what it left. We hold the state
// directory's lock, so whatever still runs there belongs to nobody.
func (b *Builder) reap(ctx context.Context) error {
	content, err := os.ReadFile(b.state("pid"))
	if err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(content))); err == nil && b.isOurs(pid) {
			b.notice("ending the BuildKit of a run that was killed")
			if err := endProcess(ctx, pid); err != nil {
				return err
			}
		}
		os.Remove(b.state("pid"))
	} else if !os.IsNotExist(err) {
		return fault.Wrap(err, fault.Environment, "reading", b.state("pid"))
	}
	return b.clearMounts()
}

// clearMounts detaches what a daemon left mounted, in its cache and in its temporary directory,
// and removes the latter. Nothing is removed while anything is still mounted there.
func (b *Builder) clearMounts() error {
	for _, dir := range []string{b.state("root"), b.state("mounts")} {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	return fault.Wrap(os.RemoveAll(b.state("mounts")), fault.Environment, "clearing", b.state("mounts"))
}

// isOurs reports whether a process runs buildkitd with our configuration: a process id alone
// may have been given to somebody else since.
func (b *Builder) isOurs(pid int) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || strings.TrimSuffix(filepath.Base(exe), " (deleted)") != "buildkitd" {
		return false
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && slices.Contains(strings.Split(string(cmdline), "\x00"), b.state("buildkitd.toml"))
}

// endProcess asks a process that is not our child to end, then ends it.
func endProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, fault.Environment, "ending process", strconv.Itoa(pid))
	}
	defer unix.Close(fd)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
			return nil // it ended
		}
		if ended, err := waitPidfd(ctx, fd); ended || err != nil {
			return err
		}
	}
	return fault.New(fault.Environment, "ending process", strconv.Itoa(pid), "it does not end").WithHint("kill -9 %d", pid)
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

// unmountBelow detaches every mount point at or below dir, innermost first.
func unmountBelow(dir string) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", "/proc/self/mountinfo")
	}
	root, err := filepath.Abs(dir)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "resolving", dir)
	}
	for _, mount := range mountsBelow(string(content), root) {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			return fault.Wrap(err, fault.Environment, "unmounting", mount)
		}
	}
	return nil
}

// mountsBelow returns the mount points of mountinfo at or below root, innermost first. The mount
// point is the fifth field, with spaces and the like as octal escapes: proc_pid_mountinfo(5).
func mountsBelow(mountinfo, root string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var mounts []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == root || strings.HasPrefix(point, root+"/") {
			mounts = append(mounts, point)
		}
	}
	slices.Reverse(mounts)
	return mounts
}
