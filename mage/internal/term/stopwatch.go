package term

import (
	"slices"
	"sync"
	"time"
)

// Stopwatch is a sink that remembers when each stage began and ended. Its zero value is ready.
type Stopwatch struct {
	mu    sync.Mutex
	spans []Span
}

// Span is the time from a stage's first event to its last. Stages may overlap.
type Span struct {
	Stage      string
	Began, End time.Time
}

// Emit stretches the span of an event's stage; a note is no work.
func (s *Stopwatch) Emit(e Event) {
	if e.State == Noted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.spans, func(span Span) bool { return span.Stage == e.Stage })
	if i < 0 {
		s.spans = append(s.spans, Span{Stage: e.Stage, Began: e.Time})
		i = len(s.spans) - 1
	}
	s.spans[i].End = e.Time
}

// Spans returns the stages in order of their beginning.
func (s *Stopwatch) Spans() []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.spans)
}
