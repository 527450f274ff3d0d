package mage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// history says who served what, when and why, from the ledger alone: the chain of its documents is
// checked, and nothing else is asked.
func history(channel, at string) command {
	return func(ctx context.Context, s *session) error {
		moment, err := readMoment(at)
		if err != nil {
			return err
		}
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		head, steps, err := w.readHistory(ctx, channel)
		if err != nil {
			return err
		}
		if _, known := w.fam.Channels[channel]; !known && channel != "" && len(steps) == 0 {
			return fault.New(fault.Invalid, "reading history", channel, "the family has no such channel, and never had").
				WithHint("its channels are %s", strings.Join(slices.Sorted(maps.Keys(w.fam.Channels)), ", "))
		}
		w.tellSigned(ctx, head)
		if at != "" {
			steps, err = servedAt(steps, moment)
		}
		if err != nil {
			return err
		}
		return w.print(steps, func() string { return historyText(steps) })
	}
}

// readHistory reads the ledger, or, when its remote does not answer, what this clone has of it.
func (w *workshop) readHistory(ctx context.Context, channel string) (release.Head, []release.Step, error) {
	log, err := w.openLedger(ctx)
	if err != nil {
		return release.Head{}, nil, err
	}
	head, steps, err := release.Past(log.History(ctx), channel)
	if !errors.Is(err, fault.Unavailable) {
		return head, steps, err
	}
	kept, steps, offline := release.Past(log.Offline().History(ctx), channel)
	if offline != nil {
		return release.Head{}, nil, err
	}
	w.progress.Note("history", w.fam.Ledger.Branch, "as this clone last saw it; the remote does not answer: "+err.Error())
	return kept, steps, nil
}

// signaturePatience is how long the history waits for a registry, which it can do without.
const signaturePatience = 10 * time.Second

// tellSigned says whether the newest document is signed, and with it all that it follows. The history
// is also read without a registry, and then says that this was not checked.
func (w *workshop) tellSigned(ctx context.Context, head release.Head) {
	if head.ID == "" {
		return
	}
	about := fmt.Sprintf("generation %d", head.Document.Generation)
	repositories, err := verify.Connect(w.client, w.fam.Members())
	signed := false
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, signaturePatience)
		defer cancel()
		p := &pipeline.Pipeline{Family: w.fam, Registry: repositories, Verifier: &trustPort{workshop: w}}
		signed, err = p.Signed(ctx, head)
	}
	switch {
	case err != nil:
		w.progress.Note("history", about, "its signature was not checked: "+err.Error())
	case signed:
		w.progress.Note("history", about, "signed by a mover, and with it the chain of all before it")
	default:
		w.progress.Note("history", about, "NOT SIGNED by anybody who may move its channels")
	}
}

// servedAt keeps the step of each channel that was in force at a time, also of those that the family
// gave up since.
func servedAt(steps []release.Step, at time.Time) ([]release.Step, error) {
	channels := map[string]bool{}
	for _, s := range steps {
		channels[s.Channel] = true
	}
	served := []release.Step{}
	for _, name := range slices.Sorted(maps.Keys(channels)) {
		if step, ok := release.At(steps, name, at); ok {
			served = append(served, step)
		}
	}
	if len(served) == 0 {
		return nil, fault.New(fault.Unverified, "reading history", at.Format(time.RFC3339), "nothing was served then")
	}
	return served, nil
}

// readMoment reads a time as people write it; without a zone it is UTC.
func readMoment(at string) (time.Time, error) {
	if at == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, at); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "reading", "-at="+at, "it is not a time").WithHint("write it like 2026-07-01T12:00; it is UTC unless it says otherwise")
}

func historyText(steps []release.Step) string {
	if len(steps) == 0 {
		return "nothing was released yet\n"
	}
	table := term.Table{Head: []string{"gen", "when (UTC)", "channel", "what", "release", "by", "why"}}
	for _, s := range steps {
		m := s.State.Moved
		what := string(m.Action)
		if m.Explicit {
			what += ", not a descendant"
		}
		if m.Unsigned {
			what += ", unsigned"
		}
		table.Rows = append(table.Rows, []string{
			fmt.Sprint(s.Generation), m.At.UTC().Format("2006-01-02 15:04:05"), s.Channel, what, releaseName(s.State), m.By, m.Reason,
		})
	}
	return table.String()
}

// releaseName is how a table calls what a channel serves.
func releaseName(s release.State) string {
	short := s.Tag
	if len(short) > 16 {
		short = short[:16] + "…"
	}
	if s.Version != "" {
		return s.Version + " " + short
	}
	return short
}
