// Package mage holds the targets that release a family of container images and OCI artifacts.
//
// Import it in a magefile with `//mage:import`. Targets that release act; targets that operate
// on a registry print their plan and act only with -apply. Every reporting target takes -json
// and then prints one JSON document on standard output and nothing else there. Invariant: a
// target does nothing but name a command; commands are values, run by one function that opens
// what they need, prints what happened once, and turns an error into its exit status.
package mage

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/pipeline"
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

// Plan prints the resolved image graph, the platforms and the builder.
func (Build) Plan(ctx context.Context, json *bool) error {
	return run(ctx, output(json), buildPlan())
}

// Inspect looks into what was built.
type Inspect mg.Namespace

// All writes SBOMs, scans for secrets and vulnerabilities, runs the smoke tests and asks dev's gate.
func (Inspect) All(ctx context.Context, json *bool) error {
	return run(ctx, output(json), releaseTo("dev", pipeline.UntilInspect))
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

// PR builds, inspects and gates like a release to dev, and writes to no registry.
func (Release) PR(ctx context.Context, json *bool) error {
	return run(ctx, output(json), releaseTo("dev", pipeline.UntilInspect))
}

// Dev releases this commit, or this work tree, to the dev channel. -until=build|inspect|publish|attest stops earlier.
func (Release) Dev(ctx context.Context, until *string, json *bool) error {
	return run(ctx, output(json), releaseTo("dev", stage(until)))
}

// Nightly releases this commit to the nightly channel.
func (Release) Nightly(ctx context.Context, until *string, json *bool) error {
	return run(ctx, output(json), releaseTo("nightly", stage(until)))
}

// Prod releases this commit to the prod channel, under prod's stricter gate.
func (Release) Prod(ctx context.Context, until *string, json *bool) error {
	return run(ctx, output(json), releaseTo("prod", stage(until)))
}

// To releases this commit to any channel of the family.
func (Release) To(ctx context.Context, channel string, until *string, json *bool) error {
	return run(ctx, output(json), releaseTo(channel, stage(until)))
}

// Status shows where this commit stands and what every channel serves.
func (Release) Status(ctx context.Context, json *bool) error {
	return run(ctx, output(json), releaseStatus())
}

// Ops cares for a registry.
type Ops mg.Namespace

// Reconcile derives every channel tag from the ledger: prints the moves, makes them with -apply.
func (Ops) Reconcile(ctx context.Context, apply *bool, json *bool) error {
	return run(ctx, output(json), reconcile(given(apply)))
}

// Verify is the consumer's side.
type Verify mg.Namespace

// Channel verifies everything a channel serves: signatures, provenance, SBOMs, lineage, tags.
func (Verify) Channel(ctx context.Context, name string, json *bool) error {
	return run(ctx, output(json), verifyChannel(name))
}

// Image verifies one image, named as NAME:TAG or NAME@sha256:…
func (Verify) Image(ctx context.Context, ref string, json *bool) error {
	return run(ctx, output(json), verifyImage(ref))
}

// SBOM verifies an image's SBOM and prints what is in it.
func (Verify) SBOM(ctx context.Context, ref string, json *bool) error {
	return run(ctx, output(json), verifySBOM(ref))
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
