package buildkit

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/pack"
	"github.com/containai/containai/mage/release"
)

// bakeFile is a family of three: a base, an image on it, and one that is only linked to it.
const bakeFile = `
target "base" {
  contexts          = { os = "docker-image://example.org/never:pulled" }
  dockerfile-inline = "FROM os\nRUN --network=none date +%s >/built\n"
}
target "app" {
  contexts          = { parent = "target:base" }
  labels            = { "org.opencontainers.image.title" = "app, with a=b", "other" = "not an annotation" }
  dockerfile-inline = <<EOT
FROM parent
RUN --mount=type=secret,id=ca,target=/run/ca.pem head -c 5 /run/ca.pem >/ca-was-here
RUN useradd --uid 1000 plain
USER plain
WORKDIR /srv
ENV GREETING=hello
EOT
}
target "stray" {
  contexts          = { parent = "target:base" }
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /\n"
}
target "broken" {
  contexts          = { parent = "target:base" }
  dockerfile-inline = "FROM parent\n\nRUN echo the reason is here >&2; exit 7\n"
}
target "endless" {
  contexts          = { parent = "target:base" }
  dockerfile-inline = "FROM parent\nRUN sleep 123456\n"
}
`

// testFamily declares images of the bake file, each on base.
func testFamily(platforms []string, children ...string) *family.Family {
	f := &family.Family{
		Name: "test", Source: "https://example.com/test", Bake: "docker-bake.hcl", Platforms: platforms,
		Base:   family.OSBase{Suite: "bookworm", Packages: []string{"ca-certificates"}},
		Images: map[string]family.Image{"base": {}},
	}
	for _, name := range children {
		f.Images[name] = family.Image{From: "base"}
	}
	return f
}

// request makes a build request of a family in a fresh root directory.
func request(t *testing.T, f *family.Family) Request {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "docker-bake.hcl"), bakeFile)
	source := release.Source{Commit: strings.Repeat("a", 40), Epoch: time.Unix(1_700_000_000, 0).UTC()}
	plan, err := release.NewPlan(f, source, f.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Plan: plan, Root: root}
}

// testOptions use the user's cache, so that programs and the day's OS base are made once.
func testOptions(t *testing.T, state string) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "the embedded BuildKit needs root")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, "-----BEGIN")
	return Options{State: state, Cache: filepath.Join(cache, "containai"), CA: ca, Compress: pack.Compress, Now: time.Now}
}

// skip skips on a laptop and fails where everything must be there.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newLayout(t *testing.T) (string, *oci.Store) {
	t.Helper()
	dir := t.TempDir()
	store, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, store
}

// TestEmbeddedBuilder builds real images with a real daemon; its parts share it.
func TestEmbeddedBuilder(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	var mu sync.Mutex
	var events []Event
	options := testOptions(t, t.TempDir())
	options.Progress = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}
	b, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	if b.Kind() != Embedded {
		skip(t, "another BuildKit was chosen: "+string(b.Kind()))
	}
	t.Run("builds a family with lineage and honest materials", func(t *testing.T) { testBuild(t, b, &events) })
	t.Run("gives the same digests when every step runs again", func(t *testing.T) { testReproducible(t, b) })
	t.Run("runs smoke tests in the built bytes", func(t *testing.T) { testSmoke(t, b) })
	t.Run("refuses what it cannot build", func(t *testing.T) { testRefusals(t, b) })
	t.Run("builds one image and what it needs", func(t *testing.T) { testPartial(t, b) })
	t.Run("ends when it is cancelled", func(t *testing.T) { testCancelled(t, b) })
	t.Run("builds a foreign platform", func(t *testing.T) { testForeign(t, b) })
	t.Run("ends when it is idle, and comes back", func(t *testing.T) { testIdle(t, b, options.State) })
}

func testBuild(t *testing.T, b *Builder, events *[]Event) {
	_, store := newLayout(t)
	r := request(t, testFamily([]string{"linux/amd64"}, "app"))
	got, err := b.Build(t.Context(), r, store)
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got.Images)); !slices.Equal(names, []string{"app", "base"}) {
		t.Fatalf("built %v, want app and base", names)
	}
	for name, image := range got.Images {
		children, err := graph.Children(t.Context(), store, image.Index)
		if err != nil || len(children) != 1 || children[0].Digest != image.Platforms["linux/amd64"].Digest {
			t.Errorf("the index of %s names %v, %v, want its one platform manifest", name, children, err)
		}
	}
	checkAnnotations(t, store, got)
	config := configOf(t, store, got.Images["app"].Platforms["linux/amd64"])
	if config.Config.User != "plain" || !config.Created.Equal(r.Plan.Source.Epoch) {
		t.Errorf("the image has user %q and was created %v, want plain at the commit's time", config.Config.User, config.Created)
	}
	if !got.LocalBase || len(got.Materials) != 1 || got.Materials[0].Name != "os-base/linux/amd64" || got.Tools["buildkit"] != BuildKitVersion || got.Tools["buildx"] != BuildxVersion {
		t.Errorf("the result says %+v", got)
	}
	last := (*events)[len(*events)-1]
	if !slices.ContainsFunc(*events, func(e Event) bool { return e.Image == "app" && strings.Contains(e.Step, "useradd") && e.Finished }) || last.Done != last.Total {
		t.Errorf("no event says that useradd ended, or the last one is not the end: %+v", last)
	}
	if epoch := got.Images["app"].Arguments["SOURCE_DATE_EPOCH"]; epoch != "315532801" {
		t.Errorf("the image's build arguments are %v", got.Images["app"].Arguments)
	}
	leftovers, err := os.ReadDir(b.state("tmp"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("the build left %v, %v", leftovers, err)
	}
}

// checkAnnotations: manifest and index of app say the same of its commit, and the index on what it stands.
func checkAnnotations(t *testing.T, store graph.Store, got Result) {
	t.Helper()
	manifest, err := graph.Manifest(t.Context(), store, got.Images["app"].Platforms["linux/amd64"])
	if err != nil {
		t.Fatal(err)
	}
	index, err := graph.Index(t.Context(), store, got.Images["app"].Index)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"org.opencontainers.image.created":  "2023-11-14T22:13:20Z",
		"org.opencontainers.image.revision": strings.Repeat("a", 40),
		"org.opencontainers.image.source":   "https://example.com/test",
		"org.opencontainers.image.title":    "app, with a=b",
		"org.opencontainers.image.version":  "sha-" + strings.Repeat("a", 40),
	}
	if diff := cmp.Diff(want, manifest.Annotations); diff != "" {
		t.Errorf("the manifest's annotations (-want +got):\n%s", diff)
	}
	want["org.opencontainers.image.base.digest"] = got.Images["base"].Index.Digest.String()
	if diff := cmp.Diff(want, index.Annotations); diff != "" {
		t.Errorf("the index's annotations (-want +got):\n%s", diff)
	}
}

// testReproducible builds from nothing, each time in another directory. The control shows that
// the steps really run again: random bytes make other digests. A commit of the future shows that what a
// cache or a work tree holds from before the commit does not matter.
func testReproducible(t *testing.T, b *Builder) {
	epoch := time.Unix(1_700_000_000, 0).UTC()
	build := func(step string) string {
		_, store := newLayout(t)
		r := request(t, testFamily([]string{"linux/amd64"}))
		write(t, filepath.Join(r.Root, "docker-bake.hcl"), strings.ReplaceAll(bakeFile, "date +%s >/built", step))
		r.Rebuild, r.Plan.Source.Epoch = true, epoch
		got, err := b.Build(t.Context(), r, store)
		if err != nil {
			t.Fatal(err)
		}
		return got.Images["base"].Index.Digest.String()
	}
	const same, random = "mkdir /built && touch /built/a", "head -c 16 /dev/urandom >/built"
	if first, second := build(same), build(same); first != second {
		t.Errorf("two builds gave %s and %s", first, second)
	}
	epoch = time.Now().AddDate(1, 0, 0).UTC().Truncate(time.Second)
	if first, second := build(same), build(same); first != second {
		t.Errorf("two builds of a commit of the future gave %s and %s", first, second)
	}
	if first, second := build(random), build(random); first == second {
		t.Errorf("random content gave %s twice: the steps did not run again", first)
	}
}

func testSmoke(t *testing.T, b *Builder) {
	dir, store := newLayout(t)
	got, err := b.Build(t.Context(), request(t, testFamily([]string{"linux/amd64"}, "app")), store)
	if err != nil {
		t.Fatal(err)
	}
	hostile := "it's \"$HOME\" $(id) `id` \\ <<EOF\n; exit 3"
	tests := []family.Smoke{
		{Name: "passes", Run: []string{"sh", "-c", "id -un; pwd; echo $GREETING"}, Prints: `^plain\n/srv\nhello$`},
		{Name: "passes arguments as they are", Run: []string{"printf", "%s", hostile}, Prints: `^it's "\$HOME" \$\(id\) .id. \\ <<EOF\n; exit 3$`},
		{Name: "expects an exit code", Run: []string{"sh", "-c", "exit 7"}, Exit: 7},
		{Name: "fails by exit code", Run: []string{"false"}},
		{Name: "fails by output", Run: []string{"echo", "something else"}, Prints: "^expected$"},
		{Name: "is not there", Run: []string{"no-such-program"}},
		{Name: "has no network", Run: []string{"ls", "/sys/class/net"}, Prints: `^lo$`},
		{Name: "has the network that it declares", Run: []string{"sh", "-c", `test "$(ls /sys/class/net)" != lo`}, Network: true},
		{Name: "takes too long", Run: []string{"sleep", "60"}, Within: time.Second},
		{Name: "prints without end", Run: []string{"yes"}},
		{Name: "takes too much memory", Run: []string{"sh", "-c", "exec 2>/dev/null; head -c 3G </dev/zero | tail -n 1 | wc -c"}, Prints: "^3221225472$"},
	}
	want := []evidence.SmokeResult{
		{Name: "passes", Passed: true, Output: "plain\n/srv\nhello"},
		{Name: "passes arguments as they are", Passed: true, Output: hostile},
		{Name: "expects an exit code", Passed: true, Exit: 7},
		{Name: "fails by exit code", Exit: 1},
		{Name: "fails by output", Output: "something else"},
		{Name: "is not there", Exit: 127, Output: "timeout: failed to run command ‘no-such-program’: No such file or directory"},
		{Name: "has no network", Passed: true, Output: "lo"},
		{Name: "has the network that it declares", Passed: true},
		{Name: "takes too long", Exit: 124, Output: "it did not end within 1s\n"},
		{Name: "prints without end", Exit: 153, Output: ("it was stopped: a test may write 1024 MiB to one file, and print as much; let it say less\n" + strings.Repeat("y\n", 1000))[:2000]},
		{Name: "takes too much memory", Exit: 0, Output: "0"},
	}
	results, err := b.Smoke(t.Context(), dir, got.Images["app"].Platforms["linux/amd64"], "linux/amd64", tests)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		// The locale decides how timeout(1) quotes; the names and the rest do not vary.
		results[i].Output = strings.NewReplacer("'no-such-program'", "‘no-such-program’").Replace(results[i].Output)
		if results[i] != want[i] {
			t.Errorf("%s:\n got %+v\nwant %+v", want[i].Name, results[i], want[i])
		}
	}
}

func testRefusals(t *testing.T, b *Builder) {
	for name, test := range map[string]struct {
		family *family.Family
		images []string
		kind   fault.Kind
		says   []string
	}{
		"an image whose base is not its parent": {testFamily([]string{"linux/amd64"}, "stray"), nil, fault.BuildFailed, []string{"stray", "linux/amd64", "layers"}},
		"a step that fails":                     {testFamily([]string{"linux/amd64"}, "broken"), nil, fault.BuildFailed, []string{"broken", "Dockerfile:3", "RUN echo", "exit code: 7", "the reason is here"}},
		"an image that is not in the family":    {testFamily([]string{"linux/amd64"}, "app"), []string{"ap"}, fault.Invalid, []string{`"ap"`, "base, app"}},
		"a platform without an emulator":        {testFamily([]string{"linux/s390x"}), nil, fault.Environment, []string{"linux/s390x"}},
		"a target that is not in the bake file": {testFamily([]string{"linux/amd64"}, "absent"), nil, fault.Invalid, []string{"docker-bake.hcl:1", "absent"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a platform without an emulator" && slices.Contains(b.Platforms(), "linux/s390x") {
				t.Skip("this machine emulates s390x")
			}
			_, store := newLayout(t)
			r := request(t, test.family)
			r.Images = test.images
			_, err := b.Build(t.Context(), r, store)
			if !errors.Is(err, test.kind) {
				t.Fatalf("got %v, want %v", err, test.kind)
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not say %q:\n%v", word, err)
				}
			}
		})
	}
}

func testPartial(t *testing.T, b *Builder) {
	_, store := newLayout(t)
	r := request(t, testFamily([]string{"linux/amd64"}, "app", "broken"))
	r.Images = []string{"app"}
	got, err := b.Build(t.Context(), r, store)
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got.Images)); !slices.Equal(names, []string{"app", "base"}) {
		t.Errorf("built %v, want app and its parent", names)
	}
}

func testCancelled(t *testing.T, b *Builder) {
	ctx, cancel := context.WithCancel(t.Context())
	progress := b.options.Progress
	defer func() { b.options.Progress = progress }()
	b.options.Progress = func(e Event) {
		if strings.Contains(e.Step, "sleep 123456") {
			cancel()
		}
	}
	_, store := newLayout(t)
	_, err := b.Build(ctx, request(t, testFamily([]string{"linux/amd64"}, "endless")), store)
	if !errors.Is(err, fault.Interrupted) {
		t.Errorf("got %v, want fault.Interrupted", err)
	}
}

func testForeign(t *testing.T, b *Builder) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("an emulated base takes minutes: mage testDeep runs it")
	}
	if !slices.Contains(b.Platforms(), "linux/arm64") {
		skip(t, "no emulator for linux/arm64 is registered: "+b.host().fix("linux/arm64"))
	}
	dir, store := newLayout(t)
	platforms := []string{"linux/amd64", "linux/arm64"}
	got, err := b.Build(t.Context(), request(t, testFamily(platforms, "app")), store)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := b.Build(t.Context(), request(t, testFamily(platforms[:1])), store)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alone.Materials, got.Materials[:1]); diff != "" || len(got.Materials) != 2 {
		t.Errorf("who builds one platform alone names other materials (-alone +together):\n%s", diff)
	}
	node := got.Images["app"].Platforms["linux/arm64"]
	if config := configOf(t, store, node); config.Architecture != "arm64" {
		t.Errorf("the arm64 image says %s", config.Architecture)
	}
	results, err := b.Smoke(t.Context(), dir, node, "linux/arm64", []family.Smoke{{Name: "machine", Run: []string{"uname", "-m"}, Prints: "^aarch64$"}})
	if err != nil || !results[0].Passed {
		t.Errorf("the arm64 image ran as %+v, %v", results, err)
	}
}

// testIdle builds with a daemon that may not wait, sees it end, and builds again.
func testIdle(t *testing.T, b *Builder, state string) {
	_, store := newLayout(t)
	r := request(t, testFamily([]string{"linux/amd64"}, "app"))
	build := func(idle time.Duration) {
		b.options.Idle = idle
		if _, err := b.Build(t.Context(), r, store); err != nil {
			t.Fatal(err)
		}
	}
	build(time.Hour)
	for range 2 {
		daemon := pidfd(t, readPid(t, state))
		build(time.Nanosecond)
		if ended, err := waitPidfd(t.Context(), daemon); !ended || err != nil {
			t.Fatalf("the idle daemon still runs: %v", err)
		}
		build(time.Hour)
	}
}

func configOf(t *testing.T, s graph.Store, n graph.Node) ocispec.Image {
	t.Helper()
	m, err := graph.Manifest(t.Context(), s, n)
	if err != nil {
		t.Fatal(err)
	}
	config, err := graph.Config(t.Context(), s, m.Config)
	if err != nil {
		t.Fatal(err)
	}
	return config
}
