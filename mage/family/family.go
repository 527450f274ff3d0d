// Package family is the declaration of what releases together: the images, the artifacts, the
// platforms, the channels and their gates, as containai.yaml says it.
//
// A [Family] is made by [Parse] alone. Invariant: a parsed family names at least one image, every
// name in it satisfies the OCI grammar, every image's chain of parents ends at a root, which stands
// on the operating system, and every rule it holds can be applied; nothing is left to check later.
package family

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Family is a validated family file.
type Family struct {
	Name      string              // also the owner of the embedded registry's repositories
	Source    string              // URL of the source repository
	Bake      string              // path of the bake file, relative to the family file
	Platforms []string            // "linux/amd64", in file order
	Base      OSBase              // what the images without a parent are built from
	Images    map[string]Image    // by repository name
	Artifacts map[string]Artifact // by repository name
	Channels  map[string]Channel  // by channel name
	Ledger    Ledger
	Trust     Policy
	Retention Retention

	Vulnerabilities Vulnerabilities

	file  string         // its name for messages
	lines map[string]int // where it says what: "images.containai" → line
}

// Place returns the file and line of a name such as "images", "containai", "from", for messages
// that compare the family with other files; a name that is left out lies where its parent does.
func (f *Family) Place(path ...string) string {
	for ; len(path) > 0; path = path[:len(path)-1] {
		if line, ok := f.lines[strings.Join(path, ".")]; ok {
			return fmt.Sprintf("%s:%d", f.file, line)
		}
	}
	return cmp.Or(f.file, "the family file")
}

// OSBase is the operating system under the roots: a pinned image or, where no registry can
// be reached, a root file system made from the machine's own Debian mirror.
type OSBase struct {
	Image    string   // name@sha256:…
	Suite    string   // Debian suite, "bookworm"
	Packages []string // beyond the suite's essential ones
}

// Image is one image of the family; its bake target has the image's name.
type Image struct {
	From  string // parent image; empty for a root, which stands on the operating system
	Smoke []Smoke
}

// Smoke is a command run inside the built image, on every platform that was built.
type Smoke struct {
	Name    string
	Run     []string // argument vector; no shell unless it says so
	Prints  string   // regular expression (RE2) that the output must match; empty accepts any
	Exit    int      // expected exit code
	Within  time.Duration
	Network bool // it needs the network, which no other test has
}

// Artifact is one OCI artifact of the family.
type Artifact struct {
	Kind  Kind
	Path  string // directory with its sources, relative to the family file
	Type  string // artifact type; empty: its kind's
	Layer string // media type of its first layer; empty: its kind's
}

// Types returns the artifact type and the media type of the first layer.
func (a Artifact) Types() (artifact, layer string) {
	artifact, layer = a.Kind.Types()
	return cmp.Or(a.Type, artifact), cmp.Or(a.Layer, layer)
}

// Kind says what an artifact is; each kind has media types, which a family may replace by its own.
type Kind string

// The kinds of artifacts.
const (
	Payload   Kind = "payload"
	Installer Kind = "installer"
	Metadata  Kind = "metadata"
)

// Types returns the artifact type and the layer media type of a kind.
func (k Kind) Types() (artifact, layer string) {
	switch k {
	case Payload:
		return "application/vnd.containai.payload.v1", "application/vnd.containai.payload.layer.v1+gzip"
	case Installer:
		return "application/vnd.containai.installer.v1", "application/vnd.containai.installer.v1+sh"
	case Metadata:
		return "application/vnd.containai.metadata.v1+json", "application/json"
	}
	return "", ""
}

// VerifierType is the media type of a verifier, which is a layer of the installer: a static program for
// one platform, which an annotation names.
const VerifierType = "application/vnd.containai.verifier.v1"

// Channel is a named line of releases and what may enter it.
type Channel struct {
	Gate     Gate
	Dirty    bool   // a dirty work tree may be released
	Explicit bool   // `order: explicit`: a release need not descend from the one before, as on hotfix lines
	Trust    Policy // the family's, with what the channel overrides
	Keep     Keep   // what retention leaves of its past
	On       []Event
}

// Ledger names the git ref that holds the channels' entries.
type Ledger struct {
	Branch string // on a remote
	Ref    string // in a clone without one
}

// ImageNames returns the images, parents before children, then by name.
func (f *Family) ImageNames() []string {
	names := slices.Sorted(maps.Keys(f.Images))
	slices.SortStableFunc(names, func(a, b string) int { return f.depth(a) - f.depth(b) })
	return names
}

// ArtifactNames returns the artifacts in the order they are made: payload, installer, metadata.
func (f *Family) ArtifactNames() []string {
	order := []Kind{Payload, Installer, Metadata}
	names := slices.Sorted(maps.Keys(f.Artifacts))
	slices.SortStableFunc(names, func(a, b string) int {
		return slices.Index(order, f.Artifacts[a].Kind) - slices.Index(order, f.Artifacts[b].Kind)
	})
	return names
}

// ArtifactOf returns the name of the artifact of a kind; Parse made sure there is exactly one.
func (f *Family) ArtifactOf(k Kind) string {
	for name, a := range f.Artifacts {
		if a.Kind == k {
			return name
		}
	}
	return ""
}

// Members returns every repository of the family: images, then artifacts.
func (f *Family) Members() []string { return append(f.ImageNames(), f.ArtifactNames()...) }

// Roots returns the images without a parent: they stand on the operating system itself.
func (f *Family) Roots() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.Images)), func(name string) bool { return f.Images[name].From != "" })
}

func (f *Family) depth(name string) int {
	n := 0
	for f.Images[name].From != "" {
		name = f.Images[name].From
		n++
	}
	return n
}
