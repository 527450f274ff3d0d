package family

import (
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Event is what brings a channel something by itself, where releases are made by workflows.
type Event string

// The events.
const (
	Push     Event = "push"     // to the default branch; what is proposed is judged by this channel's gate
	Schedule Event = "schedule" // of the workflow
	Version  Event = "version"  // that somebody gives a commit, such as v1.2.3
)

// conventional are the channels that take an event where no channel says that it does.
func conventional() map[Event]string {
	return map[Event]string{Push: "dev", Schedule: "nightly", Version: "prod"}
}

// On returns the channel that takes what an event brings; empty where none does.
func (f *Family) On(e Event) string {
	for _, name := range slices.Sorted(maps.Keys(f.Channels)) {
		if slices.Contains(f.Channels[name].On, e) {
			return name
		}
	}
	name := conventional()[e]
	if c, ok := f.Channels[name]; ok && len(c.On) == 0 {
		return name
	}
	return ""
}

// ChannelNames returns the channels, sorted.
func (f *Family) ChannelNames() []string { return slices.Sorted(maps.Keys(f.Channels)) }

// Meant says which channels there are, after a name that is none of them.
func (f *Family) Meant(channel string) string {
	names := f.ChannelNames()
	return "the family has no such channel; it has " + strings.Join(names, ", ") + suggest(channel, names)
}

func (r *reader) events(n *yaml.Node) (events []Event) {
	r.items(n, func(v *yaml.Node) {
		events = append(events, Event(r.oneOf(v, string(Push), string(Schedule), string(Version))))
	})
	return events
}

// validateEvents: what an event brings, one channel takes.
func (r *reader) validateEvents(f *Family) {
	for _, e := range []Event{Push, Schedule, Version} {
		var takers []string
		for _, name := range f.ChannelNames() {
			if slices.Contains(f.Channels[name].On, e) {
				takers = append(takers, name)
			}
		}
		for _, name := range takers[min(1, len(takers)):] {
			r.complain(r.at("channels", name, "on"), "%q takes the event %s, and so does %q: one channel does", name, e, takers[0])
		}
	}
}
