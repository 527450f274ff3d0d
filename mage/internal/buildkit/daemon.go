package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Times the embedded daemon gets.
const (
	startTime = 30 * time.Second // to listen, after an unclean end it checks its cache first
	stopTime  = 10 * time.Second // to end by itself; then it is killed
	closeTime = time.Second      // likewise when we end: who is interrupted has 4 seconds for all
)

// maxSocket is the longest path of a unix socket on every system we know, in bytes: sun_path
// has 104 on BSD and 108 on Linux, terminated by NUL.
const maxSocket = 103

// startDaemon starts the embedded BuildKit below the state directory and returns its address.
// The kernel ends it when this process dies; Close or idleness ends it otherwise.
func (b *Builder) startDaemon(ctx context.Context) (string, error) {
	binary, err := Daemon().Build(ctx, b.programs(), b.notice)
	if err != nil {
		return "", err
	}
	if err := tool.EnsureHost(ctx, []tool.Need{{Binary: "runc", Package: "runc"}, {Binary: "setpriv", Package: "util-linux"}}, b.notice); err != nil {
		return "", err
	}
	if err := b.reap(ctx); err != nil {
		return "", err
	}
	run, err := b.runDir()
	if err != nil {
		return "", err
	}
	address := "unix://" + filepath.Join(run, "s")
	config := b.state("buildkitd.toml")
	if err := b.writeRunc(); err != nil {
		return "", err
	}
	if err := os.WriteFile(config, []byte(b.daemonConfig(address, run)), 0o600); err != nil {
		return "", fault.Wrap(err, fault.Environment, "writing", config)
	}
	d, err := launch(ctx, daemonCommand(binary, config, b.state("tmp")), b.state("daemon.log"))
	if err != nil {
		return "", err
	}
	b.daemon.stop = func() error { return b.stopDaemon(d, run) }
	if err := os.WriteFile(b.state("pid"), []byte(strconv.Itoa(d.pid)), 0o600); err != nil {
		return "", fault.Wrap(err, fault.Environment, "writing", b.state("pid"))
	}
	return address, d.ready(ctx)
}

// writeRunc writes the runc that the daemon starts: the machine's, with its notes about running
// steps in the state directory instead of /run, where a killed daemon's would stay.
func (b *Builder) writeRunc() error {
	script := fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", tool.Quote(tool.Find("runc")), tool.Quote(b.state("steps")))
	return fault.Wrap(os.WriteFile(b.state("runc"), []byte(script), 0o700), fault.Environment, "writing", b.state("runc"))
}

// cgroup is the control group that every build step is put below.
func (b *Builder) cgroup() string { return "containai-" + shortHash(b.state()) }

// daemonConfig is buildkitd.toml. It is always passed, so that /etc/buildkit/buildkitd.toml of
// the machine has no say. Every path lies in our own directories.
func (b *Builder) daemonConfig(address, run string) string {
	return fmt.Sprintf(`root = %q
[grpc]
  address = [%q]
[otel]
  socketPath = %q
[cdi]
  disabled = true
[history]
  maxEntries = 20
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  binary = %q
  defaultCgroupParent = %q
  networkMode = "host"
  max-parallelism = %d
  gc = true
  reservedSpace = %d
  maxUsedSpace = %d
  minFreeSpace = 1000000000
`, b.state("root"), address, filepath.Join(run, "o"), b.state("runc"), b.cgroup(), max(2, runtime.NumCPU()), b.options.Keep/2, b.options.Keep)
}

// confined runs a program of root's in mount and process namespaces of its own: when this process
// dies, however it dies, the kernel ends the program with everything that it started, and all
// that it mounted is gone. setpriv and unshare are in util-linux.
func confined(name string, args ...string) tool.Command {
	wrap := []string{"--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", name}
	return tool.Command{Path: "setpriv", Args: append(wrap, args...)}
}

// daemonCommand starts buildkitd with a temporary directory that the next start clears.
func daemonCommand(binary, config, temporary string) tool.Command {
	cmd := confined(binary, "--config", config)
	cmd.Env = []string{"TMPDIR=" + temporary}
	return cmd
}

// runDir is where the sockets are: in the state directory, or in a private directory below the
// system's temporary one where that path is too long for a socket.
func (b *Builder) runDir() (string, error) {
	dir := b.state("run")
	if len(filepath.Join(dir, "s")) > maxSocket {
		dir = filepath.Join(os.TempDir(), "containai-"+shortHash(b.state()))
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fault.Wrap(err, fault.Environment, "clearing", dir)
	}
	// Mkdir refuses a directory that somebody else put there in the meantime.
	return dir, fault.Wrap(os.Mkdir(dir, 0o700), fault.Environment, "creating", dir)
}

// daemon is the running child. One goroutine starts it, stays on its thread and waits for it:
// Linux sends the parent-death signal when that thread ends, not the process
// (https://github.com/golang/go/issues/27505).
type daemon struct {
	pid      int
	log      string
	ended    chan struct{} // closed when the child was waited for
	listened chan struct{} // closed when it says that it listens
}

func launch(ctx context.Context, command tool.Command, log string) (*daemon, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "creating", log)
	}
	d := &daemon{log: log, ended: make(chan struct{}), listened: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer file.Close()
		defer close(d.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		out := &watcher{to: file, word: "running server on", seen: d.listened}
		// The daemon outlives a cancelled context, so that Close can end it in order.
		cmd, err := tool.Start(context.WithoutCancel(ctx), command, out, out)
		if err == nil {
			d.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how a daemon ends that was signalled says nothing; its log does
		}
	}()
	return d, <-started
}

// ready waits until the daemon listens.
func (d *daemon) ready(ctx context.Context) error {
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	select {
	case <-d.listened:
		return nil
	case <-ctx.Done():
		return fault.Wrap(context.Cause(ctx), fault.Interrupted, "starting", "buildkitd")
	case <-d.ended:
	case <-limit.C:
	}
	return fault.New(fault.Environment, "starting", "buildkitd", "it does not listen; it said:\n    %s", tailOf(d.log)).
		WithHint("the whole log is in %s", d.log)
}

// stopDaemon ends the daemon. The signals go to the process group: unshare does not pass them on.
func (b *Builder) stopDaemon(d *daemon, run string) error {
	err := syscall.Kill(-d.pid, syscall.SIGTERM)
	limit := time.NewTimer(closeTime)
	defer limit.Stop()
	select {
	case <-d.ended:
	case <-limit.C:
		err = syscall.Kill(-d.pid, syscall.SIGKILL)
		<-d.ended
	}
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fault.Wrap(err, fault.Environment, "stopping", "buildkitd")
	}
	left := b.clearSteps(closeTime)
	if errors.Is(left, syscall.EBUSY) { // of a step that was ended just now: the next start clears it
		left = nil
	}
	return errors.Join(left, os.RemoveAll(run), os.Remove(b.state("pid")))
}

// watcher copies a log and closes seen when a word first appears in it.
type watcher struct {
	to   io.Writer
	word string
	seen chan struct{}
	once sync.Once
	tail string
}

func (w *watcher) Write(p []byte) (int, error) {
	text := w.tail + string(p)
	if strings.Contains(text, w.word) {
		w.once.Do(func() { close(w.seen) })
	}
	w.tail = text[max(0, len(text)-len(w.word)):]
	return w.to.Write(p)
}

// tailOf returns the end of a log, at most 2,000 bytes.
func tailOf(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(content[max(0, len(content)-2000):]))
}

func keepMegabytes(bytes int64) string { return strconv.FormatInt(bytes/1_000_000, 10) }
