package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// Manifests lists every manifest of a repository of the embedded registry, also those that no tag
// leads to, and when each was pushed last. A repository that does not exist has none. The paths are
// those of distribution's storage, which the specification knows nothing of.
func (s *State) Manifests(path string) (map[digest.Digest]time.Time, error) {
	dir := filepath.Join(s.RegistryDir(), "docker", "registry", "v2", "repositories", filepath.FromSlash(path), "_manifests", "revisions", "sha256")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return map[digest.Digest]time.Time{}, nil
	}
	if err != nil {
		return nil, diskFault(err, "listing", dir)
	}
	found := map[digest.Digest]time.Time{}
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name(), "link"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was deleted
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if err == nil {
			err = d.Validate()
		}
		if err != nil {
			return nil, fault.Wrap(err, fault.Environment, "listing", dir)
		}
		found[d] = info.ModTime()
	}
	return found, nil
}
