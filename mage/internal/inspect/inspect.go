package inspect

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Worker is the program that scans, from this library's source. It links Syft and Trivy; nothing
// else does, because they make it large and slow to compile: measured at 10 minutes on two cores
// with an empty Go cache.
func Worker(library string) tool.Program {
	return tool.Program{
		Name: "inspect", Version: "r" + Revision, Package: "./mage/cmd/inspect", Dir: library,
		Env: []string{"GOEXPERIMENT=jsonv2"}, Estimate: 10 * time.Minute,
	}
}

// Inspector runs the worker for one job at a time.
type Inspector struct {
	worker, cache string
	db            Database
	progress      func(Event)

	mu    sync.Mutex // guards steps: events come from several goroutines
	steps []Step
}

// New returns an inspector that starts the program worker, keeps results by content below cache and
// looks vulnerabilities up in a database; a zero db means that there is none, and every report then
// says "not scanned". Progress is called from several goroutines but never twice at once; it may be nil.
func New(worker, cache string, db Database, progress func(Event)) *Inspector {
	if progress == nil {
		progress = func(Event) {}
	}
	i := &Inspector{worker: worker, cache: cache, db: db}
	i.progress = func(e Event) { i.note(e); progress(e) }
	return i
}

// Inspect makes the evidence of every cell and directory of a job and returns their reports, in
// the order of [Job.Targets]. Evidence that is there, or was made before of the same digest by the
// same tools with the same database, is not made again, and where all is, no worker is started.
func (i *Inspector) Inspect(ctx context.Context, job Job) ([]evidence.Report, error) {
	job.Cache, job.Database = i.cache, i.db
	if err := job.Validate(); err != nil {
		return nil, err
	}
	want, err := i.expect(job)
	if err != nil {
		return nil, err
	}
	results := i.results(job)
	if open := i.unfinished(job, want, results); len(open.Targets()) > 0 {
		if err := i.work(ctx, open); err != nil {
			return nil, err
		}
	}
	reports := make([]evidence.Report, 0, len(want))
	for _, w := range want {
		report, err := w.check(job.Dir(w.cell))
		if err != nil {
			return nil, err
		}
		if err := w.keep(results, job); err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	return reports, results.Trim()
}

// Steps returns what the last inspection did: every check of every target.
func (i *Inspector) Steps() []Step {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(i.steps), func(a, b Step) int { return cmp.Compare(a.Cell.String(), b.Cell.String()) })
}

func (i *Inspector) note(e Event) {
	if e.Kind != Checked {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.steps = append(i.steps, Step{e.Cell, e.Check, e.Digest, e.Duration, e.Cached})
}

func (i *Inspector) results(job Job) Results {
	return Results{Dir: filepath.Join(i.cache, "results"), Now: job.Now}
}

// expect says what the report of each target must state, from what this process knows itself.
func (i *Inspector) expect(job Job) ([]expected, error) {
	tools, err := linkedTools(i.worker)
	if err != nil {
		return nil, err
	}
	if err := job.Database.CheckAge(job.Now, job.MaxAge); err != nil {
		return nil, err
	}
	var want []expected
	for _, c := range job.Cells {
		want = append(want, expected{cell: c.Cell, digest: c.Digest, tools: tools, database: job.Database})
	}
	for _, d := range job.Directories {
		tree, err := TreeDigest(d.Path)
		if err != nil {
			return nil, err
		}
		want = append(want, expected{cell: d.Cell(), digest: tree, tools: tools, database: job.Database})
	}
	return want, nil
}

// unfinished returns the job without the targets whose evidence is there and holds.
func (i *Inspector) unfinished(job Job, want []expected, results Results) Job {
	done := map[evidence.Cell]bool{}
	for _, w := range want {
		if _, err := w.check(job.Dir(w.cell)); err != nil && !w.restore(results, job) {
			continue
		}
		done[w.cell] = true
		i.progress(Event{Kind: Reused, Cell: w.cell})
		for _, check := range Checks() {
			i.progress(Event{Kind: Checked, Cell: w.cell, Check: check, Digest: w.digest, Cached: true})
		}
	}
	open := job
	open.Cells, open.Directories = nil, nil
	for _, c := range job.Cells {
		if !done[c.Cell] {
			open.Cells = append(open.Cells, c)
		}
	}
	for _, d := range job.Directories {
		if !done[d.Cell()] {
			open.Directories = append(open.Directories, d)
		}
	}
	return open
}

// work runs the worker on a job, alone on its cache, with a scratch directory of its own.
func (i *Inspector) work(ctx context.Context, job Job) error {
	if err := job.Database.intact(); err != nil {
		return err
	}
	if err := os.MkdirAll(i.cache, 0o700); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", i.cache)
	}
	unlock, err := lock(filepath.Join(i.cache, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	scratch := filepath.Join(i.cache, "scratch")
	// What a killed run left behind goes first; the lock says that nobody uses it.
	if err := os.RemoveAll(scratch); err != nil {
		return fault.Wrap(err, fault.Environment, "emptying", scratch)
	}
	defer os.RemoveAll(scratch)
	for _, dir := range []string{"home", "tmp"} {
		if err := os.MkdirAll(filepath.Join(scratch, dir), 0o700); err != nil {
			return fault.Wrap(err, fault.Environment, "creating", scratch)
		}
	}
	return i.runWorker(ctx, job, scratch)
}

// lock takes an exclusive lock that ends with this process.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "locking", path)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fault.New(fault.Unavailable, "locking", path, "another inspection uses this cache: %w", err).WithHint("wait for the other run to end, then run this again")
	}
	return func() { file.Close() }, nil
}

// The modules whose versions a report must state.
const (
	syftModule  = "github.com/anchore/syft"
	trivyModule = "github.com/aquasecurity/trivy"
)

// linkedTools reads from the worker's build information which scanners are linked into it.
func linkedTools(worker string) (map[string]string, error) {
	info, err := buildinfo.ReadFile(worker)
	if err != nil {
		return nil, fault.New(fault.Environment, "reading scanner worker", worker, "%w", err).WithHint("build it with `%s`", BuildCommand)
	}
	tools := map[string]string{ToolInspect: Revision, ToolModules: Modules(info)}
	for _, dep := range info.Deps {
		switch dep.Path {
		case syftModule:
			tools[ToolSyft] = dep.Version
		case trivyModule:
			tools[ToolTrivy] = dep.Version
		}
	}
	if tools[ToolSyft] == "" || tools[ToolTrivy] == "" {
		return nil, fault.New(fault.Environment, "reading scanner worker", worker, "no scanners are linked into it").WithHint("build it with `%s`", BuildCommand)
	}
	return tools, nil
}

// Modules is a digest of all that a program was built of but its own module: Go's version, and version and
// content of each module linked into it. What Syft or Trivy find depends on modules below them, too.
func Modules(info *buildinfo.BuildInfo) string {
	hash := digest.SHA256.Digester()
	fmt.Fprintln(hash.Hash(), info.GoVersion)
	for _, dep := range info.Deps {
		linked := dep
		if dep.Replace != nil {
			linked = dep.Replace
		}
		fmt.Fprintln(hash.Hash(), dep.Path, dep.Version, linked.Path, linked.Version, linked.Sum)
	}
	return hash.Digest().String()
}

// BuildCommand builds the worker in this module.
const BuildCommand = "GOEXPERIMENT=jsonv2 go build ./mage/cmd/inspect"
