package buildkit

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/tool"
)

// Debian's grammars: policy manual §5.6.7 for packages; suites are code names.
var (
	packageGrammar = lazyregexp.New(`^[a-z0-9][a-z0-9+.-]+$`)
	suiteGrammar   = lazyregexp.New(`^[a-z][a-z0-9-]*$`)
)

// keepDays is how long the OS bases of earlier days stay in the user's cache.
const keepDays = 14

// rootfs returns the layout of a day's root file system for one platform, making it when the
// cache does not have it: suite, packages, day and architecture decide.
func (b *Builder) rootfs(ctx context.Context, base family.OSBase, platform string, day time.Time) (string, error) {
	arch, err := architectureOf(platform)
	if err != nil {
		return "", err
	}
	if err := checkBase(base); err != nil {
		return "", err
	}
	packages := slices.Compact(slices.Sorted(slices.Values(base.Packages)))
	home := filepath.Join(b.options.Cache, "osbase")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", fault.Wrap(err, fault.Environment, "creating cache", home)
	}
	name := fmt.Sprintf("%s-%s-%s-%s", base.Suite, arch.debian, day.Format(time.DateOnly), shortHash(strings.Join(packages, ",")))
	layout := filepath.Join(home, name)
	unlock, err := tool.Lock(ctx, layout+".lock", func() { b.notice("waiting for another run that makes the OS base " + name) })
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(layout, ocispec.ImageIndexFile)); err == nil {
		return layout, nil
	}
	if err := b.prepareHost(ctx, platform); err != nil {
		return "", err
	}
	b.notice(fmt.Sprintf("making the OS base %s from the Debian mirror (once a day%s)", name, slowness(platform)))
	work := layout + ".work"
	if err := os.RemoveAll(work); err != nil { // left by a run that was killed
		return "", fault.Wrap(err, fault.Environment, "clearing", work)
	}
	defer os.RemoveAll(work)
	if err := b.makeRootfs(ctx, base.Suite, packages, arch, day, work); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(work, "layout"), layout); err != nil {
		return "", fault.Wrap(err, fault.Environment, "storing", layout)
	}
	return layout, pruneDays(home, day.AddDate(0, 0, -keepDays))
}

func checkBase(base family.OSBase) error {
	if !suiteGrammar.MatchString(base.Suite) {
		return fault.New(fault.Invalid, "making OS base", fmt.Sprintf("%q", base.Suite), "it is not the name of a Debian suite")
	}
	for _, name := range base.Packages {
		if !packageGrammar.MatchString(name) {
			return fault.New(fault.Invalid, "making OS base", fmt.Sprintf("%q", name), "it is not the name of a Debian package")
		}
	}
	return nil
}

func (b *Builder) prepareHost(ctx context.Context, platform string) error {
	if err := b.host().check(platform); err != nil {
		return err
	}
	needs := []tool.Need{{Binary: "mmdebstrap", Package: "mmdebstrap"}}
	if !isNative(platform) {
		needs = append(needs, tool.Need{Binary: "arch-test", Package: "arch-test"})
	}
	return tool.EnsureHost(ctx, needs, b.notice)
}

func slowness(platform string) string {
	if isNative(platform) {
		return ", about 1 min"
	}
	return ", emulated: about 4 min"
}

// makeRootfs runs mmdebstrap and wraps its archive as an image layout at work/layout.
func (b *Builder) makeRootfs(ctx context.Context, suite string, packages []string, arch architecture, day time.Time, work string) error {
	layout := filepath.Join(work, "layout")
	if err := os.MkdirAll(layout, 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", layout)
	}
	mirrors, err := hostMirrors(suite)
	if err != nil {
		return err
	}
	archive := filepath.Join(work, "rootfs.tar")
	cmd := mmdebstrap(suite, packages, arch, archive, mirrors)
	cmd.Env = []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", day.Unix())}
	if err := tool.Run(ctx, cmd, fault.Environment); err != nil {
		return (&fault.Error{Op: "making OS base", Subject: suite + " " + arch.debian, Kind: fault.Environment, Err: err}).
			WithHint("the machine's Debian mirror must answer: `apt-get update` shows whether it does")
	}
	return wrapArchive(ctx, archive, layout, arch, day)
}

// mmdebstrap is the call that makes an archive. As root it mounts file systems, so it is confined;
// for other users it makes namespaces of its own.
func mmdebstrap(suite string, packages []string, arch architecture, archive string, mirrors []string) tool.Command {
	args := []string{"--variant=minbase", "--architectures=" + arch.debian, "--format=tar"}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	args = append(append(args, "--", suite, archive), mirrors...)
	if os.Geteuid() != 0 {
		return tool.Command{Path: "mmdebstrap", Args: args}
	}
	return confined("mmdebstrap", args...)
}

// wrapArchive makes an image of one layer out of a tar archive. The same archive gives the same
// bytes: gzip writes no name and no time.
func wrapArchive(ctx context.Context, archive, layout string, arch architecture, day time.Time) error {
	store, err := oci.New(layout)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "creating layout", layout)
	}
	compressed := archive + ".gz"
	layer, diffID, err := compress(archive, compressed)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "compressing", archive)
	}
	if err := pushFile(ctx, store, layer, compressed); err != nil {
		return fault.Wrap(err, fault.Environment, "storing", layer.Digest.String())
	}
	platform, err := parsePlatform(arch.platform)
	if err != nil {
		return err
	}
	config := ocispec.Image{
		Created:  &day,
		Platform: platform,
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"bash"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ocispec.History{{Created: &day, CreatedBy: "mmdebstrap --variant=minbase"}},
	}
	return pushImage(ctx, store, config, layer)
}

func pushImage(ctx context.Context, s graph.Store, config ocispec.Image, layer graph.Node) error {
	content, err := json.Marshal(config)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "encoding", "image configuration")
	}
	node, err := graph.PushBytes(ctx, s, ocispec.MediaTypeImageConfig, content)
	if err != nil {
		return err
	}
	content, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: node, Layers: []graph.Node{layer},
	})
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "encoding", "image manifest")
	}
	_, err = graph.PushBytes(ctx, s, ocispec.MediaTypeImageManifest, content)
	return err
}

// compress writes a gzip copy and returns the layer it makes and the digest of what is inside.
func compress(from, to string) (layer graph.Node, diffID digest.Digest, err error) {
	in, err := os.Open(from)
	if err != nil {
		return graph.Node{}, "", err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return graph.Node{}, "", err
	}
	defer out.Close()
	inside, outside := digest.SHA256.Digester(), digest.SHA256.Digester()
	size := &counter{}
	zip := gzip.NewWriter(io.MultiWriter(out, outside.Hash(), size))
	if _, err := io.Copy(io.MultiWriter(zip, inside.Hash()), in); err != nil {
		return graph.Node{}, "", err
	}
	if err := zip.Close(); err != nil {
		return graph.Node{}, "", err
	}
	layer = graph.Node{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: outside.Digest(), Size: size.bytes}
	return layer, inside.Digest(), out.Close()
}

type counter struct{ bytes int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}

func pushFile(ctx context.Context, s graph.Store, n graph.Node, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return s.Push(ctx, n, file)
}

// pruneDays removes the OS bases of days before the oldest to keep. Their names hold the day.
func pruneDays(home string, oldest time.Time) error {
	entries, err := os.ReadDir(home)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading cache", home)
	}
	for _, entry := range entries {
		day, err := time.Parse(time.DateOnly, dayGrammar.FindString(entry.Name()))
		if err != nil || !day.Before(oldest) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(home, entry.Name())); err != nil {
			return fault.Wrap(err, fault.Environment, "pruning cache", entry.Name())
		}
	}
	return nil
}

var dayGrammar = lazyregexp.New(`[0-9]{4}-[0-9]{2}-[0-9]{2}`)
