package tool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Program is a Go program that is built on demand and kept in the user's cache.
//
// It comes from a scratch module (Mod and Sum, for programs that `go install` refuses because of
// their replace or exclude directives) or from an existing module directory (Dir); exactly one of
// the two is set. A scratch module never changes, so its binary is built once per Go version; a
// directory is handed to `go build` every time, which is quick when nothing changed.
type Program struct {
	Name     string        // file name of the binary
	Version  string        // without the leading v; part of the path in the cache
	Package  string        // import path of the main package; "./cmd/x" with Dir
	Mod, Sum []byte        // go.mod and go.sum of the scratch module
	Dir      string        // existing module directory
	Env      []string      // KEY=value for go build, for example GOEXPERIMENT=jsonv2
	Static   bool          // of a directory: linked without C, and the same bytes wherever the directory lies
	Stamp    string        // variable that receives "v"+Version at link time; may be empty
	Estimate time.Duration // how long the first build takes; shown to the user
}

// Build returns the path of the binary below cache, building it if it is not there. Progress
// receives calm lines for a person and may be nil. Two processes that want the same program wait
// for each other; a build that is killed half-way leaves nothing that a later one would use.
//
// Errors: fault.Invalid for a contradictory Program, fault.Environment when it does not compile
// or its modules cannot be fetched.
func (p Program) Build(ctx context.Context, cache string, progress func(line string)) (string, error) {
	if (p.Dir == "") == (p.Mod == nil) {
		return "", fault.New(fault.Invalid, "building", p.Name, "a program has either a scratch module or a directory")
	}
	if progress == nil {
		progress = func(string) {}
	}
	home := filepath.Join(cache, p.Name+"-"+p.Version+"-"+p.key())
	binary := filepath.Join(home, p.Name)
	if p.Dir == "" && isFile(binary) {
		return binary, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fault.Wrap(err, fault.Environment, "creating cache", cache)
	}
	unlock, err := Lock(ctx, home+".lock", func() { progress("waiting for another build of " + p.Name) })
	if err != nil {
		return "", err
	}
	defer unlock()
	if p.Dir != "" {
		if err := p.rebuild(ctx, home, progress); err != nil {
			return "", err
		}
		return binary, p.forget(cache)
	}
	if isFile(binary) {
		return binary, nil // another process built it while we waited
	}
	return binary, p.buildOnce(ctx, home, progress)
}

// key identifies everything that decides the bytes of the binary.
func (p Program) key() string {
	h := sha256.New()
	fields := []string{p.Package, p.Dir, string(p.Mod), string(p.Sum), p.Stamp, fmt.Sprint(p.Static), runtime.Version(), runtime.GOOS, runtime.GOARCH}
	for _, field := range append(fields, p.Env...) {
		fmt.Fprintf(h, "%d:%s", len(field), field)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// buildOnce compiles the scratch module in a directory of its own and renames that into place.
func (p Program) buildOnce(ctx context.Context, home string, progress func(string)) error {
	work := home + ".work"
	if err := os.RemoveAll(work); err != nil { // left by a build that was killed
		return fault.Wrap(err, fault.Environment, "clearing", work)
	}
	defer os.RemoveAll(work)
	out := filepath.Join(work, "out")
	for _, dir := range []string{out, filepath.Join(work, "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fault.Wrap(err, fault.Environment, "creating", dir)
		}
	}
	for name, content := range map[string][]byte{"go.mod": p.Mod, "go.sum": p.Sum} {
		if err := os.WriteFile(filepath.Join(work, name), content, 0o644); err != nil {
			return fault.Wrap(err, fault.Environment, "writing", name)
		}
	}
	if err := p.compile(ctx, work, work, filepath.Join(out, p.Name), progress); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil {
		return fault.Wrap(err, fault.Environment, "clearing", home)
	}
	return fault.Wrap(os.Rename(out, home), fault.Environment, "storing", home)
}

// compile lists what the program consists of, which fetches its modules, and then compiles it.
func (p Program) compile(ctx context.Context, dir, work, binary string, progress func(string)) error {
	progress(fmt.Sprintf("building %s %s%s", p.Name, p.Version, p.estimate()))
	list := p.goCommand(dir, work, "list", "-deps", "-f", "{{.ImportPath}}", p.Package)
	list.Lines = once(func() { progress("building " + p.Name + ": fetching its Go modules") })
	packages, err := Output(ctx, list, fault.Environment)
	if err != nil {
		return p.explain(err)
	}
	meter := compileMeter{name: p.Name, total: strings.Count(string(packages), "\n"), progress: progress}
	build := p.goCommand(dir, work, p.buildArgs("-v", "-o", binary)...)
	build.Lines = meter.line
	return p.explain(Run(ctx, build, fault.Environment))
}

// rebuild lets go build decide; it replaces the binary only when something changed, and says
// nothing when that is quick. The rename is atomic because Go's temporary directory lies on the
// same file system.
func (p Program) rebuild(ctx context.Context, home string, progress func(string)) error {
	tmp, binary := filepath.Join(home, "tmp"), filepath.Join(home, p.Name)
	if err := os.RemoveAll(tmp); err != nil { // left by a build that was killed
		return fault.Wrap(err, fault.Environment, "clearing", tmp)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", tmp)
	}
	if err := os.WriteFile(filepath.Join(home, sourceFile), []byte(p.Dir), 0o644); err != nil {
		return fault.Wrap(err, fault.Environment, "storing", home)
	}
	if !isFile(binary) {
		return p.compile(ctx, p.Dir, home, binary, progress)
	}
	return p.explain(Run(ctx, p.goCommand(p.Dir, home, p.buildArgs("-o", binary)...), fault.Environment))
}

// sourceFile names, beside a program of a directory, that directory.
const sourceFile = "source"

// forget removes this program as it was built of directories that are there no longer.
func (p Program) forget(cache string) error {
	homes, err := os.ReadDir(cache)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading cache", cache)
	}
	for _, h := range homes {
		if !strings.HasPrefix(h.Name(), p.Name+"-") {
			continue
		}
		home := filepath.Join(cache, h.Name())
		dir, err := os.ReadFile(filepath.Join(home, sourceFile))
		if err != nil {
			continue
		}
		if _, err := os.Stat(string(dir)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(home); err != nil {
			return fault.Wrap(err, fault.Environment, "clearing", home)
		}
	}
	return nil
}

func (p Program) buildArgs(extra ...string) []string {
	ldflags := "-s -w"
	if p.Static {
		ldflags += " -buildid=" // it would tell apart toolchains that make the same code
	}
	if p.Stamp != "" {
		ldflags += " -X " + p.Stamp + "=v" + p.Version
	}
	args := []string{"build", "-buildvcs=false", "-ldflags", ldflags}
	if p.Dir == "" || p.Static {
		args = append(args, "-trimpath") // another directory shares its compiled packages with `go test` instead
	}
	return append(append(args, extra...), p.Package)
}

// goCommand runs go with the user's proxy and caches, but without the user's flags: they could
// change what is built.
func (p Program) goCommand(dir, work string, args ...string) Command {
	env := []string{"GOFLAGS=-mod=readonly", "GOWORK=off", "PWD=" + dir, "GOTMPDIR=" + filepath.Join(work, "tmp")}
	if p.Dir == "" || p.Static {
		env = append(env, "CGO_ENABLED=0")
	}
	return Command{Path: "go", Args: args, Dir: dir, Env: append(env, p.Env...)}
}

func (p Program) estimate() string {
	if p.Estimate == 0 {
		return ""
	}
	return fmt.Sprintf(" (first time only, about %d min)", int(p.Estimate.Round(time.Minute).Minutes()))
}

// explain adds the next step to a failed go command; it reads the go command's words because
// the go command says nothing else.
func (p Program) explain(err error) error {
	if err == nil {
		return nil
	}
	e := &fault.Error{Op: "building", Subject: p.Name + " " + p.Version, Kind: fault.Environment, Err: err}
	if kind, ok := fault.KindOf(err); ok {
		e.Kind = kind
	}
	text := err.Error()
	switch {
	case fault.HintOf(err) != "" || e.Kind == fault.Interrupted:
		return e
	case strings.Contains(text, "no space left on device"):
		return e.WithHint("free some disk space (`go clean -cache` empties Go's build cache), then run the same command again")
	case strings.Contains(text, "requires go >="):
		return e.WithHint("install the Go version it names, or allow Go to fetch it: go env -w GOTOOLCHAIN=auto")
	case containsAny(text, "dial tcp", "no such host", "GOPROXY", "proxyconnect", "TLS handshake", "x509:", "i/o timeout", "connection re"):
		return e.WithHint("its Go modules must be fetched once: connect to the network, or set GOPROXY to a module proxy that this machine reaches")
	case strings.Contains(text, "signal: killed"):
		return e.WithHint("the compiler was killed, most likely for lack of memory: give this machine 4 GB, or set GOMAXPROCS=1")
	}
	return e
}

// compileMeter turns the package names that `go build -v` prints into a line per hundred.
type compileMeter struct {
	name        string
	done, total int
	progress    func(string)
}

func (m *compileMeter) line(s string) {
	if strings.HasPrefix(s, "go: ") || strings.ContainsAny(s, " \t") {
		return
	}
	m.done++
	if m.done%100 == 0 {
		m.progress(fmt.Sprintf("building %s: %d of %d packages", m.name, m.done, m.total))
	}
}

// once returns a sink that calls f at the first line it gets.
func once(f func()) func(string) {
	called := false
	return func(string) {
		if !called {
			called = true
			f()
		}
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func containsAny(s string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
