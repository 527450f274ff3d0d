package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// gathered is a client over a cache directory that gathers, and its files.
func gathered(t *testing.T, dir string) (c *Client, flush func() error, files func() []os.DirEntry) {
	t.Helper()
	c, err := New("127.0.0.1:1/acme", Options{Cache: dir})
	if err != nil {
		t.Fatal(err)
	}
	return c, c.Gather(), func() []os.DirEntry {
		list, _ := os.ReadDir(filepath.Join(dir, "packs"))
		return list
	}
}

func TestManySmallContentsAreFewFilesAndComeBack(t *testing.T) {
	dir := t.TempDir()
	c, flush, files := gathered(t, dir)
	put := func(text string) digest.Digest {
		d := digest.FromString(text)
		c.cache.put(d, []byte(text))
		return d
	}
	var all []digest.Digest
	for i := range 2*packSize + 7 {
		all = append(all, put(fmt.Sprint("manifest ", i)))
	}
	large := put(strings.Repeat("large ", maxPacked))
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	if n := len(files()); n != 3 {
		t.Errorf("%d files for %d contents", n, len(all))
	}
	again, _, _ := gathered(t, dir)
	for _, d := range append(all, large) {
		if content, ok := again.cache.get(d); !ok || digest.FromBytes(content) != d {
			t.Fatalf("%s did not come back", d)
		}
	}
}

// What is on a disk may be anything: only what has its digest is taken, and a torn file is nothing.
func TestAPackThatWasTamperedWithGivesNothing(t *testing.T) {
	for name, write := range map[string]func(path string, content []byte) error{
		"torn": func(path string, content []byte) error { return os.WriteFile(path, content[:len(content)/2], 0o600) },
		"replaced": func(path string, _ []byte) error {
			return os.WriteFile(path, fmt.Appendf(nil, `{%q:"b3RoZXI="}`, digest.FromString("good")), 0o600)
		},
		"no digest": func(path string, _ []byte) error {
			return os.WriteFile(path, []byte(`{"x":"b3RoZXI=","sha256:1":""}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, flush, files := gathered(t, dir)
			c.cache.put(digest.FromString("good"), []byte("good"))
			if err := flush(); err != nil || len(files()) != 1 {
				t.Fatal(err, files())
			}
			path := filepath.Join(dir, "packs", files()[0].Name())
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(path, content); err != nil {
				t.Fatal(err)
			}
			again, _, _ := gathered(t, dir)
			if content, ok := again.cache.get(digest.FromString("good")); ok {
				t.Errorf("it gave %q", content)
			}
		})
	}
}

func TestOldPacksMakeRoom(t *testing.T) {
	dir := t.TempDir()
	packs := filepath.Join(dir, "packs")
	if err := os.MkdirAll(packs, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"newest", "old", "oldest"} {
		path := filepath.Join(packs, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, maxPacks/2); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	_, _, files := gathered(t, dir)
	if left := files(); len(left) != 2 || left[0].Name() != "newest" || left[1].Name() != "old" {
		t.Errorf("left: %v", left)
	}
}

func TestACacheWithoutADirectoryGathersNothing(t *testing.T) {
	c, flush, _ := gathered(t, "")
	c.cache.put(digest.FromString("x"), []byte("x"))
	if err := flush(); err != nil || c.cache.pack != nil {
		t.Errorf("%v, %v", err, c.cache.pack)
	}
}
