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
// crane, oras, skopeo and cosign read it. They are built from testdata/peers, cosign alone in
// minutes, so it belongs to testDeep.
func TestOtherMakersToolsReadAndVerifyWhatWeReleased(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("building the peers takes minutes: mage testDeep runs it")
	}
	peers := buildPeers(t)
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
			wantType := fam.Artifacts[name].Kind
			if artifactType, _ := wantType.Types(); m.ArtifactType != artifactType {
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
	t.Run("cosign accepts the image and refuses a tampered copy", func(t *testing.T) {
		good := owner + "/tiny@" + strings.TrimSpace(string(output(t, peers+"/crane", "digest", "--insecure", owner+"/tiny:dev")))
		for _, args := range cosignChecks(f) {
			output(t, peers+"/cosign", append(args, good)...)
		}
		bad := f.tamper(t, owner)
		for _, args := range cosignChecks(f) {
			if out, err := exec.CommandContext(t.Context(), peers+"/cosign", append(args, bad)...).CombinedOutput(); err == nil {
				t.Errorf("cosign %v accepted a tampered copy:\n%s", args[0], out)
			}
		}
	})
}

// cosignChecks are the command lines that verify a release with the exported trust root, without the reference.
func cosignChecks(f familyClone) [][]string {
	trust := []string{
		"--trusted-root", filepath.Join(f.dir, ".containai", "sigstore", "trusted_root.json"),
		"--certificate-identity", sigstore.LocalBuilder, "--certificate-oidc-issuer", sigstore.LocalIssuer,
		"--new-bundle-format", "--use-signed-timestamps", "--allow-http-registry", "--allow-insecure-registry",
	}
	return [][]string{
		append([]string{"verify"}, trust...),
		append([]string{"verify-attestation", "--type", "slsaprovenance1"}, trust...),
	}
}

// buildPeers builds the tools of testdata/peers into the user's cache.
func buildPeers(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(cache, "containai", "peers")
	c := exec.CommandContext(t.Context(), "go", "install", "tool")
	c.Dir, c.Env = "../testdata/peers", append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=readonly")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the peers: %v\n%s", err, out)
	}
	return bin
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

func output(t *testing.T, program string, args ...string) []byte {
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
