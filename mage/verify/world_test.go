package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// familyFile declares so many images that build on the first one, and the three artifacts.
func familyFile(images int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `schema: 1
name: tiny
source: %s
bake: bake.hcl
platforms: [linux/amd64, linux/arm64]
os:
  image: debian@sha256:%s
  suite: bookworm
images:
  tiny-base: {}
`, widgetRepository, debian)
	for i := 1; i < images; i++ {
		fmt.Fprintf(&b, "  tiny-%d: {from: tiny-base}\n", i)
	}
	fmt.Fprintf(&b, `artifacts:
  tiny-payload: {kind: payload, path: p}
  tiny-installer: {kind: installer, path: i}
  tiny-metadata: {kind: metadata}
channels:
  dev: {gate: {severities: [], unscanned: allow, local-base: allow}}
trust:
  issuer: %s
  repository: %s
  repository-id: 4242
  owner-id: 77
  workflow: .github/workflows/release.yml
  ref: refs/heads/main
  runner: github-hosted
`, gitHubIssuer, widgetRepository)
	return b.String()
}

// world is a released family in a registry, signed by our instance, and how it is verified.
type world struct {
	fam      *family.Family
	registry worldRegistry
	record   release.Record
	recordAt graph.Node
	document release.Document
	node     graph.Node // the channels document
	verifier verify.Verifier
	trust    *verify.Trust
	now      time.Time
	host     string
	server   *detour
}

// plot is what somebody changes while the world is made. Its zero value makes an honest world.
type plot struct {
	images   int  // 0 means 2
	fallback bool // the registry has no referrers API
	record   func(*release.Record)
	document func(*release.Document)
	order    func(member, platform, predicate string, o *order)
	unsigned func(member, platform, predicate string) bool
	annotate func(predicate string) string                  // what an attachment says that it is
	sbom     func(member, platform, document string) string // that hangs there
	content  func(name string, fetch string) string         // a layer's content
	index    func([]graph.Node) []graph.Node                // what an index names, after the record was written
	base     string                                         // what the index of tiny-1 states that it was built on
	pins     func(member string, pins []evidence.Material)  // what provenance names as the subject's parts
	ghcr     bool                                           // the registry is GHCR, with GitHub's API beside it
	signer   pipeline.Signer                                // signs, instead of the forge
	policy   family.Policy                                  // what is then trusted
	root     []byte
	now      time.Time // of a signer whose clock is the true one
}

// worldRegistry gives the pipeline's port over the real registry client.
type worldRegistry struct{ client *registry.Client }

func (r worldRegistry) Repository(name string) pipeline.Repository {
	return worldRepository{must(r.client.Repo(name))}
}

type worldRepository struct{ *registry.Repository }

func (r worldRepository) Attach(ctx context.Context, subject graph.Node, artifactType string, content []byte, annotations map[string]string) error {
	_, _, err := r.Repository.Attach(ctx, subject, artifactType, registry.Layer{MediaType: artifactType, Content: content}, annotations)
	return err
}

func (r worldRepository) Referrers(ctx context.Context, subject graph.Node) ([]pipeline.Referrer, error) {
	listed, err := r.Repository.Referrers(ctx, subject)
	var out []pipeline.Referrer
	for _, x := range listed {
		out = append(out, pipeline.Referrer{Manifest: x.Node, ArtifactType: x.ArtifactType, Annotations: x.Annotations, Layers: x.Layers})
	}
	return out, err
}

// newWorld releases a family to a registry of its own.
func newWorld(tb testing.TB, p plot) *world {
	tb.Helper()
	if p.images == 0 {
		p.images = 2
	}
	handler := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(!p.fallback))
	if p.ghcr {
		handler = rehearsal.New(rehearsal.Options{BundlesApart: true})
	}
	if p.now.IsZero() {
		p.now = now
	}
	w := &world{now: p.now, server: &detour{next: handler}, trust: must(verify.ParseTrust(family.Public, ours().trustedRoot))}
	server := httptest.NewServer(w.server)
	tb.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	w.fam = must(family.Parse("tiny.yaml", []byte(familyFile(p.images))))
	w.registry = w.again()
	ctx := tb.Context()
	w.build(ctx, p)
	w.sign(ctx, p)
	w.name(ctx)
	w.verifier = verify.Verifier{Family: w.fam, Registry: w.registry, Trust: w.trust, Policy: w.fam.Policy("dev")}
	if p.signer != nil {
		w.verifier.Trust, w.verifier.Policy = must(verify.ParseTrust(p.policy.Instance, p.root)), p.policy
	}
	return w
}

func (w *world) build(ctx context.Context, p plot) {
	w.record = release.Record{
		Schema: 1, Family: "tiny", Source: release.Source{Commit: widgetCommit, Epoch: w.now.Add(-2 * time.Hour).UTC()},
		Images: map[string]release.Image{}, Artifacts: map[string]graph.Node{}, Tools: map[string]string{"buildkit": "v0.34.2"},
		Materials: []evidence.Material{{Name: "os", URI: "pkg:docker/debian", Digest: map[string]string{"sha256": debian}}},
	}
	for _, name := range w.fam.ImageNames() {
		image := release.Image{Platforms: map[string]graph.Node{}}
		var manifests []graph.Node
		for _, platform := range w.fam.Platforms {
			n := w.manifest(ctx, p, name, platform)
			manifests = append(manifests, n)
			image.Platforms[platform] = n
		}
		if p.index != nil {
			manifests = p.index(manifests)
		}
		notes := map[string]string{}
		if p.base != "" && name == "tiny-1" {
			notes[ocispec.AnnotationBaseImageDigest] = p.base
		}
		image.Index = must(graph.Assemble(ctx, w.registry.Repository(name), manifests, notes))
		w.record.Images[name] = image
	}
	for _, kind := range []family.Kind{family.Payload, family.Installer} {
		name := w.fam.ArtifactOf(kind)
		w.record.Artifacts[name] = w.artifact(ctx, name, kind, name)
	}
	if p.record != nil {
		p.record(&w.record)
	}
	w.recordAt = w.push(ctx, w.fam.ArtifactOf(family.Metadata), release.RecordType, release.RecordType, must(w.record.Encode()))
	members := map[string]digest.Digest{}
	for name, n := range w.record.Members() {
		members[name] = n.Digest
	}
	w.document = release.Document{
		Schema: 1, Family: "tiny", Generation: 7, Previous: digest.FromString("generation 6"), Issued: w.now.Add(-time.Hour).UTC(), Expires: w.now.Add(24 * time.Hour).UTC(),
		Channels: map[string]release.State{"dev": {
			Generation: 7, Commit: w.record.Source.Commit, Tag: w.record.Source.Tag(), Record: w.recordAt.Digest, Members: members,
			Moved: release.Moved{Action: release.Promoted, By: "alice", Run: "1", Reason: "release", At: w.now.Add(-time.Hour).UTC()},
		}},
	}
	if p.document != nil {
		p.document(&w.document)
	}
	w.putDocument(ctx)
}

func (w *world) putDocument(ctx context.Context) {
	artifact, layer := family.Metadata.Types()
	w.node = w.push(ctx, w.fam.ArtifactOf(family.Metadata), artifact, layer, must(w.document.Encode()))
}

// manifest pushes an image of one platform: the base's layer, and one of its own above it.
func (w *world) manifest(ctx context.Context, p plot, name, platform string) graph.Node {
	repo := w.registry.Repository(name)
	os, arch, _ := strings.Cut(platform, "/")
	config := must(graph.PushBytes(ctx, repo, ocispec.MediaTypeImageConfig, must(json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: os, Architecture: arch}, Author: name}))))
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config}
	m.SchemaVersion = 2
	for _, layer := range slices.Compact([]string{"tiny-base", name}) {
		content := layer + " " + platform
		if p.content != nil {
			content = p.content(name, content)
		}
		m.Layers = append(m.Layers, must(graph.PushBytes(ctx, repo, ocispec.MediaTypeImageLayerGzip, []byte(content))))
	}
	n := must(graph.PushBytes(ctx, repo, ocispec.MediaTypeImageManifest, must(json.Marshal(m))))
	n.Platform = &ocispec.Platform{OS: os, Architecture: arch}
	return n
}

func (w *world) artifact(ctx context.Context, name string, kind family.Kind, content string) graph.Node {
	artifact, layer := kind.Types()
	return w.push(ctx, name, artifact, layer, []byte(content))
}

func (w *world) push(ctx context.Context, member, artifactType, layerType string, content []byte) graph.Node {
	repo := w.registry.Repository(member)
	layer := must(graph.PushBytes(ctx, repo, layerType, content))
	return must(graph.PackArtifact(ctx, repo, artifactType, []graph.Node{layer}, nil))
}

// sign attests every claim of the release, and the channels document.
func (w *world) sign(ctx context.Context, p plot) {
	claims := release.Claims(w.fam, w.record, w.recordAt)
	claims = append(claims, release.Claim{Member: w.fam.ArtifactOf(family.Metadata), Subject: w.node, Predicate: evidence.Signature})
	group := errgroup.Group{}
	group.SetLimit(1)
	if p.signer != nil { // a log publishes once a second: all of them wait for it together
		group.SetLimit(len(claims))
	}
	for _, c := range claims {
		if p.unsigned == nil || !p.unsigned(c.Member, c.Platform, c.Predicate) {
			group.Go(func() error { w.attest(ctx, p, c); return nil })
		}
	}
	_ = group.Wait()
}

func (w *world) attest(ctx context.Context, p plot, c release.Claim) {
	repo := w.registry.Repository(c.Member)
	sbom := sbomOf(c.Subject.Digest, c.Member)
	o := order{}
	if p.order != nil {
		p.order(c.Member, c.Platform, c.Predicate, &o)
	}
	identity := honest().identity()
	if o.who != nil {
		identity = o.who.identity()
	}
	if p.signer != nil {
		identity = p.signer.Identity()
	}
	pins := w.record.Dependencies(w.fam, c)
	if p.pins != nil {
		p.pins(c.Member, pins)
	}
	predicate := map[string]any{
		evidence.Signature: struct{}{}, evidence.SBOM: json.RawMessage(sbom), evidence.Scan: reportOf(c.Member, c.Platform, c.Subject.Digest, sbom),
		evidence.Provenance: evidence.NewSLSA(identity, pins),
	}[c.Predicate]
	if o.payload == nil {
		o.payload = must(json.Marshal(must(evidence.NewStatement(c.Member, c.Subject.Digest, c.Predicate, predicate))))
	}
	annotations := map[string]string{evidence.BundleContent: "dsse-envelope", evidence.BundlePredicate: c.Predicate}
	if p.annotate != nil {
		annotations[evidence.BundlePredicate] = p.annotate(c.Predicate)
	}
	bundle := []byte(nil)
	if p.signer != nil {
		st := evidence.Statement{}
		_ = json.Unmarshal(o.payload, &st)
		bundle = must(p.signer.Sign(ctx, st)).JSON
	} else {
		bundle = ours().mint(o)
	}
	if err := repo.Attach(ctx, c.Subject, evidence.BundleType, bundle, annotations); err != nil {
		panic(err)
	}
	if c.Predicate == evidence.SBOM {
		if p.sbom != nil {
			sbom = p.sbom(c.Member, c.Platform, sbom)
		}
		if err := repo.Attach(ctx, c.Subject, evidence.SBOMType, []byte(sbom), nil); err != nil {
			panic(err)
		}
	}
}

// name gives everything its tags.
func (w *world) name(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(w.record.Members())) {
		w.tag(ctx, name, "dev", w.record.Members()[name])
		w.tag(ctx, name, w.record.Source.Tag(), w.record.Members()[name])
	}
	metadata := w.fam.ArtifactOf(family.Metadata)
	w.tag(ctx, metadata, w.record.Source.Tag(), w.recordAt)
	w.tag(ctx, metadata, release.ChannelsTag, w.node)
}

func (w *world) tag(ctx context.Context, member, tag string, to graph.Node) {
	repo := w.registry.Repository(member)
	from, _, err := repo.Resolve(ctx, tag)
	if err == nil && from.Digest != to.Digest {
		move := release.Move{From: from.Digest, To: to}
		move.Tag.Repo, move.Tag.Tag = repo.Name(), tag
		_, err = repo.MoveTag(ctx, move)
	}
	if err != nil {
		panic(err)
	}
}

// again opens the same registry anew, without what a client remembers.
func (w *world) again() worldRegistry {
	return worldRegistry{must(registry.New(w.host+"/tiny", registry.Options{Pause: time.Millisecond}))}
}

// export writes the evidence file of the world and opens it.
func (w *world) export(tb testing.TB) (*verify.File, []byte) {
	tb.Helper()
	var out bytes.Buffer
	if err := verify.Export(tb.Context(), &out, w.fam, w.registry); err != nil {
		tb.Fatal(err)
	}
	file, err := verify.OpenFile(bytes.NewReader(out.Bytes()))
	if err != nil {
		tb.Fatal(err)
	}
	return file, out.Bytes()
}
