package buildkit

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/release"
)

// Request says what to build.
type Request struct {
	Plan    release.Plan
	Root    string           // directory of the family file; the bake file and its contexts are relative to it
	Images  []string         // these and what they are built on; empty means the whole family
	Cache   release.CacheUse // what the build does with Options.Shared
	Rebuild bool             // run every step again, whatever the build cache holds

	// Keep is asked, before anything is built, which images need not be, with what each is made from.
	// What it returns lies in Layout, the OCI layout of the store; nil keeps nothing.
	Keep   func(ctx context.Context, inputs map[string]release.Inputs) (map[string]release.Image, error)
	Layout string
}

// Result is what a build left in the store.
type Result struct {
	Images    map[string]release.Image // by image name; the index is assembled, also over one platform
	Materials []evidence.Material      // the OS base that was used; one made here, for each platform
	Tools     map[string]string        // buildkit and buildx: versions
	LocalBase bool                     // the OS base came from the mirror, not from the pinned image
}

// Build bakes the images in one solve and puts them into a store.
//
// Errors: fault.Invalid for an unknown image and for a bake file that does not fit the family or
// what is on disk, with file and line, fault.Refused for a build argument that the bake file
// does not say or that looks like a secret, fault.Environment when a platform cannot run here,
// the OS base cannot be made or the disk is full, fault.BuildFailed when a step fails (it names
// image, step and Dockerfile line) or an image does not begin with its parent's layers.
func (b *Builder) Build(ctx context.Context, r Request, into graph.Store) (Result, error) {
	images, err := closure(r.Plan.Family, r.Images)
	if err != nil {
		return Result{}, err
	}
	if err := b.checkPlatforms(r.Plan.Platforms); err != nil {
		return Result{}, err
	}
	done, err := b.work(ctx)
	if err != nil {
		return Result{}, err
	}
	defer done()
	targets, err := b.graph(ctx, r, images)
	if err != nil {
		return Result{}, err
	}
	r, cached, err := b.trust(r)
	if err != nil {
		return Result{}, err
	}
	dir, err := b.tempDir("build")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	base, err := b.osBase(ctx, r.Plan, dir)
	if err != nil {
		return Result{}, err
	}
	inputs, err := b.inputs(r, targets, base)
	if err != nil {
		return Result{}, err
	}
	kept, err := r.keep(ctx, inputs)
	if err != nil {
		return Result{}, err
	}
	images = slices.DeleteFunc(images, func(name string) bool { _, ok := kept[name]; return ok })
	settings := slices.Concat(targets.annotate(r.Plan, images, base), targets.standing(r.Plan.Family, base), targets.instead(kept, r.Layout))
	solves := b.solves(r.Plan.Platforms, dir)
	if err := b.bake(ctx, r, images, settings, solves); err != nil {
		return Result{}, err
	}
	pack := packer{created: r.Plan.Source.Epoch, compress: b.options.Compress, dir: dir, packed: map[digest.Digest]graph.Node{}}
	built, err := collect(ctx, r.Plan, images, kept, solves, into, pack.image)
	if err != nil {
		return Result{}, err
	}
	for _, name := range images {
		target, _ := targets.Target(name)
		image := built[name]
		image.Arguments, image.Cached, image.Inputs = target.Arguments, cached, inputs[name]
		built[name] = image
	}
	return Result{Images: built, Materials: base.materials, Tools: b.Tools(), LocalBase: base.local}, nil
}

func (r Request) keep(ctx context.Context, inputs map[string]release.Inputs) (map[string]release.Image, error) {
	if r.Keep == nil {
		return map[string]release.Image{}, nil
	}
	return r.Keep(ctx, inputs)
}

// standing are the settings that put the roots on the operating system that was chosen.
func (g Graph) standing(f *family.Family, base osBase) []string {
	var set []string
	for _, t := range g.Targets {
		for _, name := range t.systems(f) {
			set = append(set, "--set", fmt.Sprintf("%s.contexts.%s=%s", t.Name, name, base.context))
		}
	}
	return set
}

// instead are the settings that give targets the images that were kept where they name their targets.
func (g Graph) instead(kept map[string]release.Image, layout string) []string {
	var set []string
	for _, t := range g.Targets {
		for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
			parent, linked := strings.CutPrefix(t.Contexts[name], "target:")
			if image, ok := kept[parent]; ok && linked {
				set = append(set, "--set", fmt.Sprintf("%s.contexts.%s=oci-layout://%s@%s", t.Name, name, layout, image.Index.Digest))
			}
		}
	}
	if len(set) > 0 {
		set = append(set, "--allow=fs.read="+layout)
	}
	return set
}

// closure returns the wanted images and all their parents, parents first.
func closure(f *family.Family, wanted []string) ([]string, error) {
	if len(wanted) == 0 {
		return f.ImageNames(), nil
	}
	need := map[string]bool{}
	for _, name := range wanted {
		if _, ok := f.Images[name]; !ok {
			return nil, fault.New(fault.Invalid, "building", fmt.Sprintf("%q", name), "the family has no such image; it has %s", strings.Join(f.ImageNames(), ", "))
		}
		for ; name != ""; name = f.Images[name].From {
			need[name] = true
		}
	}
	return slices.DeleteFunc(f.ImageNames(), func(name string) bool { return !need[name] }), nil
}

// bake runs Buildx, with further settings, for every solve at the same time; the first that fails
// ends the others.
func (b *Builder) bake(ctx context.Context, r Request, images, settings []string, solves []solve) error {
	if len(images) == 0 {
		return nil
	}
	meters := b.meters(solves)
	group, together := errgroup.WithContext(ctx)
	for i, s := range solves {
		args := append(bakeArgs(r, s, b.name, images, b.options.CA), settings...)
		cmd := b.buildxCommand(append(args, b.options.Shared.settings(r, s.platforms, images)...)...)
		cmd.Dir = r.Root
		cmd.Env = append(slices.Concat(cmd.Env, b.options.Shared.Env), epoch)
		cmd.Lines = meters[i].line
		group.Go(func() error {
			if err := tool.Run(together, cmd, fault.BuildFailed); err != nil {
				return b.explain(ctx, err, meters[i].failure())
			}
			return nil
		})
	}
	return group.Wait()
}

// bakeArgs is a solve's one Buildx call. BuildKit's own attestations are off: ours replace them.
func bakeArgs(r Request, s solve, builder string, images []string, ca string) []string {
	bakeFile := filepath.Join(r.Root, filepath.FromSlash(r.Plan.Family.Bake))
	args := []string{
		"bake", "--builder", builder, "--file", bakeFile, "--progress=rawjson", "--provenance=false", "--sbom=false",
		"--allow=fs.read=" + s.dir, "--allow=fs.write=" + s.dir, "--allow=fs.read=" + r.Root,
		"--set", "*.platform=" + strings.Join(s.platforms, ","),
		"--set", "*.args." + epoch,
	}
	if ca != "" {
		args = append(args, "--allow=fs.read="+ca, "--set", "*.secrets+=id=ca,"+field("src="+ca))
	}
	if r.Rebuild {
		args = append(args, "--no-cache")
	}
	for _, image := range images {
		args = append(args, "--set", fmt.Sprintf("%s.output=type=oci,tar=false,%s,%s,rewrite-timestamp=true", image, field("dest="+s.layout(image)), handedOver))
	}
	return append(args, images...)
}

// field writes one field of Buildx's comma-separated notation: paths may have commas.
func field(s string) string {
	if !strings.ContainsAny(s, `,"`) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// collect moves the images' layouts into one store, where what they share lies once, and proves their
// lineage.
func collect(ctx context.Context, p release.Plan, images []string, kept map[string]release.Image, solves []solve, into graph.Store, image carry) (map[string]release.Image, error) {
	built := map[string]release.Image{}
	maps.Copy(built, kept)
	for _, name := range images {
		manifests := map[string]graph.Node{}
		for _, s := range solves {
			found, err := merge(ctx, s.layout(name), into, image)
			if err != nil {
				return nil, fault.Wrap(err, fault.BuildFailed, "collecting", name)
			}
			maps.Copy(manifests, found)
			if err := os.RemoveAll(s.layout(name)); err != nil { // frees the disk before the next one
				return nil, fault.Wrap(err, fault.Environment, "clearing", name)
			}
		}
		image, err := prove(ctx, p, name, manifests, built, into)
		if err != nil {
			return nil, err
		}
		built[name] = image
	}
	return built, nil
}

// prove demands that an image has the plan's platforms and stands on its parent on each, and puts
// the index over its manifests.
func prove(ctx context.Context, p release.Plan, name string, manifests map[string]graph.Node, parents map[string]release.Image, into graph.Store) (release.Image, error) {
	if err := samePlatforms(name, p.Platforms, manifests); err != nil {
		return release.Image{}, err
	}
	if err := checkLineage(ctx, p.Family, name, manifests, parents, into); err != nil {
		return release.Image{}, err
	}
	index, err := assemble(ctx, into, manifests, parents[p.Family.Images[name].From].Index)
	return release.Image{Index: index, Platforms: manifests}, err
}

func samePlatforms(image string, want []string, manifests map[string]graph.Node) error {
	if got := slices.Sorted(maps.Keys(manifests)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		return fault.New(fault.BuildFailed, "building", image, "it was built for %v, want %v", got, want)
	}
	return nil
}

// checkLineage proves that an image begins with its parent's layers on every platform.
func checkLineage(ctx context.Context, f *family.Family, name string, manifests map[string]graph.Node, built map[string]release.Image, s graph.Store) error {
	parent := f.Images[name].From
	if parent == "" {
		return nil
	}
	for _, platform := range slices.Sorted(maps.Keys(manifests)) {
		base, err := graph.Manifest(ctx, s, built[parent].Platforms[platform])
		if err != nil {
			return err
		}
		child, err := graph.Manifest(ctx, s, manifests[platform])
		if err != nil {
			return err
		}
		if err := graph.CheckLineage(base, child); err != nil {
			return fault.Wrap(err, fault.BuildFailed, "checking lineage", fmt.Sprintf("%s %s: it is not built on %s", name, platform, parent)).(*fault.Error).
				WithHint("the family file says that %s is built on %s: its bake target needs contexts = { … = \"target:%s\" } and its last stage must start FROM that context", name, parent, parent)
		}
	}
	return nil
}
