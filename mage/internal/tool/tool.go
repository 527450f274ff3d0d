// Package tool is the only package that runs other programs.
//
// A [Command] is a value: a path, arguments, an explicit environment. [Run] starts it in its own
// process group, hands every output line to a sink, and ends the whole group when the context
// does. Invariant: a child sees only the environment variables that its Command names or that
// [Base] allows, and nothing secret is ever an argument.
package tool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Command is one run of a program.
type Command struct {
	Path  string   // program, looked up in PATH when it has no slash
	Args  []string // without the program's own name
	Dir   string   // working directory; empty means the caller's
	Env   []string // KEY=value, added to Base
	Stdin io.Reader
	Lines func(line string) // receives each line of standard error, and of standard output in Run; may be nil

	Bare     bool // the child sees Env alone, nothing of Base
	Isolated bool // the child has a network namespace without interfaces, and a process namespace; starting fails where the kernel refuses one
}

// inherited are the variables a child may inherit: where things are, never who we are.
func inherited() []string {
	return []string{
		"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOTOOLCHAIN", "GOROOT",
		"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "BUILDX_CONFIG", "BUILDKIT_HOST",
	}
}

// Base returns the environment every child gets.
func Base() []string {
	var env []string
	for _, name := range inherited() {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tailLines is how much of a failed command's output an error quotes.
const tailLines = 12

// grace is the time between asking a process group to stop and ending it.
const grace = 2 * time.Second

// Run runs a command to its end. A failure is classified as kind and quotes the last lines.
func Run(ctx context.Context, c Command, kind fault.Kind) error {
	_, err := run(ctx, c, kind, false)
	return err
}

// Output runs a command and returns its standard output, at most 64 MiB.
func Output(ctx context.Context, c Command, kind fault.Kind) ([]byte, error) {
	return run(ctx, c, kind, true)
}

func run(ctx context.Context, c Command, kind fault.Kind, capture bool) ([]byte, error) {
	cmd, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	tail := &lineWriter{sink: c.Lines, keep: tailLines}
	var out limitedBuffer
	cmd.Stderr, cmd.Stdout = tail, tail
	if capture {
		cmd.Stdout = &out
	}
	err = cmd.Run()
	tail.flush()
	if ctx.Err() != nil {
		return nil, fault.Wrap(context.Cause(ctx), fault.Interrupted, "running", filepath.Base(c.Path))
	}
	if err != nil {
		return nil, &fault.Error{Op: "running", Subject: filepath.Base(c.Path) + " " + firstArg(c.Args), Kind: kind, Err: &ExitError{Err: err, Tail: tail.last()}}
	}
	if out.over {
		return nil, fault.New(fault.Refused, "running", filepath.Base(c.Path), "its output exceeds %d bytes", maxOutput)
	}
	return out.Bytes(), nil
}

// Start starts a long-running child and returns it; the caller waits. The child gets SIGTERM
// when this process dies, so that a killed parent leaves nothing behind.
func Start(ctx context.Context, c Command, stdout, stderr io.Writer) (*exec.Cmd, error) {
	cmd, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, fault.Wrap(err, fault.Environment, "starting", c.Path)
	}
	return cmd, nil
}

func prepare(ctx context.Context, c Command) (*exec.Cmd, error) {
	path, err := exec.LookPath(c.Path)
	if err != nil {
		return nil, fault.New(fault.Environment, "looking for", c.Path, "it is not installed").WithHint("install %s, or let mage install it: run as root on Debian", c.Path)
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.Env = append([]string{}, c.Env...)
	if !c.Bare {
		cmd.Env = append(Base(), c.Env...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if c.Isolated {
		isolate(cmd.SysProcAttr)
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	return cmd, nil
}

// isolate gives a child network and process namespaces of its own. Who is not root needs a user
// namespace for that, in which the child keeps its own user and group.
func isolate(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
}

// Quote makes a text one word of a POSIX shell, for a script or for somebody who copies the line.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ExitError is a program that failed, with the last lines it printed.
type ExitError struct {
	Err  error
	Tail []string
}

func (e *ExitError) Error() string {
	if len(e.Tail) == 0 {
		return e.Err.Error()
	}
	return e.Err.Error() + "\n    " + strings.Join(e.Tail, "\n    ")
}

func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode returns the exit code of the program behind err, or -1.
func ExitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

func firstArg(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// maxOutput bounds captured standard output, in bytes.
const maxOutput = 64 << 20

type limitedBuffer struct {
	bytes.Buffer
	over bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		b.over = true
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

// lineWriter cuts a stream into lines, gives them to a sink and remembers the last ones.
type lineWriter struct {
	mu      sync.Mutex
	sink    func(string)
	keep    int
	partial []byte
	lines   []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, p...)
	for {
		i := bytes.IndexByte(w.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(bytes.TrimRight(w.partial[:i], "\r")))
		w.partial = w.partial[i+1:]
	}
}

func (w *lineWriter) line(s string) {
	if w.sink != nil {
		w.sink(s)
	}
	if strings.TrimSpace(s) == "" {
		return
	}
	w.lines = append(w.lines, s)
	if len(w.lines) > w.keep {
		w.lines = w.lines[1:]
	}
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.partial) > 0 {
		w.line(string(w.partial))
		w.partial = nil
	}
}

func (w *lineWriter) last() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines
}

// ScanLines hands each line of r to sink until r ends; for the pipes of started children.
func ScanLines(r io.Reader, sink func(string)) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		sink(scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("reading output: %w", err)
	}
	return nil
}
