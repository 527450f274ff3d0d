package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// ChannelsTag names the newest channels document in the metadata repository.
const ChannelsTag = "channels"

// documentLife is how long a channels document is fresh.
const documentLife = 90 * 24 * time.Hour

// Document is the channels document: what every channel serves, as one signed whole.
type Document struct {
	Schema     int              `json:"schema"` // 1
	Family     string           `json:"family"`
	Generation uint64           `json:"generation"` // grows by one with every move, from 1
	Previous   digest.Digest    `json:"previous"`   // of the document before, empty in generation 1
	Issued     time.Time        `json:"issued"`     // RFC 3339, UTC, whole seconds
	Expires    time.Time        `json:"expires"`
	Channels   map[string]State `json:"channels"`
}

// State is what one channel serves since its generation.
type State struct {
	Generation uint64                   `json:"generation"` // of the document that moved it here
	Version    string                   `json:"version,omitempty"`
	Commit     string                   `json:"commit"`
	Tag        string                   `json:"tag"` // sha-<commit>, the record's immutable name
	Record     digest.Digest            `json:"record"`
	Members    map[string]digest.Digest `json:"members"`
	Moved      Moved                    `json:"moved"`
	Hold       string                   `json:"hold,omitempty"` // why it is frozen
}

// Moved says who moved a channel, in which run, why and when.
type Moved struct {
	By     string    `json:"by"`
	Run    string    `json:"run"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Entry is one channel state as the ledger's history shows it.
type Entry struct {
	Channel    string
	Generation uint64
	Previous   digest.Digest
	Record     digest.Digest
	Reason     string
}

// Encode returns the canonical bytes of a document: two-space indentation, sorted keys.
func (d Document) Encode() ([]byte, error) {
	content, err := json.MarshalIndent(d, "", "  ")
	return append(content, '\n'), err
}

// DecodeDocument reads a channels document strictly; its error names the line.
func DecodeDocument(content []byte) (Document, error) {
	var d Document
	if err := decodeStrict(content, &d); err != nil {
		return Document{}, fault.Wrap(err, fault.Forged, "decoding", "channels document")
	}
	if d.Schema != 1 || d.Generation == 0 || (d.Previous == "") != (d.Generation == 1) {
		return Document{}, fault.New(fault.Forged, "decoding", "channels document", "schema %d, generation %d, previous %q do not fit", d.Schema, d.Generation, d.Previous)
	}
	for name, s := range d.Channels {
		if s.Generation == 0 || s.Generation > d.Generation || s.Record.Validate() != nil || !commitGrammar.MatchString(s.Commit) {
			return Document{}, fault.New(fault.Forged, "decoding", "channels document", "channel %q has generation %d, record %q, commit %q", name, s.Generation, s.Record, s.Commit)
		}
	}
	return d, nil
}

// Candidate is a published record that may enter a channel.
type Candidate struct {
	Record Record
	Digest digest.Digest // of the record's manifest
}

// PlanMove returns the document that puts a candidate into a channel after head, whose bytes
// have the digest previous; head is the zero Document when there is none yet. The second result
// is false when the channel serves the candidate already: then nothing needs to move.
//
// It refuses with fault.Conflict a channel that is held. Whether the candidate descends from
// what is served is the caller's question, because only a repository can answer it.
func PlanMove(head Document, previous digest.Digest, family, channel string, c Candidate, m Moved) (Document, bool, error) {
	now, served := m.At.UTC().Truncate(time.Second), head.Channels[channel]
	m.At = now
	if served.Record == c.Digest {
		return head, false, nil
	}
	if served.Hold != "" {
		return Document{}, false, fault.New(fault.Conflict, "moving", channel, "it is held: %s", served.Hold)
	}
	next := Document{
		Schema: 1, Family: family, Generation: head.Generation + 1, Previous: previous,
		Issued: now, Expires: now.Add(documentLife), Channels: maps.Clone(head.Channels),
	}
	if next.Channels == nil {
		next.Channels = map[string]State{}
	}
	members := map[string]digest.Digest{}
	for name, node := range c.Record.Members() {
		members[name] = node.Digest
	}
	next.Channels[channel] = State{
		Generation: next.Generation, Commit: c.Record.Source.Commit, Tag: c.Record.Source.Tag(),
		Record: c.Digest, Members: members, Moved: m,
	}
	return next, true, nil
}

// Names returns the document's channels, sorted.
func (d Document) Names() []string { return slices.Sorted(maps.Keys(d.Channels)) }

// Entry returns how the history shows the channel's present state.
func (d Document) Entry(channel string) Entry {
	s := d.Channels[channel]
	return Entry{Channel: channel, Generation: s.Generation, Previous: d.Previous, Record: s.Record, Reason: s.Moved.Reason}
}

func (e Entry) String() string {
	return fmt.Sprintf("%s: generation %d serves %s (%s)", e.Channel, e.Generation, e.Record, e.Reason)
}

// GenerationTag names the document of a generation in the metadata repository.
func GenerationTag(n uint64) string { return fmt.Sprintf("gen-%d", n) }

// Head is the newest state of a ledger. The zero Head is an empty ledger.
type Head struct {
	ID       string // of the ledger's commit; what the next append expects to find
	Content  []byte // the document's exact bytes
	Document Document
}
