package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// PlanReconcile plans the tags that do not show what the ledger says, and says of each how that comes.
func (p *Pipeline) PlanReconcile(ctx context.Context) (Change, error) {
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Change{}, err
	}
	c, err := p.change(ctx, head, head.Document, "make tags follow the ledger")
	if err == nil && head.Document.Unsigned() {
		var signed bool
		signed, err = p.Signed(ctx, head)
		c.Signs = !signed
	}
	if err == nil {
		err = p.explainDrift(ctx, c.Tags, c.Signs)
	}
	return c, err
}

// reconcile is how every release begins: what a killed run left behind, or somebody else moved, is
// told and put right. It writes nothing when nothing drifted.
func (p *Pipeline) reconcile(ctx context.Context) (release.Head, error) {
	head, err := p.Ledger.Head(ctx)
	if err == nil {
		err = p.vouched(ctx, head)
	}
	if err != nil {
		return head, err
	}
	moves, err := p.drift(ctx, head)
	if errors.Is(err, errAhead) {
		head, _, err = p.converge(ctx, head)
		return head, err
	}
	if err != nil {
		return head, p.overtaken(ctx, head, err)
	}
	if len(moves) == 0 {
		return head, nil
	}
	if err := p.explainDrift(ctx, moves, false); err != nil { // what nobody has signed moves no tag of the document's
		return head, err
	}
	for _, m := range moves {
		p.Progress.Note("reconcile", m.Member+":"+m.Tag.Tag, m.Drift)
	}
	head, _, err = p.converge(ctx, head)
	return head, err
}

// errAhead marks a registry that shows more than the ledger knows.
var errAhead = errors.New("the registry is ahead of the ledger")

// notAhead refuses to take `channels` away from a document that a mover signed and that is not of the
// ledger's past: then the ledger has lost generations, and tags that followed it would go back.
func (p *Pipeline) notAhead(ctx context.Context, head release.Head, moves []TagMove, document *graph.Node) error {
	at, err := p.channelsAt(ctx, moves, document)
	if err != nil || at == "" {
		return err
	}
	var of graph.Node // the head's own document, whose move is not yet seen
	if head.ID != "" {
		if of, err = documentNode(head.Content); err != nil || at == of.Digest {
			return err
		}
	}
	node, found, err := p.metadata().ByDigest(ctx, at)
	if err != nil || !found {
		return err
	}
	shown, err := ReadDocument(ctx, p.metadata(), node)
	if errors.Is(err, fault.Forged) || err == nil && shown.Generation < head.Document.Generation {
		return nil // somebody's work, or the past: drift
	}
	if err != nil {
		return err
	}
	signed, err := p.isSigned(ctx, node, shown)
	if err != nil || !signed {
		return err
	}
	return &fault.Error{Op: "following", Subject: "ledger of " + p.Family.Name, Kind: fault.Forged,
		Err:  fmt.Errorf("%w: it shows generation %d, signed, as %s; the ledger is at generation %d", errAhead, shown.Generation, node.Digest, head.Document.Generation),
		Hint: "somebody rewrote the ledger, or lost it: bring its newest commit back from another clone before anything else moves"}
}

// channelsAt is what `channels` shows and would no longer show: where a move says that it was seen, and
// read where the moves leave the metadata artifact alone, because nobody has signed its document.
func (p *Pipeline) channelsAt(ctx context.Context, moves []TagMove, document *graph.Node) (digest.Digest, error) {
	if document == nil {
		n, _, err := p.metadata().Resolve(ctx, release.ChannelsTag)
		return n.Digest, err
	}
	i := slices.IndexFunc(moves, func(m TagMove) bool { return m.Phase == channelsPhase })
	if i < 0 {
		return "", nil
	}
	return moves[i].From, nil
}

// place is a tag of a member.
type place struct{ member, tag string }

// explainDrift says of every tag how it comes that it stands where it does: the document's tags wait for
// a signature, an interrupted move leaves a tag where the generation before had it, anything else is
// somebody else's work.
func (p *Pipeline) explainDrift(ctx context.Context, moves []TagMove, unsigned bool) error {
	if len(moves) == 0 {
		return nil
	}
	shown, err := p.everShown(ctx)
	if err != nil {
		return err
	}
	for i, m := range moves {
		at := place{m.Member, m.Tag.Tag}
		generation, known := shown[at][m.From]
		switch {
		case unsigned && p.ofDocument(m):
			moves[i].Drift = "nobody has signed what it is to show yet"
		case m.From == "":
			moves[i].Drift = "it is not there: a move was interrupted, or somebody deleted it"
		case !known:
			moves[i].Drift = "the ledger never named what it shows: somebody else moved it"
		case generation == before(shown[at], shown[at][m.To.Digest]):
			moves[i].Drift = fmt.Sprintf("as of generation %d: a move was interrupted, or somebody else took it back", generation)
		default:
			moves[i].Drift = fmt.Sprintf("as of generation %d: somebody else took it back", generation)
		}
	}
	return nil
}

// ofDocument reports whether a move is of a tag that shows the channels document.
func (p *Pipeline) ofDocument(m TagMove) bool {
	return m.Member == p.Family.ArtifactOf(family.Metadata) && m.Phase != versionPhase
}

// before is the newest generation before one, of those at which a tag was given something.
func before(shown map[digest.Digest]uint64, generation uint64) uint64 {
	var newest uint64
	for _, g := range shown {
		if g < generation {
			newest = max(newest, g)
		}
	}
	return newest
}

// everShown lists what the ledger had every channel tag show, and since which generation the last time.
func (p *Pipeline) everShown(ctx context.Context) (map[place]map[digest.Digest]uint64, error) {
	shown := map[place]map[digest.Digest]uint64{}
	note := func(at place, d digest.Digest, generation uint64) {
		if shown[at] == nil {
			shown[at] = map[digest.Digest]uint64{}
		}
		shown[at][d] = max(shown[at][d], generation)
	}
	metadata := p.Family.ArtifactOf(family.Metadata)
	for head, err := range release.Chain(p.Ledger.History(ctx)) {
		if err != nil {
			return nil, err
		}
		node, err := documentNode(head.Content)
		if err != nil {
			return nil, err
		}
		note(place{metadata, release.ChannelsTag}, node.Digest, head.Document.Generation)
		for _, channel := range head.Document.Names() {
			note(place{metadata, channel}, node.Digest, head.Document.Generation)
		}
		for _, channel := range head.Document.Changed() {
			for member, d := range head.Document.Channels[channel].Members {
				note(place{member, channel}, d, head.Document.Generation)
			}
		}
	}
	return shown, nil
}
