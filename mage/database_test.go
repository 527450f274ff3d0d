package mage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/rehearsal"
)

// entry is one file of a packed database; size says so many bytes, where it is not the content's.
type entry struct {
	name, content string
	size          int64
}

// sound is a database as Trivy's makers publish it: made two hours before the rehearsal's time.
func sound() []entry {
	return []entry{
		{name: "trivy.db", content: "advisories"},
		{name: "metadata.json", content: metadata(2, rehearsal.Epoch().Add(-2*time.Hour), rehearsal.Epoch().Add(-time.Hour))},
	}
}

func metadata(schema int, made, next time.Time) string {
	return fmt.Sprintf(`{"Version":%d,"UpdatedAt":%q,"NextUpdate":%q}`, schema, made.Format(time.RFC3339), next.Format(time.RFC3339))
}

// publishDatabase pushes a database to host/aquasecurity/trivy-db:2, as the makers of Trivy do.
func publishDatabase(t *testing.T, host, mediaType string, entries []entry) graph.Node {
	t.Helper()
	client, err := registry.New(host+"/aquasecurity", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repo("trivy-db")
	if err != nil {
		t.Fatal(err)
	}
	push := func(mediaType string, content []byte) graph.Node {
		n, err := graph.PushBytes(t.Context(), repo, mediaType, content)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	layer := push(mediaType, packDatabase(t, entries))
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: push("application/vnd.aquasec.trivy.config.v1+json", []byte("{}")), Layers: []graph.Node{layer},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := push(ocispec.MediaTypeImageManifest, manifest)
	if _, err := repo.TagImmutable(t.Context(), "2", n); err != nil {
		t.Fatal(err)
	}
	return n
}

func packDatabase(t *testing.T, entries []entry) []byte {
	t.Helper()
	var packed bytes.Buffer
	plain := gzip.NewWriter(&packed)
	archive := tar.NewWriter(plain)
	for _, e := range entries {
		size := max(int64(len(e.content)), e.size)
		if err := archive.WriteHeader(&tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o600, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, e.content); err != nil {
			t.Fatal(err)
		}
	}
	_ = archive.Flush() // an entry may be shorter than it says
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// asking is an inspection that looks for its database at sources.
func asking(t *testing.T, unscanned bool, sources ...string) (*inspectorPort, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	env := at(rehearsal.Epoch())
	env.cache, env.stderr, env.terminal = t.TempDir(), &said, term.Options{}
	w := &workshop{
		session: &session{env: env, progress: newProgress(env, newConsole(env))},
		fam:     &family.Family{Vulnerabilities: family.Vulnerabilities{Sources: sources, MaxAge: 24 * time.Hour}},
	}
	return &inspectorPort{workshop: w, unscanned: unscanned}, &said
}

// TestF6AnUnusableVulnerabilityDatabaseClosesTheGateAndNamesTheCause asks a real registry, with one thing
// wrong each time. A strict channel is refused before anything is scanned; one that allows NOT SCANNED is
// told the cause.
func TestF6AnUnusableVulnerabilityDatabaseClosesTheGateAndNamesTheCause(t *testing.T) {
	replaced := func(file int, e entry) []entry {
		entries := sound()
		entries[file] = e
		return entries
	}
	tests := []struct {
		name    string
		entries []entry // nil: nothing was published
		media   string
		rule    *rehearsal.Rule
		spoil   bool // the layer's bytes change on the way
		gone    bool // nobody answers
		kind    fault.Kind
		cause   string
	}{
		{name: "missing", kind: fault.Refused, cause: "there is no vulnerability database"},
		{name: "stale", entries: replaced(1, entry{name: "metadata.json", content: metadata(2, rehearsal.Epoch().Add(-25*time.Hour), rehearsal.Epoch())}), kind: fault.Refused, cause: "more than 24h0m0s before"},
		{name: "from the future", entries: replaced(1, entry{name: "metadata.json", content: metadata(2, rehearsal.Epoch().Add(48*time.Hour), rehearsal.Epoch())}), kind: fault.Refused, cause: "in the future"},
		{name: "of another schema", entries: replaced(1, entry{name: "metadata.json", content: metadata(1, rehearsal.Epoch(), rehearsal.Epoch())}), kind: fault.Refused, cause: "schema 1, want 2"},
		{name: "of another media type", entries: sound(), media: "application/vnd.oci.image.layer.v1.tar+gzip", kind: fault.Refused, cause: "no Trivy database"},
		{name: "with a file too many", entries: append(sound(), entry{name: "../../authorized_keys", content: "ssh-rsa"}), kind: fault.Refused, cause: "authorized_keys"},
		{name: "without content", entries: sound()[1:], kind: fault.Refused, cause: "1 of trivy.db and metadata.json"},
		{name: "too large", entries: []entry{sound()[1], {name: "trivy.db", size: 9 << 30}}, kind: fault.Refused, cause: "at most 8589934592 are read"},
		{name: "not hashing", entries: sound(), spoil: true, kind: fault.Forged, cause: "mismatched digest"},
		{name: "rate-limited: 429 with Retry-After", entries: sound(), rule: &rehearsal.Rule{Method: http.MethodGet, Path: "/manifests/2", Fault: rehearsal.RetryAfter(time.Hour)}, kind: fault.Unavailable, cause: "429"},
		{name: "unauthenticated", entries: sound(), rule: &rehearsal.Rule{Method: http.MethodGet, Path: "/manifests/2", Fault: rehearsal.Answer(http.StatusUnauthorized)}, kind: fault.Environment, cause: "401"},
		{name: "unreachable", entries: sound(), gone: true, kind: fault.Unavailable, cause: "connection refused"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			plain := httptest.NewServer(rehearsal.New(rehearsal.Options{}))
			defer plain.Close()
			if test.entries != nil {
				if test.media == "" {
					test.media = inspect.DatabaseLayer
				}
				publishDatabase(t, strings.TrimPrefix(plain.URL, "http://"), test.media, test.entries)
			}
			handler := plain.Config.Handler
			if test.rule != nil {
				var err error
				if handler, err = rehearsal.NewInjector(handler, *test.rule); err != nil {
					t.Fatal(err)
				}
			}
			if test.spoil {
				handler = spoiling(handler)
			}
			server := httptest.NewServer(handler)
			defer server.Close()
			if test.gone {
				server.Close()
			}
			from := strings.TrimPrefix(server.URL, "http://") + "/aquasecurity/trivy-db:2"

			strict, _ := asking(t, false, from)
			if db, err := strict.database(t.Context()); !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.cause) || db.Dir != "" {
				t.Errorf("strict: got %v, %v, want %v that names %q", db, err, test.kind, test.cause)
			}
			lenient, said := asking(t, true, from)
			if db, err := lenient.database(t.Context()); err != nil || db.Dir != "" {
				t.Errorf("where NOT SCANNED is allowed: %v, %v", db, err)
			}
			if lenient.progress.settle(); !strings.Contains(said.String(), "NOT SCANNED") || !strings.Contains(said.String(), test.cause) {
				t.Errorf("where NOT SCANNED is allowed, this is said: %q", said)
			}
		})
	}
}

// spoiling changes what leaves a registry as a blob, and nothing of its length.
func spoiling(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		recorded := httptest.NewRecorder()
		next.ServeHTTP(recorded, r)
		body := recorded.Body.Bytes()
		if len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		for name, values := range recorded.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorded.Code)
		_, _ = w.Write(body)
	})
}

func TestADatabaseThatWasNamedAndCannotBeUsedIsRefusedEverywhere(t *testing.T) {
	p, _ := asking(t, true)
	p.env.database = t.TempDir()
	if _, err := p.database(t.Context()); !errors.Is(err, fault.Refused) {
		t.Errorf("got %v, want refused", err)
	}
}

func TestTheFirstSourceThatGivesAYoungDatabaseIsTakenAndPinnedByDigest(t *testing.T) {
	empty := httptest.NewServer(rehearsal.New(rehearsal.Options{}))
	defer empty.Close()
	full := httptest.NewServer(rehearsal.New(rehearsal.Options{}))
	host := strings.TrimPrefix(full.URL, "http://")
	n := publishDatabase(t, host, inspect.DatabaseLayer, sound())
	p, said := asking(t, false, strings.TrimPrefix(empty.URL, "http://")+"/aquasecurity/trivy-db:2", host+"/aquasecurity/trivy-db:2")

	first, err := p.database(t.Context())
	if err != nil || first.Digest != n.Digest || first.String() != "2 2025-12-31T22:00:00Z" {
		t.Fatalf("got %v %s, %v, want %s", first, first.Digest, err, n.Digest)
	}
	full.Close()
	again, err := p.database(t.Context())
	if err != nil || again.Digest != n.Digest {
		t.Errorf("when no source answers: %v, %v, want the one that is young enough", again, err)
	}
	if p.progress.settle(); !strings.Contains(said.String(), "is used") {
		t.Errorf("nobody was told that an older one is used: %q", said)
	}
	p.fam.Vulnerabilities.MaxAge = time.Hour
	if _, err := p.database(t.Context()); err == nil {
		t.Error("one that is too old was used")
	}
}

func TestADatabaseWhoseNextIsNotDueIsUsedWithoutAsking(t *testing.T) {
	server := httptest.NewServer(rehearsal.New(rehearsal.Options{}))
	host := strings.TrimPrefix(server.URL, "http://")
	fresh := sound()
	fresh[1].content = metadata(2, rehearsal.Epoch().Add(-time.Hour), rehearsal.Epoch().Add(time.Hour))
	publishDatabase(t, host, inspect.DatabaseLayer, fresh)
	p, said := asking(t, false, host+"/aquasecurity/trivy-db:2")
	if _, err := p.database(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := p.database(t.Context()); err != nil {
		t.Errorf("it was asked for again: %v", err)
	}
	if p.progress.settle(); strings.Contains(said.String(), "is used") {
		t.Errorf("that is no news: %q", said)
	}
}

// A mirror goes forwards: a source that somebody set back does not hide what is known by now.
func TestAMirrorTakesNoOlderDatabase(t *testing.T) {
	server := httptest.NewServer(ggcr.New())
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	client, err := registry.New(host+"/acme", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := asking(t, false)
	p.client, p.fam.Vulnerabilities.Mirror = client, "db"
	d := databases{workshop: p.workshop}
	for _, step := range []struct {
		made time.Duration
		want error
	}{{-4 * time.Hour, nil}, {-2 * time.Hour, nil}, {-3 * time.Hour, fault.Refused}, {-2 * time.Hour, nil}, {-time.Hour, nil}} {
		made := rehearsal.Epoch().Add(step.made)
		entries := sound()
		entries[1].content = metadata(2, made, made.Add(6*time.Hour))
		upstream := httptest.NewServer(ggcr.New())
		t.Cleanup(upstream.Close)
		source := strings.TrimPrefix(upstream.URL, "http://")
		publishDatabase(t, source, inspect.DatabaseLayer, entries)
		p.fam.Vulnerabilities.Sources = []string{source + "/aquasecurity/trivy-db:2"}
		from, n, db, err := d.upstream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m, move, err := d.planMirror(t.Context(), from, n, db)
		if !errors.Is(err, step.want) {
			t.Errorf("the database of %s: %v, want %v", made, err, step.want)
		}
		if err == nil && m.Was != m.Digest {
			err = d.applyMirror(t.Context(), from, n, m, move)
		}
		if err != nil && step.want == nil {
			t.Errorf("the database of %s: %v", made, err)
		}
	}
}
