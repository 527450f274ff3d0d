package pipeline

import (
	"bytes"
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// documentFile is the name that clients give a channels document when they pull it.
const documentFile = "channels.json"

// parcel is a channels document on its way to the metadata repository, with what that lacks of it.
type parcel struct {
	node     graph.Node
	manifest []byte
	there    bool // nothing is to be sent
	blobs    []blob
}

type blob struct {
	graph.Node
	content []byte
}

// lookForDocument finds out what the metadata repository lacks of a document.
func (p *Pipeline) lookForDocument(ctx context.Context, content []byte) (parcel, error) {
	artifactType, layerType := family.Metadata.Types()
	manifest, err := graph.EncodeArtifact(artifactType, nil, []graph.Node{newLayer(layerType, content, documentFile)}, nil)
	if err != nil {
		return parcel{}, err
	}
	d := parcel{node: graph.NewNode(ocispec.MediaTypeImageManifest, manifest), manifest: manifest}
	blobs := []blob{{graph.NewNode(layerType, content), content}, {ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data}}
	found := make([]bool, len(blobs))
	group, each := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		d.there, err = p.metadata().Exists(each, d.node)
		return err
	})
	for i, b := range blobs {
		group.Go(func() (err error) {
			found[i], err = p.metadata().Exists(each, b.Node)
			return err
		})
	}
	err = group.Wait()
	for i, b := range blobs {
		if !found[i] {
			d.blobs = append(d.blobs, b)
		}
	}
	return d, err
}

// send sends what is lacking, the manifest last.
func (p *Pipeline) send(ctx context.Context, d parcel) error {
	if d.there {
		return nil
	}
	group, each := errgroup.WithContext(ctx)
	for _, b := range d.blobs {
		group.Go(func() error { return p.metadata().Push(each, b.Node, bytes.NewReader(b.content)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return p.metadata().Push(ctx, d.node, bytes.NewReader(d.manifest))
}

// pushDocument puts a document's manifest into the metadata repository unless it is there.
func (p *Pipeline) pushDocument(ctx context.Context, content []byte) error {
	d, err := p.lookForDocument(ctx, content)
	if err != nil {
		return err
	}
	return p.send(ctx, d)
}

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

// maxLooking bounds the nodes that are looked for at a time.
const maxLooking = 64

// complete checks that the registry holds everything a record's members reach.
func (p *Pipeline) complete(ctx context.Context, r release.Record) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxMoving)
	looking := make(chan struct{}, maxLooking)
	for name, node := range r.Members() {
		group.Go(func() error {
			return fault.Wrap(present(ctx, looking, p.Registry.Repository(name), node), fault.Refused, "admitting", name)
		})
	}
	return group.Wait()
}

// present looks for a node and everything below it, all at once.
func present(ctx context.Context, looking chan struct{}, s graph.Store, n graph.Node) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		looking <- struct{}{}
		defer func() { <-looking }()
		there, err := s.Exists(ctx, n)
		if err == nil && !there {
			err = fault.New(fault.Refused, "checking", n.Digest.String(), "the registry does not have it")
		}
		return err
	})
	children, err := graph.Children(ctx, s, n)
	if err != nil {
		_ = group.Wait()
		return err
	}
	for _, child := range children {
		group.Go(func() error { return present(ctx, looking, s, child) })
	}
	return group.Wait()
}
