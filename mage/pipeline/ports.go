// Package pipeline runs a release: Build → Inspect → Approve → Publish → Attest → Promote.
//
// Each stage takes the value that the stage before returned, and each is a postcondition: it
// looks at what is there and does only what is missing, so that a killed release is continued by
// running it again. What a stage needs from outside it declares here as a port.
//
// Invariant, the write order: content before manifests; the record before any tag of a member;
// evidence before any channel name; the ledger entry before any channel tag; the metadata
// artifact's channels tag last.
package pipeline

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// Layout is the local OCI layout that holds built content before it is published.
type Layout interface {
	graph.Store
	// Complete reports whether everything that n reaches is there with its size and digest.
	Complete(ctx context.Context, n graph.Node) (bool, error)
	CopyFrom(ctx context.Context, src graph.Store, root graph.Node) error
}

// Builder builds every image of a plan into a layout, and runs commands inside what it built.
type Builder interface {
	// Build asks keep, if there is one, what need not be built.
	Build(ctx context.Context, p release.Plan, keep Keep) (Images, error)
	Smoke(ctx context.Context, platform string, n graph.Node, tests []family.Smoke) ([]evidence.SmokeResult, error)
}

// Images is what a builder made, and from what.
type Images struct {
	Images    map[string]release.Image
	Materials []evidence.Material
	Tools     map[string]string
	LocalBase bool
}

// Packer makes the payload and the installer, which pin the images, into the layout.
type Packer interface {
	Pack(ctx context.Context, p release.Plan, images map[string]release.Image) (Packed, error)
}

// Packed is what a packer made, and what it put into the installer.
type Packed struct {
	Artifacts map[string]graph.Node
	Verifiers []evidence.Material
}

// Inspector writes an SBOM of every cell and of the payload, and reports on every cell.
type Inspector interface {
	Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error)
	// SBOM returns the CycloneDX document of a cell, or of an artifact by its name.
	SBOM(ctx context.Context, b release.Built, subject string, platform string) ([]byte, error)
	// Holds reports whether today's tools and vulnerability database are those that made a report.
	Holds(ctx context.Context, r evidence.Report) (bool, error)
}

// Registry holds the family's repositories.
type Registry interface {
	Repository(name string) Repository
}

// Repository is one member's repository.
type Repository interface {
	graph.Store
	Name() ref.Repo
	Resolve(ctx context.Context, tag string) (n graph.Node, found bool, err error)
	Tags(ctx context.Context) ([]string, error)
	ByDigest(ctx context.Context, d digest.Digest) (n graph.Node, found bool, err error)
	CopyFrom(ctx context.Context, src graph.Store, root graph.Node) error
	TagImmutable(ctx context.Context, tag string, n graph.Node) (written bool, err error)
	MoveTag(ctx context.Context, m release.Move) (written bool, err error)
	Attach(ctx context.Context, subject graph.Node, artifactType string, content []byte, annotations map[string]string) error
	Referrers(ctx context.Context, subject graph.Node) ([]Referrer, error)
	// Settle looks once more at what was attached, and lists again what another writer lost.
	Settle(ctx context.Context) error
}

// Referrer is evidence in a registry: what its own manifest says of itself.
type Referrer struct {
	Manifest     graph.Node
	ArtifactType string
	Annotations  map[string]string
	Layers       []graph.Node
}

// Signer signs statements as one identity.
type Signer interface {
	Sign(ctx context.Context, st evidence.Statement) (evidence.Bundle, error)
	Identity() evidence.Identity
}

// Verifier checks a bundle about a subject against the trust of a channel and returns what it says;
// without a channel, against that of any. The signer must have worked from the commit; an empty commit
// accepts any, as for channels documents. It fails with fault.Forged when the bundle does not verify.
type Verifier interface {
	Verify(bundle []byte, subject digest.Digest, commit, channel string) (evidence.Statement, error)
	// VerifyMover accepts a statement of who may move the channel, and nobody else's.
	VerifyMover(bundle []byte, subject digest.Digest, channel string) (evidence.Statement, error)
}

// Archive keeps bundles beside the registry, for those who ask there: what GitHub knows of a digest.
type Archive interface {
	// Lacking returns those bundles about a subject that the archive does not keep.
	Lacking(ctx context.Context, subject digest.Digest, bundles [][]byte) ([][]byte, error)
	// Store stores those that it does not keep, and returns how many.
	Store(ctx context.Context, subject digest.Digest, bundles [][]byte) (stored int, err error)
}

// Enduring is a Verifier that knows how long signatures count.
type Enduring interface {
	// Enduring is the same verifier, to which a signature is too old already when it soon will be.
	Enduring() Verifier
}

// Ledger is the compare-and-swap that commits a channel move.
type Ledger interface {
	Head(ctx context.Context) (release.Head, error)
	Append(ctx context.Context, after release.Head, content []byte, message string) (release.Head, error)
	History(ctx context.Context) iter.Seq2[release.Head, error] // newest first
}

// History is the repository that the release is made from.
type History interface {
	Read(ctx context.Context) (release.Source, error)
	Descends(ctx context.Context, commit, ancestor string) (bool, error)
	// Resolve returns the commit that a beginning of one means.
	Resolve(ctx context.Context, rev string) (string, error)
}

// Progress receives what happens. Stage and subject identify a line; done ends it.
type Progress interface {
	Start(stage, subject string)
	Note(stage, subject, detail string)
	Done(stage, subject, detail string)
}

// Pipeline releases one family. Every field is required that does not say otherwise.
type Pipeline struct {
	Family   *family.Family
	Layout   Layout // not required where nothing is built
	Builder  Builder
	Packer   Packer
	Inspect  Inspector
	Registry Registry
	Signer   func(ctx context.Context) (Signer, error) // asked only when something has to be signed
	Verifier Verifier
	Ledger   Ledger
	History  History
	Dist     Dist
	Progress Progress
	Now      func() time.Time
	Anew     bool    // build every image, also those whose inputs did not change; not required
	Archive  Archive // nil: the registry alone holds the evidence

	past bool // it judges what was done: what the family file denied since then was not denied yet
}

// Dist keeps a release's files under dist/<commit>/: the build's record and what is written for
// people.
type Dist interface {
	ReadRecord() (release.Record, bool, error)
	WriteRecord(r release.Record) error
	WriteReports(reports []evidence.Report) error
	// ReadReports returns what an earlier job found in exactly this record, where its word was kept.
	ReadReports(r release.Record) (reports []evidence.Report, found bool, err error)
}
