package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
)

// play is a role of this program as another process. It ends when it is killed.
func play(role, dir string) int {
	ctx := context.Background()
	s, err := local.OpenState(dir)
	if err != nil {
		return fail(err)
	}
	switch role {
	case "lock":
		if err := s.Lock(); err != nil {
			return fail(err)
		}
		fmt.Println("locked")
	case "serve":
		r, err := local.Serve(ctx, s, "127.0.0.1:0")
		if err != nil {
			return fail(err)
		}
		fmt.Println(r.Host)
	case "push": // is killed in the middle of a layer
		r, err := local.OpenRegistry(ctx, s)
		if err != nil {
			return fail(err)
		}
		repo, err := repository(r.Host)
		if err != nil {
			return fail(err)
		}
		half := &halfway{content: bytes.NewReader(layer[:len(layer)/2])}
		return fail(repo.Push(ctx, layerNode(), half))
	}
	select {}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func (c *child) pid() string { return strconv.Itoa(c.cmd.Process.Pid) }

// halfway gives half of a layer, says so, and then nothing more.
type halfway struct{ content io.Reader }

func (h *halfway) Read(p []byte) (int, error) {
	n, err := h.content.Read(p)
	if err == io.EOF {
		fmt.Println("halfway")
		select {}
	}
	return n, nil
}

var layer = func() []byte {
	b := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

func layerNode() ocispec.Descriptor {
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, layer)
}

func repository(host string) (*remote.Repository, error) {
	r, err := remote.NewRepository(host + "/family/app")
	if err == nil {
		r.PlainHTTP = true
	}
	return r, err
}

// release pushes an image with oras, as any client would, and pulls it again.
func release(t *testing.T, host string) {
	t.Helper()
	src := memory.New()
	if err := src.Push(t.Context(), layerNode(), bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	n, err := oras.PackManifest(t.Context(), src, oras.PackManifestVersion1_1, "application/vnd.example+json", oras.PackManifestOptions{
		Layers:              []ocispec.Descriptor{layerNode()},
		ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Tag(t.Context(), n, "v1"); err != nil {
		t.Fatal(err)
	}
	repo, err := repository(host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oras.Copy(t.Context(), src, "v1", repo, "v1", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	pulled, err := oras.Copy(t.Context(), repo, "v1", memory.New(), "v1", oras.DefaultCopyOptions)
	if err != nil || pulled.Digest != n.Digest {
		t.Fatalf("pulled %s, %v", pulled.Digest, err)
	}
}

func openRegistry(t *testing.T, s *local.State) *local.Registry {
	t.Helper()
	r, err := local.OpenRegistry(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestWhatIsPushedIsThereAfterARestart(t *testing.T) {
	s := openState(t, t.TempDir())
	r := openRegistry(t, s)
	release(t, r.Host)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	repo, err := repository(openRegistry(t, s).Host)
	if err != nil {
		t.Fatal(err)
	}
	if there, err := repo.Exists(t.Context(), layerNode()); !there || err != nil {
		t.Errorf("the layer is there: %v, %v", there, err)
	}
}

func TestAKilledPushIsHealedByPushingAgain(t *testing.T) {
	dir := t.TempDir()
	run(t, "push", dir).kill(t)
	left, err := filepath.Glob(filepath.Join(dir, "registry/docker/registry/v2/repositories/family/app/_uploads/*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the push left %v, %v", left, err)
	}
	s := openState(t, dir)
	release(t, openRegistry(t, s).Host)
	// A day later what the killed process left is gone, too.
	long := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(left[0], long, long); err != nil {
		t.Fatal(err)
	}
	openRegistry(t, s)
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old upload is still there: %v", err)
	}
}

func TestAReleaseUsesTheRegistryThatServesItsState(t *testing.T) {
	dir := t.TempDir()
	server := run(t, "serve", dir)
	s := openState(t, dir)
	r := openRegistry(t, s)
	if r.Host != server.line || r.ID != s.ID() {
		t.Fatalf("it uses %s, %s serves", r, server.line)
	}
	release(t, r.Host)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.Get("http://" + server.line + "/v2/"); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("closing stopped another process' registry: %v", err)
	}
	if _, err := local.Serve(t.Context(), s, "127.0.0.1:0"); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), server.pid()) {
		t.Errorf("serving the same state twice: %v", err)
	}
	if other := openRegistry(t, openState(t, t.TempDir())); other.Host == server.line {
		t.Error("another state uses it")
	}
	server.kill(t)
	if own := openRegistry(t, s); own.Host == server.line {
		t.Error("it believes a stale address")
	} else {
		release(t, own.Host)
	}
}

func TestAnImpostorOnAStaleAddressIsNotBelieved(t *testing.T) {
	s := openState(t, t.TempDir())
	impostor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Containai-Proof", req.Header.Get("Containai-Challenge"))
	}))
	defer impostor.Close()
	for _, addr := range []string{strings.TrimPrefix(impostor.URL, "http://"), "registry.example:80", "10.0.0.1:80", "", strings.Repeat("1", 99)} {
		if err := os.WriteFile(filepath.Join(s.Dir(), "registry.addr"), []byte(addr), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := openRegistry(t, s); r.Host == addr {
			t.Errorf("it believes %s", addr)
		}
	}
}

func TestServingAnnouncesItselfUntilItIsClosed(t *testing.T) {
	s := openState(t, t.TempDir())
	r, err := local.Serve(t.Context(), s, "[::1]:0")
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		r, err = local.Serve(t.Context(), s, "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	if used := openRegistry(t, s); used.Host != r.Host {
		t.Errorf("another uses %s, not %s", used.Host, r.Host)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ended); err != nil {
		t.Errorf("Wait = %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Wait after Close = %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "registry.addr")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address is still announced: %v", err)
	}
}

func TestTheRegistryListensOnFreeLoopbackPortsOnly(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := openState(t, t.TempDir())
	tests := map[string]fault.Kind{
		taken.Addr().String(): fault.Environment,
		"0.0.0.0:0":           fault.Invalid,
		":5555":               fault.Invalid,
		"[::]:0":              fault.Invalid,
		"192.0.2.1:5555":      fault.Invalid,
		"localhost:5555":      fault.Invalid,
		"127.0.0.1":           fault.Invalid,
		"":                    fault.Invalid,
	}
	for addr, kind := range tests {
		if r, err := local.Serve(t.Context(), s, addr); !errors.Is(err, kind) {
			t.Errorf("Serve(%q) = %v, %v", addr, r, err)
		}
	}
}

func TestAWebPageCannotReachTheRegistry(t *testing.T) {
	r := openRegistry(t, openState(t, t.TempDir()))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example" // a name that was pointed at 127.0.0.1
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("it answered %v, %v", resp, err)
	}
}

func TestAFullDiskIsRecognised(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can mount a small file system")
		}
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := openState(t, dir)
	r := openRegistry(t, s)
	repo, err := repository(r.Host)
	if err != nil {
		t.Fatal(err)
	}
	repo.Client = http.DefaultClient                                  // repeats nothing
	err = repo.Push(t.Context(), layerNode(), bytes.NewReader(layer)) // 8 MiB
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("Push = %v, want 507", err)
	}
}

func TestTheRegistryIsSilent(t *testing.T) {
	stderr, read := os.Stderr, make(chan []byte)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { os.Stderr = stderr }()
	os.Stderr = out
	go func() {
		said, _ := io.ReadAll(in)
		read <- said
	}()
	r := openRegistry(t, openState(t, t.TempDir()))
	release(t, r.Host)
	repo, err := repository(r.Host)
	if err != nil {
		t.Fatal(err)
	}
	repo.Exists(t.Context(), ocispec.Descriptor{Digest: digest.FromString("absent"), MediaType: ocispec.MediaTypeImageManifest})
	r.Close()
	out.Close()
	if said := <-read; len(said) > 0 {
		t.Errorf("it said %q", said)
	}
}

func BenchmarkStart(b *testing.B) {
	s, err := local.OpenState(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r, err := local.OpenRegistry(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
