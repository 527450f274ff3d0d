// Package pack makes archives that are the same bytes everywhere, and unpacks archives that
// want to do harm.
//
// [Pack] writes a tree as tar inside gzip; [Sums] lists what it writes, for sha256sum -c;
// [Compress] gives other content the same gzip; [Unpack] brings such an archive back, after it has
// read it once from end to end and found nothing to refuse. Names are held by one survey in both directions, and so the invariant:
// whatever Pack writes, Unpack accepts, and packing what Unpack wrote gives the archive again.
package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/pgzip"

	"github.com/containai/containai/mage/fault"
)

// The compression, measured on two cores by BenchmarkPack. Both numbers are part of the format:
// another one gives other bytes, and so other digests of the same tree.
const (
	level = 6       // of klauspost/compress: the fastest that stays within 4 % of pigz -6
	block = 1 << 20 // bytes compressed independently of each other, whatever the thread count
)

// buffer is how much of a file is read at once, in bytes.
const buffer = 128 << 10

// Options say what stands in an archive beside the tree.
type Options struct {
	Epoch   time.Time         // time of every entry, to the second; zero means 1970-01-01 UTC
	Extra   map[string][]byte // files that are not in the tree, mode 0644, by path
	Threads int               // blocks compressed at once; zero means one per processor; the bytes do not depend on it
}

// Pack writes root as a gzipped tar: paths sorted, every time the epoch, no owner, directories
// and executables 0755, other files 0644, symbolic links kept when they stay inside. It holds
// one buffer per thread, never a file. Give it os.OpenRoot(dir).FS(), which cannot be led
// outside while it is read.
//
// A tree with anything else in it (devices, links that leave it, names that collide) is Refused.
func Pack(ctx context.Context, w io.Writer, root fs.FS, o Options) error {
	entries, err := list(ctx, root, o)
	if err != nil {
		return err
	}
	out := &latch{w: w}
	gz, err := compressor(out, o.Threads)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(gz)
	err = writeEntries(ctx, tw, out, root, entries, o)
	if err == nil {
		err = tw.Close()
	}
	return fault.Wrap(finish(gz, out, err), fault.Environment, "packing", "archive")
}

// Compress writes what it reads as gzip, the same bytes for the same content everywhere.
func Compress(ctx context.Context, w io.Writer, r io.Reader) error {
	out := &latch{w: w}
	gz, err := compressor(out, 0)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(gz, cancellable{ctx, r}, make([]byte, buffer))
	return fault.Wrap(finish(gz, out, err), fault.Environment, "compressing", "content")
}

// Sums returns SHA256SUMS of every regular file that [Pack] would write, in the format of
// sha256sum, sorted by path.
func Sums(ctx context.Context, root fs.FS, o Options) ([]byte, error) {
	entries, err := list(ctx, root, o)
	if err != nil {
		return nil, err
	}
	var sums bytes.Buffer
	buf := make([]byte, buffer)
	for _, e := range entries {
		if e.kind != file {
			continue
		}
		h := sha256.New()
		if err := copyContent(ctx, h, root, e, o, buf); err != nil {
			return nil, fault.Wrap(err, fault.Environment, "hashing", e.name)
		}
		fmt.Fprintf(&sums, "%x  %s\n", h.Sum(nil), e.name)
	}
	return sums.Bytes(), nil
}

// entry is one thing in an archive.
type entry struct {
	name   string
	kind   kind
	exec   bool   // of a file
	size   int64  // of a file
	target string // of a link
}

// list returns the entries of a tree and its extra files, sorted, with every name checked.
func list(ctx context.Context, root fs.FS, o Options) ([]entry, error) {
	var entries []entry
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == "." {
			return err
		}
		e, err := describe(root, name, d)
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", "tree")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Extra)) {
		entries = append(entries, entry{name: name, kind: file, size: int64(len(o.Extra[name]))})
	}
	return checked(entries)
}

func describe(root fs.FS, name string, d fs.DirEntry) (entry, error) {
	info, err := d.Info()
	if err != nil {
		return entry{}, err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return entry{name: name, kind: dir}, nil
	case fs.ModeSymlink:
		target, err := fs.ReadLink(root, name)
		return entry{name: name, kind: link, target: target}, err
	case 0:
		return entry{name: name, kind: file, size: info.Size(), exec: info.Mode()&0o111 != 0}, nil
	}
	return entry{}, refused(name, "it is a %s; an archive holds directories, files and links", info.Mode().Type())
}

// checked surveys entries and returns them sorted, with the directories that extra files imply.
func checked(entries []entry) ([]entry, error) {
	s := newSurvey(Limits{}.orDefaults().Name)
	for _, e := range entries {
		if err := s.add(e); err != nil {
			return nil, err
		}
	}
	for name := range s.implied {
		entries = append(entries, entry{name: name, kind: dir})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, s.resolveLinks()
}

func writeEntries(ctx context.Context, tw *tar.Writer, out *latch, root fs.FS, entries []entry, o Options) error {
	epoch := o.Epoch.UTC().Truncate(time.Second)
	if o.Epoch.IsZero() {
		epoch = time.Unix(0, 0).UTC()
	}
	buf := make([]byte, buffer)
	for _, e := range entries {
		if err := out.failed(); err != nil {
			return err
		}
		if err := tw.WriteHeader(header(e, epoch)); err != nil {
			return fault.Wrap(err, fault.Environment, "packing", e.name)
		}
		if e.kind != file {
			continue
		}
		if err := copyContent(ctx, tw, root, e, o, buf); err != nil {
			return fault.Wrap(err, fault.Environment, "packing", e.name)
		}
	}
	return nil
}

func header(e entry, epoch time.Time) *tar.Header {
	h := &tar.Header{Name: e.name, ModTime: epoch, Mode: 0o644, Size: e.size}
	switch {
	case e.kind == dir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, e.name+"/", 0o755
	case e.kind == link:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.target, 0o777
	default:
		h.Typeflag = tar.TypeReg
		if e.exec {
			h.Mode = 0o755
		}
	}
	return h
}

// copyContent writes a file of exactly the size that was listed.
func copyContent(ctx context.Context, w io.Writer, root fs.FS, e entry, o Options, buf []byte) error {
	if content, ok := o.Extra[e.name]; ok {
		_, err := w.Write(content)
		return err
	}
	f, err := root.Open(e.name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyBuffer(w, io.LimitReader(cancellable{ctx, f}, e.size), buf)
	if err != nil {
		return err
	}
	if more, _ := f.Read(buf[:1]); n != e.size || more != 0 {
		return fault.New(fault.Conflict, "reading", e.name, "it changed while it was read").WithHint("run it again when nothing writes to the tree")
	}
	return nil
}

// compressor returns a gzip writer whose header has no name and no time. The time must be set:
// pgzip v1.2.6 writes the year 1 of a zero ModTime as a meaningless number.
func compressor(w io.Writer, threads int) (*pgzip.Writer, error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	gz, err := pgzip.NewWriterLevel(w, level)
	if err != nil {
		return nil, err
	}
	gz.ModTime = time.Unix(0, 0)
	return gz, gz.SetConcurrency(block, threads)
}

// finish closes a compressor over a latch, whatever happened, and returns what went wrong first.
func finish(gz io.Closer, out *latch, err error) error {
	if closing := gz.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = out.failed()
	}
	return err
}

// latch remembers the first failure of a writer and swallows what follows. pgzip v1.2.6 leaves
// its writing goroutine behind when the writer below it fails, so it never sees one fail.
type latch struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (l *latch) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return len(p), nil
	}
	n, err := l.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	l.err = err
	return len(p), nil
}

func (l *latch) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
