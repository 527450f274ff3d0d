package release

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// ChannelsTag names the newest channels document in the metadata repository.
const ChannelsTag = "channels"

// documentLife is how long a channels document is fresh.
const documentLife = 90 * 24 * time.Hour

// Document is the channels document: what every channel serves, as one signed whole.
type Document struct {
	Schema     int                      `json:"schema"` // 1
	Family     string                   `json:"family"`
	Generation uint64                   `json:"generation"` // grows by one with every change, from 1
	Previous   digest.Digest            `json:"previous"`   // of the document before, empty in generation 1
	Issued     time.Time                `json:"issued"`     // RFC 3339, UTC, whole seconds
	Expires    time.Time                `json:"expires"`
	Channels   map[string]State         `json:"channels"`
	Denied     map[digest.Digest]Denial `json:"denied,omitempty"` // records that nobody may serve again
}

// State is what one channel serves since its generation.
type State struct {
	Generation uint64                   `json:"generation"` // of the document that changed it last
	Version    string                   `json:"version,omitempty"`
	Commit     string                   `json:"commit"`
	Tag        string                   `json:"tag"` // sha-<commit>, the record's immutable name
	Record     digest.Digest            `json:"record"`
	Members    map[string]digest.Digest `json:"members"`
	Moved      Moved                    `json:"moved"`
	Hold       string                   `json:"hold,omitempty"` // why it is frozen
}

// Moved says what was done to a channel: by whom, in which run, why and when.
type Moved struct {
	Action   Action    `json:"action"`
	By       string    `json:"by"`
	Run      string    `json:"run"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	Explicit bool      `json:"explicit,omitempty"` // the release does not descend from the one before; the channel's order allows it
	Unsigned bool      `json:"unsigned,omitempty"` // committed under -breakglass, before anybody signed the document
}

// Action is what a change does to a channel.
type Action string

// The actions.
const (
	Promoted   Action = "promote"
	RolledBack Action = "rollback"
	Held       Action = "hold"
	Released   Action = "unhold"
	Adopted    Action = "adopt"
)

// Denial is why a release is bad.
type Denial struct {
	Commit string    `json:"commit"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// Entry is one channel state as the ledger's history shows it.
type Entry struct {
	Channel    string        `json:"channel"`
	Generation uint64        `json:"generation"`
	Previous   digest.Digest `json:"previous"`
	Record     digest.Digest `json:"record"`
	Tag        string        `json:"tag"`
	Moved      Moved         `json:"moved"`
}

// Encode returns the canonical bytes of a document: two-space indentation, sorted keys.
func (d Document) Encode() ([]byte, error) {
	content, err := json.MarshalIndent(d, "", "  ")
	return append(content, '\n'), err
}

// DecodeDocument reads a channels document strictly: only the bytes that Encode writes are one.
// Its error names the line and the path.
func DecodeDocument(content []byte) (Document, error) {
	d, err := decodeDocument(content)
	return d, fault.Wrap(err, fault.Forged, "decoding", "channels document")
}

func decodeDocument(content []byte) (Document, error) {
	var d Document
	if err := decodeStrict(content, &d); err != nil {
		return Document{}, err
	}
	o, err := outlineOf(content)
	if err != nil {
		return Document{}, err
	}
	if err := d.check(); err != nil {
		return Document{}, o.locate(err)
	}
	canonical, err := d.Encode()
	if err == nil {
		err = o.sameBytes(canonical)
	}
	if err != nil {
		return Document{}, err
	}
	return d, nil
}

// check finds what the types alone do not refuse.
func (d Document) check() error {
	if d.Schema != 1 {
		return misplacedAt("schema", "it is %d, want 1", d.Schema)
	}
	if d.Generation == 0 || (d.Previous == "") != (d.Generation == 1) || d.Previous != "" && d.Previous.Validate() != nil {
		return misplacedAt("previous", "generation %d and previous %q do not fit", d.Generation, d.Previous)
	}
	if !d.Expires.After(d.Issued) {
		return misplacedAt("expires", "%s is not after %s, when it was issued", d.Expires.Format(time.RFC3339), d.Issued.Format(time.RFC3339))
	}
	times := map[string]time.Time{"issued": d.Issued, "expires": d.Expires}
	for _, name := range d.Names() {
		times["channels."+name+".moved.at"] = d.Channels[name].Moved.At
		if err := d.Channels[name].check("channels."+name, d.Generation); err != nil {
			return err
		}
	}
	for _, record := range slices.Sorted(maps.Keys(d.Denied)) {
		times["denied."+record.String()+".at"] = d.Denied[record].At
		if record.Validate() != nil || !commitGrammar.MatchString(d.Denied[record].Commit) || d.Denied[record].Reason == "" {
			return misplacedAt("denied."+record.String(), "it is no record's digest, with a commit and a reason")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(times)) {
		if at := times[path]; at != wholeSeconds(at) || at.IsZero() {
			return misplacedAt(path, "%s is not UTC in whole seconds", at.Format(time.RFC3339Nano))
		}
	}
	return nil
}

func (s State) check(path string, newest uint64) error {
	switch {
	case s.Generation == 0 || s.Generation > newest:
		return misplacedAt(path+".generation", "it is %d, the document's is %d", s.Generation, newest)
	case !commitGrammar.MatchString(s.Commit):
		return misplacedAt(path+".commit", "%q is no commit", s.Commit)
	case !tagGrammar.MatchString(s.Tag):
		return misplacedAt(path+".tag", "%q is no release's tag", s.Tag)
	case s.Record.Validate() != nil:
		return misplacedAt(path+".record", "%q is no digest", s.Record)
	case s.Version != "" && !versionGrammar.MatchString(s.Version):
		return misplacedAt(path+".version", "%q is no version", s.Version)
	case len(s.Members) == 0:
		return misplacedAt(path+".members", "it serves nothing")
	case !slices.Contains([]Action{Promoted, RolledBack, Held, Released, Adopted}, s.Moved.Action):
		return misplacedAt(path+".moved.action", "%q is no action", s.Moved.Action)
	}
	for _, member := range slices.Sorted(maps.Keys(s.Members)) {
		if !nameGrammar.MatchString(member) {
			return misplacedAt(path+".members", "%q is no name", member)
		}
		if s.Members[member].Validate() != nil {
			return misplacedAt(path+".members."+member, "%q is no digest", s.Members[member])
		}
	}
	return nil
}

// What the published schema says of members and tags.
var (
	nameGrammar = lazyregexp.New(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	tagGrammar  = lazyregexp.New(`^sha-[0-9a-f]{40}(-r[0-9]+|-dirty-[0-9a-f]{8})?$`)
)

// Digest returns the digest of a head's document, empty for an empty ledger. It is what the next
// document names as its previous.
func (h Head) Digest() digest.Digest {
	if h.ID == "" {
		return ""
	}
	return digest.FromBytes(h.Content)
}

// Names returns the document's channels, sorted.
func (d Document) Names() []string { return slices.Sorted(maps.Keys(d.Channels)) }

// Entry returns how the history shows the channel's present state.
func (d Document) Entry(channel string) Entry {
	s := d.Channels[channel]
	return Entry{Channel: channel, Generation: s.Generation, Previous: d.Previous, Record: s.Record, Tag: s.Tag, Moved: s.Moved}
}

// Changed returns the channels that this generation changed, sorted; a refresh changes none.
func (d Document) Changed() []string {
	return slices.DeleteFunc(d.Names(), func(name string) bool { return d.Channels[name].Generation != d.Generation })
}

// Unsigned reports whether this generation was committed before anybody signed it.
func (d Document) Unsigned() bool {
	return slices.ContainsFunc(d.Changed(), func(name string) bool { return d.Channels[name].Moved.Unsigned })
}

// Summary says in one line what a generation did, as the subject of its ledger entry.
func (d Document) Summary() string {
	var parts []string
	for _, name := range d.Changed() {
		s := d.Channels[name]
		parts = append(parts, fmt.Sprintf("%s %s %s", s.Moved.Action, name, cmp.Or(s.Version, s.Tag)))
	}
	if len(parts) == 0 {
		parts = []string{"refresh"}
	}
	return fmt.Sprintf("%d: %s", d.Generation, strings.Join(parts, ", "))
}

// GenerationTag names the document of a generation in the metadata repository.
func GenerationTag(n uint64) string { return fmt.Sprintf("gen-%d", n) }

// Head is the newest state of a ledger. The zero Head is an empty ledger.
type Head struct {
	ID       string // of the ledger's commit; what the next append expects to find
	Content  []byte // the document's exact bytes
	Document Document
}
