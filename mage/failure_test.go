package mage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containai/containai/mage/fault"
)

// TestReleaseFailsWell runs release:dev and local:serve against a world that refuses: each ends
// with the documented exit code and a next step, and the last release of all succeeds.
func TestReleaseFailsWell(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	f := newFamilyClone(t)

	t.Run("B16 a registry that does not answer", func(t *testing.T) {
		f.fails(t, fault.Unavailable, "safe", []string{"CONTAINAI_REGISTRY=127.0.0.1:1/tiny"}, "release:dev")
	})
	t.Run("E5 a registry name that is none", func(t *testing.T) {
		f.fails(t, fault.Invalid, "CONTAINAI_REGISTRY", []string{"CONTAINAI_REGISTRY=not a registry"}, "release:dev")
	})
	t.Run("a taken port", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		f.fails(t, fault.Environment, "-addr", nil, "local:serve", "-addr="+taken.Addr().String())
	})
	t.Run("A10 a full disk", func(t *testing.T) {
		state := t.TempDir()
		if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=256k"); err != nil {
			t.Skipf("no small file system can be mounted: %v", err)
		}
		defer syscall.Unmount(state, 0)
		f.fails(t, fault.Environment, "space", []string{"CONTAINAI_STATE=" + filepath.Join(state, "state")}, "release:dev")
	})
	t.Run("A2 Ctrl-C in the middle of the build", func(t *testing.T) { f.interrupt(t, "build") })
	t.Run("A2 Ctrl-C in the middle of the inspection", func(t *testing.T) { f.interrupt(t, "inspect") })
	t.Run("after all that the same command succeeds", func(t *testing.T) { f.release(t) })
	f.signals(t)
}

// fails runs a target that must end with a kind's exit code and say something in its hint, and
// returns all it said.
func (f familyClone) fails(t *testing.T, want fault.Kind, says string, env []string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), f.binary, args...)
	c.Dir, c.Env = f.dir, append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != int(want) {
		t.Fatalf("mage %v = %v, want exit %d\n%s", args, err, want, out)
	}
	if !bytes.Contains(out, []byte("→ ")) || !bytes.Contains(out, []byte(says)) {
		t.Errorf("mage %v does not say %q with a next step:\n%s", args, says, out)
	}
	return string(out)
}

// interrupt sends SIGINT when a stage shows up in the output, and wants the exit code of an
// interruption and the way to go on.
func (f familyClone) interrupt(t *testing.T, stage string) {
	t.Helper()
	f.forget(t)
	c := f.command(context.WithoutCancel(t.Context()))
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	sent := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if !sent && strings.HasPrefix(lines.Text(), "▸ "+stage) {
			sent = true
			if err := c.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = c.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != int(fault.Interrupted) {
		t.Fatalf("interrupted in %s: %v, want exit %d\n%s", stage, err, fault.Interrupted, out.String())
	}
	if !strings.Contains(out.String(), "run the same command again") {
		t.Errorf("the way to go on is missing:\n%s", out.String())
	}
}
