// Package release decides: what a commit's release is, what may be published, how a channel moves.
//
// A family and a [Source] make a [Plan]; a plan is built into a [Record] of digests; digests gain
// evidence ([Evidenced]); a [Gate] turns evidence into [Approved]; an approved record is
// published, and an [Entry] puts it into a channel; [Move] values say how the tags follow.
// Everything here is pure. Invariant: only a Gate makes an Approved that Valid accepts.
package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
)

// RecordType is the artifact type and layer media type of a record.
const RecordType = "application/vnd.containai.record.v1+json"

// Source is the commit a release is made from.
type Source struct {
	Commit string    `json:"commit"`          // 40 hex digits
	Ref    string    `json:"ref,omitempty"`   // refs/heads/main; what was checked out, not part of a record
	Epoch  time.Time `json:"epoch"`           // committer time, UTC: when images say they were created
	Dirty  string    `json:"dirty,omitempty"` // first 8 hex digits of the difference's SHA-256; empty when clean

	// Rebuild counts the deliberate rebuilds of a commit, which take in what its steps fetch from the
	// network. The first release of a commit is 0, the first rebuild 2.
	Rebuild uint `json:"rebuild,omitempty"`
}

var (
	commitGrammar = lazyregexp.New(`^[0-9a-f]{40}$`)
	dirtyGrammar  = lazyregexp.New(`^([0-9a-f]{8})?$`)
	rebuildTag    = lazyregexp.New(`^sha-[0-9a-f]{40}-r([2-9]|[1-9][0-9]{1,8})$`)
)

// Tag is the immutable name of everything this source releases.
func (s Source) Tag() string {
	switch {
	case s.Dirty != "":
		return "sha-" + s.Commit + "-dirty-" + s.Dirty
	case s.Rebuild > 0:
		return fmt.Sprintf("sha-%s-r%d", s.Commit, s.Rebuild)
	}
	return "sha-" + s.Commit
}

// RebuildOf reads the number of a rebuild from its tag; other tags have 0.
func RebuildOf(tag string) uint {
	found := rebuildTag.FindStringSubmatch(tag)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseUint(found[1], 10, 32)
	if err != nil {
		return 0
	}
	return uint(n)
}

// check refuses a source that no release can be called by.
func (s Source) check() error {
	switch {
	case !commitGrammar.MatchString(s.Commit):
		return fmt.Errorf("%q is no commit, which has 40 hex digits", s.Commit)
	case !dirtyGrammar.MatchString(s.Dirty):
		return fmt.Errorf("%q is no difference, which has 8 hex digits", s.Dirty)
	case s.Rebuild > 0 && s.Dirty != "":
		return errors.New("a work tree with changes is not rebuilt: only a commit is")
	case s.Rebuild != RebuildOf(s.Tag()):
		return fmt.Errorf("%d is no rebuild: the first is 2", s.Rebuild)
	}
	return nil
}

// Plan says what will be built: a family from a source for platforms.
type Plan struct {
	Family    *family.Family
	Source    Source
	Platforms []string // of the family's platforms, the ones to build
}

// NewPlan checks a source and platforms against a family.
func NewPlan(f *family.Family, src Source, platforms []string) (Plan, error) {
	if err := src.check(); err != nil {
		return Plan{}, fault.Wrap(err, fault.Invalid, "planning", src.Tag())
	}
	if len(platforms) == 0 {
		return Plan{}, fault.New(fault.Invalid, "planning", f.Name, "no platform to build")
	}
	for _, p := range platforms {
		if !slices.Contains(f.Platforms, p) {
			return Plan{}, fault.New(fault.Invalid, "planning", p, "the family declares %v", f.Platforms).
				WithHint("add the platform to the family file, or unset CONTAINAI_PLATFORMS")
		}
	}
	return Plan{Family: f, Source: src, Platforms: slices.Sorted(slices.Values(platforms))}, nil
}

// Cells returns every image on every platform of the plan, parents first.
func (p Plan) Cells() []evidence.Cell {
	var cells []evidence.Cell
	for _, image := range p.Family.ImageNames() {
		for _, platform := range p.Platforms {
			cells = append(cells, evidence.Cell{Image: image, Platform: platform})
		}
	}
	return cells
}

// Built is what the build of a plan left in the layout.
type Built struct {
	Plan   Plan
	Record Record
}

// Record is what one commit released: every digest it produced, and what from. It holds no
// evidence and no clock time, so building the same content gives the same record.
type Record struct {
	Schema    int                   `json:"schema"` // 1
	Family    string                `json:"family"`
	Source    Source                `json:"source"`
	Images    map[string]Image      `json:"images"`
	Artifacts map[string]graph.Node `json:"artifacts"`           // payload and installer manifests
	Materials []evidence.Material   `json:"materials"`           // OS base and the like, sorted by name
	Tools     map[string]string     `json:"tools"`               // builder and scanners: name → version
	Verifiers []evidence.Material   `json:"verifiers,omitempty"` // what the installer carries beside its script, sorted by name
	LocalBase bool                  `json:"localBase"`           // the OS base came from a mirror, not from the pinned image
}

// Image is one image of a record: its index and the platform manifests below it.
type Image struct {
	Index     graph.Node            `json:"index"`
	Platforms map[string]graph.Node `json:"platforms"`
	Cached    bool                  `json:"cached,omitempty"`    // its build could take from a cache that other machines fill
	Arguments map[string]string     `json:"arguments,omitempty"` // build arguments, as the bake file gives them
	Inputs    Inputs                `json:"inputs,omitempty"`    // what it was made from
	Built     string                `json:"built,omitempty"`     // the earlier commit that built it, when its image was kept
	Inspected string                `json:"inspected,omitempty"` // the earlier commit that inspected it, when that was kept as well
}

// Encode returns the canonical bytes of a record.
func (r Record) Encode() ([]byte, error) {
	r.Source.Ref = ""
	content, err := json.MarshalIndent(r, "", "  ")
	return append(content, '\n'), err
}

// DecodeRecord reads a record strictly.
func DecodeRecord(content []byte) (Record, error) {
	var r Record
	if err := decodeStrict(content, &r); err != nil {
		return Record{}, fault.Wrap(err, fault.Forged, "decoding", "record")
	}
	if r.Schema != 1 || !commitGrammar.MatchString(r.Source.Commit) || len(r.Images) == 0 {
		return Record{}, fault.New(fault.Forged, "decoding", "record", "schema %d of commit %q with %d images", r.Schema, r.Source.Commit, len(r.Images))
	}
	canonical, err := r.Encode()
	if err == nil {
		err = outline{content: content}.sameBytes(canonical)
	}
	if err == nil {
		err = errors.Join(r.Source.check(), r.checkDigests(), r.checkOrigin())
	}
	if err != nil {
		return Record{}, fault.Wrap(err, fault.Forged, "decoding", "record")
	}
	return r, nil
}

// checkDigests refuses a record that names something without saying what it is.
func (r Record) checkDigests() error {
	for name, node := range r.Members() {
		if err := node.Digest.Validate(); err != nil {
			return fmt.Errorf("%q of %s: %w", node.Digest, name, err)
		}
	}
	for _, c := range r.Cells() {
		if node, _ := r.Digest(c); node.Digest.Validate() != nil {
			return fmt.Errorf("%q of %s is no digest", node.Digest, c)
		}
	}
	return nil
}

// Fits refuses a record of another family than this one has become: with a member that it lacks, or
// an image without the one that it stands on.
func (r Record) Fits(f *family.Family) error {
	members := f.Members()
	for _, name := range slices.Sorted(maps.Keys(r.Members())) {
		if !slices.Contains(members, name) {
			return fmt.Errorf("the family has no %s", name)
		}
	}
	for _, c := range r.Cells() {
		parent := f.Images[c.Image].From
		if _, there := r.Digest(evidence.Cell{Image: parent, Platform: c.Platform}); parent != "" && !there {
			return fmt.Errorf("it has %s and not %s, on which that stands", c, parent)
		}
	}
	return nil
}

// Digest returns the platform manifest of a cell.
func (r Record) Digest(c evidence.Cell) (graph.Node, bool) {
	n, ok := r.Images[c.Image].Platforms[c.Platform]
	return n, ok
}

// Cells returns the cells of the record, sorted.
func (r Record) Cells() []evidence.Cell {
	var cells []evidence.Cell
	for _, image := range slices.Sorted(maps.Keys(r.Images)) {
		for _, platform := range slices.Sorted(maps.Keys(r.Images[image].Platforms)) {
			cells = append(cells, evidence.Cell{Image: image, Platform: platform})
		}
	}
	return cells
}

// Members returns the digest that every member's tags name: indexes of images, manifests of
// artifacts. The metadata artifact is not among them; its tags name records and documents.
func (r Record) Members() map[string]graph.Node {
	members := maps.Clone(r.Artifacts)
	if members == nil {
		members = map[string]graph.Node{}
	}
	for name, image := range r.Images {
		members[name] = image.Index
	}
	return members
}

// Move is one tag from one digest to another. From is what must be there now; empty means the
// tag must not exist.
type Move struct {
	Tag  ref.Tagged
	From digest.Digest
	To   graph.Node
}

func (m Move) String() string {
	from := "absent"
	if m.From != "" {
		from = m.From.String()
	}
	return fmt.Sprintf("%s: %s → %s", m.Tag, from, m.To.Digest)
}
