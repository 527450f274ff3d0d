package mage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/release"
)

// The installer artifact is a script and, beside it, the verifier for each platform that it runs on.
// The script carries their digests and whom to trust, so that who trusts the script needs nothing
// else to prove what it installs.

// verifierPlatforms are where the installer runs.
func verifierPlatforms() []string { return []string{"linux/amd64", "linux/arm64"} }

// platformAnnotation of a verifier's layer says where it runs.
const platformAnnotation = "dev.containai.platform"

// verifierEstimate is how long one verifier takes to compile on a bare machine with two cores.
const verifierEstimate = 2 * time.Minute

// verifierProgram is the consumer's verifier: the same bytes from the same source and Go, wherever
// it is built.
func verifierProgram(library, platform string) tool.Program {
	system, processor, _ := strings.Cut(platform, "/")
	return tool.Program{
		Name: "containai-verify-" + system + "-" + processor, Version: "dev", Package: "./mage/cmd/verify", Dir: library, Static: true,
		Env:      []string{"GOOS=" + system, "GOARCH=" + processor, "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off"},
		Estimate: verifierEstimate,
	}
}

// buildVerifier builds the verifier for a platform and returns its path.
func (w *workshop) buildVerifier(ctx context.Context, platform string) (string, error) {
	return w.compile(ctx, "build", verifierProgram(w.env.library, platform))
}

// packInstaller stores the verifiers, writes the script that names them to a file, and puts the
// artifact's manifest over both. The script's layer is the first.
func (p packer) packInstaller(ctx context.Context, name, file string, plan release.Plan) (graph.Node, []evidence.Material, error) {
	var layers []graph.Node
	var materials []evidence.Material
	for _, platform := range verifierPlatforms() {
		binary, err := p.verifier(ctx, platform)
		if err != nil {
			return graph.Node{}, nil, err
		}
		layer, err := p.store(ctx, family.VerifierType, binary)
		if err != nil {
			return graph.Node{}, nil, err
		}
		layer.Annotations[platformAnnotation] = platform
		layers = append(layers, layer)
		materials = append(materials, verifierMaterial(platform, layer.Digest))
	}
	template, err := os.ReadFile(filepath.Join(p.root, plan.Family.Artifacts[name].Path, installScript))
	if err != nil {
		return graph.Node{}, nil, fault.Wrap(err, fault.Invalid, "reading", name)
	}
	script, err := p.fill(template, name, plan.Family, layers)
	if err != nil {
		return graph.Node{}, nil, err
	}
	if err := writeFile(file, bytes.NewReader(script)); err != nil {
		return graph.Node{}, nil, err
	}
	artifactType, layerType := plan.Family.Artifacts[name].Types()
	first, err := p.store(ctx, layerType, file)
	if err != nil {
		return graph.Node{}, nil, err
	}
	node, err := graph.PackArtifact(ctx, p.layout, artifactType, append([]graph.Node{first}, layers...), nil)
	return node, materials, err
}

// verifierMaterial says where a verifier comes from, as a package URL, and what it is.
func verifierMaterial(platform string, d digest.Digest) evidence.Material {
	system, processor, _ := strings.Cut(platform, "/")
	return evidence.Material{
		Name:   "verifier " + platform,
		URI:    fmt.Sprintf("pkg:golang/github.com/containai/containai?go=%s&goarch=%s&goos=%s#mage/cmd/verify", runtime.Version(), processor, system),
		Digest: map[string]string{"sha256": d.Encoded()},
	}
}

// The marks of an installer between which a release puts in what is its own. An installer without
// them is the family's own affair.
const beginMark, endMark = "\n#@begin\n", "\n#@end\n"

// endOfFile ends a file within the script.
const endOfFile = "END-OF-FILE"

// fill puts into a script whom to trust and how the verifiers are known.
func (p packer) fill(template []byte, name string, f *family.Family, verifiers []graph.Node) ([]byte, error) {
	head, rest, begins := bytes.Cut(template, []byte(beginMark))
	_, tail, ends := bytes.Cut(rest, []byte(endMark))
	switch {
	case !begins && !bytes.Contains(template, []byte(endMark)):
		return template, nil
	case !begins || !ends:
		return nil, fault.New(fault.Invalid, "packing", name, "it has only one of the marks %q and %q", strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	trusted, err := os.ReadFile(p.familyFile)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", p.familyFile)
	}
	root, err := readRoot(p.authorities.root)
	if err != nil {
		return nil, err
	}
	policy, needsRoot := "", "no"
	instance := p.authorities.policy(f, "", p.loopback).Instance
	if instance == family.Local {
		policy = "instance: local\n" // the family file names who releases elsewhere
	}
	if len(root) == 0 && (instance == family.Local || instance == family.GitHub) {
		needsRoot = "yes"
	}
	var out strings.Builder
	for _, value := range [][2]string{{"default_registry", p.public}, {"family", f.Name}, {"artifact", name}, {"needs_root", needsRoot}} {
		fmt.Fprintf(&out, "%s=%s\n", value[0], tool.Quote(value[1]))
	}
	for _, layer := range verifiers {
		_, processor, _ := strings.Cut(layer.Annotations[platformAnnotation], "/")
		fmt.Fprintf(&out, "verifier_%s=%s\n", processor, layer.Digest)
	}
	for _, file := range [][2]string{{"family_file", string(trusted)}, {"policy_file", policy}, {"root_file", string(root)}} {
		function, err := hereDocument(file[0], file[1])
		if err != nil {
			return nil, err
		}
		out.WriteString(function)
	}
	return slices.Concat(head, []byte("\n"+out.String()), tail), nil
}

// hereDocument is a shell function that prints a file's content, or nothing.
func hereDocument(name, content string) (string, error) {
	content = strings.TrimSuffix(content, "\n")
	switch {
	case content == "":
		return name + "() { :; }\n", nil
	case strings.Contains("\n"+content+"\n", "\n"+endOfFile+"\n") || strings.Contains(content, "\x00"):
		return "", fault.New(fault.Invalid, "packing", "installer", "%s has a line %q, or a zero byte", name, endOfFile)
	}
	return fmt.Sprintf("%s() {\n\tcat <<'%s'\n%s\n%s\n}\n", name, endOfFile, content, endOfFile), nil
}
