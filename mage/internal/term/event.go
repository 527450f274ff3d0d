// Package term shows what a run does.
//
// Everything that happens is an [Event]; a [Sink] takes events. One stream has three faces: a
// [Printer] shows it to a person, live on a terminal and as plain lines elsewhere, and [Lines]
// writes it as JSON for machines; [Multi] feeds several, [Stamp] tells them the time, [Hiding] takes
// [Secrets] out. A [Table] closes a run. Invariant: text from outside reaches a terminal, a workflow
// command or Markdown only through [Escape] and its siblings, so nothing that is printed can act.
package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// State says what happened to a subject.
type State string

// The states. A subject starts, may progress, and ends with one of Finished, Skipped, Failed;
// a Note stands for itself.
const (
	Started    State = "start"
	Progressed State = "progress"
	Finished   State = "done"
	Skipped    State = "skip" // with the reason in Detail
	Failed     State = "fail"
	Noted      State = "note"
)

// Event is one thing that happened. Its text may come from outside: whoever shows it, escapes it.
type Event struct {
	Time    time.Time `json:"time"`              // zero until Stamp set it
	Stage   string    `json:"stage"`             // "build"
	Subject string    `json:"subject,omitempty"` // "containai-base linux/amd64"
	State   State     `json:"state"`
	Detail  string    `json:"detail,omitempty"`
	Done    int64     `json:"done,omitempty"`  // of Total, in the stage's own unit
	Total   int64     `json:"total,omitempty"` // zero when unknown
	Unit    Unit      `json:"unit,omitempty"`  // of both
}

// Unit is what Done and Total count.
type Unit string

// The units. Without one they are the stage's own things: steps, checks.
const Bytes Unit = "B"

// show prints a count for people, bytes in powers of ten as registries do.
func (u Unit) show(n int64) string {
	if u != Bytes {
		return strconv.FormatInt(n, 10)
	}
	for i, name := range []string{"GB", "MB", "kB"} {
		if size := math.Pow(1000, float64(3-i)); float64(n) >= size {
			return fmt.Sprintf("%.1f %s", float64(n)/size, name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Sink takes events. It is safe for concurrent use and does not fail: what it could not write,
// its owner learns when it is closed.
type Sink interface{ Emit(Event) }

// Multi hands every event to every sink, in order.
func Multi(sinks ...Sink) Sink { return multi(sinks) }

type multi []Sink

func (m multi) Emit(e Event) {
	for _, s := range m {
		s.Emit(e)
	}
}

// Stamp sets the time of events that have none, and hands them on.
func Stamp(now func() time.Time, s Sink) Sink { return stamp{now, s} }

type stamp struct {
	now  func() time.Time
	next Sink
}

func (s stamp) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = s.now()
	}
	s.next.Emit(e)
}

// Lines writes events as JSON, one on a line: events.jsonl.
type Lines struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

// JSONLines returns a sink that writes to w. Characters that could act on a terminal are written
// as JSON escapes, which changes no value.
func JSONLines(w io.Writer) *Lines { return &Lines{w: w} }

// Emit writes one line. After a failed write it writes no more.
func (l *Lines) Emit(e Event) {
	line, err := json.Marshal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && err == nil {
		_, err = l.w.Write(append(plainJSON(line), '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

// Err returns the first failure.
func (l *Lines) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// plainJSON escapes what encoding/json leaves: control characters of Latin-1 and Unicode's
// invisible ones. They can stand in strings only, so the escape is always legal.
func plainJSON(line []byte) []byte {
	var b bytes.Buffer
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		switch {
		case unicode.IsPrint(r):
			b.Write(line[:n])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		line = line[n:]
	}
	return b.Bytes()
}
