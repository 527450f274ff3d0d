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
	Live  bool             // redraw one line per active subject; only for terminals
	Color bool             // colour the marks; no meaning depends on it
	Width func() int       // columns of the terminal, asked at every redraw; nil means 80
	Now   func() time.Time // the clock; nil means the time of the last event
}

const (
	redraw   = time.Second      // between two redraws of the elapsed times, when nothing happens
	calm     = 10 * time.Second // between two plain lines about the progress of one subject
	maxLines = 12               // live lines at once
	maxPlain = 2000             // columns of a plain or finished line
)

// Printer shows events to a person. Make one with New, Close it at the end.
type Printer struct {
	mu     sync.Mutex
	w      io.Writer
	o      Options
	last   time.Time
	active []*work // in order of their start
	shown  int     // live lines on the terminal
	err    error

	stop    chan struct{}
	stopped sync.WaitGroup
}

// work is a subject between its start and its end.
type work struct {
	stage, subject string
	since, told    time.Time
	detail         string
	done, total    int64
}

// New returns a Printer on w, whose every line begins with a mark: ▸ started, ✓ done, – skipped,
// ✗ failed, · a note. A live one redraws once a second until it is closed.
func New(w io.Writer, o Options) *Printer {
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	p := &Printer{w: w, o: o, stop: make(chan struct{})}
	if o.Live {
		p.stopped.Go(p.tick)
	}
	return p
}

// Close removes the live lines, stops redrawing and returns the first failed write.
func (p *Printer) Close() error {
	p.mu.Lock()
	select {
	case <-p.stop:
	default:
		close(p.stop)
		p.active = nil
		p.draw("")
		p.o.Live = false // what comes later is printed as plain lines
	}
	p.mu.Unlock()
	p.stopped.Wait()
	return p.err
}

func (p *Printer) tick() {
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw("")
			p.mu.Unlock()
		}
	}
}

// Emit shows one event.
func (p *Printer) Emit(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = p.now()
	}
	p.last = e.Time
	text := p.follow(e)
	switch {
	case p.o.Live:
		p.draw(text)
	case text != "":
		p.write(text)
	}
}

// Print writes lines for good, as they are, above the live ones: a [Table], an escaped error.
func (p *Printer) Print(text string) {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(text)
}

// follow keeps the list of active work and returns the line that stays, if the event has one.
func (p *Printer) follow(e Event) string {
	i := slices.IndexFunc(p.active, func(w *work) bool { return w.stage == e.Stage && w.subject == e.Subject })
	switch e.State {
	case Started, Progressed:
		if i < 0 {
			p.active = append(p.active, &work{stage: e.Stage, subject: e.Subject, since: e.Time})
			i = len(p.active) - 1
		}
		w := p.active[i]
		w.detail, w.done, w.total = e.Detail, e.Done, e.Total
		if p.o.Live || e.Time.Sub(w.told) < calm {
			return ""
		}
		w.told = e.Time
		return p.paint(Started, cut(activeLine(w, e.Time), maxPlain)) + "\n"
	case Finished, Skipped, Failed:
		elapsed := ""
		if i >= 0 {
			elapsed = seconds(e.Time.Sub(p.active[i].since))
			p.active = slices.Delete(p.active, i, i+1)
		}
		return p.paint(e.State, cut(plainLine(e.State, e.Stage, e.Subject, elapsed, e.Detail), maxPlain)) + "\n"
	}
	return cut(plainLine(Noted, e.Stage, e.Subject, "", e.Detail), maxPlain) + "\n"
}

// draw writes text for good and the live lines below it, in one write, over the old live lines.
func (p *Printer) draw(text string) {
	if !p.o.Live {
		p.write(text)
		return
	}
	var b strings.Builder
	if p.shown > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.shown) // up
	}
	lines := p.liveLines()
	for line := range strings.Lines(text + strings.Join(lines, "")) {
		b.WriteString(strings.TrimSuffix(line, "\n") + "\x1b[K\n") // clears the rest of the line
	}
	if p.shown > 0 {
		b.WriteString("\x1b[J") // clears what is below
	}
	p.shown = len(lines)
	p.write(b.String())
}

func (p *Printer) liveLines() []string {
	width, now := p.o.Width()-1, p.now()
	var lines []string
	for i, w := range p.active {
		if i == maxLines-1 && len(p.active) > maxLines {
			lines = append(lines, cut(fmt.Sprintf("  and %d more", len(p.active)-i), width)+"\n")
			break
		}
		lines = append(lines, p.paint(Started, cut(activeLine(w, now), width))+"\n")
	}
	return lines
}

func activeLine(w *work, now time.Time) string {
	detail := w.detail
	switch {
	case w.total > 0:
		detail = fmt.Sprintf("%d/%d %s", w.done, w.total, detail)
	case w.done > 0:
		detail = fmt.Sprintf("%d %s", w.done, detail)
	}
	return plainLine(Started, w.stage, w.subject, seconds(now.Sub(w.since)), detail)
}

// plainLine lays a line out in columns; what comes from outside is escaped here.
func plainLine(s State, stage, subject, elapsed, detail string) string {
	line := fmt.Sprintf("%s %s %s %6s  %s", mark(s), fill(stage, 8), fill(subject, 32), elapsed, Escape(detail))
	return strings.TrimRight(line, " ")
}

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
	_, err := io.WriteString(p.w, text)
	p.err = cmp.Or(p.err, err)
}
