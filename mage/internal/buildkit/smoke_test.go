package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		test   family.Smoke
		exit   int
		output string
		want   evidence.SmokeResult
	}{
		"any output passes without an expectation":    {family.Smoke{}, 0, "x\n", evidence.SmokeResult{Passed: true, Output: "x"}},
		"a final line break does not hide the end":    {family.Smoke{Prints: "^agent$"}, 0, "agent\n", evidence.SmokeResult{Passed: true, Output: "agent"}},
		"another exit code fails":                     {family.Smoke{Exit: 2}, 1, "", evidence.SmokeResult{Exit: 1}},
		"a limit that was reached is said":            {family.Smoke{Within: 3 * time.Second}, 124, "so far", evidence.SmokeResult{Exit: 124, Output: "it did not end within 3s\nso far"}},
		"a test that the kernel killed says why":      {family.Smoke{}, 137, "so far", evidence.SmokeResult{Exit: 137, Output: "it was killed: a test may use 2048 MiB of memory\nso far"}},
		"a test that prints without end says why":     {family.Smoke{}, 153, "y\ny", evidence.SmokeResult{Exit: 153, Output: "it was stopped: a test may write 1024 MiB to one file, and print as much; let it say less\ny\ny"}},
		"an expected 124 is an exit code like others": {family.Smoke{Exit: 124}, 124, "", evidence.SmokeResult{Passed: true, Exit: 124}},
		"output that is not UTF-8 is made so":         {family.Smoke{}, 0, "\xff", evidence.SmokeResult{Passed: true, Output: "\uFFFD"}},
		"what is matched may be longer than is kept":  {family.Smoke{Prints: "z$"}, 0, strings.Repeat("y", 3000) + "z", evidence.SmokeResult{Passed: true, Output: strings.Repeat("y", 2000)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := judge(test.test, test.exit, []byte(test.output))
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
	if _, err := judge(family.Smoke{Prints: "("}, 0, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("a bad expression gave %v, want fault.Invalid", err)
	}
}

// FuzzSmokeDockerfile: whatever the arguments are, each test is one instruction on one line.
func FuzzSmokeDockerfile(f *testing.F) {
	f.Add("a'b\"c$d`e\\", "<<EOF\nRUN evil")
	f.Add("\u2028", "\\\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := smokeDockerfile([]family.Smoke{{Run: []string{a, b}}, {Run: []string{b}}})
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(got, "\n"); lines != 9 || strings.Contains(got, "<<") {
			t.Errorf("%d lines:\n%s", lines, got)
		}
	})
}

// What a test leaves is read from this machine's own disk; its code may be anybody's.
func TestASmokeTestCannotMakeUsReadFilesOfThisMachine(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "config.json")
	write(t, secret, "a token of this machine")
	for name, leave := range map[string]func(path string) error{
		"a link to a file of this machine": func(path string) error { return os.Symlink(secret, path) },
		"a link beside it":                 func(path string) error { return os.Symlink("exit", path) },
		"a pipe that nobody writes to":     func(path string) error { return unix.Mkfifo(path, 0o600) },
		"more than the script keeps":       func(path string) error { return os.WriteFile(path, make([]byte, smokeKept+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "0"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "0", "exit"), "0\n")
			if err := leave(filepath.Join(dir, "0", "output")); err != nil {
				t.Fatal(err)
			}
			if got, err := readSmoke(dir, []family.Smoke{{Name: "hostile"}}); !errors.Is(err, fault.BuildFailed) {
				t.Errorf("got %+v, %v, want fault.BuildFailed", got, err)
			}
		})
	}
}
