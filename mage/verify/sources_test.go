package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// TestTheMatrix: who signs × where it is kept × with and without a network. The same code accepts
// all of it, and finds the same.
func TestTheMatrix(t *testing.T) {
	registries := []struct {
		name string
		plot plot
	}{
		{"a registry with the referrers API", plot{}},
		{"a registry without it", plot{fallback: true}},
		{"GHCR", plot{ghcr: true}},
	}
	for who, signedBy := range map[string]func(testing.TB, plot) plot{
		"GitHub's identity": func(_ testing.TB, p plot) plot { return p },
		"a key":             byKey,
		"this machine":      byThisMachine(t),
	} {
		for _, r := range registries {
			t.Run(who+" on "+r.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, signedBy(t, r.plot))
				online := w.verifier
				online.Registry = w.again()
				verifiesAll(t, w, &online)
				offline := w.verifier
				offline.Registry, _ = w.export(t)
				w.server.turn("", func(http.ResponseWriter, *http.Request) { t.Error("the network is used") })
				verifiesAll(t, w, &offline)
			})
		}
	}
}

// verifiesAll asks everything that there is to ask of a world.
func verifiesAll(t *testing.T, w *world, v *verify.Verifier) {
	t.Helper()
	r, err := v.Channel(t.Context(), "dev", w.now)
	if err != nil || r.Generation != 7 || r.Commit != widgetCommit || r.Digest != w.node.Digest || len(r.Checks) != 39 {
		t.Fatalf("%d checks of %s, generation %d: %v", len(r.Checks), r.Commit, r.Generation, err)
	}
	if names, err := v.Offered(t.Context()); err != nil || !slices.Equal(names, []string{"dev"}) {
		t.Errorf("Offered = %v, %v", names, err)
	}
	for _, at := range []string{"dev", w.record.Images["tiny-1"].Index.Digest.String()} {
		if r, err := v.Image(t.Context(), "tiny-1", at, w.now); err != nil || r.Commit != widgetCommit || len(r.Checks) != 12 {
			t.Errorf("Image(%s) = %d checks of %q, %v", at, len(r.Checks), r.Commit, err)
		}
	}
	if _, documents, err := v.SBOM(t.Context(), "tiny-1", "dev", w.now); err != nil || len(documents) != 2 {
		t.Errorf("%d SBOMs, %v", len(documents), err)
	}
}

func byKey(_ testing.TB, p plot) plot {
	key := newKey()
	p.signer = must(sigstore.NewKeySigner(privatePEM(key), nil, honest().identity()))
	p.policy = family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(key), Repository: widgetRepository, Ref: "refs/heads/main"}}
	return p
}

// byThisMachine starts a real Sigstore of its own, the one that local releases are signed by.
func byThisMachine(t *testing.T) func(testing.TB, plot) plot {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("the go command is not installed: the helper cannot be built")
	}
	helper := filepath.Join(t.TempDir(), "sigstore-local")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", helper, ".")
	build.Dir, build.Env = filepath.Join("..", "sigstore-local"), append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	// Its context outlives this function's, as the parallel subtests do.
	local := must(sigstore.StartLocal(context.WithoutCancel(t.Context()), helper, filepath.Join(t.TempDir(), "sigstore"), sigstore.Claims{
		Repository: widgetRepository, Ref: "refs/heads/main", Commit: widgetCommit, Workflow: "containai.yaml",
	}))
	t.Cleanup(func() { _ = local.Close() })
	return func(tb testing.TB, p plot) plot {
		p.signer = must(sigstore.NewSigner(tb.Context(), local.Services, sigstore.Options{}))
		p.policy = family.Policy{Instance: family.Local, Signer: sigstore.LocalSigner(widgetRepository)}
		p.now = time.Now().Truncate(time.Second)
		p.root = must(os.ReadFile(local.Services.TrustedRoot))
		return p
	}
}

func TestAVersionIsATagOfItsOwn(t *testing.T) {
	w := newWorld(t, plot{document: func(d *release.Document) { s := d.Channels["dev"]; s.Version = "v1.2.3"; d.Channels["dev"] = s }})
	if _, err := w.verifier.Channel(t.Context(), "dev", w.now); !errors.Is(err, verify.WrongTag) {
		t.Errorf("without the tag: %v, want WrongTag", err)
	}
	for member, n := range w.record.Members() {
		w.tag(t.Context(), member, "v1.2.3", n)
	}
	if _, err := w.verifier.Channel(t.Context(), "dev", w.now); err != nil {
		t.Error(err)
	}
}

// away is a world on GHCR whose provenance of one image is in GitHub's attestations API alone.
func away(t *testing.T) (*world, *verify.Verifier) {
	t.Helper()
	w := newWorld(t, plot{ghcr: true, unsigned: func(member, platform, predicate string) bool {
		return member == "tiny-1" && platform == "" && predicate == evidence.Provenance
	}})
	v := w.verifier
	v.Registry = w.again()
	v.Elsewhere = must(verify.Attestations("http://"+w.host, widgetRepository))
	return w, &v
}

// store gives a bundle to the API, as actions/attest does.
func (w *world) store(t *testing.T, bundle []byte) {
	t.Helper()
	body := must(json.Marshal(map[string]json.RawMessage{"bundle": bundle}))
	resp := must(http.Post("http://"+w.host+"/repos/acme/widget/attestations", "application/json", strings.NewReader(string(body))))
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("storing a bundle: %s", resp.Status)
	}
}

// provenanceOf is the honest statement that is missing in the registry, signed as an order says.
func (w *world) provenanceOf(o order, about digest.Digest) []byte {
	claim := release.Claim{Member: "tiny-1", Subject: w.record.Images["tiny-1"].Index, Predicate: evidence.Provenance}
	predicate := evidence.NewSLSA(honest().identity(), w.record.Dependencies(w.fam, claim))
	o.payload = must(json.Marshal(must(evidence.NewStatement("tiny-1", about, evidence.Provenance, predicate))))
	return ours().mint(o)
}

func TestWhatTheRegistryLacksIsLookedForElsewhere(t *testing.T) {
	w, v := away(t)
	index := w.record.Images["tiny-1"].Index.Digest
	_, err := v.Image(t.Context(), "tiny-1", "dev", w.now)
	refused(t, err, fault.Unverified, verify.Missing)
	evil := honest()
	onRef(&evil, "refs/heads/evil")
	w.store(t, w.provenanceOf(order{who: &evil}, index))
	_, err = v.Image(t.Context(), "tiny-1", "dev", w.now)
	refused(t, err, fault.Forged, sigstore.WrongIdentity)
	w.store(t, w.provenanceOf(order{}, index))
	if r, err := v.Image(t.Context(), "tiny-1", "dev", w.now); err != nil || len(r.Checks) != 12 {
		t.Errorf("%d checks, %v", len(r.Checks), err)
	}
	w.server.turn("", nil)
	if _, err := v.Channel(t.Context(), "dev", w.now); err != nil || w.server.calls("/attestations/") != 1 {
		t.Errorf("%d questions, %v", w.server.calls("/attestations/"), err)
	}
	v.Elsewhere = nil
	_, err = v.Image(t.Context(), "tiny-1", "dev", w.now)
	refused(t, err, fault.Unverified, verify.Missing)
}

func TestWhoDoesNotAnswerTakesNoRefusalBack(t *testing.T) {
	w, v := away(t)
	v.Elsewhere = must(verify.Attestations("http://127.0.0.1:1", widgetRepository))
	if _, err := v.Image(t.Context(), "tiny-1", "dev", w.now); !errors.Is(err, fault.Unavailable) {
		t.Errorf("the missing statement may be where nobody answers, and Image = %v", err)
	}
	v.Policy.Signer.Ref = "refs/heads/other"
	_, err := v.Image(t.Context(), "tiny-1", "dev", w.now)
	refused(t, err, fault.Forged, sigstore.WrongIdentity)
}

// elsewhere is something wrong with what GitHub keeps.
type elsewhere struct {
	row, name string
	kind      fault.Kind
	reason    verify.Reason
	change    func(*testing.T, *world)
}

func TestWrongAttestations(t *testing.T) {
	for _, f := range wrongAttestations() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			w, v := away(t)
			f.change(t, w)
			_, err := v.Image(t.Context(), "tiny-1", "dev", w.now)
			refused(t, err, f.kind, f.reason)
		})
	}
}

func wrongAttestations() []elsewhere {
	answer := func(serve http.HandlerFunc) func(*testing.T, *world) {
		return func(_ *testing.T, w *world) {
			w.server.turn("/attestations/"+w.record.Images["tiny-1"].Index.Digest.String(), serve)
		}
	}
	return []elsewhere{
		{"D4", "an attestation that GitHub lists for another digest than it is about", fault.Forged, sigstore.WrongSubject, func(t *testing.T, w *world) {
			stray := w.provenanceOf(order{}, digest.FromString("another"))
			answer(func(rw http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(rw, `{"attestations":[{"bundle":%s}]}`, stray)
			})(t, w)
		}},
		{"D6", "an attestation that GitHub's releases signed, which are no builds", fault.Forged, sigstore.WrongIdentity, func(t *testing.T, w *world) {
			other := honest()
			other.issuer = "https://dotcom.releases.github.com"
			w.store(t, w.provenanceOf(order{who: &other}, w.record.Images["tiny-1"].Index.Digest))
		}},
		{"D11", "attestations without end", fault.Unavailable, verify.Endless, answer(endlessly)},
		{"D11", "a flood of attestations", fault.Unavailable, verify.Endless, func(t *testing.T, w *world) {
			for range pipeline.MaxAttached + 1 {
				w.store(t, w.provenanceOf(order{}, w.record.Images["tiny-1"].Index.Digest))
			}
		}},
		{"D14", "an API that is down", fault.Unavailable, "", answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) })},
		{"D14", "an API that asks for patience", fault.Unavailable, "", answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusTooManyRequests) })},
	}
}

// A bundle that is listed and whose content the registry lost proves nothing, and spoils nothing that
// another proves.
func TestABundleThatIsGoneSpoilsNothing(t *testing.T) {
	w := newWorld(t, plot{})
	repo, subject := w.registry.Repository("tiny-1"), w.record.Images["tiny-1"].Index
	gone := graph.NewNode(evidence.BundleType, []byte("it was here"))
	must(graph.PushBytes(t.Context(), repo, ocispec.DescriptorEmptyJSON.MediaType, ocispec.DescriptorEmptyJSON.Data))
	must(graph.PushBytes(t.Context(), repo, ocispec.MediaTypeImageManifest, must(graph.EncodeArtifact(evidence.BundleType, &subject, []graph.Node{gone}, nil))))
	fresh := w.verifier
	fresh.Registry = w.again()
	attached, err := pipeline.Attachments(t.Context(), fresh.Registry.Repository("tiny-1"), subject, evidence.BundleType)
	if err != nil || len(attached.Unread) != 1 || len(attached.Bundles) == 0 {
		t.Fatalf("of %d bundles %d cannot be read, %v; want one", len(attached.Bundles), len(attached.Unread), err)
	}
	if _, err := fresh.Image(t.Context(), "tiny-1", "dev", w.now); err != nil {
		t.Errorf("disturbed: %v", err)
	}
}
