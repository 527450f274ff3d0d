//go:build goexperiment.jsonv2

package main

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// maxInstruction is how much of an instruction a report tells, in bytes.
const maxInstruction = 160

// describeLayers names the instruction that made each layer: the n-th entry of the image's history
// that is not empty belongs to the n-th layer (image specification v1.1, config.md, "history"). A
// history that has not one for each layer says nothing about any.
func describeLayers(scanner secret.Scanner, t target, findings []evidence.Finding) ([]evidence.Layer, error) {
	layers := make([]evidence.Layer, len(t.layers))
	for i, d := range t.layers {
		layers[i].Digest = d
	}
	content, ok := t.documents[configFile]
	if !ok {
		return layers, nil // a directory
	}
	var config ocispec.Image
	if err := json.Unmarshal(content, &config); err != nil {
		return nil, fault.Wrap(err, fault.Forged, "decoding", configFile)
	}
	made := slices.DeleteFunc(config.History, func(h ocispec.History) bool { return h.EmptyLayer })
	for i := range layers {
		if len(made) != len(layers) {
			break
		}
		layers[i].Instruction = instruction(made[i].CreatedBy)
		if holdsSecret(scanner, made[i].CreatedBy) || tellsSecret(layers[i], findings) {
			layers[i].Instruction = "(not shown: it may hold the secret)"
		}
	}
	return layers, nil
}

// holdsSecret reports whether a rule finds a secret in a history entry.
func holdsSecret(scanner secret.Scanner, text string) bool {
	return len(scanner.Scan(secret.ScanArgs{FilePath: configFile, Content: strings.NewReader(text)}).Findings) > 0
}

// tellsSecret reports whether a layer has a secret that its instruction may have put together, in a
// form that no rule knows (printf 'AKIA%s' …). One that only copies names files.
func tellsSecret(layer evidence.Layer, findings []evidence.Finding) bool {
	verb, _, _ := strings.Cut(layer.Instruction, " ")
	if verb == "COPY" || verb == "ADD" {
		return false
	}
	return slices.ContainsFunc(findings, func(f evidence.Finding) bool { return f.Kind == evidence.Secret && f.Layer == layer.Digest })
}

// instruction shortens a history entry to a line.
func instruction(text string) string {
	text = strings.Join(strings.Fields(strings.TrimSuffix(text, "# buildkit")), " ")
	if len(text) > maxInstruction {
		text = strings.ToValidUTF8(text[:maxInstruction], "") + "…"
	}
	return text
}
