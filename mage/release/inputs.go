package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

// Inputs is what an image is made from, as far as it can be told before it is built: a digest of each
// part. What steps fetch from the network is none of them; a rebuild takes that in. The zero value is
// that of an image of which it cannot be told, and equals nothing.
type Inputs map[string]digest.Digest

// The parts of inputs.
const (
	InputTarget   = "target"   // the resolved target of the bake file, its Dockerfile, arguments, labels and platforms
	InputContexts = "contexts" // every file of its contexts that .dockerignore does not exclude
	InputBase     = "base"     // the operating system or, above a root, the parent's inputs
	InputTests    = "tests"    // the smoke tests that its scan attests
	InputTools    = "tools"    // the versions of BuildKit, of Buildx, and of our own recipe
)

// Digest names the inputs of a parent in those of a child.
func (in Inputs) Digest() digest.Digest { return DigestOf(map[string]digest.Digest(in)) }

// DigestOf is the digest of a value's JSON, in which encoding/json sorts the keys of maps.
func DigestOf(v any) digest.Digest {
	content, err := json.Marshal(v)
	if err != nil {
		return "" // of what JSON cannot say; it equals nothing
	}
	return digest.FromBytes(content)
}

// BaseOf is the base part of a root's inputs: the operating system, in whatever order its
// materials come.
func BaseOf(materials []evidence.Material) digest.Digest {
	return DigestOf(slices.SortedFunc(slices.Values(materials), func(a, b evidence.Material) int { return strings.Compare(a.Name, b.Name) }))
}

// without are the inputs but for the base.
func (in Inputs) without() Inputs {
	rest := maps.Clone(in)
	delete(rest, InputBase)
	return rest
}

// rebase makes the base part of all images anew, parents first: a machine that built some platforms knew
// only the materials of those. An image whose other parts are not known has none.
func (r *Record) rebase(f *family.Family) {
	for _, name := range f.ImageNames() {
		image, parent := r.Images[name], f.Images[name].From
		switch {
		case len(image.Inputs) == 0 || parent != "" && len(r.Images[parent].Inputs) == 0:
			image.Inputs = nil
		case parent != "":
			image.Inputs[InputBase] = r.Images[parent].Inputs.Digest()
		default:
			image.Inputs[InputBase] = BaseOf(r.Materials)
		}
		r.Images[name] = image
	}
}

// known reports whether every part is.
func (in Inputs) known() bool {
	for _, part := range []string{InputTarget, InputContexts, InputBase, InputTests, InputTools} {
		if in[part] == "" {
			return false
		}
	}
	return true
}

// changed names the parts in which inputs differ.
func (in Inputs) changed(was Inputs) []string {
	all := maps.Clone(in)
	maps.Copy(all, was)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(part string) bool { return in[part] == was[part] })
}

// Decision is what becomes of one image of a plan, and why.
type Decision struct {
	Image string
	Keep  bool
	Why   string
}

// Keepable says of every image of a plan, parents first, whether that of an earlier record may be kept:
// it was made from the same inputs for the same platforms, and so was all that it is built on. Whether
// the earlier record may be believed is the caller's question.
func Keepable(p Plan, inputs map[string]Inputs, was Record) []Decision {
	kept := map[string]bool{}
	var all []Decision
	for _, name := range p.Family.ImageNames() {
		d := Decision{Image: name}
		before, there := was.Images[name]
		parent := p.Family.Images[name].From
		switch {
		case !there:
			d.Why = was.Source.Tag() + " does not have it"
		case parent != "" && !kept[parent]:
			d.Why = parent + " is built anew"
		case !inputs[name].known():
			d.Why = "not all of what it is made from can be told before it is built"
		case !before.Inputs.known():
			d.Why = was.Source.Tag() + " does not say what it was made from"
		case len(inputs[name].changed(before.Inputs)) > 0:
			d.Why = fmt.Sprintf("its %s changed since %s", strings.Join(inputs[name].changed(before.Inputs), " and "), was.Source.Tag())
		case !slices.Equal(slices.Sorted(maps.Keys(before.Platforms)), p.Platforms):
			d.Why = fmt.Sprintf("%s has it for %s", was.Source.Tag(), strings.Join(slices.Sorted(maps.Keys(before.Platforms)), ", "))
		default:
			d.Keep, d.Why = true, "its inputs are those of "+was.Source.Tag()
		}
		kept[name] = d.Keep
		all = append(all, d)
	}
	return all
}

// BuiltBy is the commit whose job built an image, and signs for it and its provenance.
func (r Record) BuiltBy(image string) string {
	if built := r.Images[image].Built; built != "" {
		return built
	}
	return r.Source.Commit
}

// InspectedBy is the commit whose job inspected an image, and signs for its SBOM and its scan.
func (r Record) InspectedBy(image string) string {
	if inspected := r.Images[image].Inspected; inspected != "" {
		return inspected
	}
	return r.Source.Commit
}

// Keeps reports whether any image is an earlier release's.
func (r Record) Keeps() bool {
	for _, image := range r.Images {
		if image.Built != "" {
			return true
		}
	}
	return false
}

// Keep is how a later record, of another commit, has an image of this one. Without its evidence it is
// inspected again.
func (r Record) Keep(image string, withEvidence bool) Image {
	kept := r.Images[image]
	kept.Built, kept.Inspected = r.BuiltBy(image), ""
	if withEvidence {
		kept.Inspected = r.InspectedBy(image)
	}
	return kept
}

// checkOrigin refuses what no release of ours writes about where an image comes from.
func (r Record) checkOrigin() error {
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		i, at := r.Images[name], "images."+name
		for part, d := range i.Inputs {
			if d.Validate() != nil {
				return misplacedAt(at+".inputs."+part, "%q is no digest", d)
			}
		}
		switch {
		case i.Built != "" && (!commitGrammar.MatchString(i.Built) || i.Built == r.Source.Commit):
			return misplacedAt(at+".built", "%q is no other commit", i.Built)
		case i.Inspected != "" && (!commitGrammar.MatchString(i.Inspected) || i.Inspected == r.Source.Commit || i.Built == ""):
			return misplacedAt(at+".inspected", "%q is no other commit, or the image was built here", i.Inspected)
		}
	}
	return nil
}
