package term_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containai/containai/mage/internal/term"
)

// These tests look at a real terminal: tmux runs this very program in one, resizes it as a window
// manager does, wrapping what stood there, types Ctrl-C, and says what is on the screen.

// showVariable makes this program show a run instead of testing.
const showVariable = "TERM_TEST_SHOW"

// show is a run that waits for Ctrl-C in the middle of its work, and ends as a target does.
func show() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	p := term.New(os.Stderr, term.For(os.Stderr, os.Getenv, time.Now))
	p.Emit(term.Event{Stage: "build", Subject: "base", State: term.Started})
	p.Emit(term.Event{Stage: "build", Subject: "base", State: term.Finished, Detail: "4 layers"})
	p.Emit(term.Event{Stage: "build", Subject: "family", State: term.Progressed, Done: 3, Total: 9, Detail: "app linux/amd64 2/7 " + strings.Repeat("RUN ", 60)})
	p.Emit(term.Event{Stage: "publish", Subject: "\x1b[2J\x1b[Hevil \u202e", State: term.Progressed, Done: 12_300_000, Unit: term.Bytes})
	p.Emit(term.Event{Stage: "inspect", Subject: "app linux/amd64", State: term.Started, Detail: "\x1b]0;title\a"})
	<-ctx.Done()
	if err := p.Close(); err != nil {
		os.Exit(1)
	}
	os.Exit(130)
}

func TestOnARealTerminal(t *testing.T) {
	for name, size := range map[string]struct{ columns, lines int }{"wide": {110, 30}, "narrow": {44, 20}, "tiny": {14, 7}} {
		t.Run(name, func(t *testing.T) {
			w := openWindow(t, size.columns, size.lines, "TERM=tmux-256color")
			w.waitFor(t, "three live lines", func(s []string) bool { return len(live(s)) == 3 })
			if all := strings.Join(w.lines(t), "\n"); size.columns > 100 && (!strings.Contains(all, `\x1b[2J\x1b[Hevil \u202e`) || !strings.Contains(all, "[======>") || !strings.Contains(all, "3/9 app") || !strings.Contains(all, "12.3 MB")) {
				t.Errorf("the screen shows\n%s", all)
			}
			w.interrupt(t)
		})
	}
}

func TestALiveScreenSurvivesResizing(t *testing.T) {
	w := openWindow(t, 120, 30, "TERM=tmux-256color")
	w.waitFor(t, "three live lines", func(s []string) bool { return len(live(s)) == 3 })
	for _, columns := range []int{60, 100, 48, 47, 120} {
		w.tmux(t, "resize-window", "-x", fmt.Sprint(columns), "-y", "30")
		w.waitFor(t, fmt.Sprintf("three live lines of %d columns and nothing left of others", columns), func(s []string) bool {
			for _, line := range live(s) {
				if len([]rune(line)) >= columns {
					return false
				}
			}
			return len(live(s)) == 3
		})
	}
	if all := strings.Split(w.tmux(t, "capture-pane", "-p", "-J", "-S", "-"), "\n"); count(all, "✓ build    base") != 1 {
		t.Errorf("what was printed for good is gone:\n%s", strings.Join(all, "\n"))
	}
	w.interrupt(t)
}

// live are the live lines of a screen on which nothing stands below them, nor between them and what was
// printed for good.
func live(screen []string) []string {
	for len(screen) > 0 && screen[len(screen)-1] == "" {
		screen = screen[:len(screen)-1]
	}
	first := 0
	for first < len(screen) && !strings.HasPrefix(screen[first], "▸ ") {
		first++
	}
	lines := screen[first:]
	if count(lines, "▸ ") != len(lines) || first > 0 && !strings.HasSuffix(screen[first-1], "yers") {
		return nil
	}
	return lines
}

func TestColourAndMovementAreLeftOutWhereNobodyWantsThem(t *testing.T) {
	for name, test := range map[string]struct {
		env   []string
		color bool
	}{
		"a terminal":      {[]string{"TERM=tmux-256color"}, true},
		"NO_COLOR":        {[]string{"TERM=tmux-256color", "NO_COLOR=1"}, false},
		"a dumb terminal": {[]string{"TERM=dumb", "NO_COLOR=1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := openWindow(t, 100, 30, test.env...)
			w.waitFor(t, "its lines", func(s []string) bool { return count(s, "▸ ") >= 3 })
			if colored := strings.Contains(w.tmux(t, "capture-pane", "-p", "-e"), "\x1b[3"); colored != test.color {
				t.Errorf("coloured: %v, want %v", colored, test.color)
			}
			if starts := count(w.lines(t), "▸"); name == "a dumb terminal" && starts != 4 { // that of base stays
				t.Errorf("%d plain lines of work that began:\n%s", starts, strings.Join(w.lines(t), "\n"))
			}
		})
	}
}

// window is a terminal in which this program shows a run.
type window struct{ socket string }

func openWindow(t *testing.T, columns, lines int, env ...string) window {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("there is no tmux: %v", err)
	}
	dir, err := os.MkdirTemp("", "term") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := window{filepath.Join(dir, "s")}
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", w.socket, "kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, []byte("set -g status off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := "trap : INT; env -u CI -u NO_COLOR " + strings.Join(append(env, showVariable+"=1"), " ") + " " + program + "; echo exit $?; exec cat"
	start := exec.Command("tmux", "-u", "-S", w.socket, "-f", config, "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(lines), command)
	start.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SHELL=/bin/sh", "TMUX=")
	if out, err := start.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return w
}

func (w window) tmux(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-S", w.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// lines is the screen.
func (w window) lines(t *testing.T) []string {
	t.Helper()
	return strings.Split(w.tmux(t, "capture-pane", "-p"), "\n")
}

// waitFor looks until the screen is as it should be.
func (w window) waitFor(t *testing.T, what string, right func([]string) bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !right(w.lines(t)) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("want %s, the screen shows\n%s", what, strings.Join(w.lines(t), "\n"))
		}
	}
}

// interrupt types Ctrl-C: the live lines go, the cursor is there, and the exit code says why.
func (w window) interrupt(t *testing.T) {
	t.Helper()
	w.tmux(t, "send-keys", "C-c")
	w.waitFor(t, "exit 130 below what was printed", func(s []string) bool { return len(live(s)) == 0 && count(s, "exit 130") == 1 })
	if got := strings.TrimSpace(w.tmux(t, "display-message", "-p", "#{cursor_flag}")); got != "1" {
		t.Error("the cursor is hidden")
	}
}

// count is how many lines begin with something.
func count(lines []string, beginning string) int {
	n := 0
	for _, line := range lines {
		if strings.HasPrefix(line, beginning) {
			n++
		}
	}
	return n
}

// What nobody looks at costs nothing: the terminal is written when seconds pass, not when events do.
func TestDrawingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen := &screen{}
		p := term.New(screen, term.Options{Live: true, Now: time.Now})
		for i := range 10_000 {
			p.Emit(term.Event{Stage: "build", Subject: fmt.Sprint(i % 8), State: term.Progressed, Done: int64(i), Total: 10_000})
		}
		synctest.Wait()
		if writes, _ := screen.look(); writes > 1 {
			t.Errorf("%d writes for events of one moment", writes)
		}
		time.Sleep(time.Minute + time.Second/2)
		synctest.Wait()
		if writes, _ := screen.look(); writes > 62 {
			t.Errorf("%d writes in a minute in which nothing happened", writes)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkEmit is what an event costs that a terminal shows.
func BenchmarkEmit(b *testing.B) {
	p := term.New(&screen{}, term.Options{Live: true, Now: time.Now})
	defer p.Close()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Emit(term.Event{Stage: "build", Subject: "family", State: term.Progressed, Done: int64(i), Total: 1 << 40, Detail: "RUN apt-get update"})
	}
}
