package mage_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/sigstore"
)

// TestOtherMakersToolsReadAndVerifyWhatWeReleased serves a release with local:serve and lets
// crane, oras, skopeo and both cosigns read it, as docs/verification.md says. They are built from
// testdata/peers and testdata/peers3, each cosign in minutes, so it belongs to testDeep.
func TestOtherMakersToolsReadAndVerifyWhatWeReleased(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("building the peers takes minutes: mage testDeep runs it")
	}
	peers := install(t, cosigns()["v2.6.5"].module)
	f := newFamilyClone(t)
	f.release(t)
	owner := f.serve(t) + "/tiny"
	fam := f.family(t)

	for _, name := range fam.Members() {
		ref := owner + "/" + name + ":dev"
		t.Run("crane, oras and skopeo read "+name, func(t *testing.T) {
			manifest := output(t, peers+"/crane", "manifest", "--insecure", ref)
			var m struct{ MediaType, ArtifactType string }
			if err := json.Unmarshal(manifest, &m); err != nil {
				t.Fatal(err)
			}
			if artifactType, _ := fam.Artifacts[name].Types(); m.ArtifactType != artifactType {
				t.Errorf("crane sees artifact type %q, want %q", m.ArtifactType, artifactType)
			}
			raw := output(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref)
			if digest.FromBytes(raw) != digest.FromBytes(manifest) {
				t.Error("skopeo and crane read different manifests")
			}
			for _, subject := range subjects(t, owner+"/"+name, manifest) {
				found := output(t, peers+"/oras", "discover", "--plain-http", "--format", "json", subject)
				if !strings.Contains(string(found), evidence.BundleType) {
					t.Errorf("oras discovers no bundle on %s:\n%s", subject, found)
				}
			}
		})
	}
	t.Run("oras pulls the payload", func(t *testing.T) {
		into := t.TempDir()
		output(t, peers+"/oras", "pull", "--plain-http", "-o", into, owner+"/tiny-payload:dev")
		pulled, err := os.ReadFile(filepath.Join(into, "tiny-payload.tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		packed, err := os.ReadFile(filepath.Join(f.dir, "dist", "latest", "tiny-payload.tar.gz"))
		if err != nil || digest.FromBytes(pulled) != digest.FromBytes(packed) {
			t.Errorf("what oras pulled is not what was packed: %v", err)
		}
	})
	good := owner + "/tiny@" + strings.TrimSpace(string(output(t, peers+"/crane", "digest", "--insecure", owner+"/tiny:dev")))
	wantShown(t, "docs/verification.md", "oras discover --plain-http $REF", output(t, peers+"/oras", "discover", "--plain-http", good))
	bad := f.tamper(t, owner)
	root := filepath.Join(f.dir, ".containai", "sigstore", "trusted_root.json")
	t.Run("sigstore-js accepts what cosign downloads", func(t *testing.T) {
		downloaded := output(t, peers+"/cosign", "download", "attestation", "--predicate-type", evidence.Provenance, good)
		bundle := filepath.Join(t.TempDir(), "bundle.json")
		if err := os.WriteFile(bundle, downloaded, 0o600); err != nil {
			t.Fatal(err)
		}
		_, of, _ := strings.Cut(good, "@")
		printed, accepted, stderr := installSigstoreJS(t).run(t, root, sigstore.LocalBuilder, of+"="+bundle)
		if !accepted {
			t.Errorf("sigstore-js refuses it: %s%s", printed, stderr)
		}
		wantShown(t, "docs/verification.md", "node testdata/peers-js/verify.mjs .containai/sigstore/trusted_root.json https://containai.internal/oidc https://containai.internal/builders/local/v1 ${REF#*@}=bundle.json", printed)
	})
	for version, c := range cosigns() {
		t.Run("cosign "+version+" accepts the image and refuses a tampered copy", func(t *testing.T) {
			program := filepath.Join(install(t, c.module), "cosign")
			for _, predicate := range []string{evidence.Signature, evidence.Provenance} {
				args := c.command(root, sigstore.LocalBuilder, predicate)
				printed, err := exec.CommandContext(t.Context(), program, append(args, good)...).CombinedOutput()
				if err != nil {
					t.Errorf("%s is refused: %v", predicate, err)
				}
				wantShown(t, "docs/verification.md", "cosign verify-attestation --type slsaprovenance1 $TRUST $REF", printed)
				if out, err := exec.CommandContext(t.Context(), program, append(args, bad)...).CombinedOutput(); err == nil {
					t.Errorf("%s is accepted of a tampered copy:\n%s", predicate, out)
				}
			}
		})
	}
}

// serve runs local:serve until the test ends and returns its address.
func (f familyClone) serve(t *testing.T) string {
	t.Helper()
	c := exec.CommandContext(context.WithoutCancel(t.Context()), f.binary, "local:serve", "-addr=127.0.0.1:0")
	c.Dir = f.dir
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if host, ok := strings.CutPrefix(lines.Text(), "registry: "); ok {
			return host
		}
	}
	t.Fatalf("local:serve did not say where it serves: %v", lines.Err())
	return ""
}

// tamper pushes a changed index to the image's repository, with the evidence of the good one.
func (f familyClone) tamper(t *testing.T, owner string) string {
	t.Helper()
	var evil graph.Node
	f.change(t, func(repo *registry.Repository) {
		var good graph.Node
		good, evil = f.spoil(t, repo, "dev")
		referrers, err := repo.Referrers(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range referrers {
			bundle, err := graph.Fetch(t.Context(), repo, r.Layers[0], 32<<20)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := repo.Attach(t.Context(), evil, r.ArtifactType, registry.Layer{MediaType: r.ArtifactType, Content: bundle}, r.Annotations); err != nil {
				t.Fatal(err)
			}
		}
	})
	return owner + "/tiny@" + evil.Digest.String()
}

// subjects returns a manifest and, for an index, its platform manifests, by digest.
func subjects(t *testing.T, repo string, manifest []byte) []string {
	t.Helper()
	var index struct{ Manifests []graph.Node }
	if err := json.Unmarshal(manifest, &index); err != nil {
		t.Fatal(err)
	}
	out := []string{repo + "@" + digest.FromBytes(manifest).String()}
	for _, m := range index.Manifests {
		out = append(out, repo+"@"+m.Digest.String())
	}
	return out
}

func output(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	if err != nil {
		stderr := ""
		if exit, ok := err.(*exec.ExitError); ok {
			stderr = string(exit.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, stderr)
	}
	return out
}
