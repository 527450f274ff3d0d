package registry

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestTheCacheGivesBackWhatWasPut(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]*cache{"in memory": newCache("", time.Now), "on disk": newCache(dir, time.Now)} {
		t.Run(name, func(t *testing.T) {
			content := []byte(`{"schemaVersion":2}`)
			d := digest.FromBytes(content)
			if got, ok := c.get(d); ok {
				t.Fatalf("an empty cache has %q", got)
			}
			c.put(d, content)
			if got, ok := c.get(d); !ok || !bytes.Equal(got, content) {
				t.Errorf("get = %q, %v", got, ok)
			}
		})
	}
	content := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(content)
	if got, ok := newCache(dir, time.Now).get(d); !ok || !bytes.Equal(got, content) {
		t.Errorf("another process finds %q, %v", got, ok)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "sha256", d.Encoded())); err != nil || !bytes.Equal(got, content) {
		t.Errorf("its file holds %q, %v", got, err)
	}
}

func TestTheCacheBelievesNobody(t *testing.T) {
	content := []byte("the right bytes")
	d := digest.FromBytes(content)
	t.Run("who puts under a wrong digest", func(t *testing.T) {
		c := newCache(t.TempDir(), time.Now)
		c.put(d, []byte("the WRONG bytes"))
		if got, ok := c.get(d); ok {
			t.Errorf("get = %q", got)
		}
	})
	for name, spoil := range map[string]func(name string) error{
		"who changes a file":    func(name string) error { return os.WriteFile(name, []byte("the WRONG bytes"), 0o600) },
		"who cuts a file short": func(name string) error { return os.Truncate(name, 3) },
		"who empties a file":    func(name string) error { return os.Truncate(name, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			newCache(dir, time.Now).put(d, content)
			file := filepath.Join(dir, "sha256", d.Encoded())
			if err := spoil(file); err != nil {
				t.Fatal(err)
			}
			c := newCache(dir, time.Now)
			if got, ok := c.get(d); ok {
				t.Errorf("get = %q", got)
			}
			if _, err := os.Stat(file); err == nil {
				t.Error("the spoilt file is kept")
			}
			c.put(d, content)
			if got, ok := newCache(dir, time.Now).get(d); !ok || !bytes.Equal(got, content) {
				t.Errorf("fetched anew: get = %q, %v", got, ok)
			}
		})
	}
	for name, plant := range map[string]func(name string) error{
		"who puts a folder there": func(name string) error { return os.MkdirAll(name, 0o700) },
		"who puts a link there":   func(name string) error { return os.Symlink("/dev/zero", name) },
		"who puts too much there": func(name string) error { return os.WriteFile(name, make([]byte, maxCached+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sha256"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := plant(filepath.Join(dir, "sha256", d.Encoded())); err != nil {
				t.Fatal(err)
			}
			if got, ok := newCache(dir, time.Now).get(d); ok {
				t.Errorf("get = %d bytes", len(got))
			}
		})
	}
}

func TestWhatIsNoPlainDigestHasNoFile(t *testing.T) {
	dir := t.TempDir()
	c := newCache(dir, time.Now)
	for _, d := range []digest.Digest{"", "sha256:../../etc/passwd", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", digest.SHA512.FromString("x")} {
		c.put(d, []byte("x"))
		if _, ok := c.name(d); ok {
			t.Errorf("%q has a file", d)
		}
	}
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("written: %v", names)
	}
}

func TestLargeContentIsNotCached(t *testing.T) {
	c := newCache(t.TempDir(), time.Now)
	content := make([]byte, maxCached+1)
	d := digest.FromBytes(content)
	if c.put(d, content); c.size != 0 {
		t.Error("it is kept")
	}
	content = content[:maxCached]
	if c.put(digest.FromBytes(content), content); c.size != maxCached {
		t.Error("what is just small enough is not kept")
	}
}

// A disk that does not play along costs speed, never an answer. Root may write anywhere, so these
// are directories that nobody can make; cache_linux_test.go has a full disk and a read-only one.
func TestADirectoryThatCannotBeOnlyCostsSpeed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"it is a file":           file,
		"it is below a file":     filepath.Join(file, "below"),
		"its name is too long":   filepath.Join(t.TempDir(), strings.Repeat("x", 300)),
		"its name is impossible": "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			onlyCostsSpeed(t, newCache(dir, time.Now))
		})
	}
}

// onlyCostsSpeed fails if a cache whose disk fails does not work from memory.
func onlyCostsSpeed(t *testing.T, c *cache) {
	t.Helper()
	content := bytes.Repeat([]byte("content"), 10_000)
	d := digest.FromBytes(content)
	c.put(d, content)
	if got, ok := c.get(d); !ok || !bytes.Equal(got, content) {
		t.Errorf("get = %d bytes, %v", len(got), ok)
	}
	if name, ok := c.name(d); !ok {
		t.Error("it has no file")
	} else if _, err := os.Stat(name); err == nil {
		t.Error("the disk took it: this test shows nothing")
	}
}

// The directory stays within its bound, and what was used last stays in it.
func TestTheLeastUsedIsRemovedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCache(dir, time.Now)
		random := rand.NewChaCha8([32]byte{1})
		var order []digest.Digest
		for range maxDisk/maxCached + 16 {
			content := make([]byte, maxCached)
			random.Read(content)
			d := digest.FromBytes(content)
			order = append(order, d)
			if err := os.MkdirAll(c.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.put(d, content)
			stamp(t, c, d)
			if _, ok := newCache(dir, time.Now).get(order[0]); !ok {
				t.Fatalf("what is used all the time is gone after %d", len(order))
			}
			<-time.After(2 * time.Hour)
			if total := used(t, dir); total > maxDisk {
				t.Fatalf("%d bytes after %d writes", total, len(order))
			}
		}
		if _, ok := newCache(dir, time.Now).get(order[1]); ok {
			t.Error("what was used longest ago is still there")
		}
		if _, ok := newCache(dir, time.Now).get(order[len(order)-1]); !ok {
			t.Error("what was written last is gone")
		}
	})
}

// stamp gives a file the time of the bubble: the kernel lives outside.
func stamp(t *testing.T, c *cache, d digest.Digest) {
	t.Helper()
	name, _ := c.name(d)
	if err := os.Chtimes(name, time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAKilledProcessLeftIsSweptLater(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "sha256", partial+"1"), filepath.Join(dir, "sha256", partial+"2")
	if err := os.Mkdir(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	newCache(dir, time.Now).put(digest.FromString("x"), []byte("x"))
	if _, err := os.Stat(old); err == nil {
		t.Error("an old half is kept")
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error("a half that may be in the making is removed")
	}
}

// Four processes put, get and sweep at once: nobody reads wrong bytes, nothing is lost or left over.
func TestProcessesShareOneDirectory(t *testing.T) {
	contents := make([][]byte, 50)
	for i := range contents {
		contents[i] = bytes.Repeat(fmt.Appendf(nil, "%d,", i), 10_000)
	}
	if dir := os.Getenv("CONTAINAI_TEST_CACHE"); dir != "" {
		useCache(t, newCache(dir, time.Now), contents)
		return
	}
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), "CONTAINAI_TEST_CACHE="+dir)
		all.Go(func() {
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	all.Wait()
	fresh := newCache(dir, time.Now)
	for i, content := range contents {
		if got, ok := fresh.read(digest.FromBytes(content)); !ok || !bytes.Equal(got, content) {
			t.Errorf("content %d is not there", i)
		}
	}
	if names := files(t, dir); len(names) != len(contents) {
		t.Errorf("%d files, want %d", len(names), len(contents))
	}
}

func useCache(t *testing.T, c *cache, contents [][]byte) {
	t.Helper()
	for i, content := range contents {
		d := digest.FromBytes(content)
		if got, ok := c.get(d); ok && !bytes.Equal(got, content) {
			t.Errorf("content %d is wrong", i)
		}
		c.put(d, content)
		if i%10 == 0 {
			c.sweep()
		}
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func used(t *testing.T, dir string) (total int64) {
	t.Helper()
	for _, name := range files(t, dir) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func BenchmarkCache(b *testing.B) {
	for _, size := range []int{2 << 10, 512 << 10} {
		content := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(content)
		d := digest.FromBytes(content)
		warm := newCache(b.TempDir(), time.Now)
		warm.put(d, content)
		run := func(name string, op func(c *cache)) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					op(warm)
				}
			})
		}
		run("get from memory", func(c *cache) { c.get(d) })
		run("get from disk", func(c *cache) {
			if _, ok := c.read(d); !ok {
				b.Error("it is not there")
			}
		})
		run("put again", func(c *cache) { c.put(d, content) })
		run("put to disk", func(c *cache) {
			name, _ := c.name(d)
			if err := replace(name, content); err != nil {
				b.Error(err)
			}
		})
		run("look in vain", func(c *cache) { c.read(digest.SHA256.FromString("other")) })
	}
	full := newCache(b.TempDir(), time.Now)
	for i := range 5_000 {
		content := fmt.Appendf(nil, "%d", i)
		full.put(digest.FromBytes(content), content)
	}
	b.Run("sweep 5000 files", func(b *testing.B) {
		for b.Loop() {
			full.sweep()
		}
	})
}
