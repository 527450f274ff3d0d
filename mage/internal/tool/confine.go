package tool

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/fault"
)

// View is all that a confined child sees of the disk. What is not there is left out.
type View struct {
	Read   []string // files and directories that it may read, and programs that it may run
	Write  []string // directories that it may change
	Memory uint64   // bytes that each of its processes may allocate
}

// CanConfine reports whether this kernel has Landlock.
func CanConfine() bool { return landlockABI() > 0 }

// RunConfined runs a child to its end that has no view of the disk but v: the kernel enforces it by
// Landlock (https://docs.kernel.org/userspace-api/landlock.html) before the child's first instruction,
// whoever its user is, and lets it make no TCP connection, signal nobody outside and gain no privilege. A
// kernel without Landlock enforces none of that: ask CanConfine. A child of root's has no capability but to
// pass over file permissions, and only where Landlock says which files. Landlock does not keep an owner from
// changing modes, so root's child also has mounts of its own, which are read-only but for what it may write.
//
// An error of starting it is returned as the kernel gives it. Sockets that are files can be connected to:
// Landlock has no rule for that, so nothing that listens on one may trust its callers.
func RunConfined(ctx context.Context, c Command, v View, stdout, stderr io.Writer) error {
	ended := make(chan error, 1)
	go func() {
		// A thread's restrictions are for good, and its children have them. It is locked and never
		// unlocked, so it ends with this goroutine, and that is after the child: the kernel takes the
		// death of this thread for the parent's.
		runtime.LockOSThread()
		ended <- runConfined(ctx, c, v, stdout, stderr)
	}()
	return <-ended
}

func runConfined(ctx context.Context, c Command, v View, stdout, stderr io.Writer) error {
	ready := make(chan struct{})
	if c.Stdin != nil {
		c.Stdin = gate{c.Stdin, ready} // its work begins when its limits are set
	}
	cmd, err := prepare(ctx, c)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL // the first process of a namespace need not end at any other
	v.Read = append(v.Read, cmd.Path)
	if err := v.confine(); err != nil {
		return fault.Wrap(err, fault.Environment, "confining", c.Path)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	limit := errors.Join(
		unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: v.Memory, Max: v.Memory}, nil),
		unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil),
	)
	if limit != nil {
		_ = cmd.Cancel() // it waits for its input and is of no use
	}
	close(ready)
	return errors.Join(fault.Wrap(limit, fault.Environment, "limiting", c.Path), cmd.Wait())
}

// confine restricts the calling thread, which must be locked, and what it starts. What root may not do here
// is left: the child's report says what it found.
func (v View) confine() error {
	if os.Geteuid() == 0 {
		if err := v.mountReadOnly(); err != nil && !refused(err) {
			return err
		}
		if err := dropCapabilities(); err != nil && !refused(err) {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if CanConfine() {
		return v.enforce()
	}
	return nil
}

// refused reports whether this kernel or the container around us does not let us, or does not know how.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}

// mountReadOnly gives the calling thread mounts of its own, which nothing can be changed in but v.Write.
func (v View) mountReadOnly() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for _, dir := range v.Write {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return &os.PathError{Op: "mount", Path: dir, Err: err}
		}
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	for _, dir := range v.Write {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
		}
	}
	return nil
}

// Kept is the one capability that a confined child of root's has: it reads and writes files of whoever, of
// those that Landlock lets it see.
const Kept = unix.CAP_DAC_OVERRIDE

// dropCapabilities takes from what the calling thread starts every capability but Kept; the thread's own stay,
// as making namespaces needs them.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil {
			break // the kernel knows no more
		}
		if c == Kept && CanConfine() {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	return os.NewSyscallError("capset", unix.Capset(&header, &sets[0]))
}

// Capabilities are those that this process may use, a bit each.
func Capabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&header, &sets[0])
	return uint64(sets[1].Permitted)<<32 | uint64(sets[0].Permitted), os.NewSyscallError("capget", err)
}

// gate is a reader that nothing comes out of before it opens.
type gate struct {
	io.Reader
	open <-chan struct{}
}

func (g gate) Read(p []byte) (int, error) {
	<-g.open
	return g.Reader.Read(p)
}

// What a path may be used for. Devices, pipes and sockets are not made by scanners.
const (
	readFile  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	readTree  = readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFile = readFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	writeTree = readTree | writeFile | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
)

// landlockABI is the version of the kernel's Landlock, and zero without one.
func landlockABI() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// handled is what a version of Landlock can refuse, of what we know.
func handled(abi int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1} // the first version's rights
	for version, right := range map[int]uint64{2: unix.LANDLOCK_ACCESS_FS_REFER, 3: unix.LANDLOCK_ACCESS_FS_TRUNCATE, 5: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV} {
		if abi >= version {
			attr.Access_fs |= right
		}
	}
	if abi >= 4 {
		attr.Access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr
}

// enforce restricts the calling thread, which must be locked, and what it starts.
func (v View) enforce() error {
	attr := handled(landlockABI())
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer unix.Close(int(ruleset))
	allow := func(paths []string, file, tree uint64) error {
		for _, path := range paths {
			if err := addRule(int(ruleset), path, file&attr.Access_fs, tree&attr.Access_fs); err != nil {
				return err
			}
		}
		return nil
	}
	writable := append([]string{"/dev/null"}, v.Write...)
	if os.Geteuid() != 0 {
		writable = append(writable, "/proc") // where this thread maps its child's user; others' processes stay out of reach
	}
	if err := errors.Join(
		allow(systemPaths(), readFile, readTree),
		allow(v.Read, readFile, readTree),
		allow(writable, writeFile, writeTree),
	); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

// systemPaths are where programs and their libraries are, and nothing that is anybody's.
func systemPaths() []string {
	return []string{"/bin", "/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache"}
}

func addRule(ruleset int, path string, file, tree uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: file, Parent_fd: int32(fd)}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		rule.Allowed_access = tree
	}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return &os.PathError{Op: "landlock_add_rule", Path: path, Err: errno}
	}
	return nil
}
