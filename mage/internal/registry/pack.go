package registry

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Bounds of a pack, in bytes and contents.
const (
	maxPacked = 64 << 10 // one content: larger ones get files of their own
	packSize  = 512      // contents of one file
	maxPacks  = 32 << 20 // of all files that are read, the newest first; older ones are removed
)

// pack keeps small contents of a cache many to a file: a plan of retention reads thousands of
// manifests, and to make a file for each costs more than to read them. What a killed process did not
// write yet is read from the registry again.
type pack struct {
	dir string

	mu      sync.Mutex
	pending map[digest.Digest][]byte
}

// Gather lets the cache write small contents many to a file from now on, and read what was written so.
// The function that it returns writes the rest.
func (c *Client) Gather() (flush func() error) {
	if c.cache.dir == "" {
		return func() error { return nil }
	}
	p := &pack{dir: filepath.Join(filepath.Dir(c.cache.dir), "packs"), pending: map[digest.Digest][]byte{}}
	p.load(c.cache.keep)
	c.cache.mu.Lock()
	c.cache.pack = p
	c.cache.mu.Unlock()
	return func() error { p.flush(); return nil }
}

// add takes content that has its digest, unless it is too large.
func (p *pack) add(d digest.Digest, content []byte) bool {
	if p == nil || len(content) > maxPacked {
		return false
	}
	p.mu.Lock()
	p.pending[d] = content
	full := len(p.pending) >= packSize
	p.mu.Unlock()
	if full {
		p.flush()
	}
	return true
}

// flush writes what is pending. What the disk refuses costs speed only.
func (p *pack) flush() {
	p.mu.Lock()
	pending := p.pending
	p.pending = map[digest.Digest][]byte{}
	p.mu.Unlock()
	content, err := json.Marshal(pending)
	if err != nil || len(pending) == 0 || os.MkdirAll(p.dir, 0o700) != nil {
		return
	}
	_ = replace(filepath.Join(p.dir, digest.FromBytes(content).Encoded()), content)
}

// load gives every content that is what its digest says to keep, and removes the files beyond the bound.
func (p *pack) load(keep func(digest.Digest, []byte)) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(e.Name(), partial) {
			files = append(files, info)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var total int64
	for _, f := range files {
		name := filepath.Join(p.dir, f.Name())
		if total += f.Size(); total > maxPacks {
			_ = os.Remove(name)
			continue
		}
		for d, content := range readPack(name) {
			if d.Validate() == nil && d.Algorithm().FromBytes(content) == d {
				keep(d, content)
			}
		}
	}
}

// readPack reads a file; one that is torn holds nothing.
func readPack(name string) map[digest.Digest][]byte {
	held := map[digest.Digest][]byte{}
	content, err := os.ReadFile(name)
	if err != nil || json.Unmarshal(content, &held) != nil {
		return nil
	}
	return held
}
