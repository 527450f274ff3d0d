package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/containai/containai/mage/fault"
)

// mirror is a TUF repository with one key for everything and one target.
type mirror struct {
	key    ed25519.PrivateKey
	mu     sync.Mutex
	files  map[string][]byte
	url    string
	root   []byte
	broken bool
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{key: key, files: map[string][]byte{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		content, ok := m.files[r.URL.Path]
		switch {
		case m.broken:
			http.Error(w, "try later", http.StatusServiceUnavailable)
		case !ok:
			http.NotFound(w, r)
		default:
			_, _ = w.Write(content)
		}
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// publish makes a version of the repository that expires then.
func (m *mirror) publish(t *testing.T, version int64, expires time.Time, config []byte) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	public, err := metadata.KeyFromPublicKey(m.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	root := metadata.Root(time.Now().Add(24 * time.Hour))
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := root.Signed.AddKey(public, role); err != nil {
			t.Fatal(err)
		}
	}
	file, err := metadata.TargetFile().FromBytes(signingConfigTarget, config, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	targets := metadata.Targets(expires)
	targets.Signed.Version, targets.Signed.Targets = version, map[string]*metadata.TargetFiles{signingConfigTarget: file}
	snapshot := metadata.Snapshot(expires)
	snapshot.Signed.Version, snapshot.Signed.Meta["targets.json"] = version, metadata.MetaFile(version)
	timestamp := metadata.Timestamp(expires)
	timestamp.Signed.Version, timestamp.Signed.Meta["snapshot.json"] = version, metadata.MetaFile(version)
	m.root = sealed(t, m.key, root)
	m.files["/1.root.json"] = m.root
	m.files[fmt.Sprintf("/%d.targets.json", version)] = sealed(t, m.key, targets)
	m.files[fmt.Sprintf("/%d.snapshot.json", version)] = sealed(t, m.key, snapshot)
	m.files["/timestamp.json"] = sealed(t, m.key, timestamp)
	m.files["/targets/"+file.Hashes["sha256"].String()+"."+signingConfigTarget] = config
}

func sealed[T metadata.Roles](t *testing.T, key ed25519.PrivateKey, m *metadata.Metadata[T]) []byte {
	t.Helper()
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Sign(signer); err != nil {
		t.Fatal(err)
	}
	content, err := m.ToBytes(true)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestTheSigningConfigFollowsItsRepository(t *testing.T) {
	t.Parallel()
	m, later := newMirror(t), time.Now().Add(time.Hour)
	newer := bytes.ReplaceAll(publicServices, []byte("rekor.sigstore.dev"), []byte("log.example"))
	m.publish(t, 1, later, publicServices)
	updates := Updates{Cache: t.TempDir(), Mirror: m.url, Root: m.root}
	for version, want := range [][]byte{publicServices, newer} {
		m.publish(t, int64(version)+1, later, want)
		path, err := FetchSigningConfig(t.Context(), updates)
		if err != nil || !bytes.Equal(vector(t, path), want) {
			t.Errorf("version %d: %v", version+1, err)
		}
	}
}

func TestAnUpdateThatCannotBeTrustedIsRefused(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, m *mirror)
		want  fault.Kind
	}{
		"a server in trouble": {func(_ *testing.T, m *mirror) { m.broken = true }, fault.Unavailable},
		"another repository's key": {func(t *testing.T, m *mirror) {
			_, m.key, _ = ed25519.GenerateKey(rand.Reader)
			m.publish(t, 3, later, publicServices)
		}, fault.Forged},
		"D7 an older version": {func(t *testing.T, m *mirror) { m.publish(t, 1, later, publicServices) }, fault.Forged},
		"D8 an expired one":   {func(t *testing.T, m *mirror) { m.publish(t, 3, time.Now().Add(-time.Minute), publicServices) }, fault.Forged},
		"a target that was changed": {func(t *testing.T, m *mirror) {
			m.publish(t, 3, later, append(bytes.Clone(publicServices), '\n'))
			for path := range m.files {
				if bytes.Contains([]byte(path), []byte("/targets/")) {
					m.files[path] = append(bytes.Clone(publicServices), ' ')
				}
			}
		}, fault.Forged},
		"a target that is no signing config": {func(t *testing.T, m *mirror) { m.publish(t, 3, later, []byte(`{"mediaType":"text/plain"}`)) }, fault.Forged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			m.publish(t, 2, later, publicServices)
			updates := Updates{Cache: t.TempDir(), Mirror: m.url, Root: m.root}
			if _, err := FetchSigningConfig(t.Context(), updates); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, m)
			path, err := FetchSigningConfig(t.Context(), updates)
			if kind, _ := fault.KindOf(err); kind != c.want || path != "" {
				t.Errorf("FetchSigningConfig = %q, %v, want %v", path, err, c.want)
			}
		})
	}
}
