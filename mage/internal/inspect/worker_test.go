package inspect

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
)

// runScript runs a shell script in the worker's place, the way the worker is run, and returns
// what the caller was told.
func runScript(ctx context.Context, t *testing.T, script string, progress func(Event)) error {
	t.Helper()
	scratch := t.TempDir()
	path := filepath.Join(scratch, "worker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(path, scratch, Database{}, progress).runWorker(ctx, Job{Layout: "layout"}, scratch)
}

// scriptLog returns what a script writes, line by line.
func scriptLog(t *testing.T, script string) []string {
	t.Helper()
	var lines []string
	err := runScript(t.Context(), t, "cat >/dev/null; { "+script+"; } >&2", func(e Event) { lines = append(lines, e.Message) })
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestF7WorkerThatFailsIsClassified(t *testing.T) {
	tests := []struct {
		name, script string
		kind         fault.Kind
		cause        string
	}{
		{"by the status and the message it chose", `echo '{"kind":"failed","message":"layer is torn"}'; exit 32`, fault.Forged, "layer is torn"},
		{"as refused when it dies", `echo 'out of memory' >&2; kill -9 $$`, fault.Refused, "out of memory"},
		{"as refused when it fails for its own reasons", `echo panic >&2; exit 2`, fault.Refused, "panic"},
		{"as forged when it succeeds and says it failed", `echo '{"kind":"failed","message":"it did not work"}'`, fault.Forged, "it did not work"},
		{"as forged when it says something else", `echo 'Hello!'`, fault.Forged, "Hello!"},
		{"as forged when it claims that evidence was there", `echo '{"kind":"reused"}'`, fault.Forged, "reused"},
		{"as forged when it writes no line ends", `head -c 2000000 /dev/zero`, fault.Forged, "token too long"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := runScript(t.Context(), t, "cat >/dev/null; "+test.script, nil)
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.cause) {
				t.Errorf("got %v, want %v that names %q", err, test.kind, test.cause)
			}
		})
	}
}

func TestWorkerSeesNoEnvironmentOfOurs(t *testing.T) {
	t.Setenv("GITHUB_TOKEN", "canary")
	t.Setenv("HTTPS_PROXY", "http://user:canary@localhost:1")
	t.Setenv("DOCKER_CONFIG", "/canary")
	events := scriptLog(t, "env")
	for _, line := range events {
		name, _, _ := strings.Cut(line, "=")
		switch name {
		case "HOME", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LC_ALL", "GOMEMLIMIT", "PWD", "OLDPWD", "SHLVL", "_":
		default:
			t.Errorf("the worker sees %q", line)
		}
	}
	if len(events) < 6 {
		t.Errorf("the worker sees only %q", events)
	}
}

func TestWorkerHasNoNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be sure to get a network namespace")
	}
	for _, line := range scriptLog(t, "cat /proc/net/dev") {
		name, _, isInterface := strings.Cut(line, ":")
		if isInterface && strings.TrimSpace(name) != "lo" {
			t.Errorf("the worker has interface %q", name)
		}
	}
}

func TestWorkerLogCannotSteerTheTerminal(t *testing.T) {
	for _, line := range scriptLog(t, `printf 'a\033[2Jb\rc\n'`) {
		if strings.ContainsAny(line, "\033\r") {
			t.Errorf("%q reaches the terminal", line)
		}
	}
}

func TestCancelledWorkerIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := runScript(ctx, t, "echo ready >&2; exec sleep 600", func(Event) { cancel() })
	if !errors.Is(err, fault.Interrupted) {
		t.Errorf("got %v, want an interruption", err)
	}
}

func TestSecondInspectionOfACacheIsTurnedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	unlock()
	again, err := lock(path)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again()
}
