package mage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
	"github.com/containai/containai/mage/verify/legacy"
)

// The tests here have other makers' verifiers judge what a release signed: every statement about
// every index, platform manifest and artifact, and about the record and the channels document.
// Each is accepted, and each is refused for a twin: other content, with the same evidence hung on
// it, and the same again with its statements changed to speak about the twin.

// twin is a claim's subject in other bytes, and what hangs on it.
type twin struct {
	release.Claim
	bundles [][]byte
}

// statements is everything that a released family signed, the channels document's signature last.
func (f *signedFamily) statements(tb testing.TB) []release.Claim {
	tb.Helper()
	metadata := f.fam.ArtifactOf(family.Metadata)
	document, found, err := f.stages.Registry.Repository(metadata).Resolve(tb.Context(), release.ChannelsTag)
	if err != nil || !found {
		tb.Fatalf("resolving the channels document: %v, %v", found, err)
	}
	return append(f.claims(tb), release.Claim{Member: metadata, Subject: document, Predicate: evidence.Signature})
}

// at is how other tools call a claim's subject.
func (f *signedFamily) at(c release.Claim) string {
	return f.owner + "/" + c.Member + "@" + c.Subject.Digest.String()
}

// twinOf pushes the twin of a claim's subject with its evidence.
func (f *signedFamily) twinOf(tb testing.TB, c release.Claim) twin {
	tb.Helper()
	repo := f.stages.Registry.Repository(c.Member)
	content := must(graph.Fetch(tb.Context(), repo, c.Subject, graph.MaxManifest))
	evil := must(graph.PushBytes(tb.Context(), repo, c.Subject.MediaType, append(content, '\n')))
	t := twin{Claim: release.Claim{Member: c.Member, Platform: c.Platform, Subject: evil, Predicate: c.Predicate}}
	for _, good := range f.bundles(tb, c) {
		for _, b := range [][]byte{good, readdressed(tb, good, c.Subject.Digest, evil.Digest)} {
			err := repo.Attach(tb.Context(), evil, evidence.BundleType, b, map[string]string{
				evidence.BundleContent: "dsse-envelope", evidence.BundlePredicate: c.Predicate,
			})
			if err != nil {
				tb.Fatal(err)
			}
			t.bundles = append(t.bundles, b)
		}
	}
	return t
}

// readdressed changes whom the statement in a bundle is about.
func readdressed(tb testing.TB, content []byte, from, to digest.Digest) []byte {
	tb.Helper()
	var b map[string]any
	if err := json.Unmarshal(content, &b); err != nil {
		tb.Fatal(err)
	}
	envelope := b["dsseEnvelope"].(map[string]any)
	payload := must(base64.StdEncoding.DecodeString(envelope["payload"].(string)))
	changed := bytes.ReplaceAll(payload, []byte(from.Encoded()), []byte(to.Encoded()))
	if bytes.Equal(payload, changed) {
		tb.Fatalf("the statement is not about %s: %s", from, payload)
	}
	envelope["payload"] = base64.StdEncoding.EncodeToString(changed)
	return must(json.Marshal(b))
}

// TestSigstoreJSAcceptsWhatIsReleasedAndRefusesItsTwins has it judged by @sigstore/verify from npm,
// the one verifier here whose code is not sigstore-go's.
func TestSigstoreJSAcceptsWhatIsReleasedAndRefusesItsTwins(t *testing.T) {
	t.Parallel()
	js := installSigstoreJS(t)
	f := newSignedFamily(t, 2)
	f.release(t, pipeline.UntilPromote)
	dir := t.TempDir()
	write := func(c release.Claim, content []byte) string {
		path := filepath.Join(dir, digest.FromBytes(content).Encoded()[:16]+".json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return c.Subject.Digest.String() + "=" + path
	}
	var good, bad []string
	claims := f.statements(t)
	for _, c := range claims {
		bundles := f.bundles(t, c)
		if len(bundles) != 1 {
			t.Fatalf("%d bundles say %s of %s %s, want 1", len(bundles), c.Predicate, c.Member, c.Platform)
		}
		good = append(good, write(c, bundles[0]))
		w := f.twinOf(t, c)
		for _, b := range w.bundles {
			bad = append(bad, write(w.Claim, b))
		}
	}
	for i, verdict := range js.judge(t, f.local.Services.TrustedRoot, sigstore.LocalBuilder, good) {
		if verdict.Predicate != claims[i].Predicate {
			t.Errorf("%s of %s %s: %+v", claims[i].Predicate, claims[i].Member, claims[i].Platform, verdict)
		}
	}
	for i, verdict := range js.judge(t, f.local.Services.TrustedRoot, sigstore.LocalBuilder, bad) {
		if verdict.Refused == "" {
			t.Errorf("%s is accepted", bad[i])
		}
	}
	for i, verdict := range js.judge(t, f.local.Services.TrustedRoot, sigstore.LocalBuilder+"/fork", good[:1]) {
		if verdict.Refused == "" {
			t.Errorf("%s is accepted of another signer", good[i])
		}
	}
	t.Logf("%d statements accepted, %d tampered ones refused", len(good), len(bad))
}

// sigstoreJS is verify.mjs of testdata/peers-js, with its packages and the Node.js it asks for.
type sigstoreJS struct{ dir string }

// verdict is one line of verify.mjs.
type verdict struct{ Digest, Predicate, Refused string }

// installSigstoreJS installs what the lock file pins into the user's cache, once.
func installSigstoreJS(t *testing.T) sigstoreJS {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("npm is not installed")
		}
		t.Skip("npm is not installed: mage test installs it")
	}
	const from = "../testdata/peers-js"
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json", "verify.mjs"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%d:%s", len(content), content)
	}
	home := filepath.Join(must(os.UserCacheDir()), "containai", "peers-js-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := tool.Lock(t.Context(), home+".lock", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := os.Stat(home); err == nil {
		return sigstoreJS{home}
	}
	work := home + ".work"
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(work, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	c.Dir = work
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(work, home); err != nil {
		t.Fatal(err)
	}
	return sigstoreJS{home}
}

// run is verify.mjs over DIGEST=FILE pairs: what it prints, and whether it accepts them all.
func (js sigstoreJS) run(t *testing.T, root, signer string, pairs ...string) (stdout []byte, accepted bool, stderr string) {
	t.Helper()
	platform := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	node := filepath.Join(js.dir, "node_modules", "node-linux-"+platform, "bin", "node")
	args := append([]string{filepath.Join(js.dir, "verify.mjs"), root, sigstore.LocalIssuer, signer}, pairs...)
	var complaints bytes.Buffer
	c := exec.CommandContext(t.Context(), node, args...)
	c.Stderr = &complaints
	out, err := c.Output()
	return out, err == nil, complaints.String()
}

// judge is what verify.mjs says of each of DIGEST=FILE pairs.
func (js sigstoreJS) judge(t *testing.T, root, signer string, pairs []string) []verdict {
	t.Helper()
	out, succeeded, stderr := js.run(t, root, signer, pairs...)
	var verdicts []verdict
	accepted := true
	for line := range bytes.Lines(out) {
		var v verdict
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		verdicts, accepted = append(verdicts, v), accepted && v.Refused == ""
	}
	if len(verdicts) != len(pairs) || succeeded != accepted {
		t.Fatalf("node answered %d of %d:\n%s", len(verdicts), len(pairs), stderr)
	}
	return verdicts
}

// cosign is one version of it, built from a module of testdata.
type cosign struct {
	module string
	flags  []string // what this version needs to find bundles and their times

	keyFlags []string // the same where a key signed, without time
}

func cosigns() map[string]cosign {
	return map[string]cosign{
		"v2.6.5": {"../testdata/peers", []string{"--new-bundle-format", "--use-signed-timestamps"}, []string{"--new-bundle-format"}},
		"v3.1.3": {"../testdata/peers3", nil, nil},
	}
}

// install builds a module's tools into the user's cache and returns their directory.
func install(tb testing.TB, module string) string {
	tb.Helper()
	bin := filepath.Join(must(os.UserCacheDir()), "containai", filepath.Base(module))
	c := exec.CommandContext(tb.Context(), "go", "install", "tool")
	c.Dir, c.Env = module, append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := c.CombinedOutput(); err != nil {
		tb.Fatalf("building the tools of %s: %v\n%s", module, err, out)
	}
	return bin
}

// command is how a user asks cosign for a predicate, without the reference.
func (c cosign) command(root, signer, predicate string) []string {
	args := []string{"verify"}
	if predicate != evidence.Signature {
		kinds := map[string]string{evidence.Provenance: "slsaprovenance1", evidence.SBOM: "cyclonedx", evidence.Scan: evidence.Scan}
		args = []string{"verify-attestation", "--type", kinds[predicate]}
	}
	args = append(args, "--trusted-root", root, "--certificate-identity", signer, "--certificate-oidc-issuer", sigstore.LocalIssuer,
		"--allow-http-registry", "--allow-insecure-registry")
	return append(args, c.flags...)
}

// TestCosignAcceptsWhatIsReleasedAndRefusesItsTwins has it judged by both cosigns. Each takes four
// minutes to compile, so it belongs to testDeep.
func TestCosignAcceptsWhatIsReleasedAndRefusesItsTwins(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("compiling cosign takes minutes: mage testDeep runs it")
	}
	f := newSignedFamily(t, 2)
	f.release(t, pipeline.UntilPromote)
	root := f.local.Services.TrustedRoot
	claims := f.statements(t)
	twins := make([]twin, len(claims))
	for i, c := range claims {
		twins[i] = f.twinOf(t, c)
	}
	for version, c := range cosigns() {
		t.Run(version, func(t *testing.T) {
			program := filepath.Join(install(t, c.module), "cosign")
			run := func(signer string, claim release.Claim) ([]byte, error) {
				args := append(c.command(root, signer, claim.Predicate), f.at(claim))
				return exec.CommandContext(t.Context(), program, args...).CombinedOutput()
			}
			for i, claim := range claims {
				about := fmt.Sprintf("%s of %s %s", claim.Predicate, claim.Member, claim.Platform)
				if out, err := run(sigstore.LocalBuilder, claim); err != nil {
					t.Errorf("%s: %v\n%s", about, err, out)
				}
				if out, err := run(sigstore.LocalBuilder, twins[i].Claim); err == nil || !bytes.Contains(out, []byte("no matching")) {
					t.Errorf("%s is accepted for a twin:\n%s", about, out)
				}
			}
			if out, err := run(sigstore.LocalBuilder+"/fork", claims[0]); err == nil {
				t.Errorf("it is accepted of another signer:\n%s", out)
			}
			t.Logf("%d statements accepted, the same of as many twins refused", len(claims))
		})
	}
}

// TestACosignKeyPairSignsAndItsOldSignaturesAreRead has cosign make a key pair, releases with it,
// and has both cosigns verify with its public half. What cosign itself signs with it in the format
// before bundles is read by mage/verify/legacy.
func TestACosignKeyPairSignsAndItsOldSignaturesAreRead(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("compiling cosign takes minutes: mage testDeep runs it")
	}
	dir := t.TempDir()
	run := func(c cosign, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(install(t, c.module), "cosign"), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "COSIGN_PASSWORD=correct horse")
		return cmd.CombinedOutput()
	}
	succeed := func(c cosign, args ...string) {
		t.Helper()
		if out, err := run(c, args...); err != nil {
			t.Fatalf("cosign %v: %v\n%s", args, err, out)
		}
	}
	old := cosigns()["v2.6.5"]
	succeed(old, "generate-key-pair")
	public := string(must(os.ReadFile(filepath.Join(dir, "cosign.pub"))))
	f := newSignedFamily(t, 2)
	signer, err := sigstore.NewKeySigner(must(os.ReadFile(filepath.Join(dir, "cosign.key"))), []byte("correct horse"), evidence.Identity{
		BuilderID: sigstore.LocalBuilder, BuildType: evidence.LocalBuildType, Repository: signedSource,
		Ref: f.plan.Source.Ref, Commit: f.plan.Source.Commit, WorkflowPath: "family.yaml", InvocationID: "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := family.Policy{Instance: family.Key, Signer: family.Signer{Key: public, Repository: signedSource}}
	trust := must(verify.ParseTrust(family.Key, nil))
	f.stages.Signer = func(context.Context) (pipeline.Signer, error) { return signer, nil }
	f.stages.Verifier = mage.NewTrustPort(trust, policy.Signer)
	f.release(t, pipeline.UntilPromote)
	if err := os.WriteFile(filepath.Join(dir, "root.json"), []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	claim := f.claims(t)[0]
	evil := f.twinOf(t, claim)
	for version, c := range cosigns() {
		args := append([]string{"verify", "--key", "cosign.pub", "--trusted-root", "root.json", "--insecure-ignore-tlog", "--allow-http-registry"}, c.keyFlags...)
		succeed(c, append(args, f.at(claim))...)
		if out, err := run(c, append(args, f.at(evil.Claim))...); err == nil || !bytes.Contains(out, []byte("no matching")) {
			t.Errorf("cosign %s on a twin: %v\n%s", version, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "predicate.json"), must(json.Marshal(evidence.NewSLSA(signer.Identity(), nil))), 0o600); err != nil {
		t.Fatal(err)
	}
	offline := []string{"--key", "cosign.key", "--tlog-upload=false", "--yes", "--allow-http-registry"}
	succeed(old, append(append([]string{"sign"}, offline...), f.at(claim))...)
	succeed(old, append(append([]string{"attest", "--type", "slsaprovenance1", "--predicate", "predicate.json"}, offline...), f.at(claim))...)
	_, subject, err := ref.Parse(f.at(claim))
	if err != nil {
		t.Fatal(err)
	}
	found, err := legacy.Read(t.Context(), subject, trust, policy)
	if err != nil || found.Signatures != 1 || len(found.Attestations) != 1 || found.Attestations[0].PredicateType != evidence.Provenance {
		t.Errorf("legacy.Read = %+v, %v", found, err)
	}
}
