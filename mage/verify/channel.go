package verify

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Verifier checks what a family's registry serves, by one policy.
type Verifier struct {
	Family   *family.Family
	Registry pipeline.Registry // or an evidence [File]
	Trust    *Trust
	Policy   family.Policy

	Seen           Seen   // the newest channels document of this family that was accepted before
	RollbackUnsafe string // why an older document than Seen is accepted; empty refuses it

	Elsewhere Source        // where bundles are looked for that the registry does not have; nil is nowhere
	Patience  time.Duration // longest time for all that is read to arrive; zero means 10 minutes
}

// Seen is a channels document that was verified. Its zero value is none.
type Seen struct {
	Generation uint64        `json:"generation"`
	Digest     digest.Digest `json:"digest"`
}

// Seen returns what to remember of a verified channel.
func (r Result) Seen() Seen { return Seen{r.Generation, r.Digest} }

// walk is one channel on its way from the tag to everything it serves.
type walk struct {
	*Verifier
	channel string
	now     time.Time
	result  *Result

	node     graph.Node // the channels document's manifest
	document release.Document
	state    release.State
	record   release.Record
	recordAt graph.Node
}

// channelCheck is one thing that must be true of a channel.
type channelCheck func(*walk, context.Context) error

// entryChecks are made before the channels document is read, documentChecks before what it names is
// fetched, releaseChecks on the record and everything in it.
func entryChecks() []channelCheck {
	return []channelCheck{
		(*walk).documentIsSignedByAMover,
	}
}

func channelChecks() []channelCheck {
	return []channelCheck{
		(*walk).documentIsTheFamilys,
		(*walk).documentIsFresh,
		(*walk).documentIsNotOlderThanSeen,
		(*walk).documentIsTheOneOfItsGeneration,
		(*walk).documentDoesNotJump,
		(*walk).documentServesTheChannel,
		(*walk).releaseIsNotBad,
	}
}

func releaseChecks() []channelCheck {
	return []channelCheck{
		(*walk).recordAgrees,
		(*walk).recordIsTheWholeFamily,
		(*walk).everyImageHasEveryPlatform,
		(*walk).indexesNameTheirPlatforms,
		(*walk).everythingIsProved,
		(*walk).imagesStandOnTheirParents,
		(*walk).tagsShowTheRelease,
	}
}

// Channel verifies everything a channel serves at the time now: the channels document, its
// record, the evidence of every member on every platform, the lineage of every image, the tags.
//
// It fails with fault.Unverified when evidence is missing, fault.Forged when something does not
// match, fault.Refused when the policy says no to what is genuine: expired, replayed, denied.
func (v *Verifier) Channel(ctx context.Context, name string, now time.Time) (Result, error) {
	w, err := v.walk(ctx, name, now, releaseChecks())
	return *w.result, err
}

// walk goes from the tag to the record, and makes these checks of the record.
func (v *Verifier) walk(ctx context.Context, name string, now time.Time, last []channelCheck) (*walk, error) {
	ctx, cancel := v.patiently(ctx)
	defer cancel()
	w := &walk{Verifier: v, channel: name, now: now, result: &Result{Subject: "channel " + name}}
	err := w.run(ctx, last)
	if err == nil {
		err = w.result.closed()
	}
	return w, arrived(err)
}

// Offered names the channels that the registry, or an evidence file, shows in full: what there is to
// verify. Nothing of the answer is verified.
func (v *Verifier) Offered(ctx context.Context) ([]string, error) {
	ctx, cancel := v.patiently(ctx)
	defer cancel()
	w := &walk{Verifier: v, result: &Result{}}
	if err := w.find(ctx); err != nil {
		return nil, arrived(err)
	}
	if err := w.readDocument(ctx); err != nil {
		return nil, arrived(err)
	}
	var names []string
	for _, name := range w.document.Names() {
		_, found, err := v.Registry.Repository(v.Family.ImageNames()[0]).Resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		if found {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, refuse(fault.Unverified, "channels", Missing, "of %q none is there", w.document.Names())
	}
	return names, nil
}

func (w *walk) run(ctx context.Context, last []channelCheck) error {
	for _, stage := range []struct {
		read   func(context.Context) error
		checks []channelCheck
	}{
		{w.find, entryChecks()},
		{w.readDocument, channelChecks()},
		{w.readRecord, last},
	} {
		if err := stage.read(ctx); err != nil {
			return err
		}
		for _, check := range stage.checks {
			if err := check(w, ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) metadata() pipeline.Repository {
	return w.Registry.Repository(w.Family.ArtifactOf(family.Metadata))
}

// find resolves the one tag that is believed; from here on only digests count.
func (w *walk) find(ctx context.Context) error {
	node, found, err := w.metadata().Resolve(ctx, release.ChannelsTag)
	if err == nil && !found {
		err = refuse(fault.Unverified, "channel "+w.channel, Missing, "%s has no tag %s", w.Family.ArtifactOf(family.Metadata), release.ChannelsTag).
			WithHint("nothing was released to this registry yet: mage release:%s", w.channel)
	}
	w.node, w.result.Digest = node, node.Digest
	return err
}

func (w *walk) readDocument(ctx context.Context) (err error) {
	if w.document, err = pipeline.ReadDocument(ctx, w.metadata(), w.node); err != nil {
		return err
	}
	w.state = w.document.Channels[w.channel]
	w.result.Generation, w.result.Commit = w.document.Generation, w.state.Commit
	return nil
}

func (w *walk) readRecord(ctx context.Context) error {
	w.result.hold(w.Family.ArtifactOf(family.Metadata), "channels document", "generation %d, fresh until %s", w.document.Generation, w.document.Expires.Format(time.DateOnly))
	node, found, err := w.metadata().ByDigest(ctx, w.state.Record)
	if err != nil {
		return err
	}
	if !found {
		return refuse(fault.Unverified, "record "+w.state.Record.String(), Missing, "the registry does not have it")
	}
	w.recordAt = node
	w.record, err = pipeline.ReadRecord(ctx, w.metadata(), node)
	return err
}

func (w *walk) documentIsSignedByAMover(ctx context.Context) error {
	subject := Subject{Name: w.Family.ArtifactOf(family.Metadata), Kind: family.ChannelsDocument, Digest: w.node.Digest}
	return w.proves(ctx, []Subject{subject}, []graph.Node{w.node}, w.result)
}

func (w *walk) documentIsTheFamilys(context.Context) error {
	if w.document.Family != w.Family.Name {
		return refuse(fault.Forged, "channels document", WrongFamily, "it is of %q, want %q", w.document.Family, w.Family.Name)
	}
	return nil
}

func (w *walk) documentIsFresh(context.Context) error {
	if w.now.After(w.document.Expires) {
		return refuse(fault.Refused, "channels document", Expired, "on %s", w.document.Expires.Format(time.DateOnly)).
			WithHint("ask the releasers to refresh it")
	}
	return nil
}

func (w *walk) documentIsNotOlderThanSeen(context.Context) error {
	if w.document.Generation >= w.Seen.Generation {
		return nil
	}
	if w.RollbackUnsafe != "" {
		w.result.hold("channels document", "older than seen, allowed", "generation %d after %d: %s", w.document.Generation, w.Seen.Generation, w.RollbackUnsafe)
		return nil
	}
	return refuse(fault.Refused, "channels document", Replayed, "it is generation %d, and %d was seen", w.document.Generation, w.Seen.Generation).
		WithHint("if its owners confirm that the registry was restored, allow the rollback and say why: mage verify:channel %s -allowRollback=REASON", w.channel)
}

func (w *walk) documentIsTheOneOfItsGeneration(context.Context) error {
	if w.document.Generation == w.Seen.Generation && w.node.Digest != w.Seen.Digest {
		return refuse(fault.Refused, "channels document", Split, "generation %d was %s and is %s", w.Seen.Generation, w.Seen.Digest, w.node.Digest).
			WithHint("somebody is shown another history: compare the ledgers before you go on")
	}
	return nil
}

func (w *walk) documentDoesNotJump(context.Context) error {
	limit := w.Policy.MaxJump
	if limit == 0 {
		limit = family.DefaultJump
	}
	if w.document.Generation > w.Seen.Generation && w.document.Generation-w.Seen.Generation > limit {
		return refuse(fault.Refused, "channels document", Jumped, "from generation %d to %d, at most %d", w.Seen.Generation, w.document.Generation, limit).
			WithHint("accepting it would shut out every later document: its owners go on from the ledger's last good entry; nothing here needs to be reset")
	}
	return nil
}

func (w *walk) documentServesTheChannel(context.Context) error {
	if _, ok := w.document.Channels[w.channel]; !ok {
		return refuse(fault.Unverified, "channel "+w.channel, Unserved, "the document has channels %q", w.document.Names())
	}
	return nil
}

// releaseIsNotBad: a record that was denied after it was released, by the document itself.
func (w *walk) releaseIsNotBad(context.Context) error {
	if why, bad := w.document.Denied[w.state.Record]; bad {
		return refuse(fault.Refused, "channel "+w.channel, Denied, "its owners marked %s bad: %s", w.state.Record, why.Reason)
	}
	return nil
}

// recordAgrees: the record and the channels document name the same commit and digests, so that
// nothing of one release can be mixed into another.
func (w *walk) recordAgrees(context.Context) error {
	members := map[string]digest.Digest{}
	for name, n := range w.record.Members() {
		members[name] = n.Digest
	}
	r := w.record
	if r.Family != w.Family.Name || r.Source.Commit != w.state.Commit || r.Source.Tag() != w.state.Tag || !maps.Equal(members, w.state.Members) {
		return refuse(fault.Forged, "record "+w.state.Record.String(), Contradicted, "they name other families, commits or digests")
	}
	w.result.hold("record", "names the channel's members", "%d members of %s", len(members), w.state.Tag)
	return nil
}

func (w *walk) recordIsTheWholeFamily(context.Context) error {
	for _, name := range w.Family.Members() {
		_, isImage := w.Family.Images[name]
		_, image := w.record.Images[name]
		_, artifact := w.record.Artifacts[name]
		if name != w.Family.ArtifactOf(family.Metadata) && (image != isImage || artifact == isImage) {
			return refuse(fault.Refused, "record", Incomplete, "%s is not in it as what it is", name).
				WithHint("if the family file is newer than the release, verify with the file of commit %s", w.record.Source.Commit)
		}
	}
	if extra := len(w.record.Members()) + 1 - len(w.Family.Members()); extra > 0 {
		return refuse(fault.Refused, "record", Incomplete, "it has %d members that the family has not", extra)
	}
	return nil
}

func (w *walk) everyImageHasEveryPlatform(context.Context) error {
	var platforms []string
	for _, name := range slices.Sorted(maps.Keys(w.record.Images)) {
		these := slices.Sorted(maps.Keys(w.record.Images[name].Platforms))
		if platforms == nil {
			platforms = these
		}
		if len(these) == 0 || !slices.Equal(these, platforms) {
			return refuse(fault.Refused, name, Incomplete, "it has platforms %v, others have %v", these, platforms)
		}
	}
	return nil
}

// indexesNameTheirPlatforms: what a client finds below an index is what the record says, no more.
func (w *walk) indexesNameTheirPlatforms(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(w.record.Images)) {
		image := w.record.Images[name]
		found, err := readImage(ctx, w.Registry.Repository(name), name, image.Index)
		if err != nil {
			return err
		}
		same := maps.EqualFunc(found.Platforms, image.Platforms, func(a, b graph.Node) bool { return a.Digest == b.Digest })
		if !same {
			return refuse(fault.Forged, name, WrongIndex, "it names %v", slices.Sorted(maps.Keys(found.Platforms)))
		}
	}
	return nil
}

// everythingIsProved demands the evidence of every member on every platform, and of the record.
func (w *walk) everythingIsProved(ctx context.Context) error {
	subjects, nodes := w.Verifier.subjects(w.record, w.recordAt, release.Claims(w.Family, w.record, w.recordAt))
	return w.proves(ctx, subjects, nodes, w.result)
}

// imagesStandOnTheirParents: layer by layer, on every platform.
func (w *walk) imagesStandOnTheirParents(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(w.record.Images)) {
		parent := w.Family.Images[name].From
		if parent == "" {
			continue
		}
		if err := w.baseIsTrue(ctx, name, parent); err != nil {
			return err
		}
		for platform, node := range w.record.Images[name].Platforms {
			child, err := graph.Manifest(ctx, w.Registry.Repository(name), node)
			if err != nil {
				return err
			}
			base, err := graph.Manifest(ctx, w.Registry.Repository(parent), w.record.Images[parent].Platforms[platform])
			if err != nil {
				return err
			}
			if err := graph.CheckLineage(base, child); err != nil {
				return refuse(fault.Forged, name+" "+platform, WrongLineage, "%s: %w", parent, err)
			}
		}
		w.result.hold(name, "built on "+parent, "its layers are a prefix, byte by byte")
	}
	return nil
}

// baseIsTrue: an index need not say what it was built on; one that does says its parent's digest.
func (w *walk) baseIsTrue(ctx context.Context, name, parent string) error {
	index, err := graph.Index(ctx, w.Registry.Repository(name), w.record.Images[name].Index)
	if err != nil {
		return err
	}
	says, want := index.Annotations[ocispec.AnnotationBaseImageDigest], w.record.Images[parent].Index.Digest
	if says != "" && says != want.String() {
		return refuse(fault.Forged, name, WrongLineage, "its index says that its base is %q, %s is %s", says, parent, want)
	}
	return nil
}

// tagsShowTheRelease: the names people pull.
func (w *walk) tagsShowTheRelease(ctx context.Context) error {
	tags := []string{w.channel, w.record.Source.Tag()}
	if w.state.Version != "" {
		tags = append(tags, w.state.Version)
	}
	for _, name := range slices.Sorted(maps.Keys(w.state.Members)) {
		for _, tag := range tags {
			node, _, err := w.Registry.Repository(name).Resolve(ctx, tag)
			if err != nil {
				return err
			}
			if node.Digest != w.state.Members[name] {
				return refuse(fault.Forged, name+":"+tag, WrongTag, "it shows %q, the channels document says %s", node.Digest, w.state.Members[name]).
					WithHint("tags follow the ledger: mage ops:reconcile derives them again")
			}
		}
		w.result.hold(name, "tags", "%s", strings.Join(tags, " and "))
	}
	return nil
}
