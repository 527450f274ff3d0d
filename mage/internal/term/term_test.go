package term_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/internal/term"
)

func TestMain(m *testing.M) {
	if os.Getenv(showVariable) != "" {
		show()
	}
	flag.Bool("update", false, "write the golden files")
	os.Exit(m.Run())
}

// release is a short run, with a hostile name in it.
func release(start time.Time) []term.Event {
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	return []term.Event{
		{Time: at(0), Stage: "build", Subject: "containai-base", State: term.Started},
		{Time: at(3), Stage: "build", Subject: "containai-base", State: term.Progressed, Done: 2, Total: 9, Detail: "RUN apt-get install"},
		{Time: at(12), Stage: "build", Subject: "containai-base", State: term.Progressed, Done: 5, Total: 9, Detail: "RUN \x1b[2Jecho"},
		{Time: at(20), Stage: "build", Subject: "containai", State: term.Started, Detail: "waits for its base"},
		{Time: at(65), Stage: "build", Subject: "containai-base", State: term.Finished, Detail: "4 layers, 58 MB"},
		{Time: at(66), Stage: "build", Subject: "containai", State: term.Failed, Detail: "npm ci: exit status 1\n::error::owned"},
		{Time: at(67), Stage: "publish", Subject: "containai-proxy", State: term.Skipped, Detail: "already there"},
		{Time: at(68), Stage: "family", State: term.Noted, Detail: "branch \u202eniam"},
	}
}

func TestPlainLines(t *testing.T) {
	var out bytes.Buffer
	p := term.New(&out, term.Options{})
	for _, e := range release(time.Unix(0, 0)) {
		p.Emit(e)
	}
	p.Print("done\n")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	golden(t, "plain.txt", out.Bytes())
}

func TestColorChangesNothingButTheMarks(t *testing.T) {
	var plain, colored bytes.Buffer
	for w, color := range map[*bytes.Buffer]bool{&plain: false, &colored: true} {
		p := term.New(w, term.Options{Color: color})
		for _, e := range release(time.Unix(0, 0)) {
			p.Emit(e)
		}
	}
	if plain.String() == colored.String() {
		t.Error("there is no colour")
	}
	stripped := colored.String()
	for _, code := range []string{"\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if diff := cmp.Diff(plain.String(), stripped); diff != "" {
		t.Errorf("without colour (-want +got):\n%s", diff)
	}
}

// TestLiveScreens shows what a person sees, second by second, on a terminal of 60 columns.
func TestLiveScreens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen := &screen{}
		p := term.New(screen, term.Options{Live: true, Width: func() int { return 60 }, Now: time.Now})
		start := time.Now()
		var film strings.Builder
		show := func() {
			time.Sleep(400 * time.Millisecond) // until the next look but one
			synctest.Wait()
			film.WriteString("--- " + time.Since(start).String() + "\n" + screen.String())
		}
		for _, e := range release(start) {
			time.Sleep(time.Until(e.Time))
			p.Emit(e)
			show()
		}
		p.Emit(term.Event{Stage: "sign", Subject: "containai", State: term.Started})
		time.Sleep(5500 * time.Millisecond)
		show()
		p.Print("released\n")
		show()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		show()
		golden(t, "live.txt", []byte(film.String()))
	})
}

func TestLiveLinesAreFewAndFitTheTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const width = 40
		screen := &screen{}
		p := term.New(screen, term.Options{Live: true, Width: func() int { return width }, Now: time.Now})
		defer p.Close()
		for i := range 30 {
			p.Emit(term.Event{Stage: "sign", Subject: "\u754c image " + strconv.Itoa(i), State: term.Started, Detail: strings.Repeat("long \u65e5\u672c ", 20)})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		_, lines := screen.look()
		if n := len(lines); n != 12 {
			t.Errorf("%d live lines, want 12", n)
		}
		for _, line := range lines {
			if n := len([]rune(line)); n >= width {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
	})
}

// Every frame is one write, and told to the terminal as one, so that it never shows half of one.
func TestAFrameIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frames frames
		p := term.New(&frames, term.Options{Live: true, Now: time.Now})
		for _, e := range release(time.Now()) {
			p.Emit(e)
			time.Sleep(time.Second)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if len(frames) < 8 {
			t.Errorf("%d frames", len(frames))
		}
		for _, frame := range frames {
			inner := strings.TrimSuffix(strings.TrimPrefix(frame, "\x1b[?2026h"), "\x1b[?2026l")
			if len(inner) != len(frame)-16 || strings.Contains(inner, "2026") {
				t.Errorf("not one frame: %q", frame)
			}
		}
	})
}

// frames is every write.
type frames []string

func (f *frames) Write(p []byte) (int, error) {
	*f = append(*f, string(p))
	return len(p), nil
}

func TestPrinterIsSafeForConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := term.New(&screen{}, term.Options{Live: true, Now: time.Now})
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for _, e := range release(time.Now()) {
					e.Subject += strconv.Itoa(i)
					p.Emit(e)
					time.Sleep(time.Second)
				}
			})
		}
		group.Wait()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("a second Close = %v", err)
		}
	})
}

func TestJSONLinesKeepEveryValueAndActOnNothing(t *testing.T) {
	var out bytes.Buffer
	lines := term.JSONLines(&out)
	want := release(time.Unix(0, 0).UTC())
	want = append(want, term.Event{Stage: "a", State: term.Noted, Time: want[0].Time, Detail: "c1 \u009b31m, tag \U000E0041, del \x7f"})
	for _, e := range want {
		lines.Emit(e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	golden(t, "events.jsonl", out.Bytes())
	var got []term.Event
	for line := range strings.Lines(out.String()) {
		if visible := term.Escape(strings.TrimSuffix(line, "\n")); visible+"\n" != line {
			t.Errorf("the line holds something invisible: %q", line)
		}
		var e term.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestStampSetsTheTimeForAllOfMulti(t *testing.T) {
	var a, b bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := term.Stamp(func() time.Time { return now }, term.Multi(term.JSONLines(&a), term.JSONLines(&b)))
	s.Emit(term.Event{Stage: "build", State: term.Noted})
	s.Emit(term.Event{Stage: "build", State: term.Noted, Time: now.Add(-time.Hour)})
	want := `{"time":"2026-01-02T03:04:05Z","stage":"build","state":"note"}` + "\n" + `{"time":"2026-01-02T02:04:05Z","stage":"build","state":"note"}` + "\n"
	if a.String() != want || b.String() != want {
		t.Errorf("got\n%s\nand\n%s\nwant\n%s", a.String(), b.String(), want)
	}
}

func TestAStopwatchKeepsWhenStagesBeganAndEnded(t *testing.T) {
	start := time.Unix(0, 0)
	var watch term.Stopwatch
	for _, e := range release(start) {
		watch.Emit(e)
	}
	want := []term.Span{{"build", start, start.Add(66 * time.Second)}, {"publish", start.Add(67 * time.Second), start.Add(67 * time.Second)}}
	if diff := cmp.Diff(want, watch.Spans()); diff != "" { // the note about the family is no work
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestAFailedWriteIsReportedAtTheEnd(t *testing.T) {
	broken := errors.New("broken")
	p, lines := term.New(failing{broken}, term.Options{}), term.JSONLines(failing{broken})
	for _, e := range release(time.Unix(0, 0)) {
		p.Emit(e)
		lines.Emit(e)
	}
	if got := p.Close(); !errors.Is(got, broken) {
		t.Errorf("Close = %v, want %v", got, broken)
	}
	if got := lines.Err(); !errors.Is(got, broken) {
		t.Errorf("Err = %v, want %v", got, broken)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// screen is a terminal that knows what Printer uses: lines, up, clear to the end of line, clear
// below. Anything else stays visible in its lines.
type screen struct {
	mu     sync.Mutex
	lines  []string
	row    int
	writes int
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	for text := string(p); text != ""; {
		text = s.step(text)
	}
	return len(p), nil
}

func (s *screen) step(text string) string {
	for _, whole := range []string{"\x1b[?2026h", "\x1b[?2026l", "\r"} {
		if rest, ok := strings.CutPrefix(text, whole); ok {
			return rest
		}
	}
	if rest, ok := strings.CutPrefix(text, "\x1b[J"); ok {
		s.lines = s.lines[:min(s.row, len(s.lines))]
		return rest
	}
	if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
		if n, after, ok := strings.Cut(rest, "A"); ok {
			if up, err := strconv.Atoi(n); err == nil {
				s.row -= up
				return after
			}
		}
	}
	line, rest, _ := strings.Cut(text, "\n")
	if s.row == len(s.lines) {
		s.lines = append(s.lines, "")
	}
	kept, cleared := strings.CutSuffix(line, "\x1b[K")
	if !cleared && len(kept) < len(s.lines[s.row]) {
		kept += s.lines[s.row][len(kept):]
	}
	s.lines[s.row] = kept
	s.row++
	return rest
}

// look is how often it was written, and what it shows.
func (s *screen) look() (writes int, lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, slices.Clone(s.lines)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, line := range s.lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got, -args -update writes it):\n%s", path, diff)
	}
}
