package inspect

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// Results keeps what was found out before, each under a key that names everything it depends on:
// a layer's or an image's digest, and the versions of what looked at it. Invariant: it returns the
// bytes that were stored under exactly that key, or nothing; what was torn, changed or put under
// another name is removed.
//
// It lies in the state directory, which nobody else writes to. A release must not take it from a
// cache that a pull request could have filled: a sum tells damage, not malice.
type Results struct {
	Dir string
	Now time.Time // when what is read was last used; zero leaves that as it is
}

// Limits of the results on disk.
const (
	maxResult  = 160 << 20 // bytes of one: an SBOM and a report, as JSON holds bytes
	maxResults = 512 << 20 // bytes of all: a real family's fit ten times
)

// Load returns what was stored under a key.
func (r Results) Load(key string) ([]byte, bool) {
	path := r.path(key)
	content, err := readFile(path, maxResult)
	if err != nil {
		return nil, false
	}
	sum, content, found := bytes.Cut(content, []byte("\n"))
	if !found || string(sum) != checksum(key, content) {
		_ = os.Remove(path) // what cannot be removed is refused again
		return nil, false
	}
	if !r.Now.IsZero() {
		_ = os.Chtimes(path, r.Now, r.Now) // it may then leave earlier, that is all
	}
	return content, true
}

// Store keeps a result, whole or not at all.
func (r Results) Store(key string, content []byte) error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", r.Dir)
	}
	return writeWhole(r.path(key), append([]byte(checksum(key, content)+"\n"), content...))
}

// Trim removes what was not used for longest until the rest fits.
func (r Results) Trim() error {
	type result struct {
		name string
		size int64
		used time.Time
	}
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var all []result
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			all = append(all, result{entry.Name(), info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b result) int { return cmp.Or(b.used.Compare(a.used), cmp.Compare(a.name, b.name)) })
	var size int64
	for _, one := range all {
		if size += one.size; size > maxResults && err == nil {
			err = os.Remove(filepath.Join(r.Dir, one.name))
		}
	}
	return fault.Wrap(err, fault.Environment, "trimming", r.Dir)
}

func (r Results) path(key string) string {
	return filepath.Join(r.Dir, digest.FromString(key).Encoded())
}

// checksum binds content to its key, so that a file under another name is not taken for it.
func checksum(key string, content []byte) string {
	hash := digest.SHA256.Digester()
	_, _ = hash.Hash().Write([]byte(digest.FromString(key)))
	_, _ = hash.Hash().Write(content)
	return hash.Digest().Encoded()
}

// writeWhole puts a file in place at once.
func writeWhole(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fault.Wrap(err, fault.Environment, "writing", path)
	}
	defer os.Remove(file.Name()) // fails once it was renamed
	_, err = file.Write(content)
	for _, step := range []func() error{
		func() error { return file.Chmod(0o644) },
		file.Close,
		func() error { return os.Rename(file.Name(), path) },
	} {
		if err == nil {
			err = step()
		}
	}
	return fault.Wrap(err, fault.Environment, "writing", path)
}
