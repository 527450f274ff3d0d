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
// kernel without Landlock enforces nothing: ask CanConfine.
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
	v.Read = append(v.Read, cmd.Path)
	if CanConfine() {
		if err := v.enforce(); err != nil {
			return fault.Wrap(err, fault.Environment, "confining", c.Path)
		}
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
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
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
