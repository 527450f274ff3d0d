package inspect

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// DatabaseLayer is the media type of the one layer of a Trivy database in a registry: a tar with
// trivy.db and metadata.json (trivy, pkg/db/db.go; trivy-db, .github/workflows/cron.yml).
const DatabaseLayer = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

// Limits of a database. In 2026 it is pulled as 90 MB and lies there as 1 GB.
const (
	maxPackedDatabase = 1 << 30 // bytes of the layer
	maxDatabase       = 8 << 30 // bytes of trivy.db
	keptDatabases     = 4       // in the cache, used last
)

// Databases keeps pulled databases, each below its manifest's digest, for all of a user's runs.
type Databases struct {
	Dir string
	Now time.Time // when one was last used
}

// sums are the digests of a database's files as they were unpacked.
type sums map[string]digest.Digest

const sumsFile = "sums.json"

// Open returns the database that was pulled as a manifest with this digest, if it is there and its
// metadata is what was unpacked. The content is checked before it is given to a worker.
func (d Databases) Open(of digest.Digest) (Database, bool) {
	if of.Validate() != nil {
		return Database{}, false
	}
	dir := filepath.Join(d.Dir, of.Encoded())
	content, err := readFile(filepath.Join(dir, sumsFile), maxMetadata)
	var known sums
	if err != nil || json.Unmarshal(content, &known) != nil || known[contentFile].Validate() != nil {
		return Database{}, false
	}
	db, err := OpenDatabase(dir)
	if err != nil {
		return Database{}, false
	}
	if sum, err := fileDigest(filepath.Join(dir, metadataFile)); err != nil || sum != known[metadataFile] {
		return Database{}, false
	}
	db.Digest, db.content = of, known[contentFile]
	_ = os.Chtimes(dir, d.Now, d.Now) // it may then leave earlier, that is all
	return db, true
}

// Pull brings the database of a manifest, unless it is there. Every byte is checked against the
// manifest's digest before anything is put in place.
func (d Databases) Pull(ctx context.Context, src graph.Store, n graph.Node) (Database, error) {
	if db, there := d.Open(n.Digest); there {
		return db, nil
	}
	layer, err := databaseLayer(ctx, src, n)
	if err != nil {
		return Database{}, err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return Database{}, fault.Wrap(err, fault.Environment, "creating", d.Dir)
	}
	work, err := os.MkdirTemp(d.Dir, ".pull-*")
	if err != nil {
		return Database{}, fault.Wrap(err, fault.Environment, "creating", d.Dir)
	}
	defer os.RemoveAll(work) // fails once it was renamed
	if err := unpackDatabase(ctx, src, layer, work); err != nil {
		return Database{}, err
	}
	if _, err := OpenDatabase(work); err != nil {
		return Database{}, err
	}
	home := filepath.Join(d.Dir, n.Digest.Encoded())
	if err := os.RemoveAll(home); err != nil { // what is there does not hold
		return Database{}, fault.Wrap(err, fault.Environment, "replacing", home)
	}
	if err := os.Rename(work, home); err != nil {
		return Database{}, fault.Wrap(err, fault.Environment, "storing", home)
	}
	db, there := d.Open(n.Digest)
	if !there {
		return Database{}, fault.New(fault.Environment, "storing", home, "it does not read back")
	}
	return db, d.trim()
}

// databaseLayer reads the manifest of a database and returns its one layer.
func databaseLayer(ctx context.Context, src graph.Store, n graph.Node) (graph.Node, error) {
	const op = "reading vulnerability database"
	manifest, err := graph.Manifest(ctx, src, n)
	if err != nil {
		return graph.Node{}, err
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != DatabaseLayer {
		return graph.Node{}, fault.New(fault.Refused, op, n.Digest.String(), "it is no Trivy database: it has %d layers, want one of type %s", len(manifest.Layers), DatabaseLayer)
	}
	layer := manifest.Layers[0]
	if layer.Size > maxPackedDatabase {
		return graph.Node{}, fault.New(fault.Refused, op, n.Digest.String(), "its layer has %d bytes, at most %d are read", layer.Size, int64(maxPackedDatabase))
	}
	return layer, nil
}

// unpackDatabase writes the files of a layer and their sums into a directory. It reads the layer to its
// end whatever happens: what is said about bytes that are not the layer's would mislead.
func unpackDatabase(ctx context.Context, src graph.Store, layer graph.Node, dir string) error {
	const op = "unpacking vulnerability database"
	body, err := src.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer body.Close()
	hash := digest.SHA256.Digester()
	counted := &counter{Reader: io.TeeReader(io.LimitReader(body, layer.Size+1), hash.Hash())}
	known, unpacking := unpackFiles(counted, dir)
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fault.Wrap(err, fault.Unavailable, "fetching vulnerability database", layer.Digest.String())
	}
	if hash.Digest() != layer.Digest || counted.n != layer.Size {
		return fault.New(fault.Forged, op, layer.Digest.String(), "the source gave %d bytes with digest %s, want %d bytes", counted.n, hash.Digest(), layer.Size)
	}
	if unpacking != nil {
		return fault.Wrap(unpacking, fault.Refused, op, layer.Digest.String())
	}
	content, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, sumsFile), content)
}

// unpackFiles takes the two files out of an archive, each once, and nothing else.
func unpackFiles(packed io.Reader, dir string) (sums, error) {
	plain, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	limits := map[string]int64{contentFile: maxDatabase, metadataFile: maxMetadata}
	known, archive := sums{}, tar.NewReader(plain)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := filepath.Clean(header.Name)
		limit, wanted := limits[name]
		switch {
		case !wanted || header.Typeflag != tar.TypeReg || known[name] != "":
			return nil, fmt.Errorf("its archive holds %q, want trivy.db and metadata.json alone", Printable(header.Name))
		case header.Size > limit:
			return nil, fmt.Errorf("%s has %d bytes, at most %d are read", name, header.Size, limit)
		}
		if known[name], err = writeHashed(filepath.Join(dir, name), archive); err != nil {
			return nil, err
		}
	}
	if len(known) != len(limits) {
		return nil, fmt.Errorf("its archive holds %d of trivy.db and metadata.json", len(known))
	}
	return known, nil
}

func writeHashed(path string, content io.Reader) (digest.Digest, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	hash := digest.SHA256.Digester()
	_, err = io.Copy(io.MultiWriter(file, hash.Hash()), content)
	return hash.Digest(), errors.Join(err, file.Close())
}

// counter counts the bytes that were read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// Pin remembers what a source gave last.
func (d Databases) Pin(source string, of digest.Digest) error {
	return Results{Dir: d.pins()}.Store(source, []byte(of))
}

// Pinned returns the database that a source gave last, if it is still there.
func (d Databases) Pinned(source string) (Database, bool) {
	content, there := Results{Dir: d.pins()}.Load(source)
	if !there {
		return Database{}, false
	}
	return d.Open(digest.Digest(content))
}

func (d Databases) pins() string { return filepath.Join(d.Dir, "pins") }

// trim removes the databases that were not used for longest.
func (d Databases) trim() error {
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "trimming", d.Dir)
	}
	var all []fs.FileInfo
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && digest.NewDigestFromEncoded(digest.SHA256, entry.Name()).Validate() == nil {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, old := range all[min(keptDatabases, len(all)):] {
		if err := os.RemoveAll(filepath.Join(d.Dir, old.Name())); err != nil {
			return fault.Wrap(err, fault.Environment, "trimming", d.Dir)
		}
	}
	return nil
}
