package verify_test

import (
	"bytes"
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// fraud is a released world in which one thing is wrong, and how its channel must be refused. The
// change is made after the release, with the keys of whoever released.
type fraud struct {
	row    string
	name   string
	kind   fault.Kind
	reason verify.Reason
	plot   plot
	change func(context.Context, *world)
}

// TestFrauds: rows D1, D5, D7 to D10, D14 on a whole channel. What a registry serves and what its
// evidence file holds are refused alike.
func TestFrauds(t *testing.T) {
	for _, f := range frauds() {
		t.Run(f.row+" "+f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f.plot)
			if f.change != nil {
				f.change(t.Context(), w)
			}
			_, err := w.verifier.Channel(t.Context(), "dev", w.now)
			refused(t, err, f.kind, f.reason)
			var file bytes.Buffer
			if err := verify.Export(t.Context(), &file, w.fam, w.registry); err != nil {
				refused(t, err, f.kind, f.reason) // it cannot tell what belongs into the file
				return
			}
			offline := w.verifier
			offline.Registry = must(verify.OpenFile(&file))
			_, err = offline.Channel(t.Context(), "dev", w.now)
			refused(t, err, f.kind, f.reason)
		})
	}
}

func frauds() []fraud {
	return append(append(missingInRegistry(), wrongDocuments()...), wrongReleases()...)
}

func missingInRegistry() []fraud {
	unsigned := func(member, platform, predicate string) plot {
		return plot{unsigned: func(m, p, q string) bool { return m == member && p == platform && q == predicate }}
	}
	return []fraud{
		{"D1", "an index without signature", fault.Unverified, verify.Missing, unsigned("tiny-1", "", evidence.Signature), nil},
		{"D1", "one platform without signature", fault.Unverified, verify.Missing, unsigned("tiny-1", "linux/arm64", evidence.Signature), nil},
		{"D1", "one platform without scan", fault.Unverified, verify.Missing, unsigned("tiny-base", "linux/arm64", evidence.Scan), nil},
		{"D1", "a payload without provenance", fault.Unverified, verify.Missing, unsigned("tiny-payload", "", evidence.Provenance), nil},
		{"D1", "a payload without SBOM", fault.Unverified, verify.Missing, unsigned("tiny-payload", "", evidence.SBOM), nil},
		{"D1", "an installer without provenance", fault.Unverified, verify.Missing, unsigned("tiny-installer", "", evidence.Provenance), nil},
		{"D1", "neither record nor channels document signed", fault.Unverified, verify.Missing, unsigned("tiny-metadata", "", evidence.Signature), nil},
		{"D1", "a record without signature", fault.Unverified, verify.Missing, plot{unsigned: firstOf("tiny-metadata")}, nil},
		{"D2", "one platform signed by somebody else", fault.Forged, sigstore.WrongIdentity, plot{order: func(m, p, _ string, o *order) {
			if m == "tiny-1" && p == "linux/arm64" {
				w := honest()
				onRef(&w, "refs/heads/evil")
				o.who = &w
			}
		}}, nil},
		{"D3", "one platform built from another commit", fault.Forged, sigstore.WrongIdentity, plot{order: func(m, p, _ string, o *order) {
			if m == "tiny-1" && p == "linux/arm64" {
				w := honest()
				w.commit = strings.Repeat("f", 40)
				o.who = &w
			}
		}}, nil},
		{"D5", "a provenance beside something else in one attachment", fault.Forged, "", plot{
			unsigned: func(m, p, q string) bool { return m == "tiny-1" && p == "" && q == evidence.Provenance },
		}, func(ctx context.Context, w *world) {
			index := w.record.Images["tiny-1"].Index
			w.lay(ctx, w.provenanceOf(order{}, index.Digest), []byte("something else"))
		}},
		{"D5", "everything annotated as the provenance that is missing", fault.Unverified, verify.Missing, plot{
			annotate: func(string) string { return evidence.Provenance },
			unsigned: func(m, p, q string) bool { return m == "tiny-1" && p == "" && q == evidence.Provenance },
		}, nil},
		{"D5", "an SBOM document that was altered", fault.Forged, verify.WrongSBOM, plot{sbom: func(m, _, document string) string {
			if m == "tiny-payload" {
				return strings.Replace(document, "zlib", "glib", 1)
			}
			return document
		}}, nil},
	}
}

// firstOf leaves out the first signature of a member: the record's, before the channels document's.
func firstOf(member string) func(m, p, q string) bool {
	seen := false
	return func(m, _, _ string) bool {
		first := m == member && !seen
		seen = seen || first
		return first
	}
}

func wrongDocuments() []fraud {
	document := func(change func(*release.Document)) plot { return plot{document: change} }
	state := func(d *release.Document, change func(*release.State)) {
		s := d.Channels["dev"]
		s.Members = maps.Clone(s.Members)
		change(&s)
		d.Channels["dev"] = s
	}
	seen := func(generation uint64, d digest.Digest) func(context.Context, *world) {
		return func(_ context.Context, w *world) { w.verifier.Seen = verify.Seen{Generation: generation, Digest: d} }
	}
	return []fraud{
		{"D2", "a mover whom the policy does not name", fault.Forged, sigstore.WrongIdentity, plot{}, func(_ context.Context, w *world) {
			w.verifier.Policy.Movers = []family.Signer{{Issuer: gitHubIssuer, Repository: widgetRepository, Workflow: ".github/workflows/move.yml", Ref: "refs/heads/main"}}
		}},
		{"D7", "an older document, replayed", fault.Refused, verify.Replayed, plot{}, seen(8, digest.FromString("8"))},
		{"D7", "another document of the same generation", fault.Refused, verify.Split, plot{}, seen(7, digest.FromString("7"))},
		{"D8", "a document that has expired", fault.Refused, verify.Expired, document(func(d *release.Document) { d.Expires = now.Add(-time.Minute) }), nil},
		{"D10", "a document of generation 2^63-1", fault.Refused, verify.Jumped, document(func(d *release.Document) { d.Generation = math.MaxInt64 }), seen(6, digest.FromString("6"))},
		{"D10", "a first document of generation 2^63-1", fault.Refused, verify.Jumped, document(func(d *release.Document) { d.Generation = math.MaxInt64 }), nil},
		{"D10", "a jump beyond the policy's", fault.Refused, verify.Jumped, plot{}, func(_ context.Context, w *world) {
			w.verifier.Seen.Generation, w.verifier.Policy.MaxJump = 2, 4
		}},
		{"D9", "a record where the channels document should be", fault.Forged, "", plot{}, func(ctx context.Context, w *world) {
			w.tag(ctx, "tiny-metadata", release.ChannelsTag, w.recordAt) // as genuinely signed, and something else
		}},
		{"D9", "a channels document where the record should be", fault.Forged, "", plot{}, func(ctx context.Context, w *world) {
			s := w.document.Channels["dev"]
			s.Record = w.node.Digest
			w.document.Channels["dev"] = s
			w.redocument(ctx)
		}},
		{"D9", "a document of another family", fault.Forged, verify.WrongFamily, document(func(d *release.Document) { d.Family = "huge" }), nil},
		{"D1", "a document without the channel", fault.Unverified, verify.Unserved, plot{}, func(ctx context.Context, w *world) {
			w.document.Channels = map[string]release.State{"nightly": w.document.Channels["dev"]}
			w.redocument(ctx)
		}},
		{"deny", "a release that its owners marked bad", fault.Refused, verify.Denied, document(func(d *release.Document) {
			d.Denied = map[digest.Digest]release.Denial{d.Channels["dev"].Record: {Commit: widgetCommit, Reason: "it leaks", By: "alice", At: now.Add(-time.Hour).UTC()}}
		}), nil},
		{"deny", "a record that the policy denies", fault.Refused, verify.Denied, plot{}, func(_ context.Context, w *world) {
			w.verifier.Policy.Deny = []family.Denial{{Digest: w.recordAt.Digest, Reason: "it leaks"}}
		}},
		{"deny", "one platform that the policy denies", fault.Refused, verify.Denied, plot{}, func(_ context.Context, w *world) {
			w.verifier.Policy.Deny = []family.Denial{{Digest: w.record.Images["tiny-1"].Platforms["linux/arm64"].Digest, Reason: "it leaks"}}
		}},
		{"D9", "the payload of another release in the document", fault.Forged, verify.Contradicted, document(func(d *release.Document) {
			state(d, func(s *release.State) { s.Members["tiny-payload"] = s.Members["tiny-installer"] })
		}), nil},
		{"D9", "a document that names another commit than its record", fault.Forged, verify.Contradicted, document(func(d *release.Document) {
			state(d, func(s *release.State) { s.Commit = strings.Repeat("e", 40) })
		}), nil},
		{"D9", "a document that names another tag than its record", fault.Forged, verify.Contradicted, document(func(d *release.Document) {
			state(d, func(s *release.State) { s.Tag = "sha-" + strings.Repeat("e", 40) })
		}), nil},
	}
}

// redocument publishes and signs the world's document once more.
func (w *world) redocument(ctx context.Context) {
	w.putDocument(ctx)
	metadata := w.fam.ArtifactOf(family.Metadata)
	w.attest(ctx, plot{}, release.Claim{Member: metadata, Subject: w.node, Predicate: evidence.Signature})
	w.tag(ctx, metadata, release.ChannelsTag, w.node)
}

func wrongReleases() []fraud {
	return []fraud{
		{"D9", "an installer of the release before", fault.Forged, sigstore.WrongIdentity, plot{order: func(m, _, _ string, o *order) {
			if m == "tiny-installer" {
				w := honest()
				w.commit = strings.Repeat("d", 40) // its own release was genuine
				o.who = &w
			}
		}}, nil},
		{"D9", "a payload that was made for other images", fault.Forged, verify.WrongDependencies, plot{pins: func(m string, pins []evidence.Material) {
			if m == "tiny-payload" {
				pins[0].Digest = map[string]string{"sha256": strings.Repeat("0", 64)}
			}
		}}, nil},
		{"D9", "an image that was built on another base", fault.Forged, verify.WrongDependencies, plot{pins: func(m string, pins []evidence.Material) {
			if m == "tiny-1" {
				pins[len(pins)-1].Digest = map[string]string{"sha256": strings.Repeat("0", 64)}
			}
		}}, nil},
		{"D9", "a record without one of the images", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) { delete(r.Images, "tiny-1") }}, nil},
		{"D9", "a record in which the payload is an image", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) {
			payload := r.Artifacts["tiny-payload"]
			r.Images["tiny-payload"] = release.Image{Index: payload, Platforms: map[string]graph.Node{"linux/amd64": payload, "linux/arm64": payload}}
			delete(r.Artifacts, "tiny-payload")
		}}, nil},
		{"D9", "a record in which an image is an artifact as well", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) {
			r.Artifacts["tiny-1"] = r.Artifacts["tiny-payload"]
		}}, nil},
		{"D9", "a record of another family", fault.Forged, verify.Contradicted, plot{record: func(r *release.Record) { r.Family = "huge" }}, nil},
		{"D9", "a record with an image that the family has not", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) { r.Artifacts["tiny-evil"] = r.Artifacts["tiny-payload"] }}, nil},
		{"D9", "an image that lacks a platform of the others", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) {
			image := r.Images["tiny-1"]
			image.Platforms = map[string]graph.Node{"linux/amd64": image.Platforms["linux/amd64"]}
			r.Images["tiny-1"] = image
		}}, nil},
		{"D9", "a record in which no image has a platform", fault.Refused, verify.Incomplete, plot{record: func(r *release.Record) {
			for name, image := range r.Images {
				r.Images[name] = release.Image{Index: image.Index}
			}
		}}, nil},
		{"D9", "an index that names one platform less than the record", fault.Forged, verify.WrongIndex, plot{index: func(all []graph.Node) []graph.Node { return all[:1] }}, nil},
		{"D9", "an index that names a platform twice", fault.Forged, verify.WrongIndex, plot{index: func(all []graph.Node) []graph.Node { return append(all, all[0]) }}, nil},
		{"D11", "an index with more entries than there are platforms", fault.Forged, verify.WrongIndex, plot{index: func(all []graph.Node) []graph.Node {
			return slices.Repeat(all, 100)
		}}, nil},
		{"D9", "an image whose parent is another", fault.Forged, verify.WrongLineage, plot{content: func(name, content string) string {
			if name == "tiny-1" {
				return "evil " + content
			}
			return content
		}}, nil},
		{"D9", "an index that states another base", fault.Forged, verify.WrongLineage, plot{base: "sha256:" + strings.Repeat("0", 64)}, nil},
		{"D14", "a channel tag that shows other content", fault.Forged, verify.WrongTag, plot{}, func(ctx context.Context, w *world) {
			w.tag(ctx, "tiny-1", "dev", w.record.Images["tiny-1"].Platforms["linux/amd64"])
		}},
		{"D14", "an immutable tag that shows other content", fault.Forged, verify.WrongTag, plot{}, func(ctx context.Context, w *world) {
			w.tag(ctx, "tiny-base", w.record.Source.Tag(), w.record.Images["tiny-base"].Platforms["linux/amd64"])
		}},
	}
}
