package buildkit

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// Smoked remembers, in a directory, the smoke tests that passed: by the image's digest and by all that
// the family file says of the test. A test that failed is run again, and so is one that used the
// network, which may answer otherwise.
type Smoked string

// maxSmoked is how many tests are remembered before all are forgotten.
const maxSmoked = 5000

// smokeRevision changes when the same test may come to another result.
const smokeRevision = "1"

// Run returns the results of tests on an image, in their order: those that are remembered, and of the
// others what run says.
func (s Smoked) Run(image digest.Digest, tests []family.Smoke, run func([]family.Smoke) ([]evidence.SmokeResult, error)) ([]evidence.SmokeResult, error) {
	results := make([]evidence.SmokeResult, len(tests))
	var open []family.Smoke
	var at []int
	for i, t := range tests {
		if result, ok := s.recall(image, t); ok {
			results[i] = result
			continue
		}
		open, at = append(open, t), append(at, i)
	}
	if len(open) == 0 {
		return results, nil
	}
	fresh, err := run(open)
	if err == nil && len(fresh) != len(open) {
		err = fault.New(fault.Refused, "testing", image.String(), "%d of %d smoke tests answered", len(fresh), len(open))
	}
	if err != nil {
		return nil, err
	}
	for i, result := range fresh {
		results[at[i]] = result
		if err := s.keep(image, open[i], result); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (s Smoked) path(image digest.Digest, t family.Smoke) (string, error) {
	key, err := json.Marshal([]any{smokeRevision, image, t})
	return filepath.Join(string(s), digest.FromBytes(key).Encoded()+".json"), err
}

// recall reads a result; one that cannot be read, or is of something else, was never there.
func (s Smoked) recall(image digest.Digest, t family.Smoke) (evidence.SmokeResult, bool) {
	var result evidence.SmokeResult
	path, err := s.path(image, t)
	if err != nil || t.Network {
		return result, false
	}
	content, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(content, &result) != nil || !result.Passed || result.Name != t.Name {
		return result, false
	}
	result.Cached = true
	return result, true
}

func (s Smoked) keep(image digest.Digest, t family.Smoke, result evidence.SmokeResult) error {
	if !result.Passed || t.Network {
		return nil
	}
	if names, err := os.ReadDir(string(s)); err == nil && len(names) >= maxSmoked {
		if err := os.RemoveAll(string(s)); err != nil {
			return fault.Wrap(err, fault.Environment, "emptying", string(s))
		}
	}
	path, err := s.path(image, t)
	if err != nil {
		return err
	}
	content, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", string(s))
	}
	return fault.Wrap(os.WriteFile(path, content, 0o600), fault.Environment, "writing", path)
}
