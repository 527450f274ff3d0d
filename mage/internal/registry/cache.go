package registry

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Bounds of a cache, in bytes.
const (
	maxCached  = 4 << 20   // one content: a manifest, a configuration, a bundle, an SBOM
	maxMemory  = 64 << 20  // of one process
	maxDisk    = 256 << 20 // of a directory, shared by processes
	diskMargin = maxDisk / 8
	diskBlock  = 4 << 10 // what a file takes at least
)

// cache keeps small content by digest, in memory and, if it has a directory, in files
// "sha256/<hex>" that any number of processes share. What has a digest cannot change, so there is
// nothing to invalidate; but a registry may have lost what is cached, so that it says nothing
// about existence. What a disk refuses to do costs speed only.
type cache struct {
	dir string // empty: memory only
	now func() time.Time

	mu     sync.Mutex
	size   int
	items  map[digest.Digest][]byte
	pack   *pack // where small content goes; nil: into a file each
	unseen int64 // bytes written since the directory was last swept; negative before the first time
}

func newCache(dir string, now func() time.Time) *cache {
	c := &cache{now: now, items: map[digest.Digest][]byte{}, unseen: -1}
	if dir != "" {
		c.dir = filepath.Join(dir, digest.SHA256.String())
	}
	return c
}

// get returns content, which the caller must not change.
func (c *cache) get(d digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	content, ok := c.items[d]
	c.mu.Unlock()
	if ok {
		return content, true
	}
	if content, ok = c.read(d); ok {
		c.keep(d, content)
	}
	return content, ok
}

// put keeps content that has the digest it is said to have; the caller must not change it after.
func (c *cache) put(d digest.Digest, content []byte) {
	if c.has(d) || len(content) > maxCached || d.Validate() != nil || d.Algorithm().FromBytes(content) != d {
		return
	}
	c.keep(d, content)
	c.mu.Lock()
	p := c.pack
	c.mu.Unlock()
	if !p.add(d, content) {
		c.write(d, content)
	}
}

func (c *cache) has(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.items[d]
	return ok
}

// keep puts content into memory, where all of it makes room when it is full.
func (c *cache) keep(d digest.Digest, content []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[d]; ok {
		return
	}
	if c.size+len(content) > maxMemory {
		c.items, c.size = map[digest.Digest][]byte{}, 0
	}
	c.items[d] = content
	c.size += len(content)
}

// read returns what a file holds if it is what its name says; anything else is removed.
func (c *cache) read(d digest.Digest) ([]byte, bool) {
	name, ok := c.name(d)
	if !ok {
		return nil, false
	}
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxCached {
		return nil, false
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, false
	}
	if digest.FromBytes(content) != d {
		_ = os.Remove(name)
		return nil, false
	}
	c.touch(name, info.ModTime())
	return content, true
}

// name returns the file of a digest; there is none for an algorithm other than sha256.
func (c *cache) name(d digest.Digest) (string, bool) {
	if c.dir == "" || d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return "", false
	}
	return filepath.Join(c.dir, d.Encoded()), true
}

// touched is how exactly the last use of a file is known.
const touched = time.Hour

// touch notes that a file was used.
func (c *cache) touch(name string, last time.Time) {
	if now := c.now(); now.Sub(last) > touched {
		_ = os.Chtimes(name, time.Time{}, now)
	}
}

// write makes a file appear whole, unless one of its size is there.
func (c *cache) write(d digest.Digest, content []byte) {
	name, ok := c.name(d)
	if !ok {
		return
	}
	if info, err := os.Lstat(name); err == nil && info.Size() == int64(len(content)) {
		return
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return
	}
	if replace(name, content) == nil && c.due(int64(len(content))) {
		c.sweep()
	}
}

// partial begins the name of a file that is being written.
const partial = ".partial-"

func replace(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), partial)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// due reports whether enough was written to look at the whole directory: by the first write of a
// process, and then whenever the margin is used up.
func (c *cache) due(size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.unseen < 0
	c.unseen = max(c.unseen, 0) + onDisk(size)
	if first || c.unseen >= diskMargin {
		c.unseen = 0
		return true
	}
	return false
}

// sweep removes what was used longest ago until a margin is free, and what a killed process left.
func (c *cache) sweep() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, info)
			total += onDisk(info.Size())
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, f := range files {
		left := strings.HasPrefix(f.Name(), partial) && c.now().Sub(f.ModTime()) > touched
		if total <= maxDisk-diskMargin && !left {
			continue
		}
		if os.Remove(filepath.Join(c.dir, f.Name())) == nil {
			total -= onDisk(f.Size())
		}
	}
}

// onDisk is what a file of some size takes.
func onDisk(size int64) int64 { return (size/diskBlock + 1) * diskBlock }
