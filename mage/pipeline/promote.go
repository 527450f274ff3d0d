package pipeline

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// Outcome is what a promotion did.
type Outcome struct {
	Channel    string
	Generation uint64
	Entry      release.Entry
	Moves      []release.Move // tags that were moved
	Moved      bool           // false: the channel served this release already
	Reports    []evidence.Report
}

// Promote moves a channel to what was published, as one thing: preconditions, the signed
// document, the ledger entry (the commit), the tags, and a second look.
func (p *Pipeline) Promote(ctx context.Context, pub Published, channel string, m release.Moved) (Outcome, error) {
	reports, err := p.admit(ctx, pub, channel)
	if err != nil {
		return Outcome{}, err
	}
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if err := p.forwards(ctx, head.Document.Channels[channel], pub.Record.Source, channel); err != nil {
		return Outcome{}, err
	}
	m.At = p.Now()
	next, moved, err := release.PlanMove(head.Document, previousOf(head), p.Family.Name, channel, pub.Candidate(), m)
	if err != nil {
		return Outcome{}, err
	}
	if moved {
		if head, err = p.commit(ctx, head, next, channel); err != nil {
			return Outcome{}, err
		}
	}
	moves, err := p.Reconcile(ctx, head)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Channel: channel, Generation: head.Document.Generation, Entry: head.Document.Entry(channel), Moves: moves, Moved: moved, Reports: reports}, nil
}

// admit checks what must be true before a channel may name a record: it is complete in the
// registry, all of its evidence verifies, and the channel's gate accepts the attested reports,
// which it returns.
func (p *Pipeline) admit(ctx context.Context, pub Published, channel string) ([]evidence.Report, error) {
	for name, node := range pub.Record.Members() {
		if err := complete(ctx, p.Registry.Repository(name), node); err != nil {
			return nil, fault.Wrap(err, fault.Refused, "admitting", name)
		}
	}
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	found, err := Collect(ctx, p.Registry, p.Verifier, claims, pub.Record.Source.Commit, p.refused)
	if err != nil {
		return nil, err
	}
	if missing := found.Missing(claims); len(missing) > 0 {
		c := missing[0]
		return nil, fault.New(fault.Unverified, "admitting", c.Member, "%d statements are missing, the first is %s of %s", len(missing), c.Predicate, c.Subject.Digest)
	}
	reports, err := found.Reports(claims)
	if err != nil {
		return nil, err
	}
	_, err = p.Approve(release.Evidenced{Built: release.Built{Record: pub.Record}, Reports: reports}, channel)
	return reports, err
}

// forwards refuses a commit that does not descend from what the channel serves.
func (p *Pipeline) forwards(ctx context.Context, served release.State, src release.Source, channel string) error {
	if served.Commit == "" || served.Commit == src.Commit {
		return nil
	}
	descends, err := p.History.Descends(ctx, src.Commit, served.Commit)
	if err != nil || descends {
		return err
	}
	return &fault.Error{Op: "moving", Subject: channel, Kind: fault.Conflict,
		Err:  fmt.Errorf("it serves %s, which is not an ancestor of %s", served.Commit, src.Commit),
		Hint: "a channel moves only forwards; release a commit that descends from the served one"}
}

// commit pushes and signs the document, then makes it the ledger's newest entry.
func (p *Pipeline) commit(ctx context.Context, head release.Head, next release.Document, channel string) (release.Head, error) {
	p.Progress.Start("promote", channel)
	content, err := next.Encode()
	if err != nil {
		return release.Head{}, err
	}
	node, err := p.pushDocument(ctx, content)
	if err != nil {
		return release.Head{}, err
	}
	signer, err := p.Signer(ctx)
	if err != nil {
		return release.Head{}, err
	}
	metadata := p.Family.ArtifactOf(family.Metadata)
	st, err := evidence.NewStatement(metadata, node.Digest, evidence.Signature, struct{}{})
	if err != nil {
		return release.Head{}, err
	}
	bundle, err := signer.Sign(ctx, st)
	if err != nil {
		return release.Head{}, err
	}
	if err := attachBundle(ctx, p.metadata(), node, bundle); err != nil {
		return release.Head{}, err
	}
	return p.Ledger.Append(ctx, head, content, next.Entry(channel).String())
}

// Reconcile derives every channel tag from the ledger: image repositories first, payload and
// installer next, the metadata artifact's own tags after them and `channels` last. It returns
// the tags it had to move; none when nothing drifted.
func (p *Pipeline) Reconcile(ctx context.Context, head release.Head) ([]release.Move, error) {
	if head.ID == "" {
		return nil, nil
	}
	document, err := p.pushDocument(ctx, head.Content)
	if err != nil {
		return nil, err
	}
	moves, err := p.planTags(ctx, head.Document, document)
	if err != nil {
		return nil, err
	}
	for i, m := range moves {
		if _, err := p.Registry.Repository(m.member).MoveTag(ctx, m.Move); err != nil {
			return nil, fault.Wrap(err, fault.Partial, fmt.Sprintf("moving tag %d of %d", i+1, len(moves)), m.member)
		}
		p.Progress.Done("promote", m.member, m.Tag.Tag+" → "+m.To.Digest.String())
	}
	return plainMoves(moves), nil
}

// PlanReconcile returns the moves that Reconcile would make, and makes none.
func (p *Pipeline) PlanReconcile(ctx context.Context, head release.Head) ([]release.Move, error) {
	if head.ID == "" {
		return nil, nil
	}
	document, err := documentNode(head.Content)
	if err != nil {
		return nil, err
	}
	moves, err := p.planTags(ctx, head.Document, document)
	return plainMoves(moves), err
}

type memberMove struct {
	release.Move
	member string
}

// planTags compares every tag that the document implies with what the registry shows.
func (p *Pipeline) planTags(ctx context.Context, d release.Document, document graph.Node) ([]memberMove, error) {
	var moves []memberMove
	want := func(member, tag string, to graph.Node) error {
		repo := p.Registry.Repository(member)
		now, found, err := repo.Resolve(ctx, tag)
		if err != nil || found && now.Digest == to.Digest {
			return err
		}
		m := release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: tag}, To: to}
		if found {
			m.From = now.Digest
		}
		moves = append(moves, memberMove{m, member})
		return nil
	}
	for _, member := range p.Family.Members() {
		for _, channel := range d.Names() {
			if to, ok := d.Channels[channel].Members[member]; ok {
				node, err := p.node(ctx, member, to)
				if err != nil {
					return nil, err
				}
				if err := want(member, channel, node); err != nil {
					return nil, err
				}
			}
		}
	}
	metadata := p.Family.ArtifactOf(family.Metadata)
	if err := want(metadata, release.GenerationTag(d.Generation), document); err != nil {
		return nil, err
	}
	for _, channel := range d.Names() {
		if d.Channels[channel].Generation == d.Generation {
			if err := want(metadata, channel, document); err != nil {
				return nil, err
			}
		}
	}
	return moves, want(metadata, release.ChannelsTag, document)
}

// pushDocument puts a document's manifest into the metadata repository unless it is there.
func (p *Pipeline) pushDocument(ctx context.Context, content []byte) (graph.Node, error) {
	node, err := documentNode(content)
	if err != nil {
		return graph.Node{}, err
	}
	there, err := p.metadata().Exists(ctx, node)
	if err != nil || there {
		return node, err
	}
	artifactType, layerType := family.Metadata.Types()
	return pushArtifact(ctx, p.metadata(), artifactType, newLayer(layerType, content, documentFile), content)
}

// documentFile is the name that clients give a channels document when they pull it.
const documentFile = "channels.json"

// documentNode returns the manifest that a document's bytes have.
func documentNode(content []byte) (graph.Node, error) {
	artifactType, layerType := family.Metadata.Types()
	manifest, err := graph.EncodeArtifact(artifactType, nil, []graph.Node{newLayer(layerType, content, documentFile)}, nil)
	return graph.NewNode(ocispec.MediaTypeImageManifest, manifest), err
}

// node finds the descriptor of a digest that a record or a document names.
func (p *Pipeline) node(ctx context.Context, member string, d digest.Digest) (graph.Node, error) {
	n, found, err := p.Registry.Repository(member).ByDigest(ctx, d)
	if err == nil && !found {
		err = fault.New(fault.Unverified, "resolving", member+"@"+d.String(), "the registry does not have it")
	}
	return n, err
}

// complete checks that a registry holds everything a node reaches.
func complete(ctx context.Context, s graph.Store, n graph.Node) error {
	there, err := s.Exists(ctx, n)
	if err != nil {
		return err
	}
	if !there {
		return fault.New(fault.Refused, "checking", n.Digest.String(), "the registry does not have it")
	}
	children, err := graph.Children(ctx, s, n)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := complete(ctx, s, child); err != nil {
			return err
		}
	}
	return nil
}

func previousOf(head release.Head) digest.Digest {
	if head.ID == "" {
		return ""
	}
	return digest.FromBytes(head.Content)
}

func plainMoves(moves []memberMove) []release.Move {
	out := make([]release.Move, len(moves))
	for i, m := range moves {
		out[i] = m.Move
	}
	return out
}
