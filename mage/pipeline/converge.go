package pipeline

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// maxConverging is how often tags are derived anew while somebody else moves the ledger on.
const maxConverging = 10

// Converge makes every channel tag what the ledger says, and ends when all tags read back so and
// the ledger has not moved since: another mover may have committed meanwhile, and the newest
// generation counts. It returns the head and the tags it moved; none when nothing drifted.
func (p *Pipeline) Converge(ctx context.Context) (release.Head, []TagMove, error) {
	head, err := p.Ledger.Head(ctx)
	if err == nil {
		err = p.vouched(ctx, head)
	}
	if err != nil {
		return release.Head{}, nil, err
	}
	return p.converge(ctx, head)
}

// follow makes the moves that were planned for what has just been committed. Each is made only from
// where it was planned; where somebody else was quicker, converging decides.
func (p *Pipeline) follow(ctx context.Context, head release.Head, moves []TagMove) (release.Head, []TagMove, error) {
	done, err := p.moveTags(ctx, moves)
	if kind, _ := fault.KindOf(err); err != nil && kind != fault.Conflict {
		return head, done, err
	}
	head, more, err := p.converge(ctx, head)
	return head, append(done, more...), err
}

// converge is Converge for who has read the ledger, or moved it. A tag moves only after it was read
// and the ledger was then seen to stand still: what is newer than head is never taken for drift.
func (p *Pipeline) converge(ctx context.Context, head release.Head) (release.Head, []TagMove, error) {
	var moved []TagMove
	for range maxConverging {
		moves, now, err := p.lookAround(ctx, head)
		if errors.Is(err, errAhead) { // of this head; somebody may have committed another meanwhile
			if newer, unread := p.Ledger.Head(ctx); unread == nil && newer.ID != "" && newer.ID != head.ID {
				now, err = newer, nil
			}
		}
		if err == nil && now.ID == head.ID && len(moves) == 0 {
			return head, moved, nil
		}
		if err == nil && now.ID == head.ID {
			now, err = p.Ledger.Head(ctx)
		}
		if err == nil && now.ID != head.ID {
			err = p.vouched(ctx, now)
		}
		if err != nil {
			return head, moved, partly(err, len(moved) > 0)
		}
		if now.ID != head.ID {
			head = now
			continue
		}
		done, err := p.moveTags(ctx, moves)
		moved = append(moved, done...)
		if kind, _ := fault.KindOf(err); err != nil && kind != fault.Conflict {
			return head, moved, partly(err, len(moved) > 0)
		}
	}
	return release.Head{}, moved, partly(fault.New(fault.Conflict, "moving tags of", p.Family.Name, "somebody moved them %d times meanwhile", maxConverging), len(moved) > 0)
}

// lookAround reads the tags that do not follow a head and the ledger, both at once.
func (p *Pipeline) lookAround(ctx context.Context, head release.Head) (moves []TagMove, now release.Head, err error) {
	var group errgroup.Group
	group.Go(func() (err error) {
		moves, err = p.drift(ctx, head)
		return err
	})
	group.Go(func() (err error) {
		now, err = p.Ledger.Head(ctx)
		return err
	})
	return moves, now, group.Wait()
}

// drift returns the tags that do not follow a head. What its document needs before tags may show
// it, its bytes and its signature, is put right first.
func (p *Pipeline) drift(ctx context.Context, head release.Head) ([]TagMove, error) {
	if head.ID == "" {
		return nil, nil
	}
	if head.Document.Unsigned() {
		node, err := p.documentReady(ctx, head)
		if err != nil {
			return nil, err
		}
		moves, err := p.planDrift(ctx, head.Document, node)
		return moves, errors.Join(err, p.notAhead(ctx, head, moves, node))
	}
	node, err := documentNode(head.Content)
	if err != nil {
		return nil, err
	}
	var moves []TagMove
	var group errgroup.Group
	group.Go(func() error { return p.pushDocument(ctx, head.Content) })
	group.Go(func() (err error) {
		if moves, err = p.planDrift(ctx, head.Document, &node); err == nil {
			err = p.notAhead(ctx, head, moves, &node)
		}
		return err
	})
	return moves, group.Wait()
}

// partly marks an error after the first write that others see: what was begun is finished by
// reconciling.
func partly(err error, wrote bool) error {
	if kind, _ := fault.KindOf(err); err == nil || !wrote || kind == fault.Partial {
		return err
	}
	return &fault.Error{Op: "moving", Subject: "tags", Kind: fault.Partial, Err: err,
		Hint: "the channel has moved and its tags have not all followed: run the same command again, or mage ops:reconcile -apply"}
}

// catchUp makes the tags follow a head. Where its document is to be signed and nobody here may, those
// tags follow that need no signature, and who asked is told why the others do not.
func (p *Pipeline) catchUp(ctx context.Context, head release.Head, sign bool) (release.Head, []TagMove, error) {
	var unsigned error
	if sign {
		if unsigned = p.signHead(ctx, head); errors.Is(unsigned, fault.Interrupted) {
			return head, nil, unsigned
		}
	}
	head, moved, err := p.converge(ctx, head)
	if err != nil || unsigned == nil {
		return head, moved, err
	}
	return head, moved, partlySigned(unsigned, len(moved))
}

// partlySigned is why a document stays unsigned, as an error that says what was done all the same.
func partlySigned(err error, moved int) error {
	if moved == 0 {
		return err
	}
	return &fault.Error{Op: "reconciling", Subject: fmt.Sprintf("%d tags moved, and nothing is signed", moved), Kind: fault.Partial, Err: err}
}
