//go:build goexperiment.jsonv2

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	trivylog "github.com/aquasecurity/trivy/pkg/log"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/tool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	events := &eventWriter{encoder: json.NewEncoder(os.Stdout)}
	err := run(ctx, os.Stdin, events)
	events.tellMemory()
	stop()
	if err == nil {
		return
	}
	events.tell(inspect.Event{Kind: inspect.Failed, Message: message(err)})
	kind, known := fault.KindOf(err)
	if !known {
		kind = fault.Refused
	}
	os.Exit(int(kind))
}

// message is what the caller shows; the hint belongs to it because only text crosses the border.
func message(err error) string {
	if hint := fault.HintOf(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}

func run(ctx context.Context, input io.Reader, events *eventWriter) error {
	// Trivy logs file names and rule matches; what it finds goes into reports, nowhere else.
	trivylog.InitLogger(false, true)
	content, err := io.ReadAll(io.LimitReader(input, inspect.MaxJob+1))
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "reading", "job")
	}
	job, err := inspect.DecodeJob(content)
	if err != nil {
		return err
	}
	return inspectAll(ctx, job, tools(job), events)
}

// tools says which scanners are linked and how this process is isolated.
func tools(job inspect.Job) map[string]string {
	versions := map[string]string{
		inspect.ToolInspect:    inspect.Revision,
		inspect.ToolIsolation:  isolation(job.Isolation),
		inspect.ToolView:       view(job),
		inspect.ToolPrivileges: privileges(),
		inspect.ToolLimits:     limits(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return versions
	}
	versions[inspect.ToolModules] = inspect.Modules(info)
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/anchore/syft":
			versions[inspect.ToolSyft] = dep.Version
		case "github.com/aquasecurity/trivy":
			versions[inspect.ToolTrivy] = dep.Version
		}
	}
	return versions
}

// isolation looks for itself: it believes in namespaces only if no interface is up and it is the first process.
func isolation(reason string) string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "none: listing interfaces: " + err.Error()
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		if reason == "" {
			reason = "none: interface " + i.Name + " is up"
		}
		return reason
	}
	if os.Getpid() != 1 {
		return cmp.Or(reason, "none: it is one process of many")
	}
	return inspect.Isolated
}

// privileges looks for itself, too.
func privileges() string {
	has, err := tool.Capabilities()
	if err != nil {
		return "none: " + err.Error()
	}
	if more := has &^ (1 << tool.Kept); more != 0 {
		return fmt.Sprintf("none: it has capabilities %#x", more)
	}
	return inspect.Unprivileged
}

// mayChangeMode tries what Landlock does not keep an owner from, and mounts that are read-only do.
func mayChangeMode(path string) bool {
	info, err := os.Stat(path)
	return err == nil && os.Chmod(path, info.Mode()) == nil
}

// view looks for itself, too: it believes in a read-only view only if it cannot write beside what it scans.
func view(job inspect.Job) string {
	at := job.Layout
	if at == "" {
		at = job.Directories[0].Path // a job names one of the two
	}
	file, err := os.CreateTemp(at, ".probe-")
	if err != nil && os.Geteuid() == 0 && mayChangeMode(at) {
		return cmp.Or(job.View, "none: the modes of root's files can be changed")
	}
	if err != nil {
		return inspect.ReadOnly
	}
	file.Close()
	os.Remove(file.Name())
	return cmp.Or(job.View, "none: "+at+" can be written to")
}

// limits are those that the kernel holds this process to; time is kept by who started it.
func limits() string {
	var memory syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_DATA, &memory); err != nil {
		return "none: " + err.Error()
	}
	return inspect.Limits(memory.Cur)
}

// eventWriter writes events as JSON lines. It alone knows the time.
type eventWriter struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (w *eventWriter) tell(event inspect.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Nobody is left to be told when the caller went away: it ends this process.
	_ = w.encoder.Encode(event)
}

// cell tells that a target is begun and returns what tells that it is done.
func (w *eventWriter) cell(c evidence.Cell) (done func()) {
	begin := time.Now()
	w.tell(inspect.Event{Kind: inspect.Started, Cell: c})
	return func() { w.tell(inspect.Event{Kind: inspect.Done, Cell: c, Duration: time.Since(begin)}) }
}

// check tells how long one check of a target took, when it is complete.
func (w *eventWriter) check(t target, what inspect.Check) (done func(cached bool)) {
	begin := time.Now()
	return func(cached bool) {
		w.tell(inspect.Event{Kind: inspect.Checked, Cell: t.cell, Check: what, Digest: t.digest, Duration: time.Since(begin), Cached: cached})
	}
}

// tellMemory tells how much memory this process took at most.
func (w *eventWriter) tellMemory() {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		w.tell(inspect.Event{Kind: inspect.Log, Message: fmt.Sprintf("peak memory %d MiB", used.Maxrss>>10)})
	}
}
