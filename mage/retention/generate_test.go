package retention_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// The generated registries: a family of three images on each other, a payload and the metadata, as
// years of releases, half of them crashed, and years of other people's tools leave them. Digests are
// invented; everything else is as a scan finds it.

var (
	base = ref.Repo{Host: "example.com", Path: "acme"}
	now  = time.Date(2026, time.November, 25, 12, 0, 0, 0, time.UTC)
)

const (
	day      = 24 * time.Hour
	manifest = ocispec.MediaTypeImageManifest
	index    = ocispec.MediaTypeImageIndex
)

func at(member, digest string) ref.Pinned { return ref.Pinned{Repo: repo(member), Digest: sum(digest)} }
func repo(member string) ref.Repo         { return ref.Repo{Host: base.Host, Path: base.Path + "/" + member} }
func sum(s string) digest.Digest          { return digest.FromString(s) }

func newFamily(keep map[string]family.Keep, r family.Retention) *family.Family {
	f := &family.Family{
		Name:      "widget",
		Images:    map[string]family.Image{"base": {}, "app": {From: "base"}, "agent": {From: "app"}},
		Artifacts: map[string]family.Artifact{"payload": {Kind: family.Payload}, "metadata": {Kind: family.Metadata}},
		Channels:  map[string]family.Channel{},
		Retention: r,
	}
	for name, k := range keep {
		f.Channels[name] = family.Channel{Keep: k}
	}
	return f
}

// yard is a registry that is being generated.
type yard struct {
	t      *rapid.T
	facts  retention.Facts
	items  map[ref.Pinned]*graph.Item
	pool   map[string][]graph.Node // platform manifests that later releases may share
	count  int
	record []retention.Served // released, oldest first
}

func drawFacts(t *rapid.T) retention.Facts {
	keep := rapid.Custom(func(t *rapid.T) family.Keep {
		switch rapid.IntRange(0, 9).Draw(t, "keep") {
		case 0:
			return family.Keep{All: true}
		case 1:
			return family.Keep{}
		}
		return family.Keep{Releases: rapid.IntRange(1, 4).Draw(t, "releases"), Within: time.Duration(rapid.IntRange(0, 40).Draw(t, "within")) * day}
	})
	fam := newFamily(
		map[string]family.Keep{"dev": keep.Draw(t, "dev"), "prod": keep.Draw(t, "prod")},
		family.Retention{
			Grace: day, Records: time.Duration(rapid.IntRange(1, 40).Draw(t, "records")) * day,
			Versions: time.Duration(rapid.IntRange(0, 60).Draw(t, "versions")) * day,
			Protect:  rapid.SampledFrom([][]string{nil, {"demo-*"}}).Draw(t, "protect"),
			Others:   rapid.Bool().Draw(t, "others"), Share: 100,
		})
	y := &yard{t: t, facts: retention.Facts{Family: fam, Base: base, Now: now}, items: map[ref.Pinned]*graph.Item{}, pool: map[string][]graph.Node{}}
	for i := range rapid.IntRange(1, 7).Draw(t, "commits") {
		y.release(i)
	}
	y.serve()
	y.litter()
	y.damage()
	for _, it := range y.items {
		slices.Sort(it.Tags)
		it.Tags = slices.Compact(it.Tags)
		y.facts.Items = append(y.facts.Items, *it)
	}
	slices.SortFunc(y.facts.Items, func(a, b graph.Item) int { return graph.ComparePlaces(a.At, b.At) })
	return y.facts
}

// chance is true about once in n.
func (y *yard) chance(n int, what string) bool { return rapid.IntRange(0, n-1).Draw(y.t, what) == 0 }

// put adds a manifest of some age in hours.
func (y *yard) put(member, mediaType string, hours int, l graph.Links, tags ...string) *graph.Item {
	y.count++
	p := at(member, fmt.Sprint(member, y.count))
	it := &graph.Item{At: p, MediaType: mediaType, Size: 500, ID: int64(y.count), Tags: tags, Since: now.Add(-time.Duration(hours) * time.Hour), Links: l}
	y.items[p] = it
	return it
}

func node(it *graph.Item) graph.Node {
	return graph.Node{MediaType: it.MediaType, Digest: it.At.Digest, Size: it.Size}
}

// release pushes what a commit releases: images as indexes over platform manifests, some nested,
// some shared with an earlier release; evidence in one of the three styles; the record.
func (y *yard) release(i int) {
	age := rapid.IntRange(0, 80*24).Draw(y.t, "hours")
	tag := fmt.Sprintf("sha-%040d", i)
	members := map[string]digest.Digest{}
	var locks []ref.Pinned
	var parent digest.Digest
	for _, member := range []string{"base", "app", "agent"} {
		top := y.image(member, age, parent)
		if y.chance(4, "named") {
			top.Tags = append(top.Tags, tag)
		}
		parent = top.At.Digest
		members[member] = parent
		locks = append(locks, top.At)
		y.attest(top, age)
	}
	payload := y.put("payload", manifest, age, graph.Links{ArtifactType: "application/vnd.containai.payload.v1"}, tag)
	members["payload"] = payload.At.Digest
	locks = append(locks, payload.At)
	if y.chance(6, "crashed before the record") {
		return
	}
	record := y.put("metadata", manifest, age, graph.Links{ArtifactType: "application/vnd.containai.record.v1+json"}, tag)
	record.Locks = locks
	y.attest(record, age)
	y.record = append(y.record, retention.Served{Tag: tag, Record: record.At.Digest, Members: members, At: now.Add(-time.Duration(age) * time.Hour)})
}

func (y *yard) image(member string, age int, parent digest.Digest) *graph.Item {
	l := graph.Links{Base: parent}
	for range rapid.IntRange(1, 3).Draw(y.t, "platforms") {
		if pool := y.pool[member]; len(pool) > 0 && y.chance(3, "shared") {
			l.Children = append(l.Children, rapid.SampledFrom(pool).Draw(y.t, "child"))
			continue
		}
		child := y.put(member, rapid.SampledFrom([]string{manifest, graph.ManifestTypes()[3]}).Draw(y.t, "type"), age, graph.Links{Base: parent})
		l.Children = append(l.Children, node(child))
		y.pool[member] = append(y.pool[member], node(child))
		if y.chance(3, "platform attested") {
			y.attest(child, age)
		}
	}
	if y.chance(5, "foreign blob") {
		l.Children = append(l.Children, graph.Node{MediaType: "application/vnd.other.blob", Digest: sum("blob"), Size: 1})
	}
	for y.chance(4, "nested") {
		l = graph.Links{Children: []graph.Node{node(y.put(member, index, age, l))}}
	}
	return y.put(member, index, age, l)
}

// attest hangs evidence on a subject, and sometimes evidence on the evidence.
func (y *yard) attest(subject *graph.Item, age int) {
	member := strings.TrimPrefix(subject.At.Repo.Path, base.Path+"/")
	hex := "sha256-" + subject.At.Digest.Encoded()
	switch rapid.IntRange(0, 4).Draw(y.t, "style") {
	case 0:
		return
	case 1: // cosign's tag, and no subject
		y.put(member, manifest, age, graph.Links{}, hex+rapid.SampledFrom([]string{".sig", ".att", ".sbom"}).Draw(y.t, "suffix"))
		return
	case 2: // a referrer that a registry with the API lists
		y.put(member, manifest, age, graph.Links{ArtifactType: evidence.BundleType, Subject: subject.At.Digest})
		return
	}
	r := y.put(member, manifest, age, graph.Links{ArtifactType: evidence.BundleType, Subject: subject.At.Digest})
	y.put(member, index, age, graph.Links{Children: []graph.Node{node(r)}}, hex)
	if y.chance(3, "evidence on evidence") {
		y.attest(r, age)
	}
}

// serve moves channels over the releases, forth and back, and names versions.
func (y *yard) serve() {
	tagged := map[string]ref.Pinned{}
	for g := range rapid.IntRange(1, 8).Draw(y.t, "generations") {
		s := retention.Served{Channel: "dev", Generation: uint64(g) + 1, Tag: "sha-gone", Record: sum("gone"), At: now.Add(-80 * day)}
		if len(y.record) > 0 {
			channel := rapid.SampledFrom([]string{"dev", "prod"}).Draw(y.t, "channel")
			s = rapid.SampledFrom(y.record).Draw(y.t, "served")
			s.Channel, s.Generation = channel, uint64(g)+1
		}
		if y.chance(3, "version") {
			s.Version = fmt.Sprintf("v1.%d.0", g)
		}
		y.facts.Served = append([]retention.Served{s}, y.facts.Served...)
		document := y.put("metadata", manifest, rapid.IntRange(30, 2000).Draw(y.t, "document age"), graph.Links{ArtifactType: "application/vnd.containai.metadata.v1+json"}, fmt.Sprintf("gen-%d", g+1))
		document.Mentions = []ref.Pinned{{Repo: repo("metadata"), Digest: s.Record}}
		y.attest(document, 30)
		y.facts.Head, y.facts.Generation = document.At.Digest, uint64(g)+1
		tagged["metadata:channels"] = document.At
		for member, d := range s.Members {
			if !y.chance(8, "the tag did not follow") {
				tagged[member+":"+s.Channel] = ref.Pinned{Repo: repo(member), Digest: d}
			}
			if s.Version != "" {
				tagged[member+":"+s.Version] = ref.Pinned{Repo: repo(member), Digest: d}
			}
		}
	}
	for name, p := range tagged {
		_, tag, _ := strings.Cut(name, ":")
		y.items[p].Tags = append(y.items[p].Tags, tag)
	}
}

// litter is what others left: aliases, images of their own, evidence of nothing, cycles.
func (y *yard) litter() {
	places := y.places()
	for i := range rapid.IntRange(0, 5).Draw(y.t, "aliases") {
		it := y.items[rapid.SampledFrom(places).Draw(y.t, "alias of")]
		it.Tags = append(it.Tags, rapid.SampledFrom([]string{"demo-1", "latest", "pr-7", "v0.9.0"}).Draw(y.t, "alias")+strings.Repeat("x", i))
	}
	for i := range rapid.IntRange(0, 3).Draw(y.t, "rebuilds that changed nothing") {
		it := y.items[rapid.SampledFrom(places).Draw(y.t, "named twice")]
		it.Tags = append(it.Tags, fmt.Sprintf("sha-%040d-r%d", i, i+2))
	}
	for range rapid.IntRange(0, 3).Draw(y.t, "orphans") {
		hours := rapid.IntRange(-30, 400).Draw(y.t, "orphan age")
		y.attest(y.image("app", hours, sum("a base elsewhere")), hours)
	}
	y.put("app", index, 100, graph.Links{}, "sha256-"+sum("nothing").Encoded())
	if y.chance(4, "cycle") {
		a, b := y.put("app", index, 300, graph.Links{}), y.put("app", index, 300, graph.Links{})
		a.Children, b.Children = []graph.Node{node(b)}, []graph.Node{node(a)}
	}
	if y.chance(4, "age not known") {
		y.items[rapid.SampledFrom(places).Draw(y.t, "ageless")].Since = time.Time{}
	}
}

// damage takes manifests away, or makes them unreadable, in some registries.
func (y *yard) damage() {
	if !y.chance(4, "damaged") {
		return
	}
	for range rapid.IntRange(1, 3).Draw(y.t, "holes") {
		p := rapid.SampledFrom(y.places()).Draw(y.t, "hole")
		if it := y.items[p]; y.chance(3, "unreadable") {
			it.Unread, it.Links, it.Locks, it.Mentions = "500 Internal Server Error", graph.Links{}, nil, nil
		} else {
			delete(y.items, p)
		}
	}
}

func (y *yard) places() []ref.Pinned {
	var list []ref.Pinned
	for p := range y.items {
		list = append(list, p)
	}
	slices.SortFunc(list, graph.ComparePlaces)
	return list
}
