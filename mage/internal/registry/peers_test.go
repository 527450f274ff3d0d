package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/rehearsal"
)

// TestOtherMakersToolsReadWhatWasPushed lets crane, oras and skopeo read an index of two platforms
// with evidence on it that this package alone has pushed: they see its digest, take all of it home
// unchanged, and oras finds the evidence.
func TestOtherMakersToolsReadWhatWasPushed(t *testing.T) {
	deep(t)
	bin := peers(t, "peers", "github.com/google/go-containerregistry/cmd/crane", "oras.land/oras/cmd/oras")
	skopeo := hostProgram(t, "skopeo")

	for _, host := range []struct {
		name string
		open func(t *testing.T) string
	}{
		{"the embedded registry", embedded},
		{"go-containerregistry's registry", func(t *testing.T) string { return serve(t, withoutAPI()) }},
		{"the rehearsal of GHCR", func(t *testing.T) string { return serve(t, rehearsal.New(rehearsal.Options{})) }},
	} {
		t.Run(host.name, func(t *testing.T) {
			repository := repo(t, client(t, host.open(t)), "app")
			root, evidence := pushWithEvidence(t, repository)
			tagged := repository.Name().String() + ":dev"

			for _, reader := range []struct {
				name   string
				digest func() string
				fetch  func(into string) // what the tag names, whole, to an OCI layout
			}{
				{"crane",
					func() string { return run(t, bin+"/crane", "digest", "--insecure", tagged) },
					func(into string) { run(t, bin+"/crane", "pull", "--insecure", "--format=oci", tagged, into) }},
				{"oras",
					func() string { return run(t, bin+"/oras", "resolve", "--plain-http", tagged) },
					func(into string) {
						run(t, bin+"/oras", "cp", "--from-plain-http", "--to-oci-layout", "--no-tty", tagged, into+":dev")
					}},
				{"skopeo",
					func() string {
						return digest.FromString(run(t, skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+tagged)).String()
					},
					func(into string) {
						run(t, skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
							"--dest-oci-accept-uncompressed-layers", "docker://"+tagged, "oci:"+into+":dev")
					}},
			} {
				t.Run(reader.name, func(t *testing.T) {
					if got := strings.TrimSpace(reader.digest()); got != root.Digest.String() {
						t.Errorf("it sees %s, pushed was %s", got, root.Digest)
					}
					into := t.TempDir()
					reader.fetch(into)
					layout, err := registry.OpenLayout(into)
					if err != nil {
						t.Fatal(err)
					}
					if err := registry.Verify(t.Context(), layout, root); err != nil {
						t.Errorf("what it took home is not what was pushed: %v", err)
					}
				})
			}
			t.Run("oras discovers the evidence", func(t *testing.T) {
				subject := repository.Name().String() + "@" + root.Digest.String()
				got := decodeDiscovered(t, run(t, bin+"/oras", "discover", "--plain-http", "--format=json", subject))
				if diff := cmp.Diff(evidence, got); diff != "" {
					t.Errorf("attached and discovered differ (-attached +discovered):\n%s", diff)
				}
			})
		})
	}
}

// discovered is a referrer as oras prints it.
type discovered struct {
	Digest       string `json:"digest"`
	ArtifactType string `json:"artifactType"`
}

// pushWithEvidence pushes an index of two platforms, names it dev, and hangs two documents on it.
func pushWithEvidence(t *testing.T, r *registry.Repository) (root graph.Node, evidence []discovered) {
	t.Helper()
	src := memory.New()
	root = image(t, src, 7)
	if err := r.CopyFrom(t.Context(), src, root); err != nil {
		t.Fatal(err)
	}
	if _, err := r.MoveTag(t.Context(), move(r, "dev", "", root)); err != nil {
		t.Fatal(err)
	}
	for _, artifactType := range []string{sbomType, proofType} {
		document := registry.Layer{MediaType: artifactType, Content: []byte(`{"of":"` + artifactType + `"}`)}
		n, _, err := r.Attach(t.Context(), root, artifactType, document, nil)
		if err != nil {
			t.Fatal(err)
		}
		evidence = append(evidence, discovered{n.Digest.String(), artifactType})
	}
	return root, sorted(evidence)
}

func decodeDiscovered(t *testing.T, out string) []discovered {
	t.Helper()
	var answer struct{ Referrers []discovered }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("oras printed %q: %v", out, err)
	}
	return sorted(answer.Referrers)
}

func sorted(all []discovered) []discovered {
	slices.SortFunc(all, func(a, b discovered) int { return strings.Compare(a.Digest, b.Digest) })
	return all
}

// deep skips a test that belongs to mage testDeep.
func deep(t *testing.T) {
	t.Helper()
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("it takes minutes, or programs of other makers: mage testDeep runs it")
	}
}

// peers builds programs of other makers from a module below testdata, at the versions it pins,
// into the user's cache, and returns their directory.
func peers(tb testing.TB, module string, programs ...string) (bin string) {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	bin = filepath.Join(cache, "containai", "peers")
	c := exec.CommandContext(tb.Context(), "go", append([]string{"install"}, programs...)...)
	c.Dir = filepath.Join("..", "..", "..", "testdata", module)
	c.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=readonly")
	if out, err := c.CombinedOutput(); err != nil {
		lacking(tb, "building %v: %v\n%s", programs, err, out)
	}
	return bin
}

// hostProgram returns a program of the host; root on Debian gets it installed.
func hostProgram(tb testing.TB, name string) string {
	tb.Helper()
	if err := tool.EnsureHost(tb.Context(), []tool.Need{{Binary: name, Package: name}}, func(line string) { tb.Log(line) }); err != nil {
		lacking(tb, "%v", err)
	}
	return tool.Find(name)
}

// lacking skips what cannot run on this machine; in CI everything must.
func lacking(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// run returns what a program prints, and ends the test with what it complains of.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := try(t.Context(), program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try returns what a program prints, or an error with what it complains of.
func try(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return string(out), nil
}
