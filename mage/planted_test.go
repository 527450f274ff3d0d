package mage_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
)

// plantedKey opens nothing. It is put together here so that nothing finds it in the source.
func plantedKey() string { return "AKIA" + "2OGYBAH6STMMNXWQ" }

// TestF3APlantedSecretFailsTheGateAndNothingReachesTheRegistry releases the tiny family with a secret
// in one place of one image, as a user would, to the embedded registry behind an access log.
func TestF3APlantedSecretFailsTheGateAndNothingReachesTheRegistry(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	const host, both = "linux/amd64", "linux/amd64,linux/arm64"
	g := newGarden(t, "linux/amd64", "linux/arm64")
	tests := []struct {
		name, dockerfile, platforms string
		says                        []string
	}{
		{
			name: "in a layer, deleted in a later one", platforms: host,
			dockerfile: "FROM base\nUSER 0\nCOPY planted.txt /root/planted.txt\nRUN [\"/bin/rm\", \"/root/planted.txt\"]\n",
			says:       []string{"tiny linux/amd64: CRITICAL secret in root/planted.txt:2: ", "(aws-access-key-id)", "in layer sha256:", " of COPY planted.txt /root/planted.txt", "inherited from tiny by tiny-agent"},
		},
		{
			name: "in the environment", platforms: host,
			dockerfile: "FROM base\nENV NOTE=" + plantedKey() + "\n",
			says:       []string{"tiny linux/amd64: CRITICAL secret in config.json#/config/Env/", "tiny-agent linux/amd64: CRITICAL secret in config.json#/config/Env/"},
		},
		{
			name: "in the history", platforms: host,
			dockerfile: "FROM base\nUSER 0\nRUN [\"/bin/rm\", \"-f\", \"" + plantedKey() + "\"]\n",
			says:       []string{"tiny linux/amd64: CRITICAL secret in config.json#/history/"},
		},
		{
			name: "on arm64 alone", platforms: both,
			dockerfile: "FROM base AS on-amd64\nFROM base AS on-arm64\nCOPY planted.txt /opt/planted.txt\nFROM on-${TARGETARCH}\n",
			says:       []string{"1 findings and 0 other reasons", "tiny linux/arm64: CRITICAL secret in opt/planted.txt:2: "},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g.plant(t, test.dockerfile)
			out, err := g.mage(t, test.platforms, "release:dev")
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != int(fault.Refused) {
				t.Fatalf("release:dev = %v, want exit %d\n%s", err, fault.Refused, out)
			}
			for _, want := range append(test.says, "nothing was published") {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, plantedKey()) {
				t.Errorf("the output holds the secret:\n%s", out)
			}
			g.wantNoSecret(t)
			g.wantNoWrites(t)
		})
	}
	t.Run("F8 and what is waived is published, as the same log shows", func(t *testing.T) {
		g.waive(t, `{id: aws-access-key-id, path: opt/planted.txt, reason: it opens nothing, expires: 2099-01-01}`)
		g.plant(t, "FROM base\nCOPY planted.txt /opt/planted.txt\n")
		out, err := g.mage(t, host, "release:dev", "-until=publish")
		if err != nil || strings.Contains(out, "waives nothing") {
			t.Fatalf("release:dev: %v\n%s", err, out)
		}
		if len(g.log.writes()) == 0 {
			t.Error("the log shows no write of a release that was published")
		}
	})
}

// garden is a clone of the tiny family whose registry writes an access log.
type garden struct {
	familyClone
	registry string // host:port, behind the log
	log      *accessLog
}

// newGarden serves the embedded registry behind a log, with an operating system for the base in it
// that has a program and a package list and nothing else; smoke tests, which need a shell, are left out.
func newGarden(t *testing.T, platforms ...string) garden {
	t.Helper()
	state, err := local.OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { served.Close(); state.Close() })
	g := garden{familyClone: newFamilyClone(t), log: &accessLog{}}
	proxy := httptest.NewServer(g.log.before(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: served.Host})))
	t.Cleanup(proxy.Close)
	g.registry = strings.TrimPrefix(proxy.URL, "http://")

	file := filepath.Join(g.dir, "containai.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content = regexp.MustCompile(`(?m)^    smoke:\n(      - .*\n)+`).ReplaceAll(content, nil)
	content = regexp.MustCompile(`image: debian:.*`).ReplaceAll(content, []byte("image: "+bareSystem(t, served.Host, platforms)))
	content = bytes.ReplaceAll(content, []byte("tiny-base:\n"), []byte("tiny-base: {}\n"))
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return g
}

// waive adds a waiver to dev's gate.
func (g garden) waive(t *testing.T, waiver string) {
	t.Helper()
	file := filepath.Join(g.dir, "containai.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content = bytes.Replace(content, []byte("gate: {"), []byte("gate: {waivers: ["+waiver+"], "), 1)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// plant writes the Dockerfile of the image "tiny" and commits it.
func (g garden) plant(t *testing.T, dockerfile string) {
	t.Helper()
	app := filepath.Join(g.dir, "images", "app")
	files := map[string]string{"Dockerfile": dockerfile, "planted.txt": "two lines\nkey = " + plantedKey() + "\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(app, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"add", "-A"}, commitArgs("plant something")} {
		git := exec.Command("git", args...)
		git.Dir = g.dir
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

func (g garden) mage(t *testing.T, platforms string, args ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), g.binary, args...)
	c.Dir, c.Env = g.dir, append(os.Environ(), "CONTAINAI_PLATFORMS="+platforms, "CONTAINAI_REGISTRY="+g.registry+"/tiny")
	out, err := c.CombinedOutput()
	return string(out), err
}

// wantNoSecret looks through everything that a release leaves behind, but for the built images
// themselves and what BuildKit keeps of them.
func (g garden) wantNoSecret(t *testing.T) {
	t.Helper()
	seen := 0
	for _, root := range []string{"dist", ".containai"} {
		err := filepath.WalkDir(filepath.Join(g.dir, root), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "layout" || strings.HasPrefix(d.Name(), "buildkit")):
				return filepath.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			content, err := os.ReadFile(path)
			seen++
			if bytes.Contains(content, []byte(plantedKey())) {
				t.Errorf("%s holds the secret", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 20 {
		t.Errorf("only %d files were looked through", seen)
	}
}

func (g garden) wantNoWrites(t *testing.T) {
	t.Helper()
	if writes := g.log.writes(); len(writes) > 0 {
		t.Errorf("the registry was written to: %q", writes)
	}
	if len(g.log.lines) == 0 {
		t.Error("the log is empty: the registry was not even asked")
	}
}

// accessLog is what a registry was asked, one line a request.
type accessLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *accessLog) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.lines = append(l.lines, r.Method+" "+r.URL.Path)
		l.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (l *accessLog) writes() (writes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if !strings.HasPrefix(line, "GET ") && !strings.HasPrefix(line, "HEAD ") {
			writes = append(writes, line)
		}
	}
	return writes
}

// bareSystem pushes an image for some platforms and returns its pinned name.
func bareSystem(t *testing.T, host string, platforms []string) string {
	t.Helper()
	client, err := registry.New(host+"/system", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repo("os")
	if err != nil {
		t.Fatal(err)
	}
	var manifests []graph.Node
	for _, platform := range platforms {
		manifests = append(manifests, bareImage(t, repo, platform))
	}
	index, err := graph.Assemble(t.Context(), repo, manifests, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s@%s", repo.Name(), index.Digest)
}

func bareImage(t *testing.T, repo graph.Store, platform string) graph.Node {
	t.Helper()
	system, arch, _ := strings.Cut(platform, "/")
	layer := systemLayer(t, arch)
	config := ocispec.Image{Platform: ocispec.Platform{OS: system, Architecture: arch}, History: []ocispec.History{{CreatedBy: "a bare system"}}}
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", []digest.Digest{digest.FromBytes(layer)}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: pushValue(t, repo, ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{pushContent(t, repo, ocispec.MediaTypeImageLayer, layer)},
	}
	node := pushValue(t, repo, ocispec.MediaTypeImageManifest, manifest)
	node.Platform = &config.Platform
	return node
}

// systemLayer holds a package list, and a program that removes files.
func systemLayer(t *testing.T, arch string) []byte {
	t.Helper()
	dir := t.TempDir()
	source := "package main\n\nimport \"os\"\n\nfunc main() {\n\tfor _, path := range os.Args[1:] {\n\t\tos.Remove(path)\n\t}\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "rm.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", "rm", "rm.go")
	build.Dir, build.Env = dir, append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building rm: %v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "rm"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range []struct{ name, content string }{
		{"etc/os-release", "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n"},
		{"etc/debian_version", "12.5\n"},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"},
		{"var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nMaintainer: Nobody <nobody@localhost>\nArchitecture: " + arch + "\nVersion: 5.2.15-2\nDescription: a shell\n"},
		{"bin/rm", string(program)},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

func pushContent(t *testing.T, s graph.Store, mediaType string, content []byte) graph.Node {
	t.Helper()
	n, err := graph.PushBytes(t.Context(), s, mediaType, content)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pushValue(t *testing.T, s graph.Store, mediaType string, value any) graph.Node {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return pushContent(t, s, mediaType, content)
}
