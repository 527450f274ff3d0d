package verify_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// hostileFile is an evidence file that is none, or one without end.
type hostileFile struct {
	row, name string
	kind      fault.Kind
	reason    verify.Reason
	content   func(honest []byte) io.Reader
}

func TestHostileEvidenceFiles(t *testing.T) {
	_, honest := newWorld(t, plot{}).export(t)
	for _, f := range hostileFiles() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			_, err := verify.OpenFile(f.content(honest))
			refused(t, err, f.kind, f.reason)
		})
	}
}

func hostileFiles() []hostileFile {
	return append(brokenFiles(), endlessFiles()...)
}

// entry is one entry of a tar.
func entry(name string, kind byte, content string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: kind, Mode: 0o644}, []byte(content)}
}

// reindexed is an evidence file whose index.json was changed.
func reindexed(change func(*ocispec.Index)) func([]byte) io.Reader {
	return edited(func(all []tarEntry) []tarEntry {
		var x ocispec.Index
		if err := json.Unmarshal(all[1].content, &x); err != nil {
			panic(err)
		}
		change(&x)
		all[1].content = must(json.Marshal(x))
		return all
	})
}

// edited is an evidence file with other entries; the first two are the layout's own.
func edited(change func([]tarEntry) []tarEntry) func([]byte) io.Reader {
	return func(honest []byte) io.Reader { return bytes.NewReader(pack(change(entries(honest)))) }
}

// manifested is an evidence file with one more manifest.
func manifested(content string) func([]byte) io.Reader {
	node := graph.NewNode(ocispec.MediaTypeImageManifest, []byte(content))
	return func(honest []byte) io.Reader {
		longer := must(io.ReadAll(with(entry("blobs/sha256/"+node.Digest.Encoded(), tar.TypeReg, content))(honest)))
		return reindexed(func(x *ocispec.Index) { x.Manifests = append(x.Manifests, node) })(longer)
	}
}

func with(e tarEntry) func([]byte) io.Reader {
	return edited(func(all []tarEntry) []tarEntry { return append(all, e) })
}

func brokenFiles() []hostileFile {
	return []hostileFile{
		{"file", "nothing", fault.Forged, "", func([]byte) io.Reader { return strings.NewReader("") }},
		{"file", "no tar", fault.Forged, "", func([]byte) io.Reader { return strings.NewReader(strings.Repeat("x", 2048)) }},
		{"file", "half a file", fault.Unavailable, "", func(honest []byte) io.Reader { return bytes.NewReader(honest[:1600]) }},
		{"file", "a disk that fails", fault.Unavailable, "", func(honest []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(honest[:3000]), iotest.ErrReader(io.ErrClosedPipe))
		}},
		{"D14", "a blob with other content", fault.Forged, "", with(entry("blobs/sha256/"+strings.Repeat("0", 64), tar.TypeReg, "x"))},
		{"D14", "a blob twice", fault.Forged, "", edited(func(all []tarEntry) []tarEntry { return append(all, all[2]) })},
		{"file", "a blob that is named by no digest", fault.Forged, "", with(entry("blobs/sha256/x", tar.TypeReg, "x"))},
		{"file", "a file that does not belong", fault.Forged, "", with(entry("../../etc/passwd", tar.TypeReg, "x"))},
		{"file", "a blob by a detour", fault.Forged, "", with(entry("./blobs/sha256/"+digest.FromString("x").Encoded(), tar.TypeReg, "x"))},
		{"file", "a link, named by the digest of nothing", fault.Forged, "", with(tarEntry{tar.Header{Name: "blobs/sha256/" + digest.FromString("").Encoded(), Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil})},
		{"file", "a second index", fault.Forged, "", with(entry("index.json", tar.TypeReg, "{}"))},
		{"file", "another layout version", fault.Forged, "", edited(func(all []tarEntry) []tarEntry {
			all[0] = entry("oci-layout", tar.TypeReg, `{"imageLayoutVersion":"2"}`)
			return all
		})},
		{"file", "no index", fault.Forged, "", edited(func(all []tarEntry) []tarEntry { return append(all[:1], all[2:]...) })},
		{"file", "a manifest that is not there", fault.Forged, "", reindexed(func(x *ocispec.Index) { x.Manifests[0].Digest = digest.FromString("x") })},
		{"file", "a manifest of no size that is not there", fault.Forged, "", reindexed(func(x *ocispec.Index) {
			x.Manifests = append(x.Manifests, graph.Node{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x")})
		})},
		{"file", "a manifest of another size", fault.Forged, "", reindexed(func(x *ocispec.Index) { x.Manifests[0].Size++ })},
		{"file", "a manifest of two types", fault.Forged, "", reindexed(func(x *ocispec.Index) {
			twice := x.Manifests[0]
			twice.MediaType, twice.Annotations = "application/x", nil
			x.Manifests = append(x.Manifests, twice)
		})},
		{"D12", "a name twice", fault.Forged, "", reindexed(func(x *ocispec.Index) { x.Manifests = append(x.Manifests, x.Manifests[len(x.Manifests)-1]) })},
	}
}

func endlessFiles() []hostileFile {
	return []hostileFile{
		{"D11", "an index of 5 MiB", fault.Unavailable, verify.Endless, func([]byte) io.Reader {
			return bytes.NewReader(pack([]tarEntry{entry("index.json", tar.TypeReg, strings.Repeat(" ", 5<<20))}))
		}},
		{"D11", "an evidence file's manifest of 5 MiB", fault.Unavailable, verify.Endless, manifested(strings.Repeat(" ", 5<<20) + "{}")},
		{"D11", "a manifest of a thousand layers", fault.Unavailable, verify.Endless, manifested(`{"layers":[{}` + strings.Repeat(",{}", 999) + `]}`)},
		{"D11", "a manifest nested a million deep", fault.Forged, "", manifested(strings.Repeat("[", 1<<20))},
		{"D11", "an index nested a million deep", fault.Forged, "", edited(func(all []tarEntry) []tarEntry {
			all[1].content = []byte(strings.Repeat("[", 1<<20))
			return all
		})},
		{"D11", "100,000 entries", fault.Unavailable, verify.Endless, func([]byte) io.Reader {
			many := make([]tarEntry, 100_000)
			for i := range many {
				content := fmt.Sprint(i)
				many[i] = entry("blobs/sha256/"+digest.FromString(content).Encoded(), tar.TypeReg, content)
			}
			return bytes.NewReader(pack(many))
		}},
		{"D11", "a blob of 8 GiB", fault.Unavailable, verify.Endless, func([]byte) io.Reader {
			return io.MultiReader(bytes.NewReader(header(tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Typeflag: tar.TypeReg, Size: 8 << 30})), endless{})
		}},
		{"D11", "a sparse blob, 40 MiB of one block", fault.Forged, "", func(honest []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(hole(40<<20)), bytes.NewReader(honest))
		}},
		{"D11", "headers without end", fault.Unavailable, verify.Endless, func([]byte) io.Reader { return &again{content: longHeader()} }},
		{"D11", "more manifests than a family has", fault.Unavailable, verify.Endless, reindexed(func(x *ocispec.Index) { x.Manifests = slices.Repeat(x.Manifests[:1], 10_000) })},
	}
}

// TestHostileEvidenceFilesThatOpen: what is not in an evidence file is missing, as in a registry.
func TestHostileEvidenceFilesThatOpen(t *testing.T) {
	w := newWorld(t, plot{})
	_, honest := w.export(t)
	record := must(graph.Manifest(t.Context(), w.registry.Repository("tiny-metadata"), w.recordAt)).Layers[0]
	for name, c := range map[string]struct {
		content io.Reader
		ask     func(*verify.Verifier) error
	}{
		"without the record's content": {
			edited(func(all []tarEntry) []tarEntry {
				return slices.DeleteFunc(all, func(e tarEntry) bool { return strings.HasSuffix(e.header.Name, record.Digest.Encoded()) })
			})(honest),
			func(v *verify.Verifier) error { _, err := v.Channel(t.Context(), "dev", w.now); return err },
		},
		"without a tag of the channel": {
			reindexed(namelessButChannels)(honest),
			func(v *verify.Verifier) error { _, err := v.Offered(t.Context()); return err },
		},
	} {
		v := w.verifier
		v.Registry = must(verify.OpenFile(c.content))
		t.Run(name, func(t *testing.T) { refused(t, c.ask(&v), fault.Unverified, verify.Missing) })
	}
}

func namelessButChannels(x *ocispec.Index) {
	for i, m := range x.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] != "tiny-metadata:channels" {
			x.Manifests[i].Annotations = nil
		}
	}
}

// Row E7: the names that an evidence file offers are nobody's word yet when an error repeats them.
func TestE7OfferedNamesStayWithinTheirLine(t *testing.T) {
	w := newWorld(t, plot{document: func(d *release.Document) { d.Channels["x\nchannel dev verified"] = d.Channels["dev"] }})
	var out bytes.Buffer
	if err := verify.Export(t.Context(), &out, w.fam, w.registry, "dev"); err != nil {
		t.Fatal(err)
	}
	v := w.verifier
	v.Registry = must(verify.OpenFile(reindexed(namelessButChannels)(out.Bytes())))
	_, offered := v.Offered(t.Context())
	for name, err := range map[string]error{"Offered": offered, "Export": verify.Export(t.Context(), io.Discard, w.fam, w.registry, "prod")} {
		if !errors.Is(err, fault.Unverified) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s says %q", name, err)
		}
	}
}

// TestFraudsOnOneImage: questions about an image that have no good answer.
func TestFraudsOnOneImage(t *testing.T) {
	w := newWorld(t, plot{})
	w.tag(t.Context(), "tiny-1", "manifest", w.record.Images["tiny-1"].Platforms["linux/amd64"])
	less := w.verifier
	less.Policy.Require = map[family.SubjectKind][]family.Demand{family.PlatformManifest: {family.DemandSignature}}
	for _, c := range []struct {
		name, image, tag string
		v                *verify.Verifier
		kind             fault.Kind
		reason           verify.Reason
	}{
		{"D12 a tag that is not there", "tiny-1", "none", &w.verifier, fault.Unverified, verify.Missing},
		{"D12 a tag of something that is no index", "tiny-1", "manifest", &w.verifier, fault.Invalid, ""},
		{"D1 an image that the family has not", "tiny-2", "dev", &w.verifier, fault.Invalid, ""},
		{"D5 SBOMs that the policy does not demand", "tiny-1", "dev", &less, fault.Unverified, verify.Missing},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := c.v.SBOM(t.Context(), c.image, c.tag, w.now)
			refused(t, err, c.kind, c.reason)
		})
	}
}

// endless never ends: a reader of zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// again repeats the same content without end.
type again struct {
	content []byte
	at      int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.content[a.at:])
	a.at = (a.at + n) % len(a.content)
	return n, nil
}

func header(h tar.Header) []byte {
	var out bytes.Buffer
	_ = tar.NewWriter(&out).WriteHeader(&h)
	return out.Bytes()
}

// longHeader is the extended header of an entry, without the entry: a reader goes on to the next.
func longHeader() []byte {
	all := header(tar.Header{Name: "x", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"CONTAINAI.x": strings.Repeat("x", 1_000_000)}})
	return all[:len(all)-512]
}

// hole is an entry that is nothing but a hole of so many bytes, a blob by the right name, in GNU's
// sparse format 1.0: one block says that there is no data. tar.Writer writes no such records, so they
// get their names afterwards.
func hole(size int) []byte {
	records := map[string]string{
		"GNU_sparse.major": "1", "GNU_sparse.minor": "0", "GNU_sparse.realsize": strconv.Itoa(size),
		"GNU_sparse.name": blobPath(make([]byte, size)),
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "hole", Typeflag: tar.TypeReg, Mode: 0o644, Size: 512, Format: tar.FormatPAX, PAXRecords: records}); err != nil {
		panic(err)
	}
	_, _ = w.Write(append([]byte("0\n"), make([]byte, 510)...))
	_ = w.Flush()
	return bytes.ReplaceAll(out.Bytes(), []byte("GNU_sparse."), []byte("GNU.sparse."))
}

func blobPath(content []byte) string {
	return "blobs/sha256/" + digest.FromBytes(content).Encoded()
}

// hostileRegistry answers some requests of its own, in the middle of an honest world.
type hostileRegistry struct {
	row, name string
	kind      fault.Kind
	reason    verify.Reason
	path      func(*world) string // ends the paths that it answers
	serve     http.HandlerFunc
}

// TestHostileRegistries: rows D11 and D14, over HTTP. Nothing is waited for but what the verifier
// itself waits.
func TestHostileRegistries(t *testing.T) {
	for _, f := range hostileRegistries() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plot{fallback: strings.Contains(f.name, "fallback")})
			w.server.turn(f.path(w), f.serve)
			fresh := w.verifier
			fresh.Registry = w.again()
			if f.kind == fault.Unavailable {
				fresh.Patience = 2 * time.Second
			}
			_, err := fresh.Channel(t.Context(), "dev", w.now)
			refused(t, err, f.kind, f.reason)
		})
	}
}

// detour is a server of which some paths can be turned; it counts what it is asked for.
type detour struct {
	next http.Handler

	mu    sync.Mutex
	asked []string
	path  string
	serve http.HandlerFunc
}

func (d *detour) turn(path string, serve http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.path, d.serve, d.asked = path, serve, nil
}

// calls counts the requests since the last turn whose path contains a text.
func (d *detour) calls(text string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, path := range d.asked {
		if strings.Contains(path, text) {
			n++
		}
	}
	return n
}

func (d *detour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r.URL.Path)
	serve := d.serve
	if serve == nil || !strings.HasSuffix(r.URL.Path, d.path) {
		serve = d.next.ServeHTTP
	}
	d.mu.Unlock()
	serve(w, r)
}

// The paths of an honest world's objects.
func recordPath(w *world) string { return "/tiny-metadata/manifests/" + w.recordAt.Digest.String() }
func recordContentPath(w *world) string {
	m := must(graph.Manifest(context.Background(), w.registry.Repository("tiny-metadata"), w.recordAt))
	return "/blobs/" + m.Layers[0].Digest.String()
}
func channelsPath(*world) string { return "/tiny-metadata/manifests/channels" }
func indexPath(w *world) string {
	return "/tiny-1/manifests/" + w.record.Images["tiny-1"].Index.Digest.String()
}
func referrersPath(w *world) string { return "/tiny-metadata/referrers/" + w.node.Digest.String() }
func fallbackPath(w *world) string  { return "/manifests/sha256-" + w.node.Digest.Encoded() }
func bundlePath(w *world) string {
	listed := must(w.registry.Repository("tiny-metadata").Referrers(context.Background(), w.node))
	return "/blobs/" + listed[0].Layers[0].Digest.String()
}

// manifest answers with content of a media type; with claims it also names its digest wrongly.
func manifest(mediaType, content string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = io.WriteString(w, content)
	}
}

// listing is an index of so many entries.
func listing(n int) string {
	entry := fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%%064x","size":2}`, ocispec.MediaTypeImageManifest)
	var b strings.Builder
	fmt.Fprintf(&b, `{"schemaVersion":2,"mediaType":%q,"manifests":[`, ocispec.MediaTypeImageIndex)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, entry, i)
	}
	return b.String() + "]}"
}

func endlessly(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	_, _ = io.Copy(w, endless{})
}

func silently(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// slowly sends a byte of an answer that looks right, and then nothing for as long as anybody listens.
func slowly(mediaType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		_, _ = io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// lacks is how a registry says that it does not have something.
func lacks(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}`)
}

func hostileRegistries() []hostileRegistry {
	const image, index = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	late := func(name string, path func(*world) string, serve http.HandlerFunc) hostileRegistry {
		return hostileRegistry{"D11", name, fault.Unavailable, verify.Endless, path, serve}
	}
	return []hostileRegistry{
		{"D14", "a mirror that returns another record", fault.Forged, "", recordPath, manifest(image, `{"schemaVersion":2}`)},
		{"D14", "a mirror that returns another index", fault.Forged, "", indexPath, manifest(index, listing(1))},
		{"D14", "a mirror that returns another bundle", fault.Forged, "", bundlePath, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }},
		{"D14", "a mirror that has no channels", fault.Unverified, verify.Missing, channelsPath, lacks},
		{"D14", "a mirror that has no record", fault.Unverified, verify.Missing, recordPath, lacks},
		{"D14", "a mirror that lacks the record's content", fault.Unverified, verify.Missing, recordContentPath, lacks},
		{"D14", "a mirror that lacks a bundle that it lists", fault.Unverified, verify.Missing, bundlePath, lacks},
		{"D14", "a mirror that lists no evidence", fault.Unverified, verify.Missing, referrersPath, manifest(index, listing(0))},
		late("a record without end", recordPath, endlessly),
		late("channels without end", channelsPath, endlessly),
		late("a registry that never answers", recordPath, silently),
		late("a record that stops coming", recordPath, slowly(image)),
		late("channels that stop coming", channelsPath, slowly(image)),
		late("a list of evidence that stops coming", referrersPath, slowly(index)),
		late("a bundle that stops coming", bundlePath, slowly("application/octet-stream")),
		late("a manifest of 5 MiB", channelsPath, manifest(image, strings.Repeat(" ", 5<<20))),
		late("an index of 100,000 entries", channelsPath, manifest(index, listing(100_000))),
		{"D11", "evidence in a list of 100,000 entries", fault.Unavailable, "", referrersPath, manifest(index, listing(100_000))},
		late("evidence in a fallback index of 100,000 entries", fallbackPath, manifest(index, listing(100_000))),
		late("evidence in a fallback index of 10,001 entries", fallbackPath, manifest(index, listing(10_001))),
		{"D11", "channels nested a million deep", fault.Forged, "", channelsPath, manifest(image, strings.Repeat("[", 1<<20))},
		{"D11", "evidence in a list nested a million deep", fault.Unavailable, "", referrersPath, manifest(index, strings.Repeat("[", 1<<20))},
	}
}

// TestFloods: what anybody may attach neither helps nor disturbs, up to a limit at which nothing is
// believed any more.
func TestFloods(t *testing.T) {
	bomb := strings.Repeat("[", 1<<20)
	for _, f := range []struct {
		name   string
		kind   fault.Kind // 0: accepted
		attach func(context.Context, *testing.T, *world)
	}{
		{"sixty bundles of strangers", 0, func(ctx context.Context, t *testing.T, w *world) { w.flood(ctx, t, evidence.BundleType, 60, "{}") }},
		{"sixty SBOMs of strangers", 0, func(ctx context.Context, t *testing.T, w *world) { w.flood(ctx, t, evidence.SBOMType, 60, "{}") }},
		{"a thousand attachments of another kind", 0, func(ctx context.Context, t *testing.T, w *world) {
			w.flood(ctx, t, "application/vnd.example", 1000, "{}")
		}},
		{"a bundle nested a million deep", 0, func(ctx context.Context, t *testing.T, w *world) { w.flood(ctx, t, evidence.BundleType, 1, bomb) }},
		{"an SBOM nested a million deep", 0, func(ctx context.Context, t *testing.T, w *world) { w.flood(ctx, t, evidence.SBOMType, 1, bomb) }},
		{"a bundle of two layers", 0, func(ctx context.Context, _ *testing.T, w *world) { w.lay(ctx, []byte("{"), []byte("}")) }},
		{"a bundle larger than the limit", 0, func(ctx context.Context, _ *testing.T, w *world) { w.lay(ctx, make([]byte, pipeline.MaxBundle+1)) }},
		{"a hundred bundles of strangers", fault.Unavailable, func(ctx context.Context, t *testing.T, w *world) { w.flood(ctx, t, evidence.BundleType, 100, "{}") }},
		{"attachments whose manifests are large", fault.Unavailable, func(ctx context.Context, _ *testing.T, w *world) {
			for i := range 6 {
				w.lay(ctx, slices.Repeat([][]byte{fmt.Append(nil, i)}, 20_000)...)
			}
		}},
		{"bundles of more bytes than the limit", fault.Unavailable, func(ctx context.Context, _ *testing.T, w *world) {
			for i := range 3 {
				w.lay(ctx, make([]byte, pipeline.MaxBundle-i))
			}
		}},
	} {
		t.Run("D11 "+f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plot{})
			f.attach(t.Context(), t, w)
			fresh := w.verifier
			fresh.Registry = w.again()
			_, err := fresh.Image(t.Context(), "tiny-1", "dev", w.now)
			if f.kind != 0 {
				refused(t, err, f.kind, verify.Endless)
			} else if err != nil {
				t.Errorf("disturbed: %v", err)
			}
		})
	}
}

func TestAnnotationsAreNotBelieved(t *testing.T) {
	w := newWorld(t, plot{annotate: func(string) string { return "https://evil.example" }})
	if _, err := w.verifier.Channel(t.Context(), "dev", w.now); err != nil {
		t.Errorf("disturbed: %v", err)
	}
}

// flood attaches so much to an image.
func (w *world) flood(ctx context.Context, t *testing.T, artifactType string, n int, content string) {
	t.Helper()
	repo := w.registry.Repository("tiny-1")
	for i := range n {
		if err := repo.Attach(ctx, w.record.Images["tiny-1"].Index, artifactType, fmt.Appendf(nil, "%s%*s", content, i, ""), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// lay attaches a bundle of these layers to an image.
func (w *world) lay(ctx context.Context, layers ...[]byte) {
	repo, subject := w.registry.Repository("tiny-1"), w.record.Images["tiny-1"].Index
	var all []graph.Node
	for i, content := range layers {
		n := graph.NewNode(evidence.BundleType, content)
		if i < 2 {
			must(graph.PushBytes(ctx, repo, evidence.BundleType, content))
		}
		all = append(all, n)
	}
	must(graph.PushBytes(ctx, repo, ocispec.DescriptorEmptyJSON.MediaType, ocispec.DescriptorEmptyJSON.Data))
	must(graph.PushBytes(ctx, repo, ocispec.MediaTypeImageManifest, must(graph.EncodeArtifact(evidence.BundleType, &subject, all, nil))))
}

// TestHostileIndexes: an index is read before its evidence is; what it may name is an image manifest
// for each platform.
func TestHostileIndexes(t *testing.T) {
	_, honest := newWorld(t, plot{}).export(t)
	for _, f := range hostileIndexes() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			evil := must(json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: f.manifests}))
			file := must(verify.OpenFile(edited(func(all []tarEntry) []tarEntry {
				var x ocispec.Index
				if err := json.Unmarshal(all[1].content, &x); err != nil {
					t.Fatal(err)
				}
				node := graph.NewNode(ocispec.MediaTypeImageIndex, evil)
				node.Annotations = map[string]string{ocispec.AnnotationRefName: "tiny-1:evil"}
				x.Manifests = append(x.Manifests, node)
				all[1].content = must(json.Marshal(x))
				return append(all, entry("blobs/sha256/"+node.Digest.Encoded(), tar.TypeReg, string(evil)))
			})(honest)))
			v := verify.Verifier{Family: must(family.Parse("tiny.yaml", []byte(familyFile(2)))), Registry: file, Trust: must(verify.ParseTrust(family.Public, ours().trustedRoot)), Policy: widgetPolicy()}
			_, err := v.Image(t.Context(), "tiny-1", "evil", now)
			refused(t, err, f.kind, f.reason)
		})
	}
}

type hostileIndex struct {
	row, name string
	kind      fault.Kind
	reason    verify.Reason
	manifests []graph.Node
}

func hostileIndexes() []hostileIndex {
	child := func(mediaType string, d digest.Digest, arch, variant string) graph.Node {
		return graph.Node{MediaType: mediaType, Digest: d, Size: 2, Platform: &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	const image = ocispec.MediaTypeImageManifest
	x := digest.FromString("x")
	nameless := child(image, x, "amd64", "")
	nameless.Platform = nil
	many := make([]graph.Node, 65)
	for i := range many {
		many[i] = child(image, x, fmt.Sprint("arch", i), "")
	}
	index := func(row, name string, manifests ...graph.Node) hostileIndex {
		return hostileIndex{row, name, fault.Forged, verify.WrongIndex, manifests}
	}
	return []hostileIndex{
		index("D1", "an index of nothing"),
		index("D1", "an index below an index", child(ocispec.MediaTypeImageIndex, x, "amd64", "")),
		index("D1", "a child that is no manifest", child("application/octet-stream", x, "amd64", "")),
		index("D1", "a child without platform", nameless),
		index("D1", "a platform twice, once by another variant's name", child(image, x, "arm", "v7"), child(image, digest.FromString("y"), "arm/v7", "")),
		index("D4", "a child by SHA-512", child(image, digest.SHA512.FromString("x"), "amd64", "")),
		index("D4", "a child by no digest", child(image, "x", "amd64", "")),
		index("D11", "more platforms than there are", many...),
		{"D1", "a child that nobody signed for", fault.Unverified, verify.Missing, []graph.Node{child(image, x, "amd64", "")}},
	}
}

func TestD12ATagIsResolvedOnce(t *testing.T) {
	w := newWorld(t, plot{})
	w.server.turn("", nil)
	fresh := w.verifier
	fresh.Registry = w.again()
	r, err := fresh.Image(t.Context(), "tiny-1", "dev", w.now)
	if n := w.server.calls("/manifests/dev"); err != nil || n != 1 || r.Digest != w.record.Images["tiny-1"].Index.Digest {
		t.Errorf("resolved %d times to %s, %v", n, r.Digest, err)
	}
}
