package buildkit

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// status is one line of Buildx's --progress=rawjson, as far as we read it: the SolveStatus of
// https://github.com/moby/buildkit/blob/v0.34.2/client/graph.go.
type status struct {
	Vertexes []vertex `json:"vertexes"`
	Logs     []log    `json:"logs"`
}

type vertex struct {
	Digest    digest.Digest `json:"digest"`
	Name      string        `json:"name"`
	Started   *time.Time    `json:"started"`
	Completed *time.Time    `json:"completed"`
	Cached    bool          `json:"cached"`
	Error     string        `json:"error"`
}

type log struct {
	Vertex digest.Digest `json:"vertex"`
	Data   []byte        `json:"data"`
}

// Limits of what is remembered about a build.
const (
	maxVertexes = 10_000 // steps
	keepLog     = 4_000  // bytes of a step's output
	keepWords   = 40     // lines that Buildx itself prints
)

// meter reads Buildx's output line by line, turns it into events and remembers what a failure
// needs: the failed step, the end of its output, and what Buildx said.
type meter struct {
	progress func(Event)
	platform string // the only one there is, where BuildKit names none
	steps    map[digest.Digest]*step
	done     int
	total    int
	failed   *step
	words    []string
}

// step is a vertex that a person knows: a line of a Dockerfile, or an export.
type step struct {
	label
	started, finished bool
	err               string
	output            []byte
}

func newMeter(progress func(Event)) *meter {
	return &meter{progress: progress, steps: map[digest.Digest]*step{}}
}

// line takes one line of Buildx's standard error: a JSON status, or words for a person.
func (m *meter) line(s string) {
	var st status
	if !strings.HasPrefix(s, "{") || json.Unmarshal([]byte(s), &st) != nil {
		if m.words = append(m.words, s); len(m.words) > keepWords {
			m.words = m.words[1:]
		}
		return
	}
	for _, v := range st.Vertexes {
		m.vertex(v)
	}
	for _, l := range st.Logs {
		if s := m.steps[l.Vertex]; s != nil {
			s.output = append(s.output, l.Data...)
			s.output = s.output[max(0, len(s.output)-keepLog):]
		}
	}
}

// vertex follows one step. BuildKit repeats itself, and names a step that several images share
// once for each of them: the first name stays.
func (m *meter) vertex(v vertex) {
	s := m.steps[v.Digest]
	if s == nil {
		l := parseLabel(v.Name)
		if len(m.steps) == maxVertexes {
			return
		}
		s = &step{label: l}
		m.steps[v.Digest] = s
		if l.visible() {
			m.total++
		}
	}
	if v.Error != "" && s.err == "" {
		s.err = v.Error
		if m.failed == nil && !strings.Contains(v.Error, "context canceled") {
			m.failed = s
		}
	}
	m.announce(s, v)
}

func (m *meter) announce(s *step, v vertex) {
	if !s.visible() {
		return
	}
	event := Event{Image: s.image, Platform: cmp.Or(s.platform, m.platform), Step: s.text, Cached: v.Cached, Total: m.total}
	switch {
	case v.Completed != nil && !s.finished:
		s.started, s.finished = true, true
		m.done++
		event.Finished = v.Error == ""
	case v.Started != nil && v.Completed == nil && !s.started:
		s.started = true
	default:
		return
	}
	event.Done = m.done
	m.progress(event)
}

// label is what a vertex name says: "[image linux/arm64 stage-0 2/7] RUN make".
type label struct {
	image, platform, number, text string
	internal                      bool
}

var (
	labelGrammar    = lazyregexp.New(`^\[([^\]\s]+)([^\]]*)\]\s*(.*)$`)
	platformGrammar = lazyregexp.New(`^[a-z]+/[a-z0-9]+(/v[0-9]+)?$`)
	numberGrammar   = lazyregexp.New(`^[0-9]+/[0-9]+$`)
)

func parseLabel(name string) label {
	parts := labelGrammar.FindStringSubmatch(name)
	if parts == nil {
		return label{text: name, internal: true}
	}
	l := label{image: parts[1], text: evidence.HideSecrets(parts[3])}
	for _, word := range strings.Fields(parts[2]) {
		switch {
		case numberGrammar.MatchString(word):
			l.number = word
		case platformGrammar.MatchString(word):
			l.platform = word
		case word == "internal" || word == "context" || word == "auth":
			l.internal = true
		}
	}
	if l.number != "" {
		l.text = l.number + " " + l.text
	}
	return l
}

// visible steps are those that a Dockerfile or an export names.
func (l label) visible() bool {
	return !l.internal && l.image != "internal" && (l.number != "" || strings.HasPrefix(l.text, "exporting to"))
}
