package verify_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// The same code verifies a channel however it was signed and wherever its evidence is found.
func TestAnHonestChannelIsAccepted(t *testing.T) {
	for name, p := range map[string]plot{
		"GitHub's identity, referrers API":         {},
		"GitHub's identity, fallback tags":         {fallback: true},
		"a key, referrers API":                     {key: newKey()},
		"a key, fallback tags":                     {key: newKey(), fallback: true},
		"a version, which is a tag of its own too": {document: func(d *release.Document) { s := d.Channels["dev"]; s.Version = "v1.2.3"; d.Channels["dev"] = s }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, p)
			if w.document.Channels["dev"].Version != "" {
				for member, n := range w.record.Members() {
					w.tag(t.Context(), member, "v1.2.3", n)
				}
			}
			online, err := w.verifier.Channel(t.Context(), "dev", w.now)
			if err != nil || online.Generation != 7 || online.Commit != widgetCommit || online.Digest != w.node.Digest {
				t.Fatalf("%+v, %v", online, err)
			}
			offline := w.verifier
			offline.Registry, _ = w.export(t)
			again, err := offline.Channel(t.Context(), "dev", w.now)
			if err != nil || len(again.Checks) != len(online.Checks) {
				t.Errorf("the file gives %d checks, the registry %d, %v", len(again.Checks), len(online.Checks), err)
			}
			if names, err := offline.Offered(t.Context()); err != nil || !slices.Equal(names, []string{"dev"}) {
				t.Errorf("Offered = %v, %v", names, err)
			}
			for _, at := range []string{"dev", w.record.Images["tiny-1"].Index.Digest.String()} {
				if r, err := offline.Image(t.Context(), "tiny-1", at, w.now); err != nil || r.Commit != widgetCommit || len(r.Checks) != 12 {
					t.Errorf("Image(%s) = %d checks of %q, %v", at, len(r.Checks), r.Commit, err)
				}
			}
			_, documents, err := offline.SBOM(t.Context(), "tiny-1", "dev", w.now)
			if err != nil || len(documents) != 2 {
				t.Errorf("%d SBOMs, %v", len(documents), err)
			}
		})
	}
}

func TestD7AnOlderDocumentIsAcceptedWithAReasonThatIsReported(t *testing.T) {
	w := newWorld(t, plot{})
	w.verifier.Seen = verify.Seen{Generation: 9, Digest: digest.FromString("9")}
	w.verifier.RollbackUnsafe = "the registry was restored from a backup"
	r, err := w.verifier.Channel(t.Context(), "dev", w.now)
	if err != nil || !slices.ContainsFunc(r.Checks, func(c verify.Check) bool { return strings.Contains(c.Found, w.verifier.RollbackUnsafe) }) {
		t.Errorf("%+v, %v", r, err)
	}
	if r.Seen() != (verify.Seen{Generation: 7, Digest: w.node.Digest}) {
		t.Errorf("Seen() = %+v", r.Seen())
	}
}

func TestMemoryKeepsWhatWasSeen(t *testing.T) {
	m := verify.Memory{Path: filepath.Join(t.TempDir(), "seen.json")}
	if s, err := m.Recall("a"); s != (verify.Seen{}) || err != nil {
		t.Errorf("Recall of nothing = %v, %v", s, err)
	}
	want := verify.Seen{Generation: 3, Digest: digest.FromString("3")}
	if err := errors.Join(m.Remember("a", want), m.Remember("b", verify.Seen{Generation: 1})); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Recall("a"); got != want || err != nil {
		t.Errorf("Recall = %v, %v", got, err)
	}
	broken := verify.Memory{Path: filepath.Join(t.TempDir(), "none", "seen.json")}
	if err := broken.Remember("a", want); !errors.Is(err, fault.Environment) {
		t.Errorf("Remember without a directory = %v, want Environment", err)
	}
}

func TestAnExportIsTheSameBytesAgain(t *testing.T) {
	w := newWorld(t, plot{fallback: true})
	_, one := w.export(t)
	_, two := w.export(t)
	if !bytes.Equal(one, two) {
		t.Error("two exports of the same channel differ")
	}
	if err := verify.Export(t.Context(), io.Discard, w.fam, w.registry, "prod"); !errors.Is(err, fault.Unverified) {
		t.Errorf("a channel that is not served: %v, want Unverified", err)
	}
	t.Logf("%d bytes", len(one))
}

func TestAnEvidenceFileIsNotWrittenTo(t *testing.T) {
	file, _ := newWorld(t, plot{}).export(t)
	repo := file.Repository("tiny-1")
	_, tagged := repo.TagImmutable(t.Context(), "x", graph.Node{})
	_, moved := repo.MoveTag(t.Context(), release.Move{})
	for _, err := range []error{
		repo.Push(t.Context(), graph.Node{}, nil), repo.CopyFrom(t.Context(), nil, graph.Node{}), tagged, moved,
		repo.Attach(t.Context(), graph.Node{}, "", nil, nil), repo.Settle(t.Context()),
	} {
		if !errors.Is(err, fault.Refused) {
			t.Errorf("a write gives %v, want Refused", err)
		}
	}
	if tags, err := repo.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"dev", "sha-" + widgetCommit}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
}

// entries reads a tar back, for tests that write it again otherwise.
func entries(t testing.TB, content []byte) []tarEntry {
	t.Helper()
	var all []tarEntry
	r := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		all = append(all, tarEntry{*must(h, err), must(io.ReadAll(r))})
	}
}

type tarEntry struct {
	header  tar.Header
	content []byte
}

func pack(all []tarEntry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range all {
		e.header.Size = int64(len(e.content))
		if e.header.Typeflag != tar.TypeReg {
			e.header.Size = 0
		}
		if err := w.WriteHeader(&e.header); err != nil {
			panic(err)
		}
		_, _ = w.Write(e.content[:e.header.Size])
	}
	_ = w.Close()
	return out.Bytes()
}

func TestAHostileEvidenceFileIsRefused(t *testing.T) {
	_, honest := newWorld(t, plot{}).export(t)
	all := entries(t, honest)
	index := func(change func(*ocispec.Index)) []byte {
		copied := slices.Clone(all)
		var x ocispec.Index
		if err := json.Unmarshal(copied[1].content, &x); err != nil {
			t.Fatal(err)
		}
		change(&x)
		copied[1].content = must(json.Marshal(x))
		return pack(copied)
	}
	with := func(e tarEntry) []byte { return pack(append(slices.Clone(all), e)) }
	entry := func(name string, kind byte, content string) tarEntry {
		return tarEntry{tar.Header{Name: name, Typeflag: kind, Mode: 0o644}, []byte(content)}
	}
	for name, c := range map[string]struct {
		content io.Reader
		want    fault.Kind
	}{
		"nothing":                          {strings.NewReader(""), fault.Forged},
		"no tar":                           {strings.NewReader(strings.Repeat("x", 2048)), fault.Forged},
		"half a file":                      {bytes.NewReader(honest[:1600]), fault.Unavailable},
		"a disk that fails":                {io.MultiReader(bytes.NewReader(honest[:3000]), iotest.ErrReader(io.ErrClosedPipe)), fault.Unavailable},
		"a blob with other content":        {bytes.NewReader(with(entry("blobs/sha256/"+strings.Repeat("0", 64), tar.TypeReg, "x"))), fault.Forged},
		"a blob twice":                     {bytes.NewReader(with(all[2])), fault.Forged},
		"a file that does not belong":      {bytes.NewReader(with(entry("../../etc/passwd", tar.TypeReg, "x"))), fault.Forged},
		"a link":                           {bytes.NewReader(with(tarEntry{tar.Header{Name: "blobs/sha256/x", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil})), fault.Refused},
		"an index of 5 MiB":                {bytes.NewReader(pack([]tarEntry{all[0], entry("index.json", tar.TypeReg, strings.Repeat(" ", 5<<20))})), fault.Refused},
		"JSON nested a million deep":       {bytes.NewReader(pack([]tarEntry{all[0], entry("index.json", tar.TypeReg, strings.Repeat("[", 1<<20))})), fault.Forged},
		"100,000 entries":                  {bytes.NewReader(pack(slices.Repeat([]tarEntry{entry("x", tar.TypeReg, "")}, 100_000))), fault.Forged},
		"an endless file":                  {io.MultiReader(bytes.NewReader(endlessHeader()), endless{}), fault.Refused},
		"another layout version":           {bytes.NewReader(pack([]tarEntry{entry("oci-layout", tar.TypeReg, `{"imageLayoutVersion":"2"}`), all[1]})), fault.Forged},
		"no index":                         {bytes.NewReader(pack(append(slices.Clone(all[:1]), all[2:]...))), fault.Forged},
		"a manifest that is not there":     {bytes.NewReader(index(func(x *ocispec.Index) { x.Manifests[0].Digest = digest.FromString("x") })), fault.Forged},
		"a manifest of another size":       {bytes.NewReader(index(func(x *ocispec.Index) { x.Manifests[0].Size++ })), fault.Forged},
		"a name twice":                     {bytes.NewReader(index(func(x *ocispec.Index) { x.Manifests = append(x.Manifests, x.Manifests[len(x.Manifests)-1]) })), fault.Forged},
		"more manifests than a family has": {bytes.NewReader(index(func(x *ocispec.Index) { x.Manifests = slices.Repeat(x.Manifests[:1], 10_000) })), fault.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := verify.OpenFile(c.content); !errors.Is(err, c.want) {
				t.Errorf("OpenFile = %v, want %v", err, c.want)
			}
		})
	}
}

// endless never ends: a reader of zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// endlessHeader promises a blob of 8 GiB.
func endlessHeader() []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	_ = w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Typeflag: tar.TypeReg, Size: 8 << 30})
	return out.Bytes()
}

// TestFraudulentRegistries: rows D11 and D14, over HTTP.
func TestFraudulentRegistries(t *testing.T) {
	for name, c := range map[string]struct {
		want  fault.Kind
		serve func(digest.Digest) http.HandlerFunc // instead of the record's manifest
	}{
		"D14 a mirror that returns other content": {fault.Forged, func(digest.Digest) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				_, _ = io.WriteString(w, `{"schemaVersion":2}`)
			}
		}},
		"D14 a mirror that says it is other content": {fault.Forged, func(d digest.Digest) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", d.String())
				_, _ = io.WriteString(w, `{"schemaVersion":2}`)
			}
		}},
		"D11 a registry whose answer never ends": {fault.Refused, func(digest.Digest) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				_, _ = io.Copy(w, endless{})
			}
		}},
		"D11 a registry that never answers": {fault.Unavailable, func(digest.Digest) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hostile http.HandlerFunc
			var path string
			w := newWorld(t, plot{wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if hostile != nil && r.URL.Path == path {
						hostile(w, r)
						return
					}
					next.ServeHTTP(w, r)
				})
			}})
			path = "/v2/tiny/tiny-metadata/manifests/" + w.recordAt.Digest.String()
			hostile = c.serve(w.recordAt.Digest)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			fresh := w.verifier
			fresh.Registry = w.again()
			_, err := fresh.Channel(ctx, "dev", w.now)
			if kind, _ := fault.KindOf(err); kind != c.want {
				t.Errorf("Channel = %v (%v), want %v", err, kind, c.want)
			}
		})
	}
}

func TestD12ATagIsResolvedOnce(t *testing.T) {
	var resolved []string
	w := newWorld(t, plot{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/manifests/dev") {
				resolved = append(resolved, r.URL.Path)
			}
			next.ServeHTTP(w, r)
		})
	}})
	resolved = nil
	fresh := w.verifier
	fresh.Registry = w.again()
	r, err := fresh.Image(t.Context(), "tiny-1", "dev", w.now)
	if err != nil || len(resolved) != 1 || r.Digest != w.record.Images["tiny-1"].Index.Digest {
		t.Errorf("resolved %v to %s, %v", resolved, r.Digest, err)
	}
}

func FuzzOpenFile(f *testing.F) {
	_, honest := newWorld(f, plot{images: 1}).export(f)
	f.Add(honest)
	f.Add(pack([]tarEntry{{tar.Header{Name: "oci-layout", Typeflag: tar.TypeReg}, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {tar.Header{Name: "index.json", Typeflag: tar.TypeReg}, []byte(`{}`)}}))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := verify.OpenFile(bytes.NewReader(content))
		if _, classified := fault.KindOf(err); err != nil && !classified {
			t.Errorf("an error without a kind: %v", err)
		}
		if err == nil {
			n, found, err := file.Repository("tiny-metadata").Resolve(t.Context(), release.ChannelsTag)
			if found && err == nil {
				if _, err := graph.Fetch(t.Context(), file.Repository("tiny-metadata"), n, graph.MaxManifest); err != nil {
					t.Errorf("a name without content: %v", err)
				}
			}
		}
	})
}

// A family of eight images on two platforms is verified from one evidence file in less than a second.
func BenchmarkEightImagesFromOneEvidenceFile(b *testing.B) {
	w := newWorld(b, plot{images: 8})
	_, content := w.export(b)
	b.ReportMetric(float64(len(content)), "file-bytes")
	bundles := 0
	for b.Loop() {
		file, err := verify.OpenFile(bytes.NewReader(content))
		if err != nil {
			b.Fatal(err)
		}
		v := w.verifier
		v.Registry = file
		r, err := v.Channel(b.Context(), "dev", w.now)
		if err != nil {
			b.Fatal(err)
		}
		bundles = 0
		for _, c := range r.Checks {
			if len(c.Compared) > 0 {
				bundles++
			}
		}
	}
	b.ReportMetric(float64(bundles), "bundles")
}
