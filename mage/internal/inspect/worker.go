package inspect

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Limits of one run of the worker.
const (
	maxRun      = 45 * time.Minute // a worker that needs longer hangs
	maxMemory   = 4 << 30          // bytes that it may allocate; it ends with the next
	memoryLimit = "1536MiB"        // soft limit of its heap: GOMEMLIMIT
	collectAt   = "400"            // GOGC: below that limit, collecting less often saves a tenth of its time
	tailLines   = 12               // how much of its log an error quotes
)

// runWorker runs the worker in network and process namespaces of its own and with a view of the disk that is
// read-only but for its own results and its output, or says in the job why not. What else is in the cache says
// what other runs found, and is not the worker's to write.
func (i *Inspector) runWorker(ctx context.Context, job Job, scratch string) error {
	job.Cache = filepath.Join(i.cache, "worker")
	limited, cancel := context.WithTimeout(ctx, maxRun)
	defer cancel()
	if !tool.CanConfine() {
		job.View = "none: this kernel has no Landlock"
	}
	for dir, mode := range map[string]os.FileMode{job.Out: 0o755, job.results(): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fault.Wrap(err, fault.Environment, "creating", dir)
		}
	}
	run := workerRun{progress: i.progress}
	err := run.start(limited, i.worker, scratch, job, true)
	if refused := namespaceRefused(err); refused != nil {
		job.Isolation = "none: " + refused.Error()
		err = run.start(limited, i.worker, scratch, job, false)
	}
	switch {
	case err == nil:
		return cmp.Or(run.silent(), Results{Dir: job.results()}.Trim())
	case ctx.Err() != nil:
		return fault.Wrap(context.Cause(ctx), fault.Interrupted, "inspecting", job.Layout)
	case limited.Err() != nil:
		return fault.New(fault.Refused, "inspecting", job.Layout, "the scanner worker did not end within %s", maxRun)
	}
	return run.explain(err)
}

// results is where the worker keeps what it found in each layer.
func (j Job) results() string { return filepath.Join(j.Cache, "results") }

// namespaceRefused returns the kernel's reason for not making namespaces, or nil.
func namespaceRefused(err error) error {
	var ended *exec.ExitError
	if err == nil || errors.As(err, &ended) {
		return nil
	}
	for _, reason := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.ENOSPC, syscall.EUSERS, syscall.ENOSYS} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}

// workerRun is what one run of the worker said.
type workerRun struct {
	mu       sync.Mutex // guards all below: standard output and standard error are read at once
	progress func(Event)
	failure  string   // Message of its Failed event
	garbage  string   // a line of standard output that is no event
	tail     []string // last lines of standard error
}

// start runs the worker to its end with nothing of our environment in its own.
func (r *workerRun) start(ctx context.Context, worker, scratch string, job Job, isolate bool) error {
	input, err := json.Marshal(job)
	if err != nil {
		return err
	}
	home, tmp := filepath.Join(scratch, "home"), filepath.Join(scratch, "tmp")
	command := tool.Command{
		Path:     worker,
		Dir:      scratch,
		Stdin:    bytes.NewReader(input),
		Bare:     true,
		Isolated: isolate,
		Env:      []string{"HOME=" + home, "XDG_CACHE_HOME=" + home, "TMPDIR=" + tmp, "TZ=UTC", "LC_ALL=C.UTF-8", "GOMEMLIMIT=" + memoryLimit, "GOGC=" + collectAt},
	}
	events, logs := newLines(r.event), newLines(r.log)
	defer logs.Close()
	defer events.Close()
	return tool.RunConfined(ctx, command, viewOf(job, scratch), events, logs)
}

// viewOf is what a job needs of the disk.
func viewOf(job Job, scratch string) tool.View {
	v := tool.View{Read: []string{job.Layout}, Write: []string{scratch, job.Out}, Memory: maxMemory}
	if job.Database.Dir != "" {
		v.Read = append(v.Read, job.Database.Dir)
	}
	if job.Cache != "" {
		v.Write = append(v.Write, job.results())
	}
	for _, d := range job.Directories {
		v.Read = append(v.Read, d.Path)
	}
	return v
}

func (r *workerRun) event(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var event Event
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&event); err != nil || event.Kind == Reused || event.Kind == "" {
		r.garbage = Printable(line)
		return
	}
	event.Message = Printable(event.Message)
	if event.Kind == Failed {
		r.failure = event.Message
	}
	r.progress(event)
}

func (r *workerRun) log(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line = Printable(line)
	if r.tail = append(r.tail, line); len(r.tail) > tailLines {
		r.tail = r.tail[1:]
	}
	r.progress(Event{Kind: Log, Message: line})
}

// silent checks that a worker which succeeded said nothing but events.
func (r *workerRun) silent() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.garbage == "" && r.failure == "" {
		return nil
	}
	return fault.New(fault.Forged, "inspecting", "family", "the scanner worker succeeded and said %q", r.failure+r.garbage)
}

// explain classifies the end of a worker that did not succeed: by the exit status it chose among
// the kinds, or as refused.
func (r *workerRun) explain(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := fault.Refused
	for _, m := range fault.Kinds() {
		if tool.ExitCode(err) == int(m.Kind) {
			kind = m.Kind
		}
	}
	if r.failure != "" {
		return fault.New(kind, "inspecting", "family", "%s", r.failure)
	}
	return &fault.Error{Op: "running", Subject: "scanner worker", Kind: kind, Err: &tool.ExitError{Err: err, Tail: r.tail}}
}

// Printable replaces what could steer a terminal or forge a line.
func Printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' {
			return ' '
		}
		if !unicode.IsPrint(c) {
			return unicode.ReplacementChar
		}
		return c
	}, s)
}

// lines is a writer that gives each line written to it to a function, until it is closed.
type lines struct {
	*io.PipeWriter
	done chan struct{}
}

func newLines(sink func(string)) *lines {
	r, w := io.Pipe()
	l := &lines{w, make(chan struct{})}
	go func() {
		defer close(l.done)
		if err := tool.ScanLines(io.LimitReader(r, maxOutput), sink); err != nil {
			sink(err.Error())
		}
		// The rest is read and dropped, so that the worker never waits for us.
		_, _ = io.Copy(io.Discard, r)
	}()
	return l
}

// maxOutput bounds what is read of each stream of the worker, in bytes.
const maxOutput = 16 << 20

// Close ends the stream and waits until its last line was given away.
func (l *lines) Close() error {
	err := l.PipeWriter.Close()
	<-l.done
	return err
}
