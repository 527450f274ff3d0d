package pack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/pack"
)

// TestE1HostileEntriesAreRefusedBeforeAnythingIsWritten: every archive begins with a harmless
// file, so that an extraction that checks as it goes would leave it behind.
func TestE1HostileEntriesAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	special := func(kind byte) tar.Header {
		return tar.Header{Typeflag: kind, Name: "special", Mode: 0o644, Devmajor: 1, Devminor: 3}
	}
	with := func(h tar.Header, change func(*tar.Header)) tar.Header { change(&h); return h }

	for name, hostile := range map[string][]tar.Header{
		"a path that climbs":                          {reg("../x")},
		"a path that climbs later":                    {reg("a/../../x")},
		"a path that climbs and comes back":           {reg("a/../x")},
		"an absolute path":                            {reg("/abs")},
		"a path that begins with a dot":               {reg("./x")},
		"an empty element":                            {reg("a//x")},
		"an empty name":                               {dir("/")},
		"the directory itself":                        {dir("./")},
		"a link out of the archive":                   {link("l", "../x")},
		"a link to an absolute path":                  {link("l", "/etc/passwd")},
		"a link that climbs from below":               {dir("a"), link("a/l", "../../x")},
		"a link to nothing":                           {link("l", "gone")},
		"a link without a target":                     {link("l", "")},
		"a link to itself":                            {link("l", "l")},
		"two links in a circle":                       {link("k", "l"), link("l", "k")},
		"a file through a link":                       {dir("a"), link("l", "a"), reg("l/x")},
		"a link in place of a directory":              {reg("a/x"), link("a", "b"), dir("b")},
		"a chain of links that leaves":                {dir("a/b"), link("a/b/up", "../.."), link("out", "a/b/up/../x")},
		"a chain of links before its directories":     {link("out", "a/b/up/.."), link("a/b/up", "../.."), dir("a/b")},
		"a chain of links that is too long":           longChain(link, reg("c0")),
		"a link through a file":                       {reg("f"), link("l", "f/..")},
		"a link whose target has a newline":           {reg("a"), link("l", "a\nb")},
		"a hard link":                                 {{Typeflag: tar.TypeLink, Name: "h", Linkname: "harmless", Mode: 0o644}},
		"a hard link with a relative target":          {{Typeflag: tar.TypeLink, Name: "a/h", Linkname: "../../etc/passwd", Mode: 0o644}},
		"a character device":                          {special(tar.TypeChar)},
		"a block device":                              {special(tar.TypeBlock)},
		"a named pipe":                                {special(tar.TypeFifo)},
		"a contiguous file":                           {special(tar.TypeCont)},
		"an unknown type":                             {special('Z')},
		"a setuid file":                               {with(reg("s"), func(h *tar.Header) { h.Mode = 0o4755 })},
		"a setgid directory":                          {with(dir("s"), func(h *tar.Header) { h.Mode = 0o2755 })},
		"a sticky directory":                          {with(dir("s"), func(h *tar.Header) { h.Mode = 0o1777 })},
		"a file capability":                           {with(reg("c"), pax("SCHILY.xattr.security.capability", "\x01"))},
		"a global header":                             {{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "../x"}}},
		"a duplicate file":                            {reg("a"), reg("a")},
		"a duplicate directory":                       {dir("a"), dir("a")},
		"a duplicate of the first entry":              {reg("harmless")},
		"a directory in place of a file":              {reg("a"), dir("a")},
		"a file below a file":                         {reg("a"), reg("a/b")},
		"a file in place of a directory":              {reg("a/b"), reg("a")},
		"a case collision":                            {reg("Name"), reg("name")},
		"a case collision of directories":             {reg("A/x"), reg("a/y")},
		"a newline in a name":                         {reg("a\nb")},
		"an escape sequence in a name":                {reg("a\x1b[2Jb")},
		"a delete character in a name":                {reg("a\x7f")},
		"a right-to-left override in a name":          {reg("a\u202etxt.exe")},
		"a zero-width space in a name":                {reg("a\u200bb")},
		"a Cyrillic letter that looks Latin":          {reg("\u0430")},
		"a full-width letter":                         {reg("\uff41")},
		"a decomposed letter (not NFC)":               {reg("cafe\u0301")},
		"a composed letter (NFC)":                     {reg("caf\u00e9")},
		"a name that is not UTF-8":                    {reg("a\xff")},
		"a backslash in a name":                       {reg(`a\..\..\x`)},
		"a blank at the end of a name":                {reg("a ")},
		"a name longer than the limit":                {reg(strings.Repeat("long/", 205) + "x")},
		"an element longer than any file system's":    {reg(strings.Repeat("x", 256))},
		"an extended path that climbs past the short": {reg(strings.Repeat("x", 200) + "/../../../x")},
	} {
		t.Run(name, func(t *testing.T) {
			headers := append([]tar.Header{reg("harmless")}, hostile...)
			expectRefusal(t, archive(t, headers...), pack.Limits{})
		})
	}
}

func longChain(link func(string, string) tar.Header, end tar.Header) []tar.Header {
	chain := []tar.Header{end}
	for i := range 12 {
		chain = append(chain, link(fmt.Sprintf("c%d", i+1), fmt.Sprintf("c%d", i)))
	}
	return chain
}

func pax(key, value string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords = map[string]string{key: value} }
}

// A name can hold a NUL only in an extended header that no honest writer makes.
func TestE1ANulInANameIsRefused(t *testing.T) {
	for name, key := range map[string]string{"in a path": "path", "in a link": "linkpath"} {
		t.Run(name, func(t *testing.T) {
			record := paxRecord(key, "a\x00b")
			h := rawHeader("PaxHeaders.0/a", 'x', int64(len(record)))
			var b bytes.Buffer
			b.Write(h)
			b.Write(pad([]byte(record)))
			b.Write(rawHeader("a", '0', 0))
			b.Write(make([]byte, 1024))
			expectRefusal(t, compress(t, b.Bytes()), pack.Limits{})
		})
	}
}

func TestE2BombsAreRefused(t *testing.T) {
	zeros := func(n int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: n}
	}
	text := []byte(strings.Repeat("x", 5000))
	for name, test := range map[string]struct {
		archive []byte
		limits  pack.Limits
	}{
		"a bomb of 16 MiB at a thousand to one":  {archive(t, zeros(16<<20)), pack.Limits{}},
		"more bytes than the total":              {archive(t, zeros(5000)), pack.Limits{Total: 4096}},
		"more bytes than the archive":            {noise(t, 100<<10), pack.Limits{Archive: 64 << 10}},
		"more entries than the limit":            {archive(t, manyEntries(11)...), pack.Limits{Entries: 10}},
		"a bomb behind the last entry":           {compress(t, make([]byte, 16<<20)), pack.Limits{}},
		"an old GNU sparse file":                 {sparseGNU(t), pack.Limits{}},
		"a PAX sparse file":                      {sparsePAX(t), pack.Limits{}},
		"a size larger than the content":         {compress(t, append(rawHeader("a", '0', 1<<40), pad(text)...)), pack.Limits{}},
		"a negative size":                        {compress(t, append(rawHeader("a", '0', -1), make([]byte, 1024)...)), pack.Limits{}},
		"a directory with content":               {compress(t, join(rawHeader("d/", '5', 512), make([]byte, 1536))), pack.Limits{}},
		"content behind the end of the tar":      {compress(t, join(rawHeader("a", '0', 0), make([]byte, 1024), []byte("more"))), pack.Limits{}},
		"content behind the end of the gzip":     {append(archive(t, zeros(1)), "more"...), pack.Limits{}},
		"a second gzip member":                   {append(archive(t, zeros(1)), archive(t, zeros(1))...), pack.Limits{}},
		"an archive cut in its content":          {noise(t, 100<<10)[:50<<10], pack.Limits{}},
		"an archive cut in its checksum":         {cut(archive(t, zeros(1)), 4), pack.Limits{}},
		"a wrong checksum":                       {flip(archive(t, zeros(1)), 8), pack.Limits{}},
		"a zstd frame":                           {[]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00"), pack.Limits{}},
		"a tar that is not compressed":           {append(rawHeader("a", '0', 0), make([]byte, 1024)...), pack.Limits{}},
		"a gzip in a gzip":                       {compress(t, archive(t, zeros(1))), pack.Limits{}},
		"a header with a wrong checksum":         {compress(t, flip(append(rawHeader("a", '0', 0), make([]byte, 1024)...), 1024+512)), pack.Limits{}},
		"nothing":                                {nil, pack.Limits{}},
		"an extended header of two million byte": {compress(t, join(rawHeader("x", 'x', 2<<20), make([]byte, 2<<20+1024))), pack.Limits{}},
	} {
		t.Run(name, func(t *testing.T) { expectRefusal(t, test.archive, test.limits) })
	}
}

// expectRefusal unpacks next to a sentinel, from a file and from a pipe.
func expectRefusal(t *testing.T, archive []byte, l pack.Limits) {
	t.Helper()
	for name, r := range map[string]io.Reader{"seekable": bytes.NewReader(archive), "piped": iotest.OneByteReader(bytes.NewReader(archive))} {
		outer := t.TempDir()
		into := openRoot(t, mkdir(t, outer, "into"))
		check(t, os.WriteFile(filepath.Join(outer, "x"), []byte("sentinel"), 0o600))
		err := pack.Unpack(t.Context(), r, into, l)
		if !errors.Is(err, fault.Refused) {
			t.Errorf("%s: Unpack = %v, want Refused", name, err)
		}
		if left := tree(t, outer); left != "into/\nx sentinel\n" {
			t.Errorf("%s: it left\n%s", name, left)
		}
	}
}

func TestUnpackLeavesNothingBehind(t *testing.T) {
	good := pack_(t, openTree(t, t.TempDir(), randomTree(rand.New(rand.NewPCG(5, 6)), 20, 100<<10)).FS(), pack.Options{})

	t.Run("when the archive turns hostile between the passes", func(t *testing.T) {
		dir := t.TempDir()
		evil := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "harmless", Mode: 0o644}, tar.Header{Typeflag: tar.TypeReg, Name: "../x", Mode: 0o644})
		r := &swapped{first: bytes.NewReader(good), second: bytes.NewReader(evil)}
		if err := pack.Unpack(t.Context(), r, openRoot(t, dir), pack.Limits{}); !errors.Is(err, fault.Refused) {
			t.Errorf("Unpack = %v, want Refused", err)
		}
		if left := tree(t, dir); left != "" {
			t.Errorf("it left\n%s", left)
		}
	})
	t.Run("when it is cancelled while it writes", func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		r := &swapped{first: bytes.NewReader(good), second: bytes.NewReader(good), after: 2, do: cancel}
		if err := pack.Unpack(ctx, r, openRoot(t, dir), pack.Limits{}); !errors.Is(err, fault.Interrupted) {
			t.Errorf("Unpack = %v, want Interrupted", err)
		}
		if left := tree(t, dir); left != "" {
			t.Errorf("it left\n%s", left)
		}
	})
	t.Run("and refuses a directory that holds something", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.WriteFile(dir+"/mine", []byte("mine"), 0o600))
		if err := pack.Unpack(t.Context(), bytes.NewReader(good), openRoot(t, dir), pack.Limits{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("Unpack = %v, want Invalid", err)
		}
		if left := tree(t, dir); left != "mine mine\n" {
			t.Errorf("it left\n%s", left)
		}
	})
}

// swapped is one archive when it is read first and another when it is read again; after some
// reads of the second it does something.
type swapped struct {
	first, second *bytes.Reader
	again         bool
	after         int
	do            func()
}

func (s *swapped) Read(p []byte) (int, error) {
	if !s.again {
		return s.first.Read(p)
	}
	if s.after--; s.after == 0 && s.do != nil {
		s.do()
	}
	return s.second.Read(p)
}

func (s *swapped) Seek(offset int64, whence int) (int64, error) {
	s.again = whence == io.SeekStart
	return offset, nil
}

// Packing what was unpacked gives the archive again, for any tree.
func TestPackOfUnpackIsIdentity(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		files := randomTree(r, 1+r.IntN(30), 20<<10)
		files["bin/run me"] = "#!/bin/sh\n"
		files["bin/again"] = "-> run me"
		files["deep/er/link"] = "-> ../../bin/again"
		files["deep/dir"] = "-> er"
		want := pack_(t, openTree(t, t.TempDir(), files).FS(), pack.Options{Epoch: epoch()})
		for name, source := range map[string]io.Reader{"seekable": bytes.NewReader(want), "piped": iotest.HalfReader(bytes.NewReader(want))} {
			back := openRoot(t, t.TempDir())
			if err := pack.Unpack(t.Context(), source, back, pack.Limits{}); err != nil {
				t.Fatalf("seed %d, %s: %v", seed, name, err)
			}
			if got := pack_(t, back.FS(), pack.Options{Epoch: epoch()}); !bytes.Equal(got, want) {
				t.Errorf("seed %d, %s: the archive differs", seed, name)
			}
		}
	}
}

// FuzzUnpack gives Unpack any tar, in a correct gzip and as it is. It must never write outside;
// after a refusal nothing is left; what it accepts, Pack accepts.
func FuzzUnpack(f *testing.F) {
	reg := tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Mode: 0o755, Size: 3}
	up := tar.Header{Typeflag: tar.TypeSymlink, Name: "a/l", Linkname: "../a/b", Mode: 0o777}
	for _, headers := range [][]tar.Header{{reg}, {reg, up}, {up, reg}, {{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, {Typeflag: tar.TypeSymlink, Name: "l", Linkname: "d/../..", Mode: 0o777}}} {
		f.Add(plainTar(f, headers...))
		f.Add(archive(f, headers...))
	}
	f.Add(append(rawHeader("a", 'S', 512), make([]byte, 2048)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, archive := range [][]byte{input, compress(t, input)} {
			outer := t.TempDir()
			into := openRoot(t, mkdir(t, outer, "into"))
			err := pack.Unpack(t.Context(), bytes.NewReader(archive), into, pack.Limits{Total: 1 << 20, Entries: 100})
			if names, _ := os.ReadDir(outer); len(names) != 1 {
				t.Fatalf("it wrote outside: %v", names)
			}
			if err != nil {
				if left := tree(t, into.Name()); left != "" {
					t.Fatalf("Unpack = %v and left\n%s", err, left)
				}
				continue
			}
			pack_(t, into.FS(), pack.Options{})
		}
	})
}

// archive makes a gzipped tar of entries whose content is zeros.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	return compress(t, plainTar(t, headers...))
}

func plainTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		check(t, tw.WriteHeader(&h))
		_, err := io.CopyN(tw, zeroReader{}, h.Size)
		check(t, err)
	}
	check(t, tw.Close())
	return b.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func compress(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	_, err := gz.Write(content)
	check(t, errors.Join(err, gz.Close()))
	return b.Bytes()
}

// noise is an archive of one file that does not compress.
func noise(t testing.TB, size int) []byte {
	content := make([]byte, size)
	r := rand.NewChaCha8([32]byte{})
	r.Read(content)
	return pack_(t, openTree(t, t.TempDir(), map[string]string{"noise": string(content)}).FS(), pack.Options{})
}

func manyEntries(n int) []tar.Header {
	var headers []tar.Header
	for i := range n {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", i), Mode: 0o644})
	}
	return headers
}

// rawHeader is a tar header that archive/tar would not write: ustar, with a correct checksum.
func rawHeader(name string, kind byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	if size < 0 || size >= 1<<33 { // GNU's binary numbers
		copy(h[124:], []byte{0x80, 0, 0, 0, byte(size >> 56), byte(size >> 48), byte(size >> 40), byte(size >> 32), byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
		if size < 0 {
			copy(h[124:], []byte{0xff, 0xff, 0xff, 0xff})
		}
	}
	copy(h[136:], "00000000000\x00        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	return seal(h)
}

// seal writes the checksum of a header.
func seal(h []byte) []byte {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// sparseGNU says: one byte of data, and a file of a terabyte.
func sparseGNU(t testing.TB) []byte {
	h := rawHeader("sparse", 'S', 1)
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "00000000000\x0000000000001\x00")
	copy(h[386+24:], "20000000000\x0000000000000\x00")
	copy(h[483:], "20000000000\x00")
	return compress(t, join(seal(h), pad([]byte("x")), make([]byte, 1024)))
}

// sparsePAX says the same in the way of GNU tar's format 1.0.
func sparsePAX(t testing.TB) []byte {
	records := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") + paxRecord("GNU.sparse.name", "sparse") + paxRecord("GNU.sparse.realsize", "2147483648")
	content := pad([]byte("1\n0\n1\n"))
	return compress(t, join(
		rawHeader("PaxHeaders.0/sparse", 'x', int64(len(records))), pad([]byte(records)),
		rawHeader("GNUSparseFile.0/sparse", '0', int64(len(content))+1), content, pad([]byte("x")), make([]byte, 1024)))
}

func paxRecord(key, value string) string {
	size := len(key) + len(value) + 3
	size += len(fmt.Sprint(size))
	if record := fmt.Sprintf("%d %s=%s\n", size, key, value); len(record) == size {
		return record
	}
	return fmt.Sprintf("%d %s=%s\n", size+1, key, value)
}

func pad(content []byte) []byte { return append(content, make([]byte, -len(content)&511)...) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func cut(content []byte, n int) []byte { return content[:len(content)-n] }

// flip inverts the n-th byte from the end.
func flip(content []byte, n int) []byte {
	content[len(content)-n] ^= 0xff
	return content
}

func mkdir(t testing.TB, parent, name string) string {
	t.Helper()
	full := filepath.Join(parent, name)
	check(t, os.Mkdir(full, 0o755))
	return full
}

// tree prints what stands in a directory.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	check(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case d.IsDir():
			fmt.Fprintf(&b, "%s/\n", name)
		default:
			content, _ := os.ReadFile(path.Join(dir, name))
			fmt.Fprintf(&b, "%s %s\n", name, content)
		}
		return nil
	}))
	return b.String()
}
