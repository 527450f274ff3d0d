package term

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	refresh  = 200 * time.Millisecond // between two looks at what changed
	maxLines = 12                     // live lines at once
	barWidth = 22                     // columns of a bar; a line without as much again has none
)

// live draws active work below what is printed for good: mpb lays the lines out, screen places them.
type live struct {
	bars   *mpb.Progress
	screen *screen
	now    func() time.Time
}

func newLive(w io.Writer, o Options, paint func(State, string) string) *live {
	s := &screen{w: w, width: o.Width, height: o.Height, paint: paint}
	return &live{bars: mpb.New(mpb.WithConsoleWriter(s), mpb.WithRefreshRate(refresh)), screen: s, now: o.Now}
}

// add gives work a line, which shows it as it is at every look.
func (l *live) add(w *work) {
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding("-").Rbound("]").Build()
	filler := mpb.BarFillerFunc(func(out io.Writer, st decor.Statistics) error {
		st.Current, st.Total = w.counted()
		if st.Total <= 0 || st.AvailableWidth < barWidth {
			return nil
		}
		st.AvailableWidth = barWidth
		return style.Fill(out, st)
	})
	w.bar, _ = l.bars.Add(0, filler, mpb.BarFillerTrim(), // nil, and drawn nowhere, when a write has failed
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return w.head(l.now()) })),
		mpb.AppendDecorators(decor.Any(func(st decor.Statistics) string {
			room := st.AvailableWidth - 1
			if _, total := w.counted(); total > 0 && room >= 2*barWidth {
				room -= barWidth
			}
			if room < 1 {
				return ""
			}
			return " " + cut(w.tail(), room)
		})),
	)
}

// print writes lines for good at the next look; a frame is never half of one.
func (l *live) print(text string) error {
	_, err := l.bars.Write([]byte(text))
	return err
}

// close removes the live lines. What was printed stays.
func (l *live) close() error {
	l.bars.Shutdown()
	return l.screen.finish()
}

// screen is how mpb reaches a terminal: every frame is one write, over the frame before it, wherever
// that is by now. It does not hide the cursor, so that nobody has to bring it back.
type screen struct {
	bytes.Buffer // what mpb lays out: lines for good, then the live ones
	w            io.Writer
	width        func() int
	height       func() int
	paint        func(State, string) string

	shown []string // live lines on the terminal
	wide  int      // columns it had then
	err   error
}

func (s *screen) IsTerminal() bool { return true }

// GetTermSize leaves the last column free, where terminals differ. Lines there are as many as wanted: mpb
// miscounts what it leaves out.
func (s *screen) GetTermSize() (width, height int, err error) {
	return max(1, s.width()-1), math.MaxInt32, s.err
}

// Flush shows what was laid out; the last lines of it are live.
func (s *screen) Flush(lines int) error {
	var all []string
	for line := range strings.Lines(s.String()) {
		all = append(all, strings.TrimRight(line, " \n"))
	}
	s.Reset()
	at := max(0, len(all)-lines)
	ended := func(line string) bool { return line == "" }
	return s.frame(all[:at], s.few(slices.DeleteFunc(all[at:], ended)))
}

// few keeps as many live lines as fit, and says how many they are not.
func (s *screen) few(lines []string) []string {
	most := max(1, min(maxLines, s.height()-2))
	if len(lines) <= most {
		return lines
	}
	return append(lines[:most-1:most-1], cut(fmt.Sprintf("  and %d more", len(lines)-most+1), s.width()-1))
}

// finish shows what is left without the live lines.
func (s *screen) finish() error { return s.Flush(0) }

func (s *screen) frame(printed, live []string) error {
	width := s.width()
	if s.err != nil || len(printed) == 0 && width == s.wide && slices.Equal(live, s.shown) {
		return s.err
	}
	var b strings.Builder
	b.WriteString("\x1b[?2026h") // the terminal shows nothing until the frame is whole, if it knows how
	b.WriteString("\r")          // a Ctrl-C echoes as two characters
	up := s.rows(width)
	if up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	for i, line := range slices.Concat(printed, live) {
		if i >= len(printed) {
			line = s.paint(Started, line)
		}
		b.WriteString(line + "\x1b[K\n") // clears the rest of the line
	}
	if up > 0 {
		b.WriteString("\x1b[J") // clears what is below
	}
	b.WriteString("\x1b[?2026l")
	s.shown, s.wide = live, width
	_, s.err = io.WriteString(s.w, b.String())
	return s.err
}

// rows is how many lines of the terminal the frame takes now: in a window that became narrower, terminals
// wrap what they show.
func (s *screen) rows(width int) int {
	rows := 0
	for _, line := range s.shown {
		rows += max(1, (columns(line)+width-1)/max(1, width))
	}
	return rows
}
