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
func describeLayers(scanner secret.Scanner, t target) ([]evidence.Layer, error) {
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
		if len(made) == len(layers) {
			layers[i].Instruction = instruction(scanner, made[i].CreatedBy)
		}
	}
	return layers, nil
}

// instruction shortens a history entry to a line; one that holds a secret is not told.
func instruction(scanner secret.Scanner, text string) string {
	result := scanner.Scan(secret.ScanArgs{FilePath: configFile, Content: strings.NewReader(text)})
	if len(result.Findings) > 0 {
		return "(not shown: it holds a secret)"
	}
	text = strings.Join(strings.Fields(strings.TrimSuffix(text, "# buildkit")), " ")
	if len(text) > maxInstruction {
		text = strings.ToValidUTF8(text[:maxInstruction], "") + "…"
	}
	return text
}
