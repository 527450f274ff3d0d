package release

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Candidate is a published record that may enter a channel.
type Candidate struct {
	Record  Record
	Digest  digest.Digest // of the record's manifest
	Version string        // v1.2.3; empty when it has none
}

// PlanPromote returns the document that puts a candidate into a channel after head. The second
// result is false when the channel serves exactly that already: then nothing needs to move.
//
// It refuses a channel that is held (fault.Conflict) and a release that is denied (fault.Refused).
// Whether the candidate descends from what is served is the caller's question, because only a
// repository can answer it.
func PlanPromote(head Head, family, channel string, c Candidate, m Moved) (Document, bool, error) {
	served := head.Document.Channels[channel]
	if c.Version == "" && served.Record == c.Digest {
		c.Version = served.Version
	}
	if served.Record == c.Digest && served.Version == c.Version {
		return head.Document, false, nil
	}
	if err := served.Free(channel); err != nil {
		return Document{}, false, err
	}
	if err := cmp.Or(head.Document.Admits(c.Digest), head.Document.AdmitsImages(c.Record)); err != nil {
		return Document{}, false, err
	}
	m.Action = Promoted
	return head.set(family, channel, c.State(), m), true, nil
}

// PlanRollback returns the document that takes a channel back to a release it served before, and
// holds it there: the next release must not undo it. With bad, what it serves now is denied to
// every channel from then on.
func PlanRollback(head Head, channel string, to State, m Moved, bad bool) (Document, error) {
	served, ok := head.Document.Channels[channel]
	switch {
	case !ok:
		return Document{}, fault.New(fault.Conflict, "rolling back", channel, "it never served anything")
	case m.Reason == "":
		return Document{}, fault.New(fault.Invalid, "rolling back", channel, "a rollback needs a reason").WithHint(`add -reason="…": it stands in the history`)
	case served.Record == to.Record:
		return Document{}, fault.New(fault.Conflict, "rolling back", channel, "it serves %s already", served.Tag)
	}
	if err := head.Document.Admits(to.Record); err != nil {
		return Document{}, err
	}
	m.Action = RolledBack
	to.Hold = "rolled back from " + served.Tag + ": " + m.Reason
	next := head.set(head.Document.Family, channel, to, m)
	if bad {
		next.deny(served, m)
	}
	return next, nil
}

// PlanHold freezes a channel: nothing is promoted into it until PlanUnhold.
func PlanHold(head Head, channel string, m Moved) (Document, bool, error) {
	served, ok := head.Document.Channels[channel]
	switch {
	case !ok:
		return Document{}, false, fault.New(fault.Conflict, "holding", channel, "it never served anything")
	case m.Reason == "":
		return Document{}, false, fault.New(fault.Invalid, "holding", channel, "a hold needs a reason").WithHint(`add -reason="…": whoever meets the hold reads it`)
	case served.Hold == m.Reason:
		return head.Document, false, nil
	}
	m.Action = Held
	served.Hold = m.Reason
	return head.set(head.Document.Family, channel, served, m), true, nil
}

// PlanUnhold lets a channel move again.
func PlanUnhold(head Head, channel string, m Moved) (Document, bool, error) {
	served := head.Document.Channels[channel]
	if served.Hold == "" {
		return head.Document, false, nil
	}
	if m.Reason == "" {
		m.Reason = "was held: " + served.Hold
	}
	m.Action = Released
	served.Hold = ""
	return head.set(head.Document.Family, channel, served, m), true, nil
}

// RefreshAt is when a document is near enough to its end to be issued anew: when a third of its life
// is left. Issued more often, it would only push out of sight what channels did.
func (d Document) RefreshAt() time.Time { return d.Expires.Add(-documentLife / 3) }

// PlanRefresh returns the same document, issued anew, so that it does not expire.
func PlanRefresh(head Head, at time.Time) (Document, error) {
	if head.ID == "" {
		return Document{}, fault.New(fault.Conflict, "refreshing", "channels document", "nothing was released yet")
	}
	return head.next(head.Document.Family, at), nil
}

// PlanAdopt returns generation 1 for a registry that served channels before it had a ledger.
func PlanAdopt(head Head, family string, found map[string]Candidate, m Moved) (Document, error) {
	if head.ID != "" {
		return Document{}, fault.New(fault.Conflict, "adopting", family, "the ledger is at generation %d already", head.Document.Generation)
	}
	if len(found) == 0 {
		return Document{}, fault.New(fault.Unverified, "adopting", family, "no channel can be adopted")
	}
	m.Action, m.At = Adopted, wholeSeconds(m.At)
	next := head.next(family, m.At)
	for channel, c := range found {
		state := c.State()
		state.Generation, state.Moved = next.Generation, m
		next.Channels[channel] = state
	}
	return next, nil
}

// Free refuses a channel that is held.
func (s State) Free(channel string) error {
	if s.Hold == "" {
		return nil
	}
	return fault.New(fault.Conflict, "moving", channel, "it is held: %s", s.Hold).
		WithHint("when the reason is gone: mage ops:unhold -channel=%s -apply", channel)
}

// Admits refuses a record that is on the document's deny list.
func (d Document) Admits(record digest.Digest) error {
	denial, bad := d.Denied[record]
	if !bad {
		return nil
	}
	return fault.New(fault.Refused, "admitting", record.String(), "%s marked it bad on %s: %s", denial.By, denial.At.Format(time.DateOnly), denial.Reason).
		WithHint("choose another release; nothing takes this one off the list")
}

// AdmitsImages refuses a record with an image that was built or inspected for a release which somebody
// marked bad. A denial tells the commit and not the rebuild: what any release of that commit made is
// refused.
func (d Document) AdmitsImages(r Record) error {
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		for _, denial := range d.Denied {
			if denial.Commit != r.Source.Commit && (denial.Commit == r.BuiltBy(name) || denial.Commit == r.InspectedBy(name)) {
				return fault.New(fault.Refused, "admitting", r.Source.Tag(), "its %s comes from %s, which %s marked bad on %s: %s", name, denial.Commit, denial.By, denial.At.Format(time.DateOnly), denial.Reason).
					WithHint("release the commit anew with -rebuild, which keeps nothing of earlier releases")
			}
		}
	}
	return nil
}

// set returns the document after head in which one channel has another state.
func (h Head) set(family, channel string, s State, m Moved) Document {
	m.At = wholeSeconds(m.At)
	next := h.next(family, m.At)
	s.Generation, s.Moved = next.Generation, m
	next.Channels[channel] = s
	return next
}

// next returns the document after head, with the same content.
func (h Head) next(family string, at time.Time) Document {
	at = wholeSeconds(at)
	next := h.Document
	next.Schema, next.Family, next.Generation, next.Previous = 1, family, next.Generation+1, h.Digest()
	next.Issued, next.Expires = at, at.Add(documentLife)
	next.Channels, next.Denied = maps.Clone(next.Channels), maps.Clone(next.Denied)
	if next.Channels == nil {
		next.Channels = map[string]State{}
	}
	return next
}

func (d *Document) deny(s State, m Moved) {
	if d.Denied == nil {
		d.Denied = map[digest.Digest]Denial{}
	}
	d.Denied[s.Record] = Denial{Commit: s.Commit, Reason: m.Reason, By: m.By, At: wholeSeconds(m.At)}
}

// State is how a channel serves a candidate.
func (c Candidate) State() State {
	members := map[string]digest.Digest{}
	for name, node := range c.Record.Members() {
		members[name] = node.Digest
	}
	return State{Version: c.Version, Commit: c.Record.Source.Commit, Tag: c.Record.Source.Tag(), Record: c.Digest, Members: members}
}

// versionGrammar is a semantic version with a "v", without build metadata: "+" is no tag.
// https://semver.org/spec/v2.0.0.html
var versionGrammar = lazyregexp.New(`^v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// CheckVersion refuses what is not a semantic version as people tag it, "v1.2.3".
func CheckVersion(v string) error {
	if !versionGrammar.MatchString(v) || len(v) > 128 {
		return fault.New(fault.Invalid, "reading version", fmt.Sprintf("%q", v), "it is not a semantic version").WithHint("write it like v1.2.3")
	}
	return nil
}

func wholeSeconds(at time.Time) time.Time { return at.UTC().Truncate(time.Second) }
