package term

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say how a Printer shows events. The zero value prints plain lines without colour.
type Options struct {
	Live   bool             // redraw one line per active subject; only for terminals
	Color  bool             // colour the marks; no meaning depends on it
	Width  func() int       // columns of the terminal, asked at every redraw; nil means 80
	Height func() int       // lines of it; nil means 24
	Now    func() time.Time // the clock; nil means the time of the last event, and nothing is live
}

const (
	calm     = 10 * time.Second // between two plain lines about the progress of one subject
	maxPlain = 2000             // columns of a plain or finished line
)

// Printer shows events to a person. Make one with New, Close it at the end.
type Printer struct {
	mu     sync.Mutex
	w      io.Writer
	o      Options
	live   *live // nil where lines are plain, and after Close
	last   time.Time
	active []*work // in order of their start
	err    error
}

// New returns a Printer on w, whose every line begins with a mark: ▸ started, ✓ done, – skipped,
// ✗ failed, · a note. A live one redraws until it is closed.
func New(w io.Writer, o Options) *Printer {
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	if o.Height == nil {
		o.Height = func() int { return 24 }
	}
	p := &Printer{w: w, o: o}
	if o.Live && o.Now != nil {
		p.live = newLive(w, o, p.paint)
	}
	return p
}

// Close removes the live lines, stops redrawing and returns the first failed write. What comes later is
// printed as plain lines.
func (p *Printer) Close() error {
	p.mu.Lock()
	drawn := p.live
	p.live = nil
	p.mu.Unlock()
	if drawn != nil { // outside of the lock, for which a line that is being drawn may wait
		err := drawn.close()
		p.mu.Lock()
		p.err = cmp.Or(p.err, err)
		p.active = nil
		p.mu.Unlock()
	}
	return p.err
}

// Emit shows one event.
func (p *Printer) Emit(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = p.now()
	}
	p.last = e.Time
	p.write(p.follow(e))
}

// Print writes lines for good, as they are, above the live ones: a [Table], an escaped error.
func (p *Printer) Print(text string) {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(text)
}

// follow keeps the list of active work and returns the line that stays, if the event has one.
func (p *Printer) follow(e Event) string {
	i := slices.IndexFunc(p.active, func(w *work) bool { return w.stage == e.Stage && w.subject == e.Subject })
	switch e.State {
	case Started, Progressed:
		if i < 0 {
			p.active = append(p.active, &work{stage: e.Stage, subject: e.Subject, since: e.Time})
			i = len(p.active) - 1
			if p.live != nil {
				p.live.add(p.active[i])
			}
		}
		w := p.active[i]
		w.follow(e)
		if p.live != nil || e.Time.Sub(w.told) < calm {
			return ""
		}
		w.told = e.Time
		return p.paint(Started, cut(w.line(e.Time), maxPlain)) + "\n"
	case Finished, Skipped, Failed:
		elapsed := ""
		if i >= 0 {
			elapsed = seconds(e.Time.Sub(p.active[i].since))
			p.active[i].end()
			p.active = slices.Delete(p.active, i, i+1)
		}
		return p.paint(e.State, cut(plainLine(e.State, e.Stage, e.Subject, elapsed, e.Detail), maxPlain)) + "\n"
	}
	return cut(plainLine(Noted, e.Stage, e.Subject, "", e.Detail), maxPlain) + "\n"
}

// plainLine lays a line out in columns; what comes from outside is escaped here.
func plainLine(s State, stage, subject, elapsed, detail string) string {
	return trimmed(fmt.Sprintf("%s %s %s %6s  %s", mark(s), fill(stage, 8), fill(subject, 32), elapsed, Escape(detail)))
}

func trimmed(line string) string { return strings.TrimRight(line, " ") }

func fill(s string, width int) string {
	s = Escape(s)
	return s + strings.Repeat(" ", max(0, width-columns(s)))
}

func mark(s State) string {
	switch s {
	case Started, Progressed:
		return "▸"
	case Finished:
		return "✓"
	case Skipped:
		return "–"
	case Failed:
		return "✗"
	}
	return "·"
}

// paint colours the mark that a line begins with.
func (p *Printer) paint(s State, line string) string {
	code := map[State]string{Started: "36", Finished: "32", Skipped: "33", Failed: "31"}[s]
	if !p.o.Color || code == "" {
		return line
	}
	m := mark(s)
	return "\x1b[" + code + "m" + m + "\x1b[0m" + strings.TrimPrefix(line, m)
}

// seconds prints a duration for people: 7s, 1m05s, 1h02m, and nothing for nothing.
func seconds(d time.Duration) string {
	d = max(0, d.Round(time.Second))
	switch {
	case d == 0:
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

func (p *Printer) now() time.Time {
	if p.o.Now == nil {
		return p.last
	}
	return p.o.Now()
}

func (p *Printer) write(text string) {
	if text == "" || p.err != nil {
		return
	}
	var err error
	if p.live != nil {
		err = p.live.print(text)
	} else {
		_, err = io.WriteString(p.w, text)
	}
	p.err = cmp.Or(p.err, err)
}
