package mage

import (
	"context"
	"fmt"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
)

// checkup is what ops:fsck prints with -json.
type checkup struct {
	pipeline.Examination
	Repaired []string `json:"repaired"`
}

// fsck looks at everything that is promised, and with repair cures what can be cured.
func fsck(repair bool) command {
	return func(ctx context.Context, s *session) error {
		w, p, _, err := s.openPipeline(ctx, true)
		if err == nil {
			err = w.mayWrite(repair)
		}
		if err != nil {
			return err
		}
		k, err := w.keeper(ctx)
		if err != nil {
			return err
		}
		found := checkup{Repaired: []string{}}
		if found.Examination, err = k.Examine(ctx); err != nil {
			return err
		}
		served, err := p.Examine(ctx)
		if err != nil {
			return err
		}
		found.Ailments = append(found.Ailments, served...)
		if repair {
			found.Repaired, err = pipeline.Repair(ctx, found.Ailments, w.progress)
		}
		w.progress.settle()
		if printing := w.print(found, func() string { return checkupText(found) }); err == nil {
			err = printing
		}
		left := len(found.Ailments) - len(found.Repaired)
		if err != nil || left == 0 {
			return err
		}
		return fault.New(fault.Unverified, "checking", w.public, "%d of %d things that are promised are not so", left, len(found.Ailments)).
			WithHint("the table says what cures each; mage ops:fsck -repair does what can be done here")
	}
}

func checkupText(c checkup) string {
	table := term.Table{}
	if len(c.Ailments) > 0 {
		table.Head = []string{"what", "where", "why", "cure"}
	}
	for _, a := range c.Ailments {
		table.Rows = append(table.Rows, []string{string(a.What), a.At, a.Why, a.Cure})
	}
	return table.String() + fmt.Sprintf("%d manifests, %d that no root reaches; %d ailments, %d cured\n", c.Manifests, c.Orphans, len(c.Ailments), len(c.Repaired))
}
