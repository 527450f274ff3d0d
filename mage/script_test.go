package mage_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts drives the built targets as a user does: one script per behaviour, on the tiny
// family in testdata/families, with the real BuildKit, registry, scanners and Sigstore.
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	runScripts(t, tiny(), "../testdata/script")
}

// compileMagefile compiles the repository's magefile once, as CI does with mage -compile.
func compileMagefile(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "mage")
	build := exec.Command("go", "tool", "mage", "-compile", binary)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compiling the magefile: %v\n%s", err, out)
	}
	return binary
}

// setupFamily gives a script a git repository with a family, and the caches of the real user, so that
// tools are built once for all scripts.
func setupFamily(env *testscript.Env, library, name, bin string) error {
	work := filepath.Join(env.WorkDir, name)
	if err := cloneFamily(library, name, work); err != nil {
		return err
	}
	for name, value := range goEnvironment() {
		env.Setenv(name, value)
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("CI", os.Getenv("CI"))
	env.Setenv("LIBRARY", library)
	env.Cd = work
	return nil
}

// cloneTiny makes a git repository of the tiny family, with one commit.
func cloneTiny(library, dir string) error { return cloneFamily(library, "tiny", dir) }

// cloneFamily makes a git repository of a family of testdata, with one commit.
func cloneFamily(library, name, dir string) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(library, "testdata", "families", name))); err != nil {
		return err
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, commitArgs("the " + name + " family")} {
		git := exec.Command("git", args...)
		git.Dir = dir
		if out, err := git.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w\n%s", args, err, out)
		}
	}
	return nil
}

// goEnvironment is where Go and our tools keep what they built.
func goEnvironment() map[string]string {
	env := map[string]string{}
	out, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOPATH").Output()
	values := strings.Split(string(out), "\n")
	if err == nil && len(values) >= 4 {
		env["GOCACHE"], env["GOMODCACHE"], env["GOPROXY"], env["GOPATH"] = values[0], values[1], values[2], values[3]
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value := os.Getenv(name); value != "" {
			env[name] = value
		}
	}
	if cache, err := os.UserCacheDir(); err == nil {
		env["XDG_CACHE_HOME"] = cache
	}
	return env
}

// exits CODE COMMAND… runs a command that must end with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG …]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("%s exited %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// commit MESSAGE commits the whole work tree.
func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: commit MESSAGE")
	}
	ts.Check(ts.Exec("git", "add", "-A"))
	ts.Check(ts.Exec("git", commitArgs(args[0])...))
}

func commitArgs(message string) []string {
	return []string{"-c", "user.name=somebody", "-c", "user.email=somebody@example.com", "commit", "-q", "-m", message}
}
