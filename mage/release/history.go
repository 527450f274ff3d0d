package release

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Chain passes on a ledger's history, newest first, as long as every document names the one before
// it: its generation is one more, and its previous is that one's digest. The break is an error that
// names the generation.
func Chain(history iter.Seq2[Head, error]) iter.Seq2[Head, error] {
	return func(yield func(Head, error) bool) {
		var newer *Head
		for head, err := range history {
			if err == nil && newer != nil {
				err = follows(*newer, head)
			}
			if !yield(head, err) || err != nil {
				return
			}
			newer = &head
		}
		if newer != nil && newer.Document.Generation != 1 {
			yield(Head{}, broken(*newer, "the ledger does not hold the generations before it"))
		}
	}
}

func follows(newer, older Head) error {
	switch {
	case newer.Document.Generation != older.Document.Generation+1:
		return broken(newer, fmt.Sprintf("it follows generation %d", older.Document.Generation))
	case newer.Document.Previous != older.Digest():
		return broken(newer, fmt.Sprintf("its previous is %s, generation %d has the digest %s", newer.Document.Previous, older.Document.Generation, older.Digest()))
	case newer.Document.Family != older.Document.Family:
		return broken(newer, fmt.Sprintf("it is of family %q, the one before of %q", newer.Document.Family, older.Document.Family))
	}
	return nil
}

func broken(h Head, why string) error {
	return fault.New(fault.Forged, "reading history", fmt.Sprintf("generation %d", h.Document.Generation), "the chain breaks: %s", why).
		WithHint("somebody rewrote the ledger: compare it with another clone's before anything else moves")
}

// Step is one change of one channel, as the history tells it.
type Step struct {
	Generation uint64 `json:"generation"`
	Channel    string `json:"channel"`
	State      State  `json:"state"`
}

// Steps returns what every generation changed, newest first; an empty channel means all of them.
func Steps(history iter.Seq2[Head, error], channel string) ([]Step, error) {
	steps := []Step{} // a list in JSON, also of nothing
	for head, err := range Chain(history) {
		if err != nil {
			return steps, err
		}
		for _, name := range head.Document.Changed() {
			if channel == "" || channel == name {
				steps = append(steps, Step{head.Document.Generation, name, head.Document.Channels[name]})
			}
		}
	}
	return steps, nil
}

// Past reads a history once: its head, and what every generation did to a channel.
func Past(history iter.Seq2[Head, error], channel string) (Head, []Step, error) {
	var newest Head
	steps, err := Steps(func(yield func(Head, error) bool) {
		for head, err := range history {
			if err == nil && newest.ID == "" {
				newest = head
			}
			if !yield(head, err) {
				return
			}
		}
	}, channel)
	return newest, steps, err
}

// Trail returns what a channel served on the way to the present, newest first, from its steps. What
// a rollback left is not on it: the way back from there does not lead forwards again.
func Trail(steps []Step) []State {
	var trail []State
	for _, s := range slices.Backward(steps) {
		if i := slices.IndexFunc(trail, func(t State) bool { return t.Record == s.State.Record }); i >= 0 {
			trail = trail[:i]
		}
		trail = append(trail, s.State)
	}
	slices.Reverse(trail)
	return trail
}

// At returns what a channel served at a time, and whether it served anything.
func At(steps []Step, channel string, at time.Time) (Step, bool) {
	for _, s := range steps {
		if s.Channel == channel && !s.State.Moved.At.After(at) {
			return s, true
		}
	}
	return Step{}, false
}
