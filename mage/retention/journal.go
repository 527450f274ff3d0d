package retention

import (
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/graph"
)

// Outcome is what became of a deletion.
type Outcome string

// The outcomes. An entry without one was begun, and its answer never came.
const (
	Deleted  Outcome = "deleted"
	Absent   Outcome = "absent"   // somebody else did it, or we did and the answer was lost
	Retained Outcome = "retained" // the registry does not give it up
	Skipped  Outcome = "skipped"  // it is needed now, or was touched since the plan
	Restored Outcome = "restored" // it was deleted and came back
)

// Entry is one deletion in the journal: everything that is needed to undo it. It is written before
// the call, and again with its outcome.
type Entry struct {
	Run       string    `json:"run"`             // of the plan that it belongs to
	At        string    `json:"at"`              // host/owner/name@sha256:…, or host/owner/name:tag
	Of        string    `json:"of,omitempty"`    // of a tag: the digest of what it was taken off, which stayed
	Waste     bool      `json:"waste,omitempty"` // made to be deleted: nothing that could be missed
	ID        int64     `json:"id,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	MediaType string    `json:"mediaType"`
	Size      int64     `json:"size"`
	Time      time.Time `json:"time"`
	Outcome   Outcome   `json:"outcome,omitempty"`
	Why       string    `json:"why,omitempty"`
}

// NewEntry begins the entry of an item at a place, at a time.
func NewEntry(run, place string, it graph.Item, at time.Time) Entry {
	return Entry{Run: run, At: place, ID: it.ID, Waste: it.ArtifactType == WasteType, Tags: it.Tags, MediaType: it.MediaType, Size: it.Size, Time: at.UTC()}
}

// NewTagEntry begins the entry of one tag, which is taken off an item that stays.
func NewTagEntry(run, place, tag string, it graph.Item, at time.Time) Entry {
	repo, digest, _ := strings.Cut(place, "@")
	return Entry{Run: run, At: repo + ":" + tag, Of: digest, Tags: []string{tag}, MediaType: it.MediaType, Size: it.Size, Time: at.UTC()}
}

// Fold returns the last entry of every place, in the order in which each was begun last.
func Fold(entries []Entry) []Entry {
	last := map[string]int{}
	for i, e := range entries {
		last[e.At] = i
	}
	var folded []Entry
	for i, e := range entries {
		if last[e.At] == i {
			folded = append(folded, e)
		}
	}
	return folded
}

// Named reports whether a name means the entry: its run, digest, one of its tags, its repository. An
// empty name means all.
func (e Entry) Named(name string) bool {
	repo, digest, _ := strings.Cut(e.At, "@")
	if e.Of != "" {
		repo, digest = strings.TrimSuffix(e.At, ":"+e.Tags[0]), e.Of
	}
	return name == "" || name == e.Run || name == e.At || name == digest || slices.Contains(e.Tags, name) || strings.HasSuffix(repo, "/"+name)
}
