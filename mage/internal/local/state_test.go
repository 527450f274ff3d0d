package local_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
)

// TestMain lets a test run itself again as another process; CONTAINAI_TEST_ROLE says as which.
func TestMain(m *testing.M) {
	if role := os.Getenv("CONTAINAI_TEST_ROLE"); role != "" {
		os.Exit(play(role, os.Getenv("CONTAINAI_TEST_STATE")))
	}
	os.Exit(m.Run())
}

func openState(t *testing.T, dir string) *local.State {
	t.Helper()
	s, err := local.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestAStateKeepsItsIdentityAndAWipedOneHasAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".containai")
	first, again := openState(t, dir), openState(t, dir)
	if first.ID() != again.ID() || len(first.ID()) != 16 {
		t.Errorf("identities %q and %q", first.ID(), again.ID())
	}
	secret, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil || strings.Contains(string(secret), first.ID()) {
		t.Errorf("the identity %s is part of the secret, %v", first.ID(), err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if wiped := openState(t, dir); wiped.ID() == first.ID() {
		t.Error("a wiped state has its old identity")
	}
}

func TestAStateIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	for _, path := range []string{dir, s.SigstoreDir(), s.RegistryDir(), filepath.Join(dir, "id")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if open := info.Mode().Perm() & 0o077; open != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	if ignore, err := os.ReadFile(filepath.Join(dir, ".gitignore")); string(ignore) != "*\n" || err != nil {
		t.Errorf(".gitignore is %q, %v", ignore, err)
	}
}

func TestADirectoryThatIsNoStateIsRefused(t *testing.T) {
	foreign, broken := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "id"), []byte("me"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.OpenState(foreign); !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("a directory with other files: %v", err)
	}
	if _, err := local.OpenState(broken); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("a broken identity: %v", err)
	}
	if _, err := local.OpenState(filepath.Join(foreign, "thesis.tex", "x")); !errors.Is(err, fault.Environment) {
		t.Errorf("below a file: %v", err)
	}
}

func TestOneProcessReleasesFromAState(t *testing.T) {
	dir := t.TempDir()
	child := run(t, "lock", dir)
	s := openState(t, dir)
	err := s.Lock()
	if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), child.pid()) || fault.HintOf(err) == "" {
		t.Errorf("while process %s holds it: %v", child.pid(), err)
	}
	child.kill(t)
	if err := s.Lock(); err != nil {
		t.Errorf("after it was killed: %v", err)
	}
	if err := openState(t, dir).Lock(); !errors.Is(err, fault.Conflict) {
		t.Errorf("twice in one process: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openState(t, dir).Lock(); err != nil {
		t.Errorf("after it was given back: %v", err)
	}
}

// child is this test program as another process.
type child struct {
	cmd  *exec.Cmd
	line string // what it said when it was ready
}

// run starts a role and returns when it is ready.
func run(t *testing.T, role, dir string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "CONTAINAI_TEST_ROLE="+role, "CONTAINAI_TEST_STATE="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.kill(t)
		}
	})
	if c.line, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s said nothing: %v", role, err)
	}
	c.line = strings.TrimSpace(c.line)
	return c
}

// kill ends the process as kill -9 does, and waits for its end.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	c.cmd.Wait()
}
