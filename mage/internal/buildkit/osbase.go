package buildkit

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// osBase is the operating system that the roots are built on, as a Buildx named context.
type osBase struct {
	context   string
	materials []evidence.Material
	local     bool
	name      string        // of the pinned image, with its tag
	digest    digest.Digest // of the pinned image
}

// reachTime is how long a registry may take to say that it has the pinned image.
const reachTime = 5 * time.Second

// osBase chooses the pinned image where its registry answers, and otherwise a root file system
// from the machine's own mirror, one per day.
func (b *Builder) osBase(ctx context.Context, p release.Plan, dir string) (osBase, error) {
	pinned := p.Family.Base.Image
	if pinned != "" {
		base, err := pinnedBase(ctx, pinned)
		if err == nil || ctx.Err() != nil || isWrong(err) {
			return base, err
		}
		b.notice(fmt.Sprintf("the registry of %s does not answer: making the OS base from the Debian mirror", pinned))
	}
	return b.mirrorBase(ctx, p, dir)
}

// isWrong tells an error of the name or its content from a registry that cannot be reached.
func isWrong(err error) bool {
	kind, _ := fault.KindOf(err)
	return kind == fault.Invalid || kind == fault.Forged
}

// pinnedBase asks the image's registry for exactly the pinned digest.
func pinnedBase(ctx context.Context, name string) (osBase, error) {
	pinned, err := parsePinned(name)
	if err != nil {
		return osBase{}, err
	}
	if err := reach(ctx, pinned); err != nil {
		return osBase{}, err
	}
	return osBase{
		context:   "docker-image://" + pinned.String(),
		name:      pinned.Repo.String() + tagOf(name),
		digest:    pinned.Digest,
		materials: []evidence.Material{material(release.OSBase, "docker://"+pinned.String(), pinned.Digest)},
	}, nil
}

// parsePinned reads "[host/]name[:tag]@sha256:…" with Docker's defaults: no host means
// docker.io, no slash means library/. The tag is for people; the digest decides.
func parsePinned(name string) (ref.Pinned, error) {
	repo, hex, ok := strings.Cut(name, "@")
	repo = strings.TrimSuffix(repo, tagOf(name))
	d, err := digest.Parse(hex)
	if !ok || err != nil {
		return ref.Pinned{}, fault.New(fault.Invalid, "reading OS base", name, "it must be pinned: add @sha256:…")
	}
	host, _, slash := strings.Cut(repo, "/")
	switch {
	case !slash:
		repo = "docker.io/library/" + repo
	case host != "localhost" && !strings.ContainsAny(host, ".:"):
		repo = "docker.io/" + repo
	}
	parsed, err := ref.ParseRepo(repo)
	return ref.Pinned{Repo: parsed, Digest: d}, err
}

// tagOf returns the ":tag" of a pinned name, or "".
func tagOf(name string) string {
	repo, _, _ := strings.Cut(name, "@")
	if colon := strings.LastIndex(repo, ":"); colon > strings.LastIndex(repo, "/") {
		return repo[colon:]
	}
	return ""
}

// reach resolves a digest at its registry, without credentials and without retrying.
func reach(ctx context.Context, name ref.Pinned) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	repo, err := remote.NewRepository(name.Repo.String())
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "reading OS base", name.String())
	}
	repo.PlainHTTP = name.Repo.Loopback()
	repo.Client = &auth.Client{Client: &http.Client{Transport: http.DefaultTransport}, Cache: auth.NewCache()}
	found, err := repo.Resolve(ctx, name.Digest.String())
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "asking for OS base", name.String())
	}
	if found.Digest != name.Digest {
		return fault.New(fault.Forged, "asking for OS base", name.String(), "the registry answers with %s", found.Digest)
	}
	return nil
}

// mirrorBase puts the day's root file systems of all platforms under one index. Each is a material
// of its own: whoever builds one platform alone uses the same one.
func (b *Builder) mirrorBase(ctx context.Context, p release.Plan, dir string) (osBase, error) {
	day := b.opened.UTC().Truncate(24 * time.Hour)
	layout := filepath.Join(dir, "os")
	into, err := oci.New(layout)
	if err != nil {
		return osBase{}, fault.Wrap(err, fault.Environment, "creating layout", layout)
	}
	uri := fmt.Sprintf("pkg:generic/debian-rootfs@%s?distro=%s", day.Format(time.DateOnly), p.Family.Base.Suite)
	base := osBase{local: true}
	var manifests []graph.Node
	for _, platform := range p.Platforms {
		cached, err := b.rootfs(ctx, p.Family.Base, platform, day)
		if err != nil {
			return osBase{}, err
		}
		found, err := merge(ctx, cached, into, copyImage)
		if err != nil {
			return osBase{}, err
		}
		manifests = append(manifests, found[platform])
		base.materials = append(base.materials, material(release.OSBase+"/"+platform, uri, found[platform].Digest))
	}
	index, err := graph.Assemble(ctx, into, manifests, nil)
	if err != nil {
		return osBase{}, err
	}
	base.context = fmt.Sprintf("oci-layout://%s@%s", layout, index.Digest)
	return base, nil
}

func material(name, uri string, d digest.Digest) evidence.Material {
	return evidence.Material{Name: name, URI: uri, Digest: map[string]string{"sha256": d.Encoded()}}
}
