package rehearsal

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

// Snapshot returns the registry's whole state in one canonical form, a line for each repository and
// each of its blobs, manifests and tags, sorted. Content stands as its digest, which the registry has
// checked: equal snapshots are equal registries, byte by byte. What only GitHub numbers or counts
// (ids, times, downloads) is not part of it, and neither is what was deleted.
//
//	repository acme/base
//	blob sha256:…
//	manifest sha256:… 482 application/vnd.oci.image.manifest.v1+json
//	tag dev sha256:…
func (g *GitHub) Snapshot() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	shown := map[string]bool{} // repository → it is no deleted package
	for path := range g.blobs {
		shown[path] = true
	}
	for _, p := range g.packages {
		shown[p.path] = g.find(p.path) != nil
	}
	maps.DeleteFunc(shown, func(_ string, show bool) bool { return !show })
	var b bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(shown)) {
		fmt.Fprintf(&b, "repository %s\n", path)
		for _, digest := range slices.Sorted(maps.Keys(g.blobs[path])) {
			fmt.Fprintf(&b, "blob %s\n", digest)
		}
		if p := g.find(path); p != nil {
			b.WriteString(p.snapshot())
		}
	}
	return b.Bytes()
}

func (p *pkg) snapshot() string {
	var manifests, tags []string
	for _, v := range p.active() {
		manifests = append(manifests, fmt.Sprintf("manifest %s %d %s\n", v.digest, v.size, v.mediaType))
		for _, tag := range v.tags {
			tags = append(tags, fmt.Sprintf("tag %s %s\n", tag, v.digest))
		}
	}
	slices.Sort(manifests)
	slices.Sort(tags)
	var b bytes.Buffer
	for _, line := range append(manifests, tags...) {
		b.WriteString(line)
	}
	return b.String()
}
