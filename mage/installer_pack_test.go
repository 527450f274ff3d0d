package mage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/release"
)

// maxVerifier is how large a verifier may get, in bytes.
const maxVerifier = 30 << 20

func TestTheVerifierIsTheSameBytesFromTwoDirectories(t *testing.T) {
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "elsewhere")
	copySource(t, here, there)
	for _, platform := range verifierPlatforms() {
		t.Run(platform, func(t *testing.T) {
			var sums [2][sha256.Size]byte
			for i, dir := range []string{here, there} {
				binary, err := verifierProgram(dir, platform).Build(t.Context(), t.TempDir(), nil)
				if err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(binary)
				if err != nil {
					t.Fatal(err)
				}
				if len(content) > maxVerifier {
					t.Errorf("it has %d bytes, at most %d", len(content), maxVerifier)
				}
				isStatic(t, binary, platform)
				sums[i] = sha256.Sum256(content)
				t.Logf("%s: %d bytes, sha256:%x", dir, len(content), sums[i])
			}
			if sums[0] != sums[1] {
				t.Error("the same source in two directories makes two programs")
			}
		})
	}
}

// copySource copies what this module's programs are compiled from.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "dist" || d.Name() == "testdata" || d.Name() == "sigstore-local" || name != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case name != "go.mod" && name != "go.sum" && !strings.HasPrefix(name, "mage"):
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// isStatic holds that a program needs no loader, and runs where it says.
func isStatic(t *testing.T, binary, platform string) {
	t.Helper()
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	if f.Machine != machines[platform] {
		t.Errorf("it is for %s", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it asks for a dynamic loader")
		}
	}
}

// packedInstaller packs ContainAI's installer with verifiers that only say where they run.
func packedInstaller(t *testing.T, change func(*packer)) (string, ocispec.Manifest, release.Record) {
	t.Helper()
	layout, err := registry.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := packer{
		root: "..", familyFile: "../containai.yaml", dist: dir, public: "ghcr.io/containai", layout: layout,
		verifier: func(_ context.Context, platform string) (string, error) {
			file := filepath.Join(dir, strings.ReplaceAll(platform, "/", "-"))
			return file, os.WriteFile(file, []byte(platform), 0o755)
		},
	}
	if change != nil {
		change(&p)
	}
	packed, err := p.Pack(t.Context(), release.Plan{Family: containaiFamily(t), Source: release.Source{Commit: strings.Repeat("1", 40)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	node := packed.Artifacts["containai-installer"]
	m, err := graph.Manifest(t.Context(), layout, node)
	if err != nil {
		t.Fatal(err)
	}
	script, err := graph.Fetch(t.Context(), layout, m.Layers[0], 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(script), m, release.Record{Artifacts: packed.Artifacts, Verifiers: packed.Verifiers}
}

func TestTheInstallerCarriesItsVerifiersAndWhomToTrust(t *testing.T) {
	script, m, record := packedInstaller(t, nil)
	artifactType, scriptType := family.Installer.Types()
	if m.ArtifactType != artifactType || len(m.Layers) != 3 || m.Layers[0].MediaType != scriptType {
		t.Fatalf("manifest = %+v", m)
	}
	deps := record.Dependencies(containaiFamily(t), release.Claim{Member: "containai-installer"})
	for i, platform := range verifierPlatforms() {
		layer, want := m.Layers[i+1], digest.FromString(platform)
		if layer.MediaType != "application/vnd.containai.verifier.v1" || layer.Annotations[platformAnnotation] != platform || layer.Digest != want {
			t.Errorf("layer %d = %+v, want the verifier for %s", i+1, layer, platform)
		}
		if !strings.Contains(script, "\nverifier_"+strings.TrimPrefix(platform, "linux/")+"="+want.String()+"\n") {
			t.Errorf("the script does not name the verifier for %s", platform)
		}
		if len(deps) != 2 || deps[i].Digest["sha256"] != want.Encoded() || !strings.Contains(deps[i].URI, "goarch="+strings.TrimPrefix(platform, "linux/")) {
			t.Errorf("provenance will name %+v", deps)
		}
	}
	if payload := record.Dependencies(containaiFamily(t), release.Claim{Member: "containai-payload"}); len(payload) != 0 {
		t.Errorf("the payload's provenance would name %+v", payload)
	}
	trusted, err := os.ReadFile("../containai.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if printed := runPacked(t, script, "family_file"); !bytes.Equal(printed, trusted) {
		t.Errorf("family_file prints\n%s", printed)
	}
	if printed := runPacked(t, script, "policy_file; root_file; echo $needs_root"); string(printed) != "no\n" {
		t.Errorf("of a public release the script carries %q", printed)
	}
}

func TestTheInstallerOfThisMachinesReleasesAsksForItsRoot(t *testing.T) {
	script, _, _ := packedInstaller(t, func(p *packer) { p.loopback = true })
	if printed := runPacked(t, script, "policy_file; root_file; echo $needs_root"); string(printed) != "instance: local\nyes\n" {
		t.Errorf("the script carries %q", printed)
	}
	root := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, []byte(`{"a":"'$(id)"}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script, _, _ = packedInstaller(t, func(p *packer) { p.loopback, p.authorities.root = true, root })
	if printed := runPacked(t, script, "policy_file; root_file; echo $needs_root"); string(printed) != `{"a":"'$(id)"}`+"\nno\n" {
		t.Errorf("the script carries %q", printed)
	}
}

// runPacked runs commands after the part of a script that its release filled in.
func runPacked(t *testing.T, script, commands string) []byte {
	t.Helper()
	head, _, ok := strings.Cut(script, "\nusage() {")
	if !ok {
		t.Fatal("the script has no usage")
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", head+"\n"+commands).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAFileThatWouldEndItselfIsNotPacked(t *testing.T) {
	for _, content := range []string{endOfFile, "a\n" + endOfFile + "\nrm -rf /\n", "a\x00b"} {
		if got, err := hereDocument("f", content); err == nil {
			t.Errorf("%q became %q", content, got)
		}
	}
	got, err := hereDocument("f", "$a `b` \\ "+endOfFile+"\n")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", got+"f").Output(); err != nil || string(out) != "$a `b` \\ "+endOfFile+"\n" {
		t.Errorf("it prints %q, %v", out, err)
	}
}

func TestShellcheckFindsNothing(t *testing.T) {
	program, err := exec.LookPath("shellcheck")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	packed := filepath.Join(t.TempDir(), "packed.sh")
	script, _, _ := packedInstaller(t, nil)
	if err := os.WriteFile(packed, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "--shell=sh", packed, "../artifacts/installer/install.sh", "../artifacts/payload/bin/containai-update").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestARecordWithoutVerifiersReadsAsBefore(t *testing.T) {
	content, err := json.Marshal(release.Record{})
	if err != nil || bytes.Contains(content, []byte("erifiers")) {
		t.Errorf("%s, %v", content, err)
	}
}
