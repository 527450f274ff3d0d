package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// Collect removes from the embedded registry the blobs that no manifest names, neither one that it
// holds nor one of undone, and that were there before a time: an upload is not a manifest's yet. It
// returns the bytes that are free. The state must be locked.
//
// A manifest that cannot be read ends it before anything is removed. Paths are those of distribution's
// storage; its own collector knows no age, and must run alone.
func (s *State) Collect(before time.Time, undone [][]byte) (freed int64, err error) {
	root := filepath.Join(s.RegistryDir(), "docker", "registry", "v2")
	c := collection{root: root, before: before, named: map[digest.Digest]bool{}, links: map[digest.Digest][]string{}}
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, manifest := range undone {
		if err := c.mark(manifest); err != nil {
			return 0, err
		}
	}
	if err := filepath.WalkDir(filepath.Join(root, "repositories"), c.repository); err != nil {
		return 0, diskFault(err, "collecting", root)
	}
	err = c.sweep()
	return c.freed, diskFault(err, "collecting", root)
}

type collection struct {
	root   string
	before time.Time
	named  map[digest.Digest]bool
	links  map[digest.Digest][]string // of a blob in repositories
	freed  int64
}

// repository looks at one file of the repositories: the link of a manifest, or of a blob.
func (c *collection) repository(path string, entry fs.DirEntry, err error) error {
	if err != nil || entry.Name() != "link" {
		return err
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(path)))
	if d.Validate() != nil {
		return nil // the link of a tag
	}
	switch filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(path)))) {
	case "_layers":
		c.links[d] = append(c.links[d], path)
		info, err := entry.Info()
		if err == nil && !info.ModTime().Before(c.before) {
			c.named[d] = true // somebody uploaded or mounted it lately
		}
		return err
	case "index":
		return nil // of what a tag once showed, and shows if it is a revision: distribution never forgets it
	}
	c.named[d] = true
	content, err := os.ReadFile(c.blob(d))
	if err != nil {
		return err
	}
	if digest.FromBytes(content) != d {
		return fault.New(fault.Forged, "reading manifest", d.String(), "its content has the digest %s", digest.FromBytes(content))
	}
	return c.mark(content)
}

// mark notes every blob that a manifest names.
func (c *collection) mark(manifest []byte) error {
	var doc struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Blobs     []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if len(manifest) > graph.MaxManifest {
		return fmt.Errorf("a manifest of %d bytes", len(manifest))
	}
	if err := json.Unmarshal(manifest, &doc); err != nil {
		return fault.Wrap(err, fault.Forged, "reading manifest", digest.FromBytes(manifest).String())
	}
	if doc.Config != nil {
		c.named[doc.Config.Digest] = true
	}
	for _, list := range [][]ocispec.Descriptor{doc.Layers, doc.Blobs, doc.Manifests} {
		for _, n := range list {
			c.named[n.Digest] = true
		}
	}
	return nil
}

func (c *collection) blob(d digest.Digest) string {
	return filepath.Join(c.root, "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// sweep removes what nothing names: from the repositories first, so that nobody is told it is there.
func (c *collection) sweep() error {
	return filepath.WalkDir(filepath.Join(c.root, "blobs", "sha256"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "data" {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(path)))
		info, err := entry.Info()
		if err != nil || d.Validate() != nil || c.named[d] || !info.ModTime().Before(c.before) {
			return err
		}
		for _, link := range c.links[d] {
			if err := os.RemoveAll(filepath.Dir(link)); err != nil {
				return err
			}
		}
		c.freed += info.Size()
		return os.RemoveAll(filepath.Dir(path))
	})
}
