package buildkit

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/fault"
)

// holdState names the variable that makes this test binary a process that opens a builder and
// builds without end, to be killed.
const holdState = "CONTAINAI_TEST_HOLD_STATE"

// TestHoldBuilder is not a test: TestKilledProcessLeavesNothing runs it in a child.
func TestHoldBuilder(t *testing.T) {
	state := os.Getenv(holdState)
	if state == "" {
		t.Skip("runs in the child of TestKilledProcessLeavesNothing")
	}
	options := testOptions(t, state)
	options.Progress = func(e Event) {
		if strings.Contains(e.Step, "sleep 123456") {
			os.Stdout.WriteString("BUILDING\n")
		}
	}
	b, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	_, store := newLayout(t)
	_, err = b.Build(t.Context(), request(t, testFamily([]string{"linux/amd64"}, "endless")), store)
	t.Fatalf("the endless build ended: %v", err)
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	state := t.TempDir()
	options := testOptions(t, state)
	child := exec.Command(os.Args[0], "-test.run=^TestHoldBuilder$", "-test.v")
	child.Env = append(os.Environ(), holdState+"="+state, "TMPDIR="+t.TempDir())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, out, "BUILDING")
	step := findProcess(t, "sleep\x00123456\x00", state)
	processes := []int{
		pidfd(t, readPid(t, state)),
		pidfd(t, findProcess(t, "buildkitd\x00--config\x00"+state, state)),
		pidfd(t, step),
	}
	traces := stepTraces(t, state, step)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, fd := range processes {
		if ended, err := waitPidfd(t.Context(), fd); !ended || err != nil {
			t.Errorf("process %d of 3 survived the killed parent: %v", i+1, err)
		}
	}
	if err := child.Wait(); err == nil {
		t.Error("the killed child says that it succeeded")
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), state+"/") {
		t.Errorf("mounts of the killed run are left, %v:\n%s", err, mounts)
	}
	b, err := Open(t.Context(), options) // the next run starts as if nothing had been
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for what, dir := range traces {
		if what == "snapshot" { // the daemon collects it a second after its start
			waitUntil(t, "the snapshot of the killed step is gone", func() bool { return isGone(dir) })
		} else if !isGone(dir) {
			t.Errorf("the killed step left its %s %s", what, dir)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if processes, err := filepath.Glob("/proc/[0-9]*/mountinfo"); err != nil || slices.ContainsFunc(processes, func(path string) bool {
		mounts, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(mounts), state+"/")
	}) {
		t.Errorf("a process of the closed builder is left, %v", err)
	}
	t.Run("and its cache is bounded", func(t *testing.T) { testCacheBound(t, options) })
}

// testCacheBound opens a state directory that holds an OS base with a limit that is smaller.
func testCacheBound(t *testing.T, options Options) {
	options.Keep = 20_000_000
	root := filepath.Join(options.State, "buildkit", "root")
	if size := bytesBelow(t, root); size < 5*options.Keep {
		t.Fatalf("the cache holds %d bytes already: it would prove nothing", size)
	}
	b, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	waitUntil(t, "the cache is as small as it has to be", func() bool { return bytesBelow(t, root) <= options.Keep })
}

// bytesBelow adds up the files of a directory that others change meanwhile.
func bytesBelow(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func isGone(path string) bool {
	_, err := os.Stat(path)
	return os.IsNotExist(err)
}

// waitUntil looks until something holds, for a minute: the kernel and the daemon tell nobody.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	retry, limit := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	defer retry.Stop()
	for !holds() {
		select {
		case <-retry.C:
		case <-limit:
			t.Fatalf("it never holds that %s", what)
		}
	}
}

// stepTraces returns what a running step has in the file system; all of it must be there now, or
// its absence later would prove nothing.
func stepTraces(t *testing.T, state string, pid int) map[string]string {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(proc, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	cgroup := regexp.MustCompile(`[0-9]+:(?:name=)?([a-z]*)[^:]*:(/containai-[0-9a-f]{8}/buildkit/([a-z0-9]+))\n`).FindStringSubmatch(read("cgroup"))
	snapshot := regexp.MustCompile(`upperdir=([^, \n]+)`).FindStringSubmatch(read("mountinfo"))
	if cgroup == nil || snapshot == nil {
		t.Fatalf("the step runs in no control group of ours or on no snapshot:\n%s\n%s", read("cgroup"), read("mountinfo"))
	}
	traces := map[string]string{
		"control group": filepath.Join(cgroupRoot, cgroup[1], cgroup[2]),
		"runc state":    filepath.Join(state, "buildkit", "steps", cgroup[3]),
		"bundle":        filepath.Join(state, "buildkit", "root", "runc-overlayfs", "executor", cgroup[3]),
		"snapshot":      snapshot[1],
	}
	for what, dir := range traces {
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("the step that runs has no %s: %v", what, err)
		}
	}
	return traces
}

func TestOpenReapsADaemonThatOutlivedItsParent(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts BuildKit")
	}
	state := filepath.Join(t.TempDir(), strings.Repeat("a-very-long-name-", 6)) // longer than a socket's path may be
	options := testOptions(t, state)
	first, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	config := first.state("buildkitd.toml")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody's daemon: it has our configuration, but no parent-death signal and no lock.
	binary, err := Daemon().Build(t.Context(), first.programs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command(binary, "--config", config)
	listening, err := orphan.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(socketOf(t, config)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	waitFor(t, listening, "running server on")
	go func() { ended <- orphan.Wait() }()
	write(t, first.state("pid"), strconv.Itoa(orphan.Process.Pid))
	second, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	select {
	case <-ended:
	default:
		t.Error("the orphan still runs while the next daemon does")
	}
}

// TestFullDiskIsSaidToBeOne gives the state directory a file system that the OS base overflows.
func TestFullDiskIsSaidToBeOne(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	state := t.TempDir()
	options := testOptions(t, state)
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64m"); err != nil {
		skip(t, "cannot mount a small file system: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, store := newLayout(t)
	_, err = b.Build(t.Context(), request(t, testFamily([]string{"linux/amd64"})), store)
	if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "df -h") {
		t.Errorf("got %v with hint %q, want fault.Environment that says the disk is full", err, fault.HintOf(err))
	}
}

// TestReapSparesStrangers: a process id in the file may belong to anybody by now.
func TestReapSparesStrangers(t *testing.T) {
	b := &Builder{options: Options{State: t.TempDir(), Progress: func(Event) {}}}
	if err := os.MkdirAll(b.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, b.state("pid"), strconv.Itoa(os.Getpid())) // were it ended, this test would say so
	if err := b.reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.state("pid")); !os.IsNotExist(err) {
		t.Errorf("the stale pid file is still there: %v", err)
	}
}

func TestOpenReportsADaemonThatDoesNotStart(t *testing.T) {
	options := testOptions(t, t.TempDir())
	b := &Builder{options: options.withDefaults()}
	if err := os.MkdirAll(b.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	binary, err := Daemon().Build(t.Context(), b.programs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, b.state("buildkitd.toml"), "this is no configuration")
	d, err := launch(t.Context(), daemonCommand(binary, b.state("buildkitd.toml"), t.TempDir()), b.state("daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	err = d.ready(t.Context())
	if !errors.Is(err, fault.Environment) || !strings.Contains(err.Error(), "toml") || !strings.Contains(fault.HintOf(err), "daemon.log") {
		t.Errorf("got %v, want fault.Environment with the daemon's own words", err)
	}
}

// waitFor reads a stream until a word appears, and then drains it in the background.
func waitFor(t *testing.T, r io.Reader, word string) {
	t.Helper()
	reader := bufio.NewReader(r)
	var seen strings.Builder
	for {
		line, err := reader.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, word) {
			go io.Copy(io.Discard, reader)
			return
		}
		if err != nil {
			t.Fatalf("%v before %q:\n%s", err, word, seen.String())
		}
	}
}

func readPid(t *testing.T, state string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(state, "buildkit", "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// findProcess waits for the build step's own process, below our daemon.
func findProcess(t *testing.T, cmdline, state string) int {
	t.Helper()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for range retry.C {
		if t.Context().Err() != nil {
			break
		}
		entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			content, err := os.ReadFile(entry)
			root, rootErr := os.ReadFile(filepath.Join(filepath.Dir(entry), "mountinfo"))
			if err == nil && rootErr == nil && strings.Contains(string(content), cmdline) && !strings.HasPrefix(string(content), "unshare\x00") && strings.Contains(string(root), state) {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(entry)))
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
	t.Fatal("the step does not run")
	return 0
}

func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func socketOf(t *testing.T, config string) string {
	t.Helper()
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), `"unix://`)
	path, _, ok := strings.Cut(rest, `"`)
	if !ok || len(path) > maxSocket {
		t.Fatalf("the socket %q has %d bytes, want at most %d", path, len(path), maxSocket)
	}
	return path
}
