package term

import (
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
)

// work is a subject between its start and its end. It is told by one goroutine and drawn by another.
type work struct {
	stage, subject string
	since, told    time.Time
	bar            *mpb.Bar // nil where lines are plain

	mu          sync.Mutex
	ended       bool
	detail      string
	unit        Unit
	done, total int64
}

func (w *work) follow(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detail, w.done, w.total, w.unit = e.Detail, e.Done, e.Total, e.Unit
}

// end takes the line away.
func (w *work) end() {
	w.mu.Lock()
	w.ended = true // mpb shows a bar once more before it takes it away
	w.mu.Unlock()
	if w.bar != nil {
		w.bar.Abort(true)
	}
}

func (w *work) counted() (done, total int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return 0, 0
	}
	return w.done, w.total
}

// head is the part of a line that does not move.
func (w *work) head(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return ""
	}
	return fmt.Sprintf("%s %s %s %6s ", mark(Started), fill(w.stage, 8), fill(w.subject, 32), seconds(now.Sub(w.since)))
}

// tail is what is done, and what is being done.
func (w *work) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended:
		return ""
	case w.total > 0:
		return fmt.Sprintf("%s/%s %s", w.unit.show(w.done), w.unit.show(w.total), Escape(w.detail))
	case w.done > 0:
		return fmt.Sprintf("%s %s", w.unit.show(w.done), Escape(w.detail))
	}
	return Escape(w.detail)
}

// line is the whole of it where lines are plain.
func (w *work) line(now time.Time) string {
	return trimmed(w.head(now) + " " + w.tail())
}
