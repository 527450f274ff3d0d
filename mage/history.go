package mage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
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
		steps, err := w.readHistory(ctx, channel)
		if err != nil {
			return err
		}
		if at != "" {
			steps, err = servedAt(w, steps, channel, moment)
		}
		if err != nil {
			return err
		}
		return w.print(steps, func() string { return historyText(steps) })
	}
}

// readHistory reads the ledger, or, when its remote does not answer, what this clone has of it.
func (w *workshop) readHistory(ctx context.Context, channel string) ([]release.Step, error) {
	log, err := w.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	steps, err := release.Steps(log.History(ctx), channel)
	if !errors.Is(err, fault.Unavailable) {
		return steps, err
	}
	kept, offline := release.Steps(log.Offline().History(ctx), channel)
	if offline != nil {
		return nil, err
	}
	w.progress.Note("history", w.fam.Ledger.Branch, "as this clone last saw it; the remote does not answer: "+err.Error())
	return kept, nil
}

// servedAt keeps the step of each channel that was in force at a time.
func servedAt(w *workshop, steps []release.Step, channel string, at time.Time) ([]release.Step, error) {
	served := []release.Step{}
	for _, name := range slices.Sorted(maps.Keys(w.fam.Channels)) {
		if channel != "" && channel != name {
			continue
		}
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
