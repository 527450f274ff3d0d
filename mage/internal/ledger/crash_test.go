package ledger

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// TestAppendIsKilled is the process that TestA1 kills; it is no test of its own.
func TestAppendIsKilled(t *testing.T) {
	dir := os.Getenv("LEDGER_TO_APPEND_TO")
	if dir == "" {
		t.Skip("it runs in a child of TestA1KilledAtAnyCommandAndContinued")
	}
	l := &Ledger{dir: dir, ref: ref}
	if strings.HasSuffix(dir, ".git"+string(filepath.Separator)) {
		l = openClone(t, filepath.Dir(filepath.Clean(dir)))
	}
	head := headOf(t, l)
	_, err := l.Append(t.Context(), head, next(t, head), "killed")
	t.Fatalf("Append() = %v, and nobody killed it", err)
}

func TestA1KilledAtAnyCommandAndContinued(t *testing.T) {
	for _, kind := range []string{"local", "remote"} {
		commands := []string{"hash-object", "mktree", "commit-tree", "update-ref"}
		if kind == "remote" {
			commands[3] = "push"
		}
		for _, command := range commands {
			for _, when := range []string{"before", "after"} {
				t.Run(kind+" "+when+" "+command, func(t *testing.T) {
					l, dir := openLocal(t), ""
					if kind == "remote" {
						clone := cloneOf(t, "file://"+bare(t))
						l, dir = openClone(t, clone), filepath.Join(clone, ".git")+string(filepath.Separator)
					} else {
						dir = l.dir
					}
					first := grow(t, l, release.Head{}, 1)
					killAppend(t, dir, command, when)

					want := "[1]"
					if when == "after" && (command == "update-ref" || command == "push") {
						want = "[2 1]"
					}
					if got, err := generations(t, l); got != want || err != nil {
						t.Fatalf("after the kill, History() = %s, %v, want %s", got, err, want)
					}
					run(t, l.dir, "fsck", "--strict", "--no-dangling")
					if want == "[1]" {
						if head := headOf(t, l); head.ID != first.ID {
							t.Errorf("after the kill, Head() = %s, want %s", head.ID, first.ID)
						}
					}
					head := grow(t, l, headOf(t, l), 1)
					if got, err := generations(t, l); err != nil || len(strings.Fields(got)) != int(head.Document.Generation) {
						t.Errorf("continued, History() = %s, %v", got, err)
					}
				})
			}
		}
	}
}

// killAppend runs an append in a process that is killed before or after it runs a git command.
func killAppend(t *testing.T, dir, command, when string) {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	run := ""
	if when == "after" {
		run = git + ` "$@" >&2; `
	}
	bin := t.TempDir()
	write(t, filepath.Join(bin, "git"), "#!/bin/sh\nif [ \"$1\" = "+command+" ]; then "+run+"kill -9 $PPID; exit 1; fi\nexec "+git+" \"$@\"\n", 0o755)
	child := exec.Command(os.Args[0], "-test.run=^TestAppendIsKilled$")
	child.Env = append(os.Environ(), "LEDGER_TO_APPEND_TO="+dir, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := child.CombinedOutput()
	status, ok := child.ProcessState.Sys().(syscall.WaitStatus)
	if err == nil || !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed: %v\n%s", err, out)
	}
}

func TestAStaleLockIsNamed(t *testing.T) {
	t.Run("of the ledger's ref", func(t *testing.T) {
		l := openLocal(t)
		first := grow(t, l, release.Head{}, 1)
		lock := filepath.Join(l.dir, ref+".lock")
		write(t, lock, "", 0o644)
		_, err := l.Append(t.Context(), first, next(t, first), "locked")
		if !errors.Is(err, fault.Environment) || !strings.Contains(err.Error(), lock) || !strings.Contains(fault.HintOf(err), "rm "+lock) {
			t.Fatalf("Append() = %v, hint %q, want %s named", err, fault.HintOf(err), lock)
		}
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
		grow(t, l, first, 1)
	})
	t.Run("of the ref that remembers the remote, which nobody has to wait for", func(t *testing.T) {
		dir := bare(t)
		l := openClone(t, cloneOf(t, "file://"+dir))
		first := grow(t, l, release.Head{}, 1)
		write(t, filepath.Join(l.dir, l.remote.tracking()+".lock"), "", 0o644)
		second := grow(t, openClone(t, cloneOf(t, "file://"+dir)), first, 1)
		if head := headOf(t, l); head.ID != second.ID {
			t.Errorf("Head() = %s, want %s", head.ID, second.ID)
		}
		grow(t, l, second, 1)
	})
	t.Run("of the remote's branch", func(t *testing.T) {
		dir := bare(t)
		l := openClone(t, cloneOf(t, "file://"+dir))
		first := grow(t, l, release.Head{}, 1)
		write(t, filepath.Join(dir, "refs", "heads", branch+".lock"), "", 0o644)
		_, err := l.Append(t.Context(), first, next(t, first), "locked")
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), branch+".lock") {
			t.Errorf("Append() = %v, want it unavailable, with the lock named", err)
		}
	})
}
