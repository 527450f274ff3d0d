package mage_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ledger"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// shop is a signed family that was released twice, with ContainAI's own installer and the verifiers
// that a release builds: prod serves the first release, dev the second.
type shop struct {
	*signedFamily
	dir           string // of everything, by what it is
	host          string // of its registry
	login         auth.CredentialFunc
	script        string // the installer as the second release packed it
	root          string // the trusted root of its Sigstore
	first, second string // commits
	claims        sigstore.Claims
}

// newShop opens a shop at a registry, host:port; an empty one is the embedded.
func newShop(t *testing.T, host string, login auth.CredentialFunc) *shop {
	t.Helper()
	s := &shop{signedFamily: &signedFamily{}, dir: t.TempDir(), host: host, login: login, first: strings.Repeat("1", 40), second: strings.Repeat("2", 40)}
	content := strings.Replace(string(signedFamilyFile(2)), "\nchannels:\n", "\nchannels:\n  prod: {gate: {severities: [CRITICAL], unscanned: refuse, local-base: refuse}}\n", 1)
	s.fam = must(family.Parse("family.yaml", []byte(content)))
	script, err := os.ReadFile("../artifacts/installer/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"family.yaml": content, "installer/install.sh": string(script), "payload/bin/tiny": "#!/bin/sh\necho tiny\n"} {
		if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeProgram(t, s.path(name), content)
	}
	state := must(local.OpenState(s.path("state")))
	if host == "" {
		served := must(local.OpenRegistry(t.Context(), state))
		t.Cleanup(func() { _ = served.Close() })
		s.host = served.Host
	}
	books := must(ledger.OpenLocal(t.Context(), state.LedgerDir(), "refs/widget/channels"))
	s.publish(t, books, s.first, "prod")
	writeProgram(t, s.path("payload/bin/more"), "#!/bin/sh\necho more\n")
	s.publish(t, books, s.second, "dev")
	s.script = read(t, s.path("dist", s.second, "widget-installer.sh"))
	s.root = read(t, s.local.Services.TrustedRoot)
	return s
}

func (s *shop) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// publish releases a commit to a channel, as mage wires it but for the images and the clock.
func (s *shop) publish(t *testing.T, books *ledger.Ledger, commit, channel string) {
	t.Helper()
	s.signAs(t, sigstore.Claims{Repository: signedSource, Ref: "refs/heads/main", Commit: commit, Workflow: "family.yaml"})
	source := release.Source{Commit: commit, Ref: "refs/heads/main", Epoch: time.Unix(1_700_000_000, 0).UTC()}
	plan := must(release.NewPlan(s.fam, source, s.fam.Platforms))
	client := must(registry.New(s.host+"/widget", registry.Options{Credential: s.login}))
	layout := must(registry.OpenLayout(s.path("layout")))
	trust := must(verify.ParseTrust(family.Local, []byte(read(t, s.local.Services.TrustedRoot))))
	packer := mage.NewPacker(s.dir, s.path("family.yaml"), s.path("dist", commit), s.host+"/widget", layout)
	m := maker{layout}
	p := &pipeline.Pipeline{
		Family: s.fam, Layout: mage.NewLayoutPort(layout), Builder: m, Packer: packer, Inspect: m,
		Registry: must(mage.NewRegistryPort(client, s.fam.Members())), Signer: s.signer(s.local.Services),
		Verifier: anyMover{mage.NewTrustPort(trust, sigstore.LocalSigner(signedSource))},
		Ledger:   books, History: checkout{source}, Dist: mage.NewDist(s.dir, source), Progress: silence{}, Now: time.Now,
	}
	if _, err := p.Release(t.Context(), plan, pipeline.Order{Channel: channel, Until: pipeline.UntilPromote, Moved: release.Moved{By: "alice", Run: "1"}}); err != nil {
		t.Fatal(err)
	}
}

// anyMover lets whoever releases also move channels: there is one signer.
type anyMover struct{ pipeline.Verifier }

func (v anyMover) VerifyMover(bundle []byte, subject digest.Digest, _ string) (evidence.Statement, error) {
	return v.Verify(bundle, subject, "", "")
}

// signAs makes the shop's Sigstore, one root and one log, certify somebody with these claims.
func (s *shop) signAs(t *testing.T, claims sigstore.Claims) {
	t.Helper()
	if s.local != nil && s.claims == claims {
		return
	}
	if s.local != nil {
		if err := s.local.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := sigstore.StartLocal(context.Background(), sigstoreHelper(t), s.path("sigstore"), claims)
	if err != nil {
		t.Fatal(err)
	}
	s.local, s.claims = l, claims
}

// counter is the shop's registry, and what may go wrong on the way to it.
type counter struct {
	*shop
	t      *testing.T
	name   string                 // host:port/owner
	answer atomic.Pointer[answer] // changes an answer
	asked  atomic.Pointer[func()] // is called before each answer
	tokens atomic.Bool            // ask for anonymous tokens, as GHCR does
	behind http.Handler
}

// open opens the shop. What is published in it is taken back when the test ends.
func (s *shop) open(t *testing.T) *counter {
	t.Helper()
	c := &counter{shop: s, t: t}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.host})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients are killed on purpose
	c.behind = proxy
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.name = strings.TrimPrefix(server.URL, "http://") + "/widget"
	_, before := c.document()
	t.Cleanup(func() {
		if _, now := c.document(); now.Digest != before.Digest {
			c.show(now.Digest, before)
		}
	})
	return c
}

func (c *counter) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if asked := c.asked.Load(); asked != nil {
		(*asked)()
	}
	falsified := c.answer.Load()
	switch {
	case req.URL.Path == "/token":
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, bearer(req.URL.Query().Get("scope")))
	case c.tokens.Load() && req.Header.Get("Authorization") != "Bearer "+bearer(scope(req.URL.Path)):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q,scope=%q", "http://"+req.Host+"/token", req.Host, scope(req.URL.Path)))
		w.WriteHeader(http.StatusUnauthorized)
	case falsified != nil:
		seen := httptest.NewRecorder()
		c.behind.ServeHTTP(seen, req)
		if content := (*falsified)(req.URL.Path, seen.Body.Bytes()); content != nil {
			w.Header().Set("Content-Type", seen.Header().Get("Content-Type"))
			w.WriteHeader(seen.Code)
			_, _ = w.Write(content)
			return
		}
		http.NotFound(w, req)
	default:
		c.behind.ServeHTTP(w, req)
	}
}

// scope names the repository of a path, as the distribution's token specification wants it.
func scope(path string) string {
	repo, _, _ := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/manifests/")
	repo, _, _ = strings.Cut(repo, "/blobs/")
	return "repository:" + strings.ReplaceAll(repo, ":", "_") + ":pull"
}

// bearer is good for one scope.
func bearer(scope string) string { return base64.StdEncoding.EncodeToString([]byte(scope)) }

// answer is what the registry says to a path instead of what it would say; nil means 404.
type answer func(path string, content []byte) []byte

// falsify changes what the registry answers from now on.
func (c *counter) falsify(a answer) { c.answer.Store(&a) }

// flip changes one byte of every answer to paths with a part in them.
func flip[T ~string](part T) answer {
	return func(path string, content []byte) []byte {
		if !strings.Contains(path, string(part)) || len(content) == 0 {
			return content
		}
		content = bytes.Clone(content)
		content[len(content)/2] ^= 1
		return content
	}
}

// drop answers that there is nothing at paths with a part in them.
func drop(part string) answer {
	return func(path string, content []byte) []byte {
		if strings.Contains(path, part) {
			return nil
		}
		return content
	}
}

// member is the digest that dev serves of a member, layer that of its first layer.
func (c *counter) member(name string) digest.Digest {
	c.t.Helper()
	d, _ := c.document()
	return d.Channels["dev"].Members[name]
}

func (c *counter) layer(name string) digest.Digest {
	c.t.Helper()
	r, err := verify.OpenRegistry(c.host+"/widget", c.fam)
	if err != nil {
		c.t.Fatal(err)
	}
	node, found, err := r.Repository(name).ByDigest(context.Background(), c.member(name))
	if err != nil || !found {
		c.t.Fatalf("%s: %v, %v", name, found, err)
	}
	m, err := graph.Manifest(context.Background(), r.Repository(name), node)
	if err != nil {
		c.t.Fatal(err)
	}
	return m.Layers[0].Digest
}

// metadata is the repository of the channels document.
func (c *counter) metadata() pipeline.Repository {
	c.t.Helper()
	r, err := verify.OpenRegistry(c.host+"/widget", c.fam)
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Repository("widget-metadata")
}

// document is the channels document that is shown now.
func (c *counter) document() (release.Document, graph.Node) {
	c.t.Helper()
	node, found, err := c.metadata().Resolve(context.Background(), release.ChannelsTag)
	if err != nil || !found {
		c.t.Fatalf("channels: %v, %v", found, err)
	}
	d, err := pipeline.ReadDocument(context.Background(), c.metadata(), node)
	if err != nil {
		c.t.Fatal(err)
	}
	return d, node
}

// next shows a next channels document that says something else, signed by who releases.
func (c *counter) next(change func(*release.Document)) { c.signed(signedSource, change) }

// signed shows one that a workflow of some repository signed.
func (c *counter) signed(repository string, change func(*release.Document)) {
	c.t.Helper()
	d, before := c.document()
	d.Generation++
	d.Previous = before.Digest
	change(&d)
	content, err := d.Encode()
	if err != nil {
		c.t.Fatal(err)
	}
	artifactType, layerType := family.Metadata.Types()
	repo := c.metadata()
	layer, err := graph.PushBytes(context.Background(), repo, layerType, content)
	if err != nil {
		c.t.Fatal(err)
	}
	node, err := graph.PackArtifact(context.Background(), repo, artifactType, []graph.Node{layer}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := repo.Attach(context.Background(), node, evidence.BundleType, c.sign(repository, node.Digest), nil); err != nil {
		c.t.Fatal(err)
	}
	c.show(before.Digest, node)
}

// show moves the tag that consumers start from.
func (c *counter) show(from digest.Digest, to graph.Node) {
	c.t.Helper()
	repo := c.metadata()
	move := release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: release.ChannelsTag}, From: from, To: to}
	if _, err := repo.MoveTag(context.Background(), move); err != nil {
		c.t.Fatal(err)
	}
}

func (c *counter) sign(repository string, about digest.Digest) []byte {
	c.t.Helper()
	c.signAs(c.t, sigstore.Claims{Repository: repository, Ref: "refs/heads/main", Commit: c.second, Workflow: "family.yaml"})
	signer, err := c.signer(c.local.Services)(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	bundle, err := signer.Sign(context.Background(), must(evidence.NewStatement("widget-metadata", about, evidence.Signature, struct{}{})))
	if err != nil {
		c.t.Fatal(err)
	}
	return bundle.JSON
}

// artifact pushes a payload of somebody's own and returns its digest.
func (c *counter) artifact(kind family.Kind, content []byte) digest.Digest {
	c.t.Helper()
	client, err := registry.New(c.host+"/widget", registry.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	repo, err := client.Repo("widget-" + string(kind))
	if err != nil {
		c.t.Fatal(err)
	}
	artifactType, layerType := kind.Types()
	layer, err := graph.PushBytes(context.Background(), repo, layerType, content)
	if err != nil {
		c.t.Fatal(err)
	}
	node, err := graph.PackArtifact(context.Background(), repo, artifactType, []graph.Node{layer}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return node.Digest
}

func writeAll(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeProgram(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}
