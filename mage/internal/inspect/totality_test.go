package inspect_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/inspect"
)

// TestF7UnsoundImageIsRefused: what cannot be scanned whole has no report.
func TestF7UnsoundImageIsRefused(t *testing.T) {
	sound := recipe{name: "app", layers: [][]file{debian(), {{"hello", "hello hello hello"}}}}
	change := func(edit func(r *recipe)) recipe {
		r := sound
		edit(&r)
		return r
	}
	tests := []struct {
		name  string
		image recipe
		spoil func(t *testing.T, layout string, cell *inspect.Cell)
		kind  fault.Kind
		cause string
	}{
		{name: "a truncated layer", image: sound, kind: fault.Forged, cause: "the layout holds", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			path := blob(layout, readManifest(t, layout, *cell).Layers[1].Digest)
			spoilFile(t, path, func(content []byte) []byte { return content[:len(content)/2] })
		}},
		{name: "a layer with other content", image: sound, kind: fault.Forged, cause: "the layout holds", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			path := blob(layout, readManifest(t, layout, *cell).Layers[0].Digest)
			spoilFile(t, path, func(content []byte) []byte { content[len(content)-1]++; return content })
		}},
		{name: "a manifest with other content", image: sound, kind: fault.Forged, cause: "content has", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			spoilFile(t, blob(layout, cell.Digest), func(content []byte) []byte { return bytes.Replace(content, []byte("2"), []byte("3"), 1) })
		}},
		{name: "a missing layer", image: sound, kind: fault.Refused, cause: "does not hold it", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			if err := os.Remove(blob(layout, readManifest(t, layout, *cell).Layers[1].Digest)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a missing manifest", image: sound, kind: fault.Refused, cause: "does not hold it", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			cell.Digest = digest.FromString("nothing")
		}},
		{name: "an image for another platform", image: sound, kind: fault.Forged, cause: `platform "linux/amd64"`, spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			cell.Platform = "linux/arm64"
		}},
		{name: "an index in place of a manifest", image: sound, kind: fault.Refused, cause: "no image manifest", spoil: func(t *testing.T, layout string, cell *inspect.Cell) {
			cell.MediaType = ocispec.MediaTypeImageIndex
		}},
		{name: "a layer no scanner unpacks", image: change(func(r *recipe) { r.mediaType = "application/vnd.oci.image.layer.v1.tar+encrypted" }), kind: fault.Refused, cause: "not scanned"},
		{name: "a layer that is no archive", image: change(func(r *recipe) { r.mediaType = ocispec.MediaTypeImageLayerGzip }), kind: fault.Refused, cause: "gzip"},
		{name: "a package database with no package in it", image: change(func(r *recipe) { r.layers = [][]file{debianWith("")} }), kind: fault.Refused, cause: "no package in the SBOM"},
		{name: "a package database removed by a later layer", image: change(func(r *recipe) { r.layers = [][]file{debian(), {{"var/lib/dpkg/.wh.status", ""}}} }), kind: fault.Refused, cause: "removes the package database"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			layout, cells := newLayout(t, test.image)
			if test.spoil != nil {
				test.spoil(t, layout, &cells[0])
			}
			run := newInspection(t, layout, cells...)
			_, err := run.run(t)
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.cause) {
				t.Errorf("got %v, want %v that names %q", err, test.kind, test.cause)
			}
			if err != nil && !strings.Contains(err.Error(), "app linux/") && !strings.Contains(err.Error(), "sha256:") {
				t.Errorf("%q names neither the cell nor the blob", err)
			}
			if _, err := os.Stat(run.job.Dir(cells[0].Cell)); err == nil {
				t.Error("evidence was written")
			}
		})
	}
}

// TestF7AnImageLargerThanTheCapIsRefused: a layer of a few megabytes that unpacks to more than the
// worker's cap is not scanned in part. It takes a minute of unpacking.
func TestF7AnImageLargerThanTheCapIsRefused(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("unpacking 16 GiB takes a minute: mage testDeep runs it")
	}
	const zeros, cap = 64 << 20, 16 << 30
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: cap + zeros}); err != nil {
		t.Fatal(err)
	}
	// A gzip file may have several members (RFC 1952, section 2.2).
	layer := append(compress(t, head.Bytes()), bytes.Repeat(compress(t, make([]byte, zeros)), cap/zeros+1)...)
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{debian(), {{"hello", "hello"}}}, packed: map[int][]byte{1: layer}})
	run := newInspection(t, layout, cells...)
	if _, err := run.run(t); !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "it unpacks to more than") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := os.Stat(run.job.Dir(cells[0].Cell)); err == nil {
		t.Error("evidence was written")
	}
}

// TestF7LayersThatFillTheDiskAreRefused: each may be small enough, and all together too much.
func TestF7LayersThatFillTheDiskAreRefused(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{debian(), {{"a", large}}, {{"b", large}}}})
	run := newInspection(t, layout, cells...)
	run.job.Unpacked = 3 << 20
	run.mustRun(t)

	run = newInspection(t, layout, cells...)
	run.job.Unpacked, run.job.Parallel = 2<<20, 1
	_, err := run.run(t)
	last := readManifest(t, layout, cells[0]).Layers[2].Digest.String()
	if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), last) || !strings.Contains(err.Error(), "more than 2097152 bytes (make the layer smaller") {
		t.Errorf("got %v, want a refusal of layer %s that says what to do", err, last)
	}
}

// TestALayerThatIsReadInAnotherWayIsScannedAgain: the same bytes can be a tar archive and a gzip file,
// with a secret in one of them. What was found under one media type says nothing of another.
func TestALayerThatIsReadInAnotherWayIsScannedAgain(t *testing.T) {
	hidden := []file{{"root/.aws/credentials", "key = " + awsKey() + "\n"}}
	both := twoArchives(t, []file{{"clean", "hello hello hello"}}, hidden)
	as := func(name, mediaType string) recipe {
		return recipe{name: name, mediaType: mediaType, layers: [][]file{hidden}, packed: map[int][]byte{0: both}}
	}
	plain, packed := as("app", ocispec.MediaTypeImageLayer), as("app", ocispec.MediaTypeImageLayerGzip)
	cache := t.TempDir()
	found := func(image recipe) ([]evidence.Finding, error) {
		layout, cells := newLayout(t, image)
		run := newInspection(t, layout, cells...)
		run.cache = cache
		reports, err := run.run(t)
		if err != nil {
			return nil, err
		}
		return secrets(reports[0]), nil
	}
	for _, test := range []struct {
		name  string
		image recipe
		want  int
	}{{"tar", plain, 0}, {"gzip", packed, 1}, {"tar again", plain, 0}} {
		if got, err := found(test.image); err != nil || len(got) != test.want {
			t.Errorf("%s: %d findings, %v, want %d", test.name, len(got), err, test.want)
		}
	}

	other := packed
	other.name = "other"
	layout, cells := newLayout(t, plain, other)
	if _, err := newInspection(t, layout, cells...).run(t); !errors.Is(err, fault.Forged) || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("both in one family: %v, want fault.Forged", err)
	}
}

// TestAChangedImageIsInspectedAsIfNothingHadBeenKept: its SBOM and its report are to the byte what a
// run without a cache makes of it.
func TestAChangedImageIsInspectedAsIfNothingHadBeenKept(t *testing.T) {
	below := [][]file{
		debian(),
		{{"usr/local/bin/node", "\x7fELF" + strings.Repeat("\x00", 300) + "node.js/v22.9.0\x00"}},
		{{"app/node_modules/left-pad/package.json", `{"name":"left-pad","version":"1.3.0","license":"MIT"}`}},
	}
	image := func(top ...file) recipe { return recipe{name: "app", layers: append(slices.Clone(below), top)} }
	layout, cells := newLayout(t, image(file{"a", "one one one one"}), image(file{"a", "two two two two"}, file{"opt/node", below[1][0].content}))
	kept, fresh := newInspection(t, layout, cells[0]), newInspection(t, layout, cells[1])
	kept.mustRun(t)
	kept.job.Cells = cells[1:]
	kept.mustRun(t)
	fresh.mustRun(t)
	for _, name := range []string{inspect.SBOMFile, inspect.ReportFile} {
		got, want := kept.file(t, cells[1].Cell, name), fresh.file(t, cells[1].Cell, name)
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs:\n%s\n%s", name, got, want)
		}
		if name == inspect.SBOMFile && (!bytes.Contains(got, []byte("pkg:generic/node@22.9.0")) || !bytes.Contains(got, []byte("pkg:npm/left-pad@1.3.0"))) {
			t.Errorf("the SBOM lacks what lies in lower layers:\n%s", got)
		}
	}
	if _, layers := kept.count(inspect.Done); layers != 1 {
		t.Errorf("%d layers were searched for the changed image, want its new one", layers)
	}
}

func TestEvidenceDependsOnContentAlone(t *testing.T) {
	image := recipe{name: "app", layers: [][]file{debian(), {{"etc/deploy.env", "AWS_ACCESS_KEY_ID=" + awsKey() + "\nTOKEN=" + githubToken() + "\n"}}}}
	var first [2][]byte
	for i := range 3 {
		layout, cells := newLayout(t, image)
		run := newInspection(t, layout, cells...)
		run.job.Parallel = 1 + 3*i
		run.mustRun(t)
		for n, name := range []string{inspect.SBOMFile, inspect.ReportFile} {
			content := run.file(t, cells[0].Cell, name)
			if i > 0 && !bytes.Equal(content, first[n]) {
				t.Errorf("%s differs between directories:\n%s\n%s", name, first[n], content)
			}
			first[n] = content
		}
	}
}

func TestLayersAreScannedOnceAndEvidenceIsReused(t *testing.T) {
	layout, cells := newLayout(t,
		recipe{name: "base", layers: [][]file{debian()}},
		recipe{name: "left", layers: [][]file{debian(), {{"left", "left left left"}}}},
		recipe{name: "right", layers: [][]file{debian(), {{"right", "right right right"}}}},
	)
	run := newInspection(t, layout, cells...)
	first := run.mustRun(t)
	if scanned, layers := run.count(inspect.Done); scanned != 3 || layers != 3 {
		t.Errorf("first: %d cells and %d layers scanned, want 3 and 3", scanned, layers)
	}

	second := run.mustRun(t)
	reused, _ := run.count(inspect.Reused)
	if scanned, layers := run.count(inspect.Done); reused != 3 || scanned+layers != 0 {
		t.Errorf("again: %d reused, %d cells and %d layers scanned, want 3, 0 and 0", reused, scanned, layers)
	}
	if a, b := toJSON(t, first), toJSON(t, second); !bytes.Equal(a, b) {
		t.Errorf("reused reports differ:\n%s\n%s", a, b)
	}

	path := run.job.Dir(cells[1].Cell) + "/" + inspect.ReportFile
	for was, is := range map[string]string{`"packages": 3`: `"packages": 4`, `"modules": "sha256:`: `"modules": "sha256:0`} {
		spoilFile(t, path, func(content []byte) []byte { return bytes.Replace(content, []byte(was), []byte(is), 1) })
		if b := toJSON(t, run.mustRun(t)); !bytes.Equal(toJSON(t, first), b) {
			t.Errorf("after %s was changed in a report, it is not as it was:\n%s", was, b)
		}
	}
	if scanned, layers := run.count(inspect.Done); scanned+layers != 0 {
		t.Errorf("after a report was changed: %d cells and %d layers scanned, want none: what was kept holds", scanned, layers)
	}

	for _, s := range run.steps {
		if !s.Cached || s.Digest != digestOf(cells, s.Cell) {
			t.Errorf("%s of %s says that it looked anew, or at something else: %+v", s.Check, s.Cell, s)
		}
	}

	run.job.Out = t.TempDir() // another commit's directory, whose images are the same
	run.mustRun(t)
	if scanned, layers := run.count(inspect.Done); scanned+layers != 0 {
		t.Errorf("for another commit: %d cells and %d layers scanned, want none", scanned, layers)
	}

	run.db = newDatabase(t, "debian 12", current())
	reports := run.mustRun(t)
	for _, s := range run.steps {
		if looked := s.Check == inspect.CheckVulnerabilities; s.Cached == looked {
			t.Errorf("with a database, %s of %s was taken from before: %v", s.Check, s.Cell, s.Cached)
		}
	}
	if len(run.steps) != len(cells)*len(inspect.Checks()) {
		t.Errorf("%d steps for %d cells", len(run.steps), len(cells))
	}
	if scanned, layers := run.count(inspect.Done); scanned != 3 || layers != 0 {
		t.Errorf("with a database: %d cells and %d layers scanned, want 3 and 0", scanned, layers)
	}
	for _, r := range reports {
		if r.Vulnerabilities != evidence.Scanned {
			t.Errorf("%s: %s because %s", r.Cell, r.Vulnerabilities, r.Reason)
		}
	}
}

// TestPackagesOfThisMachine compares the SBOM of a real package database with dpkg's own list.
func TestPackagesOfThisMachine(t *testing.T) {
	status, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("this machine is no Debian: %v", err)
	}
	list, err := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	installed := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		if name, ok := strings.CutPrefix(line, "ii "); ok {
			installed[strings.TrimSpace(name)] = true
		}
	}
	layer := debian()
	layer[2].content = string(status)
	layout, cells := newLayout(t, recipe{name: "app", layers: [][]file{layer}})
	run := newInspection(t, layout, cells...)
	run.mustRun(t)
	var bom struct{ Components []struct{ Type, Name string } }
	if err := json.Unmarshal(run.file(t, cells[0].Cell, inspect.SBOMFile), &bom); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range bom.Components {
		if c.Type == "library" {
			listed[c.Name] = true
		}
	}
	for name := range installed {
		if !listed[name] {
			t.Errorf("dpkg has %s, the SBOM has not", name)
		}
	}
	for name := range listed {
		if !installed[name] {
			t.Errorf("the SBOM has %s, dpkg has not", name)
		}
	}
}

// twoArchives is a tar archive of some files that is also a gzip file, of a tar archive of others: the first
// stands in the extra field of the second's header (RFC 1952, section 2.3), whose beginning is the name of
// the first's first entry.
func twoArchives(t *testing.T, plain, packed []file) []byte {
	t.Helper()
	blob := tarball(t, append([]file{{"name", ""}}, plain...))
	extra := len(blob) - 12
	copy(blob, []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, byte(extra), byte(extra >> 8)})
	copy(blob[148:], "        ") // the sum of an entry's header counts itself as spaces
	sum := 0
	for _, b := range blob[:512] {
		sum += int(b)
	}
	copy(blob[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(blob, compress(t, tarball(t, packed))[10:]...)
}

func digestOf(cells []inspect.Cell, of evidence.Cell) digest.Digest {
	for _, c := range cells {
		if c.Cell == of {
			return c.Digest
		}
	}
	return ""
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func readManifest(t *testing.T, layout string, cell inspect.Cell) ocispec.Manifest {
	t.Helper()
	content, err := os.ReadFile(blob(layout, cell.Digest))
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func spoilFile(t *testing.T, path string, edit func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // blobs are read-only
		t.Fatal(err)
	}
	if err := os.WriteFile(path, edit(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// javaArchive is a jar of which only the manifest matters.
func javaArchive(t *testing.T) string {
	t.Helper()
	var content bytes.Buffer
	archive := zip.NewWriter(&content)
	for name, text := range map[string]string{
		"META-INF/MANIFEST.MF":                          "Manifest-Version: 1.0\nImplementation-Title: app\nImplementation-Version: 1.2.3\n",
		"META-INF/maven/org.example/app/pom.properties": "groupId=org.example\nartifactId=app\nversion=1.2.3\n",
	} {
		w, err := archive.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return content.String()
}
