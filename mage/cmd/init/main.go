// Command init makes a project release its images as a family.
//
// It asks nothing. In the directory of a project it looks for Dockerfiles and for git's remote, and
// writes containai.yaml, a bake file, magefile.go, go.mod, .gitignore and, for a repository at GitHub,
// the workflows. What is there already stays as it is. The last line that it prints is the next command.
// Its exit statuses are those of docs/exit-codes.md.
//
//	go run github.com/containai/containai/mage/cmd/init@latest
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, ".", os.Args[1:], os.Stdout)
	if err != nil && ctx.Err() != nil {
		err = fault.Wrap(err, fault.Interrupted, "writing", "project")
	}
	os.Exit(explain(os.Stderr, err))
}

// run looks, plans and writes; nothing is written before everything was planned.
func run(ctx context.Context, dir string, args []string, out io.Writer) error {
	if len(args) > 0 {
		return fault.New(fault.Invalid, "running", "init", "it takes no arguments, not %q", args).
			WithHint("run it in the directory of the project")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", "working directory")
	}
	library, err := version()
	if err != nil {
		return err
	}
	f, err := look(ctx, dir)
	if err != nil {
		return err
	}
	f.Library = library
	files, err := plan(f)
	if err != nil {
		return err
	}
	results, err := write(dir, files)
	say(out, results)
	if err != nil {
		return err
	}
	if !gitHubRemote.MatchString(f.Remote) {
		fmt.Fprintln(out, "left out .github/workflows  (git's remote origin is no repository at GitHub)")
	}
	_, err = fmt.Fprintf(out, "\nnext\n  %s\n", strings.Join(next(ctx, f, dir, results), " &&\n  "))
	return err
}

// version is this library's, as this very program was built with it.
func version() (string, error) {
	build, ok := debug.ReadBuildInfo()
	if !ok || build.Main.Version == "" || build.Main.Version == "(devel)" || strings.Contains(build.Main.Version, "+dirty") {
		return "", fault.New(fault.Invalid, "reading", "version", "this program was built from a work tree, whose version nobody can fetch").
			WithHint("go run github.com/containai/containai/mage/cmd/init@latest")
	}
	return build.Main.Version, nil
}

// say lists what was written and what was there.
func say(out io.Writer, results []result) {
	for _, r := range results {
		word := "wrote  "
		if r.There {
			word = "skipped"
		}
		line := fmt.Sprintf("%s  %s", word, term.Escape(r.Path))
		if r.There {
			line += "  (it is there, and stays as it is)"
		}
		fmt.Fprintln(out, line)
	}
}

// explain prints what went wrong and returns the exit status.
func explain(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	text, status := term.Explain(err, nil)
	fmt.Fprintln(w, "Error:", text)
	return status
}
