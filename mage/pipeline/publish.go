package pipeline

import (
	"context"
	"maps"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Published is a record that is in the registry, with everything it names.
type Published struct {
	Record release.Record
	Node   graph.Node // the record's manifest in the metadata repository

	proved  Found             // its whole evidence, when this run has read and verified it already
	reports []evidence.Report // what this run found, when it built it
}

// Adopt finds the record of a source in the registry. A record that is there is what that
// commit released, on any machine: it is adopted and never rebuilt.
func (p *Pipeline) Adopt(ctx context.Context, src release.Source) (Published, bool, error) {
	metadata := p.metadata()
	node, found, err := metadata.Resolve(ctx, src.Tag())
	if !found || err != nil {
		return Published{}, false, err
	}
	record, err := ReadRecord(ctx, metadata, node)
	if err != nil {
		return Published{}, false, err
	}
	if record.Source.Tag() != src.Tag() || record.Family != p.Family.Name {
		return Published{}, false, fault.New(fault.Forged, "adopting", src.Tag(), "its record speaks of %s %s", record.Family, record.Source.Tag())
	}
	if err := record.Fits(p.Family); err != nil {
		return Published{}, false, fault.New(fault.Conflict, "adopting", src.Tag(), "its record is not of this family: %w", err).
			WithHint("the family file may have changed since: check that commit out; if it did not, somebody put the record there who may push")
	}
	record.Source.Ref = src.Ref
	return Published{Record: record, Node: node}, true, nil
}

// Publish pushes everything approved by digest, then creates the record: the commit point of
// publishing. A record that another run created first must be the same, or this one is refused.
func (p *Pipeline) Publish(ctx context.Context, a release.Approved) (Published, error) {
	if !a.Valid() {
		return Published{}, fault.New(fault.Refused, "publishing", p.Family.Name, "no gate approved it")
	}
	record := a.Built().Record
	members := record.Members()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		p.Progress.Start("publish", name)
		if err := p.Registry.Repository(name).CopyFrom(ctx, p.metered("publish", name), members[name]); err != nil {
			return Published{}, err
		}
		p.Progress.Done("publish", name, members[name].Digest.String())
	}
	content, err := record.Encode()
	if err != nil {
		return Published{}, err
	}
	node, err := pushArtifact(ctx, p.metadata(), release.RecordType, newLayer(release.RecordType, content, "record.json"), content)
	if err != nil {
		return Published{}, err
	}
	if _, err := p.metadata().TagImmutable(ctx, record.Source.Tag(), node); err != nil {
		return Published{}, err
	}
	return Published{Record: record, Node: node, reports: a.Reports()}, nil
}

// NameMembers derives every member's immutable tag from the record.
func (p *Pipeline) NameMembers(ctx context.Context, pub Published) (written int, err error) {
	members := pub.Record.Members()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		wrote, err := p.Registry.Repository(name).TagImmutable(ctx, pub.Record.Source.Tag(), members[name])
		if err != nil {
			return written, err
		}
		if wrote {
			written++
		}
	}
	return written, nil
}

// Restore brings what a record names back into the layout, so that a run on another machine can
// inspect it again.
func (p *Pipeline) Restore(ctx context.Context, pub Published, plan release.Plan) (release.Built, error) {
	for name, node := range pub.Record.Members() {
		if err := p.Layout.CopyFrom(ctx, p.Registry.Repository(name), node); err != nil {
			return release.Built{}, err
		}
	}
	return release.Built{Plan: plan, Record: pub.Record}, p.Dist.WriteRecord(pub.Record)
}

func (p *Pipeline) metadata() Repository {
	return p.Registry.Repository(p.Family.ArtifactOf(family.Metadata))
}

func pushArtifact(ctx context.Context, s graph.Store, artifactType string, layer graph.Node, content []byte) (graph.Node, error) {
	if _, err := graph.PushBytes(ctx, s, layer.MediaType, content); err != nil {
		return graph.Node{}, err
	}
	return graph.PackArtifact(ctx, s, artifactType, []graph.Node{layer}, nil)
}

// newLayer describes content under the file name that clients give it when they pull it.
func newLayer(mediaType string, content []byte, title string) graph.Node {
	layer := graph.NewNode(mediaType, content)
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	return layer
}

// RecordNode returns the manifest that a record has in the metadata repository.
func RecordNode(r release.Record) (graph.Node, error) {
	content, err := r.Encode()
	if err != nil {
		return graph.Node{}, err
	}
	manifest, err := graph.EncodeArtifact(release.RecordType, nil, []graph.Node{newLayer(release.RecordType, content, "record.json")}, nil)
	return graph.NewNode(ocispec.MediaTypeImageManifest, manifest), err
}

// ReadRecord reads the record that a manifest of the metadata repository holds.
func ReadRecord(ctx context.Context, s graph.Store, n graph.Node) (release.Record, error) {
	content, err := artifactContent(ctx, s, n, release.RecordType)
	if err != nil {
		return release.Record{}, err
	}
	return release.DecodeRecord(content)
}

// ReadDocument reads the channels document that a manifest of the metadata repository holds.
func ReadDocument(ctx context.Context, s graph.Store, n graph.Node) (release.Document, error) {
	artifactType, _ := family.Metadata.Types()
	content, err := artifactContent(ctx, s, n, artifactType)
	if err != nil {
		return release.Document{}, err
	}
	return release.DecodeDocument(content)
}

// artifactContent reads the one layer of an artifact of a known type.
func artifactContent(ctx context.Context, s graph.Store, n graph.Node, artifactType string) ([]byte, error) {
	m, err := graph.Manifest(ctx, s, n)
	if err != nil {
		return nil, err
	}
	if m.ArtifactType != artifactType || len(m.Layers) != 1 {
		return nil, fault.New(fault.Forged, "reading", n.Digest.String(), "it is %q with %d layers, want %q with one", m.ArtifactType, len(m.Layers), artifactType)
	}
	return graph.Fetch(ctx, s, m.Layers[0], graph.MaxManifest)
}
