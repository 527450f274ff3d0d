package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// index reads index.json.
func (l *Layout) index() (ocispec.Index, error) {
	content, err := readLimited(filepath.Join(l.dir, ocispec.ImageIndexFile), graph.MaxManifest)
	if err != nil {
		return ocispec.Index{}, classify(err, fault.Environment, "reading layout", l.dir)
	}
	x, err := decodeIndex(content)
	if err != nil {
		err = &fault.Error{Op: "reading layout", Subject: l.dir, Kind: fault.Forged, Hint: damaged, Err: fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)}
	}
	return x, err
}

// decodeIndex reads an index.json and checks every digest in it.
func decodeIndex(content []byte) (ocispec.Index, error) {
	var x ocispec.Index
	if err := json.Unmarshal(content, &x); err != nil {
		return ocispec.Index{}, err
	}
	if x.SchemaVersion != 2 {
		return ocispec.Index{}, fmt.Errorf("schema version is %d, want 2", x.SchemaVersion)
	}
	for _, n := range x.Manifests {
		if err := n.Digest.Validate(); err != nil {
			return ocispec.Index{}, fmt.Errorf("digest %q: %w", n.Digest, err)
		}
	}
	return x, checkEntries(len(x.Manifests))
}

// What stands in a layout's directory beside the files of the specification.
const (
	lockName  = ".lock"
	ingestDir = ".ingest"
)

// checkVersion reads the file oci-layout, or writes it where there is none.
func (l *Layout) checkVersion() error {
	content, err := readLimited(filepath.Join(l.dir, ocispec.ImageLayoutFile), graph.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		content = fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispec.ImageLayoutVersion)
		err = l.place(ocispec.ImageLayoutFile, content)
	}
	if err != nil {
		return classify(err, fault.Environment, "opening layout", l.dir)
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(content, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return fault.New(fault.Refused, "opening layout", l.dir, "%s says version %q, want %s", ocispec.ImageLayoutFile, layout.Version, ocispec.ImageLayoutVersion).
			WithHint(damaged)
	}
	return nil
}

// checkIndex reads index.json, or writes an empty one where there is none.
func (l *Layout) checkIndex() error {
	_, err := l.index()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return l.writeIndex(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []graph.Node{}})
}

// edit changes index.json under the layout's lock; f says whether it changed anything.
func (l *Layout) edit(f func(*ocispec.Index) (changed bool)) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	x, err := l.index()
	if err != nil {
		return err
	}
	if !f(&x) {
		return nil
	}
	return l.writeIndex(x)
}

// writeIndex writes index.json, sorted by name and digest.
func (l *Layout) writeIndex(x ocispec.Index) error {
	slices.SortStableFunc(x.Manifests, func(a, b graph.Node) int {
		return cmp.Or(cmp.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName]), cmp.Compare(a.Digest, b.Digest))
	})
	content, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return classify(l.place(ocispec.ImageIndexFile, content), fault.Environment, "writing layout", l.dir)
}

// lock keeps every other holder out, in this process and in others, until unlock; it dies with the
// process.
func (l *Layout) lock() (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(l.dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		if err = flock(f, syscall.LOCK_EX); err == nil {
			return f.Close, nil
		}
		f.Close()
	}
	return nil, classify(err, fault.Environment, "locking layout", l.dir)
}

// flock repeats what a signal interrupted.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

// newIngest opens a file for a blob on its way. It is locked while its writer lives.
func (l *Layout) newIngest(d digest.Digest) (*os.File, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := os.CreateTemp(filepath.Join(l.dir, ingestDir), d.Encoded()+".*")
	if err != nil {
		return nil, err
	}
	return f, errors.Join(f.Chmod(0o644), flock(f, syscall.LOCK_EX))
}

// sweep removes what killed writers left: files that nobody has locked. The caller holds the lock.
func (l *Layout) sweep() error {
	left, err := os.ReadDir(filepath.Join(l.dir, ingestDir))
	if err != nil {
		return err
	}
	for _, entry := range left {
		path := filepath.Join(l.dir, ingestDir, entry.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its writer has just renamed it
		}
		if err != nil {
			return err
		}
		if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = os.Remove(path)
		}
		if err := errors.Join(err, f.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// place writes a small file of the layout by rename. The caller holds the lock.
func (l *Layout) place(name string, content []byte) error {
	beside := filepath.Join(l.dir, ingestDir, name)
	f, err := os.Create(beside)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(beside, filepath.Join(l.dir, name))
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fault.New(fault.Refused, "reading", path, "it exceeds %d bytes", limit)
	}
	return content, err
}
