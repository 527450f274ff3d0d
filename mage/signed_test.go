package mage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ledger"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// A signed family is released by the real pipeline into the embedded registry and a git ledger,
// with a Sigstore of this machine. Only building and scanning are left out: an image is a small
// layer on its parent's, so that what is timed and what others verify is the signing.
type signedFamily struct {
	fam    *family.Family
	plan   release.Plan
	owner  string // host:port/owner
	local  *sigstore.Local
	trust  *verify.Trust
	policy family.Policy
	stages *pipeline.Pipeline
}

const signedSource = "https://example.com/acme/widget"

// signedFamilyFile declares so many images, all on the first one, on two platforms.
func signedFamilyFile(images int) []byte {
	var b strings.Builder
	for i := 1; i < images; i++ {
		fmt.Fprintf(&b, "  widget-%d: {from: widget}\n", i)
	}
	return fmt.Appendf(nil, `schema: 1
name: widget
source: %s
bake: docker-bake.hcl
platforms: [linux/amd64, linux/arm64]
os: {image: "debian@sha256:%064d", suite: bookworm}
images:
  widget: {}
%sartifacts:
  widget-payload: {kind: payload, path: payload}
  widget-installer: {kind: installer, path: installer}
  widget-metadata: {kind: metadata}
channels:
  dev: {gate: {severities: [CRITICAL], unscanned: refuse, local-base: refuse}}
trust: {instance: local, issuer: %s, repository: %s, ref: refs/heads/main, builder: %s}
`, signedSource, 0, b.String(), sigstore.LocalIssuer, signedSource, sigstore.LocalBuilder)
}

// newSignedFamily makes the world; nothing is released yet.
func newSignedFamily(tb testing.TB, images int) *signedFamily {
	tb.Helper()
	f := &signedFamily{fam: must(family.Parse("family.yaml", signedFamilyFile(images)))}
	source := release.Source{Commit: strings.Repeat("1", 40), Ref: "refs/heads/main", Epoch: time.Unix(1_700_000_000, 0).UTC()}
	f.plan = must(release.NewPlan(f.fam, source, f.fam.Platforms))
	f.policy = family.Policy{Instance: family.Local, Signer: sigstore.LocalSigner(f.fam.Source)}
	f.startSigstore(tb)

	state := must(local.OpenState(filepath.Join(tb.TempDir(), "state")))
	served := must(local.OpenRegistry(tb.Context(), state))
	tb.Cleanup(func() { _ = served.Close() })
	f.owner = served.Host + "/widget"
	client := must(registry.New(f.owner, registry.Options{}))
	layout := must(registry.OpenLayout(filepath.Join(tb.TempDir(), "layout")))
	m := maker{layout}
	f.stages = &pipeline.Pipeline{
		Family: f.fam, Layout: mage.NewLayoutPort(layout), Builder: m, Packer: m, Inspect: m,
		Registry: must(mage.NewRegistryPort(client, f.fam.Members())),
		Signer:   f.signer(f.local.Services), Verifier: mage.NewTrustPort(f.trust, f.policy.Signer),
		Ledger: must(ledger.OpenLocal(tb.Context(), state.LedgerDir(), "refs/widget/channels")), History: checkout{source},
		Dist: mage.NewDist(tb.TempDir(), source), Progress: silence{}, Now: time.Now,
	}
	return f
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// startSigstore starts a Sigstore of its own for the family, which ends with the test.
func (f *signedFamily) startSigstore(tb testing.TB) {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "sigstore")
	f.local = startSigstore(tb, dir, sigstore.Claims{
		Repository: signedSource, Ref: f.plan.Source.Ref, Commit: f.plan.Source.Commit, Workflow: "family.yaml",
	})
	content, err := os.ReadFile(f.local.Services.TrustedRoot)
	if err != nil {
		tb.Fatal(err)
	}
	f.trust = must(verify.ParseTrust(family.Local, content))
}

func startSigstore(tb testing.TB, dir string, claims sigstore.Claims) *sigstore.Local {
	tb.Helper()
	l, err := sigstore.StartLocal(context.WithoutCancel(tb.Context()), sigstoreHelper(tb), dir, claims)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

// helperOnce is the helper as a release builds it, in the user's cache.
var helperOnce = sync.OnceValues(func() (string, error) {
	library, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	helper := tool.Program{Name: "sigstore-local", Version: "dev", Package: ".", Dir: filepath.Join(library, "mage", "sigstore-local")}
	return helper.Build(context.Background(), filepath.Join(cache, "containai", "programs"), nil)
})

func sigstoreHelper(tb testing.TB) string {
	tb.Helper()
	path, err := helperOnce()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// signer opens one signer for a run, as mage does.
func (f *signedFamily) signer(services sigstore.Services) func(context.Context) (pipeline.Signer, error) {
	var once sync.Mutex
	var opened *sigstore.Signer
	return func(ctx context.Context) (pipeline.Signer, error) {
		once.Lock()
		defer once.Unlock()
		if opened != nil {
			return opened, nil
		}
		s, err := sigstore.NewSigner(ctx, services, sigstore.Options{Attempts: 2, Pause: time.Millisecond})
		if err != nil {
			return nil, err
		}
		opened = s
		return s, nil
	}
}

func (f *signedFamily) release(tb testing.TB, until pipeline.Stage) pipeline.Result {
	tb.Helper()
	r, err := f.stages.Release(tb.Context(), f.plan, pipeline.Order{Channel: "dev", Until: until, Moved: release.Moved{By: "alice", Run: "1"}})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// claims is everything that must be proved about the release.
func (f *signedFamily) claims(tb testing.TB) []release.Claim {
	tb.Helper()
	pub, found, err := f.stages.Adopt(tb.Context(), f.plan.Source)
	if err != nil || !found {
		tb.Fatalf("adopting: %v, %v", found, err)
	}
	return release.Claims(f.fam, pub.Record, pub.Node)
}

// bundles are what hangs on a claim's subject and says what it claims.
func (f *signedFamily) bundles(tb testing.TB, c release.Claim) [][]byte {
	tb.Helper()
	repo := f.stages.Registry.Repository(c.Member)
	var found [][]byte
	for _, r := range must(repo.Referrers(tb.Context(), c.Subject)) {
		if r.Annotations[evidence.BundlePredicate] == c.Predicate {
			found = append(found, must(graph.Fetch(tb.Context(), repo, r.Layers[0], pipeline.MaxBundle)))
		}
	}
	return found
}

// maker builds images of one small layer on their parent's, and finds nothing wrong with them.
type maker struct{ layout *registry.Layout }

func (m maker) Build(ctx context.Context, p release.Plan, _ pipeline.Keep) (pipeline.Images, error) {
	out := pipeline.Images{Images: map[string]release.Image{}, Tools: map[string]string{"maker": "1"}, Materials: []evidence.Material{
		{Name: "os", URI: "pkg:docker/debian", Digest: map[string]string{"sha256": fmt.Sprintf("%064d", 0)}},
	}}
	for _, name := range p.Family.ImageNames() {
		image := release.Image{Platforms: map[string]graph.Node{}, Arguments: map[string]string{"FLAVOUR": "plain"}}
		var children []graph.Node
		for _, platform := range p.Platforms {
			n, err := m.manifest(ctx, p, name, platform)
			if err != nil {
				return out, err
			}
			children, image.Platforms[platform] = append(children, n), n
		}
		var err error
		if image.Index, err = graph.Assemble(ctx, m.layout, children, nil); err != nil {
			return out, err
		}
		out.Images[name] = image
	}
	return out, nil
}

func (m maker) manifest(ctx context.Context, p release.Plan, name, platform string) (graph.Node, error) {
	system, arch, _ := strings.Cut(platform, "/")
	config := ocispec.Image{Platform: ocispec.Platform{OS: system, Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	lineage := []string{name}
	for parent := p.Family.Images[name].From; parent != ""; parent = p.Family.Images[parent].From {
		lineage = append(lineage, parent)
	}
	slices.Reverse(lineage)
	for _, ancestor := range lineage {
		layer, err := graph.PushBytes(ctx, m.layout, ocispec.MediaTypeImageLayer, []byte(ancestor+" on "+platform+" of "+p.Source.Commit))
		if err != nil {
			return layer, err
		}
		manifest.Layers, config.RootFS.DiffIDs = append(manifest.Layers, layer), append(config.RootFS.DiffIDs, layer.Digest)
	}
	var err error
	if manifest.Config, err = m.push(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return graph.Node{}, err
	}
	n, err := m.push(ctx, manifest.MediaType, manifest)
	n.Platform = &config.Platform
	return n, err
}

func (m maker) push(ctx context.Context, mediaType string, document any) (graph.Node, error) {
	content, err := json.Marshal(document)
	if err != nil {
		return graph.Node{}, err
	}
	return graph.PushBytes(ctx, m.layout, mediaType, content)
}

func (maker) Smoke(context.Context, string, graph.Node, []family.Smoke) ([]evidence.SmokeResult, error) {
	return nil, nil // the family has no smoke tests
}

func (m maker) Pack(ctx context.Context, p release.Plan, images map[string]release.Image) (pipeline.Packed, error) {
	out := pipeline.Packed{Artifacts: map[string]graph.Node{}}
	for name, artifact := range p.Family.Artifacts {
		if artifact.Kind == family.Metadata {
			continue
		}
		artifactType, layerType := artifact.Kind.Types()
		layer, err := graph.PushBytes(ctx, m.layout, layerType, append(release.Profile("localhost/widget", p.Family.Name, p.Source, images), name...))
		if err != nil {
			return out, err
		}
		if out.Artifacts[name], err = graph.PackArtifact(ctx, m.layout, artifactType, []graph.Node{layer}, nil); err != nil {
			return out, err
		}
	}
	return out, nil
}

// Holds is true: there is one way to look.
func (maker) Holds(context.Context, evidence.Report) (bool, error) { return true, nil }

func (m maker) Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	var reports []evidence.Report
	for _, cell := range b.Record.Cells() {
		n, _ := b.Record.Digest(cell)
		sbom, err := m.SBOM(ctx, b, cell.Image, cell.Platform)
		if err != nil {
			return nil, err
		}
		reports = append(reports, evidence.Report{
			Cell: cell, Digest: n.Digest, Tools: map[string]string{"maker": "1"}, SBOM: digest.FromBytes(sbom), Packages: components,
			Secrets: evidence.Scanned, Vulnerabilities: evidence.Scanned, Smoke: []evidence.SmokeResult{}, Findings: []evidence.Finding{},
		})
	}
	return reports, nil
}

// components is about what a Debian base with an agent on it has.
const components = 120

func (maker) SBOM(_ context.Context, b release.Built, subject, platform string) ([]byte, error) {
	n, ok := b.Record.Digest(evidence.Cell{Image: subject, Platform: platform})
	if !ok {
		n = b.Record.Artifacts[subject]
	}
	var list []map[string]any
	for i := range components {
		name := fmt.Sprintf("lib%s-%d", subject, i)
		list = append(list, map[string]any{
			"type": "library", "name": name, "version": fmt.Sprintf("1.%d", i), "purl": "pkg:deb/debian/" + name,
			"licenses": []any{map[string]any{"license": map[string]string{"id": "MIT"}}},
		})
	}
	return json.Marshal(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": list,
		"metadata": map[string]any{"component": map[string]string{"type": "container", "name": subject, "version": n.Digest.String()}},
	})
}

// checkout is the repository that the release is made from, with one commit.
type checkout struct{ source release.Source }

func (c checkout) Read(context.Context) (release.Source, error)         { return c.source, nil }
func (checkout) Descends(context.Context, string, string) (bool, error) { return true, nil }
func (c checkout) Resolve(context.Context, string) (string, error)      { return c.source.Commit, nil }

// silence shows no progress.
type silence struct{}

func (silence) Start(stage, subject string)        {}
func (silence) Note(stage, subject, detail string) {}
func (silence) Done(stage, subject, detail string) {}
