package mage_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
)

// nobody is a user that may do nothing: 65534 in every distribution.
const nobody = 65534

// TestNeitherRootNorDocker drops root for real: a build is refused with the commands that help, and
// the plan still says what would be built.
func TestNeitherRootNorDocker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	home := publicHome(t)
	run := func(target string) (string, int) {
		c := exec.CommandContext(t.Context(), filepath.Join(home, "mage"), target)
		c.Dir = filepath.Join(home, "tiny")
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_HOST=unix://" + home + "/no-docker.sock"}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	ways := []string{"sudo systemctl start docker", "export BUILDKIT_HOST=tcp://HOST:PORT", `sudo --preserve-env env "PATH=$PATH" mage build:all`}

	out, code := run("build:all")
	if code != int(fault.Environment) {
		t.Fatalf("build:all exits %d, want %d:\n%s", code, fault.Environment, out)
	}
	for _, way := range ways {
		if !strings.Contains(out, way) {
			t.Errorf("build:all does not say %q:\n%s", way, out)
		}
	}
	out, code = run("build:plan")
	if code != 0 {
		t.Fatalf("build:plan exits %d:\n%s", code, out)
	}
	for _, word := range append(ways, "none can be had here", "tiny-agent") {
		if !strings.Contains(out, word) {
			t.Errorf("build:plan does not say %q:\n%s", word, out)
		}
	}
}

// publicHome is a home of nobody's with the tiny family, the compiled targets, and Buildx in its
// cache, so that it is not built again.
func publicHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "nobody-*") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	buildx, err := buildkit.Buildx().Build(t.Context(), filepath.Join(cache, "containai", "programs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	programs := filepath.Join(home, ".cache", "containai", "programs")
	if err := os.CopyFS(filepath.Join(programs, filepath.Base(filepath.Dir(buildx))), os.DirFS(filepath.Dir(buildx))); err != nil {
		t.Fatal(err)
	}
	if err := cloneTiny("..", filepath.Join(home, "tiny")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cp", compileMagefile(t), filepath.Join(home, "mage")},
		{"chown", "-R", "65534:65534", home},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, bytes.TrimSpace(out))
		}
	}
	return home
}
