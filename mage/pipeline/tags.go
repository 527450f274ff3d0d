package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// The phases in which tags move. Within one they move at once; the next begins when all of the
// one before read back. Consumers who enter by `channels` see everything else in place.
const (
	versionPhase  = iota // immutable version tags of every member
	imagePhase           // channel tags of images
	artifactPhase        // of payload and installer, and every other tag of the metadata artifact
	channelsPhase        // the metadata artifact's `channels`
)

// Bounds of what is under way at a time: tags that move, tags and
// manifests that are read.
const (
	maxMoving  = 16
	maxReading = 32
)

// TagMove is a move of one member's tag.
type TagMove struct {
	release.Move
	Member    string `json:"member"`
	Phase     int    `json:"phase"`
	Immutable bool   `json:"immutable,omitempty"` // the tag must not exist with another digest
	Drift     string `json:"drift,omitempty"`     // how it comes that the tag stands elsewhere
}

func (m TagMove) String() string {
	from := "absent"
	if m.From != "" {
		from = m.From.String()
	}
	text := fmt.Sprintf("tag %s:%s  %s → %s", m.Member, m.Tag.Tag, from, m.To.Digest)
	if m.Drift != "" {
		text += "  (" + m.Drift + ")"
	}
	return text
}

// wanted is what a tag should show.
type wanted struct {
	member, tag string
	to          digest.Digest
	phase       int
	immutable   bool
	kept        bool // nothing new: that it is lost stops nobody, it stays where it is
}

// wantedTags derives every tag from a document whose manifest is node; without it the metadata
// artifact's tags are left where they are.
func (p *Pipeline) wantedTags(d release.Document, node *graph.Node) []wanted {
	var all []wanted
	metadata := p.Family.ArtifactOf(family.Metadata)
	for _, channel := range d.Names() {
		s := d.Channels[channel]
		kept := s.Generation != d.Generation || s.Moved.Action == release.Held || s.Moved.Action == release.Released
		for _, member := range p.Family.Members() {
			to, ok := s.Members[member]
			if !ok {
				continue
			}
			phase := artifactPhase
			if _, image := p.Family.Images[member]; image {
				phase = imagePhase
			}
			all = append(all, wanted{member: member, tag: channel, to: to, phase: phase, kept: kept})
			if s.Version != "" {
				all = append(all, wanted{member: member, tag: s.Version, to: to, phase: versionPhase, immutable: true, kept: kept})
			}
		}
		if s.Version != "" {
			all = append(all, wanted{member: metadata, tag: s.Version, to: s.Record, phase: versionPhase, immutable: true, kept: kept})
		}
		if node != nil {
			all = append(all, wanted{member: metadata, tag: channel, to: node.Digest, phase: artifactPhase})
		}
	}
	if node != nil {
		all = append(all,
			wanted{member: metadata, tag: release.GenerationTag(d.Generation), to: node.Digest, phase: artifactPhase, immutable: true},
			wanted{member: metadata, tag: release.ChannelsTag, to: node.Digest, phase: channelsPhase})
	}
	slices.SortStableFunc(all, func(a, b wanted) int { return a.phase - b.phase })
	return all
}

// planTags plans the tags of a document that comes next.
func (p *Pipeline) planTags(ctx context.Context, d release.Document, node *graph.Node) ([]TagMove, error) {
	return p.missingMoves(ctx, p.wantedTags(d, node), node)
}

// planDrift plans the tags of a document that is in force. What is lost of it stops nothing, least of
// all the way to a release that is whole.
func (p *Pipeline) planDrift(ctx context.Context, d release.Document, node *graph.Node) ([]TagMove, error) {
	want := p.wantedTags(d, node)
	for i := range want {
		want[i].kept = true
	}
	return p.missingMoves(ctx, want, node)
}

// missingMoves compares every tag with what the registry shows, and returns the moves that are
// missing, by phase.
func (p *Pipeline) missingMoves(ctx context.Context, want []wanted, node *graph.Node) ([]TagMove, error) {
	plans := make([]*TagMove, len(want))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReading)
	for i, w := range want {
		group.Go(func() (err error) {
			plans[i], err = p.planTag(ctx, w, node)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	moves := []TagMove{}
	for _, m := range plans {
		if m != nil {
			moves = append(moves, *m)
		}
	}
	return moves, nil
}

func (p *Pipeline) planTag(ctx context.Context, w wanted, document *graph.Node) (*TagMove, error) {
	repo := p.Registry.Repository(w.member)
	now, found, err := repo.Resolve(ctx, w.tag)
	if err != nil || found && now.Digest == w.to {
		return nil, err
	}
	if found && w.immutable {
		return nil, fault.New(fault.Immutable, "tagging", w.member+":"+w.tag, "it shows %s, the ledger says %s", now.Digest, w.to).
			WithHint("somebody overwrote an immutable tag: find out who, then release under another version")
	}
	var to graph.Node
	if document != nil && w.to == document.Digest {
		to = *document
	} else {
		to, err = p.node(ctx, w.member, w.to)
	}
	switch {
	case w.kept && errors.Is(err, fault.Unverified):
		p.Progress.Note("tags", w.member+":"+w.tag, "it stays where it is, mage ops:fsck says more: "+err.Error())
		return nil, nil
	case err != nil:
		return nil, err
	}
	m := TagMove{Move: release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: w.tag}, To: to}, Member: w.member, Phase: w.phase, Immutable: w.immutable}
	if found {
		m.From = now.Digest
	}
	return &m, nil
}

// moveTags makes moves, phase by phase, and returns those it made.
func (p *Pipeline) moveTags(ctx context.Context, moves []TagMove) (done []TagMove, err error) {
	for len(moves) > 0 {
		n := slices.IndexFunc(moves, func(m TagMove) bool { return m.Phase != moves[0].Phase })
		if n < 0 {
			n = len(moves)
		}
		made, err := p.movePhase(ctx, moves[:n])
		done = append(done, made...)
		if err != nil {
			return done, err
		}
		moves = moves[n:]
	}
	return done, nil
}

// movePhase makes the moves of one phase at once. An error does not stop the others: what was
// begun is brought to its end.
func (p *Pipeline) movePhase(ctx context.Context, moves []TagMove) ([]TagMove, error) {
	wrote := make([]bool, len(moves))
	var group errgroup.Group
	group.SetLimit(maxMoving)
	for i, m := range moves {
		group.Go(func() (err error) {
			repo := p.Registry.Repository(m.Member)
			if m.Immutable {
				wrote[i], err = repo.TagImmutable(ctx, m.Tag.Tag, m.To)
			} else {
				wrote[i], err = repo.MoveTag(ctx, m.Move)
			}
			if err == nil {
				p.Progress.Done("promote", m.String(), "")
			}
			return err
		})
	}
	err := group.Wait()
	var done []TagMove
	for i, m := range moves {
		if wrote[i] {
			done = append(done, m)
		}
	}
	return done, err
}

// checkTags refuses with fault.Conflict when a tag is not where a plan saw it.
func (p *Pipeline) checkTags(ctx context.Context, moves []TagMove) error {
	for _, m := range moves {
		if !slices.Contains(p.Family.Members(), m.Member) {
			return fault.New(fault.Invalid, "applying", m.String(), "the family has no member %q", m.Member)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxMoving)
	for _, m := range moves {
		group.Go(func() error {
			now, _, err := p.Registry.Repository(m.Member).Resolve(ctx, m.Tag.Tag)
			if err == nil && now.Digest != m.From && now.Digest != m.To.Digest {
				err = fault.New(fault.Conflict, "applying", m.String(), "the tag is at %q now", now.Digest).WithHint("plan again")
			}
			return err
		})
	}
	return group.Wait()
}
