//go:build goexperiment.jsonv2

package main

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	trivy "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// newSecretScanner knows Trivy's rules and none of the exceptions that come with them. Those leave out whole
// directories and names (usr/share, node_modules, test, *.md, *.png) and every match that says "example",
// and who plants a secret has read them, too.
func newSecretScanner() secret.Scanner {
	scanner := secret.NewScanner(nil)
	scanner.AllowRules, scanner.SkipPatterns = nil, nil
	return scanner
}

// layerSecrets turns what Trivy found in each layer into findings. It reads the layers one by
// one, not their merged result, which keeps only the last finding of a rule in a path.
func layerSecrets(digests []digest.Digest, blobs []trivy.BlobInfo) []evidence.Finding {
	var findings []evidence.Finding
	for i, blob := range blobs {
		for _, file := range blob.Secrets {
			for _, found := range file.Findings {
				path := strings.TrimPrefix(file.FilePath, "/")
				findings = append(findings, secretFinding(found, path, found.StartLine, digests[i]))
			}
		}
	}
	return findings
}

// secretFinding says where a secret is, and nothing of the secret or the text around it.
func secretFinding(found trivy.SecretFinding, path string, line int, layer digest.Digest) evidence.Finding {
	return evidence.Finding{
		Kind:     evidence.Secret,
		ID:       found.RuleID,
		Severity: severity(found.Severity),
		Title:    found.Title,
		Path:     path,
		Line:     line,
		Layer:    layer,
	}
}

func severity(s string) string {
	if slices.Contains([]string{"LOW", "MEDIUM", "HIGH", "CRITICAL"}, s) {
		return s
	}
	return "UNKNOWN"
}

// documentSecrets looks for secrets in every string of a JSON document: of a configuration, that
// is environment, labels, history and what nobody defined. The path of a finding is the name of
// the document and a JSON pointer (RFC 6901), "config.json#/config/Env/3".
//
// Each string is scanned as it is, not as JSON writes it, so that an escaped quote or line end
// hides nothing; the key or variable it belongs to stands before it, because rules look at that.
func documentSecrets(scanner secret.Scanner, name string, content []byte) ([]evidence.Finding, error) {
	var document any
	if err := json.Unmarshal(content, &document); err != nil {
		return nil, fault.Wrap(err, fault.Forged, "decoding", name)
	}
	var findings []evidence.Finding
	eachString(document, "", func(pointer, text string) {
		result := scanner.Scan(secret.ScanArgs{FilePath: name, Content: strings.NewReader(text)})
		for _, found := range result.Findings {
			findings = append(findings, secretFinding(found, name+"#"+pointer, 0, ""))
		}
	})
	return findings, nil
}

// eachString visits the strings of a JSON value in the order of their pointers.
func eachString(value any, pointer string, visit func(pointer, text string)) {
	switch v := value.(type) {
	case string:
		key := pointer[strings.LastIndexByte(pointer, '/')+1:]
		if _, err := strconv.Atoi(key); err == nil {
			visit(pointer, v)
			return
		}
		visit(pointer, key+" = "+v)
	case []any:
		for i, item := range v {
			eachString(item, pointer+"/"+strconv.Itoa(i), visit)
		}
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		escape := strings.NewReplacer("~", "~0", "/", "~1")
		for _, key := range keys {
			eachString(v[key], pointer+"/"+escape.Replace(key), visit)
		}
	}
}
