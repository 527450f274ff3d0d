package mage_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/release"
)

// realFamily builds this repository's own family, once for all who ask until its images change, and
// returns a layout with it and its cells. It takes minutes, and what is built takes 700 MB.
func realFamily(tb testing.TB) (layout string, cells []inspect.Cell) {
	tb.Helper()
	tree := strings.TrimSpace(string(output(tb, "git", "rev-parse", "HEAD:images")))
	home := filepath.Join(must(os.UserCacheDir()), "containai", "real-family")
	kept := filepath.Join(home, tree)
	if err := os.MkdirAll(home, 0o755); err != nil {
		tb.Fatal(err)
	}
	unlock, err := tool.Lock(tb.Context(), home+".lock", nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer unlock()
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		buildRealFamily(tb, home, kept)
	}
	var record release.Record
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(kept, "record.json"))), &record); err != nil {
		tb.Fatal(err)
	}
	for _, cell := range record.Cells() {
		n, _ := record.Digest(cell)
		cells = append(cells, inspect.NewCell(cell.Image, cell.Platform, n))
	}
	if len(cells) != 6 {
		tb.Fatalf("the real family has %d cells", len(cells))
	}
	return filepath.Join(kept, "layout"), cells
}

func buildRealFamily(tb testing.TB, home, kept string) {
	tb.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		tb.Skip("the embedded BuildKit needs root")
	}
	clone, binary := tb.TempDir(), filepath.Join(tb.TempDir(), "mage")
	output(tb, "git", "clone", "-q", "..", clone)
	build := exec.Command("go", "tool", "mage", "-compile", binary)
	build.Dir = ".."
	all := exec.Command(binary, "build:all")
	all.Dir = clone
	all.Env = append(os.Environ(), "CONTAINAI_PLATFORMS=linux/amd64")
	for _, c := range []*exec.Cmd{build, all} {
		if out, err := c.CombinedOutput(); err != nil {
			tb.Fatalf("%v: %v\n%s", c.Args, err, out)
		}
	}
	dist := must(filepath.EvalSymlinks(filepath.Join(clone, "dist", "latest")))
	made := filepath.Join(home, ".new")
	for _, err := range []error{
		os.RemoveAll(made), os.Mkdir(made, 0o755),
		exec.Command("cp", "-a", filepath.Join(dist, "layout"), filepath.Join(dist, "record.json"), made).Run(),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	for _, old := range must(os.ReadDir(home)) {
		if old.Name() != ".new" {
			if err := os.RemoveAll(filepath.Join(home, old.Name())); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := os.Rename(made, kept); err != nil {
		tb.Fatal(err)
	}
}

// scanners are Syft's and Trivy's own programs, from the modules that the worker links.
func scanners(tb testing.TB) (bin string) {
	tb.Helper()
	bin = filepath.Join(must(os.UserCacheDir()), "containai", "peers-scan")
	c := exec.CommandContext(tb.Context(), "go", "install", "github.com/anchore/syft/cmd/syft", "github.com/aquasecurity/trivy/cmd/trivy")
	c.Dir = filepath.Join("..", "testdata", "peers-scan")
	c.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=readonly", "GOEXPERIMENT=jsonv2")
	if out, err := c.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("%v\n%s", err, out)
		}
		tb.Skipf("Syft and Trivy cannot be built here: %v\n%s", err, out)
	}
	return bin
}

// TestTheScannersThatArePinnedForPeersAreTheOnesTheWorkerLinks: otherwise they would prove nothing.
func TestTheScannersThatArePinnedForPeersAreTheOnesTheWorkerLinks(t *testing.T) {
	versions := func(path string) map[string]string {
		found := map[string]string{}
		for line := range strings.Lines(string(must(os.ReadFile(path)))) {
			if f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(f) >= 2 {
				found[f[0]] = f[1]
			}
		}
		return found
	}
	ours, theirs := versions("../go.mod"), versions("../testdata/peers-scan/go.mod")
	for _, module := range []string{"github.com/anchore/syft", "github.com/anchore/stereoscope", "github.com/aquasecurity/trivy", "github.com/aquasecurity/trivy-db"} {
		if ours[module] == "" || ours[module] != theirs[module] {
			t.Errorf("%s is %q for the worker and %q for its peers", module, ours[module], theirs[module])
		}
	}
}

// view is a layout that holds one image of another layout.
func view(tb testing.TB, layout string, cell inspect.Cell) string {
	tb.Helper()
	dir := tb.TempDir()
	index := must(json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []graph.Node{{MediaType: cell.MediaType, Digest: cell.Digest, Size: cell.Size}},
	}))
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o644),
		os.Symlink(filepath.Join(layout, ocispec.ImageBlobsDir), filepath.Join(dir, ocispec.ImageBlobsDir)),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// peers runs Syft's and Trivy's own programs as people script them, offline.
type peers struct{ bin, cache string }

// secretConfig asks of Trivy what the worker asks: its rules without the exceptions that it comes with.
const secretConfig = `skip-patterns: []
disable-allow-rules: [dist-info, tests, examples, vendor, usr-dirs, locale-dir, markdown, node.js, golang, python, rubygems, wordpress, anaconda-log]
`

// newPeers gives Trivy a database where it looks for one.
func newPeers(tb testing.TB, db string) peers {
	tb.Helper()
	p := peers{scanners(tb), tb.TempDir()}
	if err := os.CopyFS(filepath.Join(p.cache, "db"), os.DirFS(db)); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(p.secretConfig(), []byte(secretConfig), 0o600); err != nil {
		tb.Fatal(err)
	}
	return p
}

func (p peers) secretConfig() string { return filepath.Join(p.cache, "peers-secrets.yaml") }

func (p peers) syft(tb testing.TB, view string) []byte {
	tb.Helper()
	return p.run(tb, "syft", "scan", "-q", "oci-dir:"+view, "-o", "cyclonedx-json")
}

func (p peers) trivy(tb testing.TB, view string) []byte {
	tb.Helper()
	return p.run(tb, "trivy", "image", "--input", view, "--scanners", "vuln,secret", "--offline-scan", "--skip-db-update",
		"--skip-java-db-update", "--skip-version-check", "--cache-dir", p.cache, "--secret-config", p.secretConfig(), "--format", "json", "-q")
}

func (p peers) run(tb testing.TB, name string, args ...string) []byte {
	tb.Helper()
	c := exec.CommandContext(tb.Context(), filepath.Join(p.bin, name), args...)
	c.Env = append(os.Environ(), "SYFT_CHECK_FOR_APP_UPDATE=false")
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, complaint.String())
	}
	return out
}

// scannerWorker is the worker, where releases keep it.
func scannerWorker(tb testing.TB) string {
	tb.Helper()
	return must(inspect.Worker(must(filepath.Abs(".."))).Build(tb.Context(), filepath.Join(must(os.UserCacheDir()), "containai", "programs"), nil))
}

// inspectCells runs the worker, and returns the reports and what it said of its memory, in MiB.
func inspectCells(tb testing.TB, worker, layout string, cells []inspect.Cell, db, cache, out string) ([]evidence.Report, int) {
	tb.Helper()
	peak := 0
	inspector := inspect.New(worker, cache, must(inspect.OpenDirectory(db)), func(e inspect.Event) {
		_, _ = fmt.Sscanf(e.Message, "peak memory %d MiB", &peak)
	})
	reports, err := inspector.Inspect(tb.Context(), inspect.Job{Layout: layout, Cells: cells, Out: out, Epoch: 1_700_000_000})
	if err != nil {
		tb.Fatal(err)
	}
	return reports, peak
}

// explained are the only differences between the worker and its peers, "IMAGE: only ours: WHAT" or "only
// theirs", and why they are. There is none.
func explained() map[string]string { return map[string]string{} }

// TestSyftAndTrivyAgreeWithTheWorkerOnTheRealImages lets Syft's and Trivy's own programs, of the versions
// that the worker links, look at the six real images and at one in which secrets were planted.
func TestSyftAndTrivyAgreeWithTheWorkerOnTheRealImages(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("building the family and the scanners takes minutes: mage testDeep runs it")
	}
	from, cells := realFamily(t)
	layout := linked(t, from)
	cells = append(cells, plant(t, layout, cells[slices.IndexFunc(cells, func(c inspect.Cell) bool { return c.Image == "containai-base" })]))
	db := fixtureDatabase(t)
	p := newPeers(t, db)
	out := t.TempDir()
	reports, _ := inspectCells(t, scannerWorker(t), layout, cells, db, t.TempDir(), out)
	differences := map[string]bool{}
	for i, cell := range cells {
		dir := view(t, layout, cell)
		sbom := must(os.ReadFile(filepath.Join(inspect.Job{Out: out}.Dir(cell.Cell), inspect.SBOMFile)))
		ours, theirs := packagesOf(t, sbom), packagesOf(t, p.syft(t, dir))
		if len(theirs) < 90 {
			t.Errorf("%s: Syft sees %d packages", cell, len(theirs))
		}
		compare(differences, cell.Image, ours, theirs)
		found := findingsOf(t, p.trivy(t, dir))
		if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(s string) bool { return strings.HasPrefix(s, "vulnerability CVE-2026-0001 in bash") }) {
			t.Errorf("%s: Trivy does not find what the database says of bash: %v", cell, found)
		}
		compare(differences, cell.Image, reported(reports[i]), found)
		if cell.Image == "planted" && !found["secret aws-access-key-id in opt/removed.env"] {
			t.Errorf("Trivy does not find the secret that a later layer removes: %v", found)
		}
		if cell.Image == "planted" && !found["secret aws-access-key-id in usr/share/doc/example/README.md"] {
			t.Errorf("Trivy does not find the secret where it makes an exception otherwise: %v", found)
		}
	}
	want := map[string]bool{}
	for difference := range explained() {
		want[difference] = true
	}
	if diff := cmp.Diff(want, differences); diff != "" {
		t.Errorf("differences (-explained +found):\n%s", diff)
	}
}

func compare(differences map[string]bool, image string, ours, theirs map[string]bool) {
	for what := range ours {
		if !theirs[what] {
			differences[image+": only ours: "+what] = true
		}
	}
	for what := range theirs {
		if !ours[what] {
			differences[image+": only theirs: "+what] = true
		}
	}
}

// packagesOf lists the packages of a CycloneDX document. Files are none.
func packagesOf(t *testing.T, content []byte) map[string]bool {
	t.Helper()
	var bom struct {
		Components []struct{ Type, Name, Version, PURL string }
	}
	if err := json.Unmarshal(content, &bom); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, c := range bom.Components {
		if c.Type != "file" {
			found[fmt.Sprintf("package %s %s %s %s", c.Type, c.Name, c.Version, c.PURL)] = true
		}
	}
	return found
}

// findingsOf lists what Trivy's report says.
func findingsOf(t *testing.T, content []byte) map[string]bool {
	t.Helper()
	var report struct {
		Results []struct {
			Target          string
			Secrets         []struct{ RuleID string }
			Vulnerabilities []struct{ VulnerabilityID, PkgName, InstalledVersion, Severity string }
		}
	}
	if err := json.Unmarshal(content, &report); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, r := range report.Results {
		for _, s := range r.Secrets {
			found[fmt.Sprintf("secret %s in %s", s.RuleID, strings.TrimPrefix(r.Target, "/"))] = true
		}
		for _, v := range r.Vulnerabilities {
			found[fmt.Sprintf("vulnerability %s in %s %s, %s", v.VulnerabilityID, v.PkgName, v.InstalledVersion, v.Severity)] = true
		}
	}
	return found
}

func reported(r evidence.Report) map[string]bool {
	found := map[string]bool{}
	for _, f := range r.Findings {
		if f.Kind == evidence.Secret {
			found[fmt.Sprintf("secret %s in %s", f.ID, f.Path)] = true
			continue
		}
		found[fmt.Sprintf("vulnerability %s in %s %s, %s", f.ID, f.Package, f.Version, f.Severity)] = true
	}
	return found
}

// linked is a layout with the blobs of another, to which more can be added.
func linked(tb testing.TB, from string) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "layout")
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, dir).CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// plant makes an image of another by two layers: one with three secrets, and one that removes one of them.
func plant(t *testing.T, layout string, on inspect.Cell) inspect.Cell {
	t.Helper()
	key := "AWS_ACCESS_KEY_ID=" + "AKIA" + "2OGYBAH6STMMNXWQ" + "\n"
	first := addLayer(t, layout, on, "planted", map[string]string{"opt/kept.env": key, "opt/removed.env": key, "usr/share/doc/example/README.md": key})
	return addLayer(t, layout, first, "planted", map[string]string{"opt/.wh.removed.env": ""})
}

// addLayer makes an image of another and one layer on top.
func addLayer(tb testing.TB, layout string, on inspect.Cell, name string, files map[string]string) inspect.Cell {
	tb.Helper()
	store := must(registry.OpenLayout(layout))
	node := graph.Node{MediaType: on.MediaType, Digest: on.Digest, Size: on.Size}
	manifest := must(graph.Manifest(tb.Context(), store, node))
	config := must(graph.Config(tb.Context(), store, manifest.Config))
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := archive.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[path]))}); err != nil {
			tb.Fatal(err)
		}
		must(archive.Write([]byte(files[path])))
	}
	if err := archive.Close(); err != nil {
		tb.Fatal(err)
	}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(content.Bytes()))
	manifest.Layers = append(manifest.Layers, must(graph.PushBytes(tb.Context(), store, ocispec.MediaTypeImageLayer, content.Bytes())))
	manifest.Config = must(graph.PushBytes(tb.Context(), store, ocispec.MediaTypeImageConfig, must(json.Marshal(config))))
	made := must(graph.PushBytes(tb.Context(), store, ocispec.MediaTypeImageManifest, must(json.Marshal(manifest))))
	return inspect.NewCell(name, on.Platform, made)
}
