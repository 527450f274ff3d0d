package mage_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/pack"
)

// BenchmarkRelease releases the real family with release:dev, and with testdata/scripted/release.sh as
// people script it: with nothing kept, and again when nothing changed. Both have their tools compiled and
// the day's operating system made, a BuildKit with an empty cache, an empty registry on this machine's
// disk, and the same vulnerability database.
func BenchmarkRelease(b *testing.B) {
	db := madeNow(b, fixtureDatabase(b))
	binary, path := compileMagefile(b), scriptPath(b)
	for b.Loop() {
		ours, theirs := newOurRelease(b, binary, db), newScriptedRelease(b, path, db)
		cold, theirCold := ours.run(b), theirs.run(b)
		again, theirAgain := ours.run(b), theirs.run(b)
		theirs.close(b)
		compareRelease(b, "cold", cold, theirCold)
		compareRelease(b, "unchanged", again, theirAgain)
	}
}

func compareRelease(b *testing.B, name string, ours, theirs time.Duration) {
	b.Helper()
	part := ours.Seconds() / theirs.Seconds()
	b.Logf("%s: ours %s, the script %s, part %.4f", name, ours, theirs, part)
	b.ReportMetric(ours.Seconds(), name+"-s")
	b.ReportMetric(theirs.Seconds(), name+"-script-s")
	b.ReportMetric(part, name+"-part")
}

// timedCommand is a command that is run again and again in one directory.
type timedCommand struct {
	args []string
	dir  string
	env  []string
	end  func() error
}

func (c timedCommand) run(b *testing.B) time.Duration {
	b.Helper()
	command := exec.CommandContext(b.Context(), c.args[0], c.args[1:]...)
	command.Dir, command.Env = c.dir, append(os.Environ(), c.env...)
	began := time.Now()
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", c.args, err, out)
	}
	return time.Since(began)
}

func (c timedCommand) close(b *testing.B) {
	b.Helper()
	if err := c.end(); err != nil {
		b.Fatal(err)
	}
}

// clone is a clone of this repository, in which nothing was done yet.
func clone(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	output(b, "git", "clone", "-q", "..", dir)
	return dir
}

// newOurRelease is a release where one was before, of which nothing is left but the tools that it compiled and
// the day's operating system, which both build on.
func newOurRelease(b *testing.B, binary, db string) timedCommand {
	b.Helper()
	release := timedCommand{args: []string{binary, "release:dev"}, dir: clone(b), env: []string{"CONTAINAI_PLATFORMS=linux/amd64", "CONTAINAI_VULNERABILITY_DB=" + db}}
	release.run(b)
	for _, made := range []string{".containai", "dist"} {
		if err := os.RemoveAll(filepath.Join(release.dir, made)); err != nil {
			b.Fatal(err)
		}
	}
	return release
}

// newScriptedRelease starts what the script wants: a BuildKit as ours is, a registry, a key.
func newScriptedRelease(b *testing.B, path, db string) timedCommand {
	b.Helper()
	dir := b.TempDir()
	builder, err := buildkit.Open(b.Context(), buildkit.Options{State: dir, Cache: userCache(b), Idle: time.Hour, Compress: pack.Compress, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	registry, err := local.OpenRegistry(b.Context(), must(local.OpenState(filepath.Join(dir, "state"))))
	if err != nil {
		b.Fatal(err)
	}
	env := []string{
		"PATH=" + path + string(os.PathListSeparator) + os.Getenv("PATH"), "BUILDX_CONFIG=" + filepath.Join(dir, "buildkit", "buildx"),
		"OWNER=" + registry.Host + "/family", "OS=" + newestRootfs(b), "WORK=" + filepath.Join(dir, "work"), "CACHE=" + filepath.Join(dir, "trivy"),
		"KEY=" + filepath.Join(dir, "cosign.key"), "COSIGN_PASSWORD=", "CONTAINAI_PLATFORMS=linux/amd64", "CONTAINAI_CA_BUNDLE=" + os.Getenv("SSL_CERT_FILE"),
	}
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "trivy", "db"), os.DirFS(db)); err != nil {
		b.Fatal(err)
	}
	timedCommand{args: []string{filepath.Join(path, "cosign"), "generate-key-pair"}, dir: dir, env: env}.run(b)
	env = append(env, "BUILDER="+onlyBuilder(b, path, env))
	script := must(filepath.Abs(filepath.Join("..", "testdata", "scripted", "release.sh")))
	return timedCommand{args: []string{"sh", script}, dir: clone(b), env: env, end: func() error {
		builderErr := builder.Close()
		if err := registry.Close(); err != nil {
			return err
		}
		return builderErr
	}}
}

// onlyBuilder is the name of the one builder that the configuration has beside Docker's own.
func onlyBuilder(b *testing.B, path string, env []string) string {
	b.Helper()
	c := exec.CommandContext(b.Context(), filepath.Join(path, "buildx"), "ls", "--format", "{{.Name}}")
	c.Env = append(os.Environ(), env...)
	for name := range strings.FieldsSeq(string(must(c.Output()))) {
		if strings.HasPrefix(name, "containai-") {
			return strings.TrimSuffix(name, "*")
		}
	}
	b.Fatal("Buildx lists no builder")
	return ""
}

// newestRootfs is the newest root file system of the user's cache, as a named context of Buildx.
func newestRootfs(b *testing.B) string {
	b.Helper()
	home := filepath.Join(userCache(b), "osbase")
	var days []string
	for _, entry := range must(os.ReadDir(home)) {
		if entry.IsDir() && strings.Contains(entry.Name(), "-amd64-") {
			days = append(days, filepath.Join(home, entry.Name()))
		}
	}
	if len(days) == 0 {
		b.Fatalf("there is no root file system in %s", home)
	}
	layout := slices.Max(days)
	var index ocispec.Index
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(layout, ocispec.ImageIndexFile))), &index); err != nil || len(index.Manifests) == 0 {
		b.Fatalf("%s: %v", layout, err)
	}
	return fmt.Sprintf("oci-layout://%s@%s", layout, index.Manifests[0].Digest)
}

// scriptPath is a directory with the script's programs, of the versions that the other benchmarks compare with.
func scriptPath(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	bin := install(b, "../testdata/peers")
	for name, program := range map[string]string{
		"crane": filepath.Join(bin, "crane"), "oras": filepath.Join(bin, "oras"), "cosign": filepath.Join(bin, "cosign"),
		"syft": filepath.Join(scanners(b), "syft"), "trivy": filepath.Join(scanners(b), "trivy"),
		"buildx": must(buildkit.Buildx().Build(b.Context(), filepath.Join(userCache(b), "programs"), nil)),
	} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func userCache(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(must(os.UserCacheDir()), "containai")
}
