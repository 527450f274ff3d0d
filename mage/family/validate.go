package family

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
)

var (
	platformGrammar = lazyregexp.New(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)
	pinnedGrammar   = lazyregexp.New(`^[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}$`)
	suiteGrammar    = lazyregexp.New(`^[a-z][a-z0-9-]*$`)
	packageGrammar  = lazyregexp.New(`^[a-z0-9][a-z0-9+.-]+$`)
	nameGrammar     = lazyregexp.New(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	refGrammar      = lazyregexp.New(`^refs/[A-Za-z0-9._/-]+$`)
)

// validate checks what no single field can say: grammars, references between names, and that
// the images form trees, whose roots stand on the operating system.
func (r *reader) validate(f *Family) {
	if !nameGrammar.MatchString(f.Name) && f.Name != "" {
		r.complain(r.at("name"), "%q is not a name of lower-case letters, digits and dashes", f.Name)
	}
	if u, err := url.Parse(f.Source); f.Source != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		r.complain(r.at("source"), "%q is not an https URL", f.Source)
	}
	if strings.HasPrefix(f.Bake, "/") || strings.Contains(f.Bake, "..") {
		r.complain(r.at("bake"), "%q must be a path below the family file", f.Bake)
	}
	for _, p := range f.Platforms {
		if !platformGrammar.MatchString(p) {
			r.complain(r.at("platforms"), "%q is not os/arch such as linux/amd64", p)
		}
	}
	r.validateBase(f.Base)
	r.validateImages(f)
	r.validateArtifacts(f)
	_, image := f.Images[f.Vulnerabilities.Mirror]
	_, artifact := f.Artifacts[f.Vulnerabilities.Mirror]
	if mirror := f.Vulnerabilities.Mirror; image || artifact {
		r.complain(r.at("vulnerabilities", "mirror"), "%q is a member of the family; the mirror needs a repository of its own", mirror)
	}
	if f.Trust.Instance != "" {
		r.validatePolicy(f.Trust, "trust")
	}
	if f.Ledger.Ref != "" && !refGrammar.MatchString(f.Ledger.Ref) {
		r.complain(r.at("ledger", "ref"), "%q is not a git ref such as refs/containai/channels", f.Ledger.Ref)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Channels)) {
		if _, err := ref.ParseTag(name); err != nil || !nameGrammar.MatchString(name) {
			r.complain(r.at("channels", name), "%q cannot be a channel: its name becomes a tag", name)
		}
	}
	r.validateEvents(f)
	r.validateWaivers(f)
	if len(f.Channels) == 0 {
		r.complain(r.at("channels"), "a family needs at least one channel")
	}
}

func (r *reader) validateBase(b OSBase) {
	if b.Image != "" && !pinnedGrammar.MatchString(b.Image) {
		r.complain(r.at("os", "image"), "%q is not pinned: write name@sha256:<64 hex digits>", b.Image)
	}
	if b.Suite != "" && !suiteGrammar.MatchString(b.Suite) {
		r.complain(r.at("os", "suite"), "%q is not a Debian suite", b.Suite)
	}
	for _, p := range b.Packages {
		if !packageGrammar.MatchString(p) {
			r.complain(r.at("os", "packages"), "%q is not a Debian package name", p)
		}
	}
}

func (r *reader) validateImages(f *Family) {
	names := slices.Sorted(maps.Keys(f.Images))
	for _, name := range names {
		line := r.at("images", name)
		if !nameGrammar.MatchString(name) {
			r.complain(line, "%q is not an image name of lower-case letters, digits and dashes", name)
		}
		from := f.Images[name].From
		if _, ok := f.Images[from]; !ok && from != "" {
			r.complain(r.at("images", name, "from"), "image %q is from %q, which is not in the family%s", name, from, suggest(from, names))
		}
	}
	if len(names) == 0 {
		r.complain(r.at("images"), "a family needs at least one image")
	}
	r.refuseCycles(f, names)
}

func (r *reader) refuseCycles(f *Family, names []string) {
	for _, name := range names {
		steps := 0
		for at := name; f.Images[at].From != ""; at = f.Images[at].From {
			if steps++; steps > len(names) {
				r.complain(r.at("images", name), "image %q is its own ancestor", name)
				break
			}
		}
	}
}

// validateWaivers: one that is for no image of the family would waive nothing, and nobody would see why.
func (r *reader) validateWaivers(f *Family) {
	names := slices.Sorted(maps.Keys(f.Images))
	for _, channel := range f.ChannelNames() {
		for _, w := range f.Channels[channel].Gate.Waivers {
			if _, ok := f.Images[w.Image]; w.Image != "" && !ok {
				line, _ := strconv.Atoi(strings.TrimPrefix(w.Source, r.file+":"))
				r.complain(line, "the waiver of %s is for image %q, which is not in the family%s", w.ID, w.Image, suggest(w.Image, names))
			}
		}
	}
}

func (r *reader) validateArtifacts(f *Family) {
	count := map[Kind]int{}
	for _, name := range slices.Sorted(maps.Keys(f.Artifacts)) {
		a := f.Artifacts[name]
		count[a.Kind]++
		line := r.at("artifacts", name)
		if !nameGrammar.MatchString(name) {
			r.complain(line, "%q is not an artifact name", name)
		}
		if _, clash := f.Images[name]; clash {
			r.complain(line, "%q is an image already", name)
		}
		if a.Kind == Metadata && a.Type+a.Layer != "" {
			r.complain(line, "artifact %q is of kind metadata, whose media types are this library's: every verifier reads it", name)
		}
		if a.Kind != Metadata && a.Path == "" {
			r.complain(line, "artifact %q needs a path to its sources", name)
		}
		if strings.HasPrefix(a.Path, "/") || strings.Contains(a.Path, "..") {
			r.complain(line, "%q must be a path below the family file", a.Path)
		}
	}
	if count[Metadata] != 1 {
		r.complain(r.at("artifacts"), "a family has exactly one artifact of kind metadata: records and channels live there")
	}
	for _, k := range []Kind{Payload, Installer} {
		if count[k] > 1 {
			r.complain(r.at("artifacts"), "a family has at most one artifact of kind %s", k)
		}
	}
}
