package pack

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// Limits bound what an archive may cost. A zero field means its default.
type Limits struct {
	Archive int64 // compressed bytes; 1 GiB
	Total   int64 // unpacked bytes, headers included; 4 GiB
	Ratio   int64 // unpacked bytes per compressed byte, after the first MiB; 200 (gzip's own limit is 1032)
	Entries int   // 100,000
	Name    int   // bytes of a path; 1,024
}

// allowance is what an archive may unpack to whatever its ratio, in bytes: text like a licence
// repeated in a small archive compresses well without being an attack.
const allowance = 1 << 20

func (l Limits) orDefaults() Limits {
	return Limits{
		Archive: positive(l.Archive, 1<<30),
		Total:   positive(l.Total, 4<<30),
		Ratio:   positive(l.Ratio, 200),
		Entries: int(positive(int64(l.Entries), 100_000)),
		Name:    int(positive(int64(l.Name), 1024)),
	}
}

func positive(n, fallback int64) int64 {
	if n > 0 {
		return n
	}
	return fallback
}

// Unpack writes the archive in r into an empty directory. It reads r twice (a reader that cannot
// seek is spooled to an unlinked temporary file): the first pass checks everything and writes
// nothing, the second checks everything again and writes. Links are made last.
//
// Archives that hold anything but directories, regular files and links that stay inside, or that
// exceed a limit, are Refused. After any error the directory is empty again. Permissions become
// 0755 and 0644, whatever the archive and the umask say.
func Unpack(ctx context.Context, r io.Reader, into *os.Root, l Limits) error {
	l = l.orDefaults()
	if err := checkEmpty(into); err != nil {
		return err
	}
	src, err := open(ctx, r, l)
	if err != nil {
		return err
	}
	defer src.close()
	if _, err := scan(ctx, src.from, l, discard); err != nil {
		return err
	}
	if err := src.rewind(); err != nil {
		return err
	}
	return extract(ctx, src.from, into, l)
}

func discard(_ entry, content io.Reader) error {
	_, err := io.Copy(io.Discard, content)
	return err
}

// extract is the second pass. It leaves everything or nothing.
func extract(ctx context.Context, r io.Reader, into *os.Root, l Limits) error {
	err := extractAll(ctx, r, into, l)
	if err == nil {
		return nil
	}
	if left := removeContent(into); left != nil {
		return fault.New(fault.Partial, "unpacking into", into.Name(), "%w; and removing what was written: %w", err, left)
	}
	return err
}

// extractAll writes files as they come, then the links, then the permissions of directories,
// which the umask may have narrowed.
func extractAll(ctx context.Context, r io.Reader, into *os.Root, l Limits) error {
	s, err := scan(ctx, r, l, func(e entry, content io.Reader) error { return write(into, e, content) })
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.targets)) {
		if err := into.Symlink(s.targets[name], name); err != nil {
			return fault.Wrap(err, fault.Environment, "linking", name)
		}
	}
	for name, k := range s.kinds {
		if k != dir {
			continue
		}
		if err := into.Chmod(name, 0o755); err != nil {
			return fault.Wrap(err, fault.Environment, "unpacking", name)
		}
	}
	return nil
}

func write(into *os.Root, e entry, content io.Reader) error {
	var err error
	switch e.kind {
	case dir:
		err = into.MkdirAll(e.name, 0o755)
	case file:
		err = writeFile(into, e, content)
	}
	return fault.Wrap(err, fault.Environment, "unpacking", e.name)
}

func writeFile(into *os.Root, e entry, content io.Reader) error {
	if err := into.MkdirAll(path.Dir(e.name), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if e.exec {
		mode = 0o755
	}
	f, err := into.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// scan reads a whole archive and checks it: one gzip member, one tar, nothing behind either.
func scan(ctx context.Context, r io.Reader, l Limits, visit func(entry, io.Reader) error) (*survey, error) {
	s := newSurvey(l.Name)
	packed := &meter{r: cancellable{ctx, r}, limit: l.Archive}
	buffered := bufio.NewReader(packed)
	gz, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, unreadable(err)
	}
	gz.Multistream(false)
	unpacked := &expansion{r: gz, packed: packed, limits: l}
	if err := scanTar(tar.NewReader(unpacked), l, s, visit); err != nil {
		return nil, unreadable(err)
	}
	if err := expectZeros(unpacked); err != nil {
		return nil, unreadable(err)
	}
	if _, err := buffered.Peek(1); err != io.EOF {
		return nil, refused("archive", "something follows its end")
	}
	return s, s.resolveLinks()
}

func scanTar(tr *tar.Reader, l Limits, s *survey, visit func(entry, io.Reader) error) error {
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == l.Entries {
			return refused(h.Name, "the archive has more than %d entries", l.Entries)
		}
		e, err := parseHeader(h)
		if err != nil {
			return err
		}
		if err := s.add(e); err != nil {
			return err
		}
		if err := visit(e, tr); err != nil {
			return err
		}
	}
}

// parseHeader admits three types of entries, plain permissions, and no extension that would
// change what an entry is: no sparse maps, no extended attributes (file capabilities are one).
func parseHeader(h *tar.Header) (entry, error) {
	e := entry{name: h.Name, size: h.Size, exec: h.Mode&0o111 != 0}
	switch h.Typeflag {
	case tar.TypeReg:
		e.kind = file
	case tar.TypeDir:
		e.kind, e.name = dir, strings.TrimSuffix(h.Name, "/")
	case tar.TypeSymlink:
		e.kind, e.target = link, h.Linkname
	default:
		return e, refused(h.Name, "it has the type %q; an archive holds directories, files and symbolic links", string(h.Typeflag))
	}
	if h.Mode&^0o777 != 0 {
		return e, refused(h.Name, "it has the mode %#o", h.Mode)
	}
	if e.kind != file && h.Size != 0 {
		return e, refused(h.Name, "it has %d bytes of content and is not a file", h.Size)
	}
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if !slices.Contains([]string{"path", "linkpath", "size", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname"}, key) {
			return e, refused(h.Name, "it has the extended header %s", quote(key))
		}
	}
	return e, nil
}

// expectZeros reads what follows the last entry: padding, and with it gzip's checksum.
func expectZeros(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if len(strings.Trim(string(buf[:n]), "\x00")) > 0 {
			return refused("archive", "something follows its last entry")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// meter counts and bounds compressed bytes.
type meter struct {
	r        io.Reader
	n, limit int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n > m.limit {
		return 0, refused("archive", "it exceeds %d bytes", m.limit)
	}
	if err != nil && err != io.EOF {
		err = fault.Wrap(err, fault.Environment, "reading", "archive")
	}
	return n, err
}

// expansion bounds unpacked bytes, and how many come out of one that went in.
type expansion struct {
	r      io.Reader
	packed *meter
	limits Limits
	n      int64
}

func (x *expansion) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	x.n += int64(n)
	if x.n > x.limits.Total {
		return 0, refused("archive", "it unpacks to more than %d bytes", x.limits.Total)
	}
	if x.n > allowance+x.limits.Ratio*x.packed.n {
		return 0, refused("archive", "it unpacks to more than %d times its size", x.limits.Ratio)
	}
	return n, err
}

func unreadable(err error) error {
	return fault.Wrap(err, fault.Refused, "reading", "archive")
}

// source is an archive that can be read twice.
type source struct {
	from  io.ReadSeeker
	start int64
	close func() error
}

func (s source) rewind() error {
	_, err := s.from.Seek(s.start, io.SeekStart)
	return fault.Wrap(err, fault.Environment, "reading", "archive")
}

// open takes r as it is when it can seek; pipes only look as if they could.
func open(ctx context.Context, r io.Reader, l Limits) (source, error) {
	if seeker, ok := r.(io.ReadSeeker); ok {
		if start, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			return source{seeker, start, func() error { return nil }}, nil
		}
	}
	f, err := os.CreateTemp("", "containai-unpack-")
	if err != nil {
		return source{}, fault.Wrap(err, fault.Environment, "spooling", "archive")
	}
	s := source{f, 0, f.Close}
	if err := spool(ctx, f, r, l); err != nil {
		return source{}, errors.Join(fault.Wrap(err, fault.Environment, "spooling", "archive"), f.Close())
	}
	return s, s.rewind()
}

func spool(ctx context.Context, f *os.File, r io.Reader, l Limits) error {
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	_, err := io.Copy(f, &meter{r: cancellable{ctx, r}, limit: l.Archive})
	return err
}

func checkEmpty(into *os.Root) error {
	names, err := content(into)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fault.New(fault.Invalid, "unpacking into", into.Name(), "it is not empty, it holds %s", quote(names[0]))
	}
	return nil
}

// removeContent removes everything an unfinished extraction wrote.
func removeContent(into *os.Root) error {
	names, err := content(into)
	for _, name := range names {
		err = errors.Join(err, into.RemoveAll(name))
	}
	return err
}

func content(into *os.Root) ([]string, error) {
	d, err := into.Open(".")
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "opening", into.Name())
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return names, fault.Wrap(err, fault.Environment, "reading", into.Name())
}

// quote makes a name from outside fit for an error message.
func quote(name string) string {
	const most = 80
	if len(name) > most {
		return strconv.QuoteToASCII(name[:most]) + "…"
	}
	return strconv.QuoteToASCII(name)
}
