package inspect

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
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
	job := Job{Layout: filepath.Join(scratch, "layout"), Out: filepath.Join(scratch, "out")}
	return New(path, filepath.Join(scratch, "cache"), Database{}, progress).runWorker(ctx, job, scratch)
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
		{"as refused when it dies", `echo 'out of memory' >&2; exit 137`, fault.Refused, "out of memory"},
		{"as refused when it fails for its own reasons", `echo panic >&2; exit 2`, fault.Refused, "panic"},
		{"as forged when it succeeds and says it failed", `echo '{"kind":"failed","message":"it did not work"}'`, fault.Forged, "it did not work"},
		{"as forged when it says something else", `echo 'Hello!'`, fault.Forged, "Hello!"},
		{"as forged when it claims that evidence was there", `echo '{"kind":"reused"}'`, fault.Forged, "reused"},
		{"as forged when it writes no line ends", `printf %02000000d 0`, fault.Forged, "token too long"},
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
		case "HOME", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LC_ALL", "GOMEMLIMIT", "GOGC", "PWD", "OLDPWD", "SHLVL", "_":
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
	out, err := tool.Output(t.Context(), tool.Command{Path: "cat", Args: []string{"/proc/net/dev"}, Isolated: true}, fault.Environment)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		name, _, isInterface := strings.Cut(line, ":")
		if isInterface && strings.TrimSpace(name) != "lo" {
			t.Errorf("the worker has interface %q", name)
		}
	}
}

// TestF7WorkerCannotChangeWhatItScans: whatever a scanner becomes, the bytes that are published are those
// that were built, and what is not the job's stays unread.
func TestF7WorkerCannotChangeWhatItScans(t *testing.T) {
	if !tool.CanConfine() {
		t.Skip("this kernel has no Landlock; reports say so")
	}
	dir := t.TempDir()
	layout, out, scratch, home := filepath.Join(dir, "layout"), filepath.Join(dir, "out"), filepath.Join(dir, "scratch"), filepath.Join(dir, "home")
	for _, d := range []string{layout, scratch, home} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	blob, token := filepath.Join(layout, "blob"), filepath.Join(home, "token")
	cache := filepath.Join(dir, "cache")
	own, others := filepath.Join(cache, "worker", "results"), filepath.Join(cache, "results") // of this worker, and of all runs
	if err := os.MkdirAll(others, 0o755); err != nil {
		t.Fatal(err)
	}
	script := strings.Join([]string{
		"cat >/dev/null",
		"try() { if sh -c \"$2\" 2>/dev/null >/dev/null; then echo \"$1\" >&2; fi; }",
		"try 'reads the layout' 'cat " + blob + "'",
		"try 'writes its output' 'echo x >" + out + "/report'",
		"try 'writes its scratch' 'mkdir " + scratch + "/tmp && mv " + out + "/report " + scratch + "/tmp'",
		"try 'writes its results' 'echo x >" + own + "/layer'",
		"try 'SAYS WHAT OTHERS FOUND' 'echo x >" + others + "/evidence'",
		"try 'PUTS A LINK IN THE PLACE OF ITS RESULTS' 'mv " + own + " " + own + "-; ln -sT " + home + " " + own + "'",
		"try 'CHANGES A BLOB' 'echo x >>" + blob + "'",
		"try 'EMPTIES A BLOB' ': >" + blob + "'",
		"try 'REMOVES A BLOB' 'rm -f " + blob + "'",
		"try 'REPLACES A BLOB' 'echo x >" + scratch + "/x; mv -f " + scratch + "/x " + blob + "'",
		"try 'ADDS A BLOB' 'echo x >" + layout + "/other'",
		"try 'READS A TOKEN' 'cat " + token + "'",
		"try 'READS A PASSWORD FILE' 'cat /etc/shadow || cat /etc/passwd'",
		"try 'READS THE ENVIRONMENT OF ITS PARENT' 'cat /proc/" + strconv.Itoa(os.Getpid()) + "/environ'",
		"try 'SIGNALS ITS PARENT' 'kill -0 " + strconv.Itoa(os.Getpid()) + "'",
		"try 'MOUNTS' 'mount -t tmpfs none " + layout + "'",
		"ulimit -d >&2",
	}, "\n")
	want := []string{"reads the layout", "writes its output", "writes its scratch", "writes its results", strconv.Itoa(maxMemory >> 10)}
	if os.Geteuid() == 0 { // others are somebody without privileges anyway, and get namespaces where the kernel lets them
		script += strings.Join([]string{"",
			"try 'CHANGES THE MODE OF A BLOB' 'chmod 600 " + blob + "'",
			"try 'CHANGES THE MODE OF A PROGRAM' 'chmod 755 /bin/sh'",
			"try 'GIVES A FILE AWAY' 'chown 1 " + out + "'",
			"try 'MAKES A DEVICE' 'mknod " + scratch + "/sda b 8 0'",
			"try 'MAKES A NAMESPACE' 'unshare -m true'",
			"try 'SEES ANOTHER PROCESS' 'kill -0 2'",
			"echo I am $$ >&2",
		}, "\n")
		want = append(want, "I am 1")
	}
	for path, content := range map[string]string{blob: "as it was built", token: "secret"} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	worker := filepath.Join(scratch, "worker")
	if err := os.WriteFile(worker, []byte("#!/bin/sh\nPATH=/usr/bin:/bin:/usr/sbin:/sbin\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var did []string
	err := New(worker, cache, Database{}, func(e Event) { did = append(did, e.Message) }).
		runWorker(t.Context(), Job{Layout: layout, Out: out}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(did, want) {
		t.Errorf("the worker %q, want %q", did, want)
	}
	if content, err := os.ReadFile(blob); err != nil || string(content) != "as it was built" {
		t.Errorf("the blob is %q, %v", content, err)
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
