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
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/pack"
)

func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("east", 3600)) }

func TestPackWritesSortedNormalisedEntries(t *testing.T) {
	root := openTree(t, t.TempDir(), map[string]string{"bin/run": "#!/bin/sh\n", "bin-old": "x", "docs/a.md": "a", "latest": "-> docs/a.md"})
	got := pack_(t, root.FS(), pack.Options{Epoch: epoch(), Extra: map[string][]byte{"etc/profile.env": []byte("A=1\n")}})

	want := []string{
		"bin/ d 0755 2026-01-02T02:04:05Z",
		"bin-old - 0644 2026-01-02T02:04:05Z",
		"bin/run - 0755 2026-01-02T02:04:05Z",
		"docs/ d 0755 2026-01-02T02:04:05Z",
		"docs/a.md - 0644 2026-01-02T02:04:05Z",
		"etc/ d 0755 2026-01-02T02:04:05Z",
		"etc/profile.env - 0644 2026-01-02T02:04:05Z",
		"latest l 0777 2026-01-02T02:04:05Z -> docs/a.md",
	}
	if diff := cmp.Diff(want, entries(t, got)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestPackWritesAGzipHeaderWithoutNameAndTime(t *testing.T) {
	got := pack_(t, fstest.MapFS{}, pack.Options{})
	want := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255} // RFC 1952, 2.3: MTIME 0, XFL 0, OS unknown
	if !bytes.Equal(got[:10], want) {
		t.Errorf("header = % x, want % x", got[:10], want)
	}
}

// The same tree gives the same bytes whatever the machine does differently.
func TestPackIsReproducible(t *testing.T) {
	tree := randomTree(rand.New(rand.NewPCG(1, 2)), 40, 200<<10)
	want := pack_(t, openTree(t, t.TempDir(), tree).FS(), pack.Options{Epoch: epoch(), Threads: 1})

	for _, threads := range []int{1, 2, 3, 8, 64} {
		t.Run(fmt.Sprintf("with %d threads, another directory and other file times", threads), func(t *testing.T) {
			root := openTree(t, t.TempDir(), tree)
			for name := range tree {
				if err := root.Chtimes(name, time.Now(), time.Unix(int64(threads)*1e6, 0)); err != nil {
					t.Fatal(err)
				}
			}
			if got := pack_(t, root.FS(), pack.Options{Epoch: epoch(), Threads: threads}); !bytes.Equal(got, want) {
				t.Error("the archive differs")
			}
		})
	}
	t.Run("in another time zone", func(t *testing.T) {
		root := openTree(t, t.TempDir(), tree)
		if got := pack_(t, root.FS(), pack.Options{Epoch: epoch().In(time.FixedZone("west", -9*3600))}); !bytes.Equal(got, want) {
			t.Error("the archive differs")
		}
	})
}

// What Pack keeps does not grow with what it packs: with 64 MiB behind it, it holds a fraction.
func TestPackStreams(t *testing.T) {
	const size, most = 64 << 20, 24 << 20
	var live runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&live)
	before, peak, seen := live.HeapAlloc, uint64(0), 0
	content := readerFunc(func(p []byte) (int, error) {
		if seen/(8<<20) != (seen+len(p))/(8<<20) {
			runtime.GC()
			runtime.ReadMemStats(&live)
			peak = max(peak, live.HeapAlloc)
		}
		seen += len(p)
		return len(p), nil
	})
	tree := big{fstest.MapFS{"big": {Mode: 0o644}}, io.LimitReader(content, size), size}
	if err := pack.Pack(t.Context(), io.Discard, tree, pack.Options{Threads: 2}); err != nil {
		t.Fatal(err)
	}
	if peak == 0 || peak > before+most {
		t.Errorf("packing %d bytes held %d bytes beyond %d, want at most %d", size, peak-before, before, most)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// big is a tree with one file, which is made while it is read.
type big struct {
	fs.FS
	content io.Reader
	size    int64
}

func (b big) Open(name string) (fs.File, error) {
	f, err := b.FS.Open(name)
	if err != nil || name == "." {
		return f, err
	}
	return longer{f, b.content}, nil
}

func (b big) Lstat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(b.FS, name)
	return sized{info, b.size}, err
}

func (b big) ReadDir(name string) ([]fs.DirEntry, error) {
	info, err := b.Lstat("big")
	return []fs.DirEntry{fs.FileInfoToDirEntry(info)}, err
}

type sized struct {
	fs.FileInfo
	size int64
}

func (s sized) Size() int64 { return s.size }

// The umask belongs to the process, so this test does not run beside others.
func TestPackAndUnpackIgnoreTheUmask(t *testing.T) {
	tree := map[string]string{"bin/run": "#!/bin/sh\n", "etc/conf": "x"}
	want := pack_(t, openTree(t, t.TempDir(), tree).FS(), pack.Options{})

	narrow, back := t.TempDir(), openRoot(t, t.TempDir())
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	got := pack_(t, openTree(t, narrow, tree).FS(), pack.Options{})
	if !bytes.Equal(got, want) {
		t.Error("the archive of a tree made under umask 077 differs")
	}
	if err := pack.Unpack(t.Context(), bytes.NewReader(want), back, pack.Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"bin": 0o755, "bin/run": 0o755, "etc/conf": 0o644} {
		if info, err := back.Lstat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v (%v), want %v", name, info.Mode().Perm(), err, mode)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	extra := pack.Options{Extra: map[string][]byte{"extra": nil, "sub/extra": nil}}
	pack_(t, openRoot(t, t.TempDir()).FS(), extra) // alone, there is nothing to refuse

	for name, make := range map[string]func(t *testing.T, dir string){
		"a named pipe":                    func(t *testing.T, dir string) { check(t, syscall.Mkfifo(dir+"/pipe", 0o600)) },
		"a socket":                        makeSocket,
		"a link out of the tree":          func(t *testing.T, dir string) { check(t, os.Symlink("../x", dir+"/link")) },
		"a link to an absolute path":      func(t *testing.T, dir string) { check(t, os.Symlink("/etc/passwd", dir+"/link")) },
		"a link to nothing":               func(t *testing.T, dir string) { check(t, os.Symlink("gone", dir+"/link")) },
		"a link to itself":                func(t *testing.T, dir string) { check(t, os.Symlink("link", dir+"/link")) },
		"a name with a newline":           func(t *testing.T, dir string) { check(t, os.WriteFile(dir+"/a\nb", nil, 0o600)) },
		"a name beyond ASCII":             func(t *testing.T, dir string) { check(t, os.WriteFile(dir+"/\u0430", nil, 0o600)) },
		"two names that differ in case":   twoCases,
		"an extra file that exists":       func(t *testing.T, dir string) { check(t, os.WriteFile(dir+"/extra", nil, 0o600)) },
		"an extra file below a file":      func(t *testing.T, dir string) { check(t, os.WriteFile(dir+"/sub", nil, 0o600)) },
		"an extra file in case collision": func(t *testing.T, dir string) { check(t, os.WriteFile(dir+"/EXTRA", nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			make(t, dir)
			err := pack.Pack(t.Context(), io.Discard, openRoot(t, dir).FS(), extra)
			if !errors.Is(err, fault.Refused) {
				t.Errorf("Pack = %v, want Refused", err)
			}
		})
	}
}

func TestPackStops(t *testing.T) {
	broken := errors.New("broken")
	tree := openTree(t, t.TempDir(), randomTree(rand.New(rand.NewPCG(3, 4)), 40, 400<<10)).FS()

	t.Run("when it is cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
		if err := pack.Pack(ctx, w, tree, pack.Options{}); !errors.Is(err, fault.Interrupted) {
			t.Errorf("Pack = %v, want Interrupted", err)
		}
	})
	t.Run("with the error of its writer, and leaves no goroutine behind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // panics when a goroutine outlives it
			n := 0
			w := writerFunc(func(p []byte) (int, error) {
				if n++; n > 2 {
					return 0, broken
				}
				return len(p), nil
			})
			if err := pack.Pack(t.Context(), w, tree, pack.Options{}); !errors.Is(err, broken) {
				t.Errorf("Pack = %v, want %v", err, broken)
			}
		})
	})
	t.Run("when a file changes under it", func(t *testing.T) {
		dir := t.TempDir()
		root := openTree(t, dir, map[string]string{"a": strings.Repeat("a", 100), "b": "b"})
		if err := pack.Pack(t.Context(), io.Discard, growing{root.FS()}, pack.Options{}); !errors.Is(err, fault.Conflict) {
			t.Errorf("Pack = %v, want Conflict", err)
		}
	})
}

func TestCompressGivesWhatGzipReads(t *testing.T) {
	random := make([]byte, 3<<20) // several blocks
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, content := range [][]byte{nil, []byte("one"), random, bytes.Repeat([]byte("again "), 1<<20)} {
		var first, second bytes.Buffer
		check(t, pack.Compress(t.Context(), &first, bytes.NewReader(content)))
		check(t, pack.Compress(t.Context(), &second, iotest.HalfReader(bytes.NewReader(content))))
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%d bytes, read in other pieces, give another archive", len(content))
		}
		r, err := gzip.NewReader(&first)
		check(t, err)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes came back as %d, %v", len(content), len(got), err)
		}
	}
}

func TestCompressStopsWithItsReaderAndItsWriter(t *testing.T) {
	broken := errors.New("broken")
	failing := writerFunc(func([]byte) (int, error) { return 0, broken })
	if err := pack.Compress(t.Context(), failing, strings.NewReader("content")); !errors.Is(err, broken) {
		t.Errorf("a writer that fails gives %v", err)
	}
	if err := pack.Compress(t.Context(), io.Discard, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a reader that fails gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pack.Compress(ctx, io.Discard, strings.NewReader("content")); !errors.Is(err, fault.Interrupted) {
		t.Errorf("a context that ended gives %v", err)
	}
}

func TestSumsSatisfySha256sum(t *testing.T) {
	program := find(t, "sha256sum")
	dir := t.TempDir()
	root := openTree(t, dir, map[string]string{"bin/run": "run", "a b": "blank", "latest": "-> bin/run"})
	sums, err := pack.Sums(t.Context(), root.FS(), pack.Options{Extra: map[string][]byte{"etc/profile.env": []byte("A=1\n")}})
	if err != nil {
		t.Fatal(err)
	}
	archive := pack_(t, root.FS(), pack.Options{Extra: map[string][]byte{"etc/profile.env": []byte("A=1\n"), "SHA256SUMS": sums}})
	into := t.TempDir()
	check(t, pack.Unpack(t.Context(), bytes.NewReader(archive), openRoot(t, into), pack.Limits{}))

	cmd := exec.Command(program, "--check", "--strict", "SHA256SUMS")
	cmd.Dir = into
	out, err := cmd.CombinedOutput()
	want := "a b: OK\nbin/run: OK\netc/profile.env: OK\n"
	if err != nil || string(out) != want {
		t.Errorf("sha256sum: %v\n%s\nwant\n%s", err, out, want)
	}
}

// GNU tar is the other reader of what Pack writes.
func TestTarReadsWhatPackWrites(t *testing.T) {
	program := find(t, "tar")
	long := strings.Repeat("long/", 40) + "name"
	root := openTree(t, t.TempDir(), map[string]string{"bin/run": "run", long: "deep", "link": "-> bin/run"})
	archive := pack_(t, root.FS(), pack.Options{})
	into := t.TempDir()
	cmd := exec.Command(program, "-xzf", "-", "-C", into)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	if again := pack_(t, openRoot(t, into).FS(), pack.Options{}); !bytes.Equal(again, archive) {
		t.Error("what tar unpacked packs differently")
	}
}

// growing is a tree whose files have one byte more than they said.
type growing struct{ fs.FS }

func (g growing) Open(name string) (fs.File, error) {
	f, err := g.FS.Open(name)
	if err != nil || name == "." {
		return f, err
	}
	return longer{f, io.MultiReader(f, strings.NewReader("!"))}, nil
}

type longer struct {
	fs.File
	r io.Reader
}

func (l longer) Read(p []byte) (int, error) { return l.r.Read(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// pack_ packs a tree in memory.
func pack_(t testing.TB, tree fs.FS, o pack.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := pack.Pack(t.Context(), &b, tree, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entries lists an archive as "name type mode time [-> target]".
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(archive))
	check(t, err)
	var list []string
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		check(t, err)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s has an owner: %d %d %q %q", h.Name, h.Uid, h.Gid, h.Uname, h.Gname)
		}
		kind := map[byte]string{tar.TypeReg: "-", tar.TypeDir: "d", tar.TypeSymlink: "l"}[h.Typeflag]
		line := fmt.Sprintf("%s %s %#o %s", h.Name, kind, h.Mode, h.ModTime.UTC().Format(time.RFC3339Nano))
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		list = append(list, line)
	}
}

// openTree writes files by path; content "-> target" makes a link, names that begin with bin/
// become executables.
func openTree(t testing.TB, dir string, files map[string]string) *os.Root {
	t.Helper()
	for name, content := range files {
		full := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			check(t, os.Symlink(target, full))
			continue
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		check(t, os.WriteFile(full, []byte(content), mode))
	}
	return openRoot(t, dir)
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	check(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// randomTree returns files with text of which some compresses and some does not.
func randomTree(r *rand.Rand, files, size int) map[string]string {
	tree := map[string]string{}
	for i := range files {
		content := make([]byte, r.IntN(size))
		for j := range content {
			content[j] = byte('a' + r.IntN(1+i%20))
		}
		tree[fmt.Sprintf("dir%d/file%d", r.IntN(5), i)] = string(content)
	}
	return tree
}

func makeSocket(t *testing.T, dir string) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	check(t, err)
	defer syscall.Close(fd)
	check(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/s"}))
}

func twoCases(t *testing.T, dir string) {
	check(t, os.WriteFile(dir+"/Name", nil, 0o600))
	check(t, os.WriteFile(dir+"/name", nil, 0o600))
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Skip("this file system does not know upper from lower case")
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// find looks a program up; its absence fails only where everything must run.
func find(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if slices.Contains([]string{"1", "true"}, os.Getenv("CI")) {
		t.Fatalf("%s is not installed: apt-get install %s", name, name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}
