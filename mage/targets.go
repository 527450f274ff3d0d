// Package mage holds the targets that release a family of container images and OCI artifacts.
//
// Import it in a magefile with `//mage:import`. Targets that release act; targets that operate
// on a registry print their plan and act only with -apply. Every reporting target takes -json
// and then prints one JSON document on standard output and nothing else there. Invariant: a
// target does nothing but name a command; commands are values, run by one function that opens
// what they need, prints what happened once, and turns an error into its exit status.
package mage

import (
	"cmp"
	"context"

	"github.com/magefile/mage/mg"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/tool"
)

// Build makes the images, and nothing leaves this machine.
type Build mg.Namespace

// All builds every image and artifact into dist/, and loads the images into Docker if there is one.
func (Build) All(ctx context.Context, json *bool) error {
	return run(ctx, output(json), buildAll())
}

// Image builds one image and the images it stands on.
func (Build) Image(ctx context.Context, name string, json *bool) error {
	return run(ctx, output(json), buildImage(name))
}

// Merge joins dist directories (separated by commas) of one commit that were built for a platform each.
func (Build) Merge(ctx context.Context, dirs string, json *bool) error {
	return run(ctx, output(json), buildMerge(dirs))
}

// Plan prints the resolved image graph, the platforms and the builder.
func (Build) Plan(ctx context.Context, json *bool) error {
	return run(ctx, output(json), buildPlan())
}

// Reproduce builds every image twice without cache, in two places, and names the first layer and path that differ.
func (Build) Reproduce(ctx context.Context, json *bool) error {
	return run(ctx, output(json), buildReproduce())
}

// Inspect looks into what was built.
type Inspect mg.Namespace

// All writes SBOMs, scans for secrets and vulnerabilities, runs the smoke tests and asks the gate of what a push reaches.
func (Inspect) All(ctx context.Context, json *bool) error {
	return run(ctx, output(json), propose())
}

// Mirror copies the vulnerability database, as it is, into the family's own registry: prints its plan, and acts with -apply.
func (Inspect) Mirror(ctx context.Context, apply *bool, json *bool) error {
	return run(ctx, output(json), mirror(given(apply)))
}

// Replay repeats the attested scan of an image, or of a report in dist/, with the same database, and lists every difference.
func (Inspect) Replay(ctx context.Context, what string, json *bool) error {
	return run(ctx, output(json), replay(what))
}

// Artifacts packs what is not an image.
type Artifacts mg.Namespace

// All packs payload, installer and metadata into dist/.
func (Artifacts) All(ctx context.Context, json *bool) error {
	return run(ctx, output(json), packArtifacts(family.Payload, family.Installer, family.Metadata))
}

// Payload packs the host tools that pin the images, byte-reproducibly, into dist/.
func (Artifacts) Payload(ctx context.Context, json *bool) error {
	return run(ctx, output(json), packArtifacts(family.Payload))
}

// Installer packs the installer script into dist/.
func (Artifacts) Installer(ctx context.Context, json *bool) error {
	return run(ctx, output(json), packArtifacts(family.Installer))
}

// Metadata writes the channels document into dist/.
func (Artifacts) Metadata(ctx context.Context, json *bool) error {
	return run(ctx, output(json), packArtifacts(family.Metadata))
}

// Release takes a commit to a channel.
type Release mg.Namespace

// PR builds, inspects and gates like a push to the default branch, and writes to no registry.
func (Release) PR(ctx context.Context, json *bool) error {
	return run(ctx, output(json), propose())
}

// Dev releases this commit, or this work tree, to the dev channel. -until=build|inspect|publish|attest stops earlier.
func (Release) Dev(ctx context.Context, until *string, plan *bool, json *bool) error {
	return run(ctx, output(json), releaseOf(wish{channel: "dev", until: stage(until), plan: given(plan)}))
}

// Nightly releases this commit to the nightly channel; with -rebuild anew, to take in what its steps fetch.
func (Release) Nightly(ctx context.Context, until *string, rebuild, plan *bool, json *bool) error {
	return run(ctx, output(json), releaseOf(wish{channel: "nightly", until: stage(until), rebuild: given(rebuild), plan: given(plan)}))
}

// Prod releases this commit, or -commit=…, to the prod channel; -version=v1.2.3 also names it for good.
func (Release) Prod(ctx context.Context, version, commit, until *string, plan *bool, json *bool) error {
	return run(ctx, output(json), releaseOf(wish{channel: "prod", version: text(version), commit: text(commit), until: stage(until), plan: given(plan)}))
}

// To releases this commit to any channel of the family.
func (Release) To(ctx context.Context, channel string, version, commit, until *string, rebuild, plan *bool, json *bool) error {
	return run(ctx, output(json), releaseOf(wish{channel: channel, version: text(version), commit: text(commit), until: stage(until), rebuild: given(rebuild), plan: given(plan)}))
}

// Event says what the event that started this GitHub Actions job asks for: channel, version, commit, whether to publish, to build.
func (Release) Event(ctx context.Context, json *bool) error {
	return run(ctx, output(json), releaseEvent())
}

// Status shows where this commit stands and what every channel serves.
func (Release) Status(ctx context.Context, json *bool) error {
	return run(ctx, output(json), releaseStatus())
}

// Diff shows what changes from what a channel (by default the one a push reaches) serves to this commit: packages, vulnerabilities, sizes. -from= and -to= name other releases.
func (Release) Diff(ctx context.Context, channel, from, to *string, json *bool) error {
	return run(ctx, output(json), releaseDiff(text(channel), text(from), text(to)))
}

// Ops moves channels and cares for a registry: it prints its plan, and acts with -apply.
type Ops mg.Namespace

// Promote moves a channel (prod) to what -to= names: a commit, a version, a digest, another channel.
func (Ops) Promote(ctx context.Context, channel, to, reason, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), promote(ask("mage ops:promote", channel, to, reason, out, apply)))
}

// Rollback takes a channel (prod) back to its last good release, or to -to=, and holds it there. -bad denies what it served.
func (Ops) Rollback(ctx context.Context, channel, to, reason, out *string, bad, breakglass, apply *bool, json *bool) error {
	in := ask(rollbackCommand, channel, to, reason, out, apply)
	return run(ctx, output(json), rollback(in.emergency(bad, breakglass)))
}

// Hold freezes a channel (prod) until ops:unhold.
func (Ops) Hold(ctx context.Context, channel, reason, out *string, breakglass, apply *bool, json *bool) error {
	in := ask("mage ops:hold", channel, nil, reason, out, apply)
	return run(ctx, output(json), hold(in.emergency(nil, breakglass), true))
}

// Unhold lets a channel (prod) move again.
func (Ops) Unhold(ctx context.Context, channel, reason, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), hold(ask("mage ops:unhold", channel, nil, reason, out, apply), false))
}

// Retag gives the whole family, as -from= shows it, another movable name -to=.
func (Ops) Retag(ctx context.Context, from, to, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), retag(ask("mage ops:retag -from="+tool.Quote(text(from)), nil, to, nil, out, apply), text(from)))
}

// Reconcile derives every channel tag from the ledger: prints what drifted, repairs it with -apply.
func (Ops) Reconcile(ctx context.Context, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), reconcile(ask("mage ops:reconcile", nil, nil, nil, out, apply)))
}

// Refresh issues the channels document anew in the last 30 days before it expires; with -early at any time.
func (Ops) Refresh(ctx context.Context, out *string, early, apply *bool, json *bool) error {
	return run(ctx, output(json), refresh(ask("mage ops:refresh", nil, nil, nil, out, apply), given(early)))
}

// Adopt begins a ledger for a registry that has channels and none.
func (Ops) Adopt(ctx context.Context, reason, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), adopt(ask("mage ops:adopt", nil, nil, reason, out, apply)))
}

// Apply does what a plan says that -out=FILE kept, or refuses if anything moved since.
func (Ops) Apply(ctx context.Context, file string, json *bool) error {
	return run(ctx, output(json), applyPlan(file))
}

// History shows who served what, when and why. -channel=prod, -at=2026-07-01T12:00
func (Ops) History(ctx context.Context, channel, at *string, json *bool) error {
	return run(ctx, output(json), history(text(channel), text(at)))
}

// Prune deletes what no channel, record, version or tag needs any more, and says why the rest stays. -allow=empty,share lifts refusals.
func (Ops) Prune(ctx context.Context, allow, out *string, apply *bool, json *bool) error {
	return run(ctx, output(json), prune(pruning{allow: text(allow), apply: given(apply), out: text(out)}))
}

// Undelete brings back what ops:prune took: all of it, or -what=RUN, a digest, a tag, a repository.
func (Ops) Undelete(ctx context.Context, what *string, apply *bool, json *bool) error {
	return run(ctx, output(json), undelete(text(what), given(apply)))
}

// Doctor looks at everything that a release needs, before anything is built: ok, warn or fail, each with its fix.
func (Ops) Doctor(ctx context.Context, json *bool) error {
	return run(ctx, output(json), doctor())
}

// Fsck looks whether everything that is promised is there and verifies; -repair cures what it can.
func (Ops) Fsck(ctx context.Context, repair *bool, json *bool) error {
	return run(ctx, output(json), fsck(given(repair)))
}

// Visibility checks that consumers can pull without a login what the channels serve, and names the page where a person changes it.
func (Ops) Visibility(ctx context.Context, json *bool) error {
	return run(ctx, output(json), visibility())
}

// Verify is the consumer's side.
type Verify mg.Namespace

// Channel verifies everything a channel serves: signatures, provenance, SBOMs, lineage, tags.
// -allowRollback=REASON accepts an older channels document than was seen before, once.
func (Verify) Channel(ctx context.Context, name string, allowRollback *string, json *bool) error {
	return run(ctx, output(json), verifyChannel(name, text(allowRollback)))
}

// Image verifies one image, named as NAME:TAG or NAME@sha256:…
func (Verify) Image(ctx context.Context, ref string, json *bool) error {
	return run(ctx, output(json), verifyImage(ref))
}

// SBOM verifies an image's SBOM and prints what is in it. -against=REF prints what changed since.
func (Verify) SBOM(ctx context.Context, ref string, against *string, json *bool) error {
	return run(ctx, output(json), verifySBOM(ref, text(against)))
}

// Export writes the evidence of all channels, or of -channel=, into the file -out= (evidence.tar).
func (Verify) Export(ctx context.Context, channel, out *string, json *bool) error {
	return run(ctx, output(json), verifyExport(text(channel), cmp.Or(text(out), "evidence.tar")))
}

// Offline verifies an evidence file, without a network.
func (Verify) Offline(ctx context.Context, file string, json *bool) error {
	return run(ctx, output(json), verifyOffline(file))
}

// Local is the embedded default.
type Local mg.Namespace

// Serve runs the embedded registry for other clients until it is interrupted.
func (Local) Serve(ctx context.Context, addr *string) error {
	return run(ctx, output(nil), localServe(addr))
}

// Reset forgets the embedded registry, its ledger, the local Sigstore and every cache in the state directory.
func (Local) Reset(ctx context.Context) error {
	return run(ctx, output(nil), localReset())
}

// Family is the declaration of what releases together.
type Family mg.Namespace

// Check validates containai.yaml and names file and line of everything that is wrong.
func (Family) Check(ctx context.Context, json *bool) error {
	return run(ctx, output(json), familyCheck())
}
