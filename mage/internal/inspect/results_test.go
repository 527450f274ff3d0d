package inspect

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestResultsGiveBackWhatWasStoredUnderTheKeyOrNothing(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, r Results)
		there bool
	}{
		{"as it was stored", func(*testing.T, Results) {}, true},
		{"torn", func(t *testing.T, r Results) { edit(t, r.path("a"), func(b []byte) []byte { return b[:len(b)-1] }) }, false},
		{"changed", func(t *testing.T, r Results) { edit(t, r.path("a"), func(b []byte) []byte { b[len(b)-1]++; return b }) }, false},
		{"empty", func(t *testing.T, r Results) { edit(t, r.path("a"), func([]byte) []byte { return nil }) }, false},
		{"of another key, put under this name", func(t *testing.T, r Results) {
			if err := r.Store("b", []byte("clean")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(r.path("b"), r.path("a")); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := Results{Dir: filepath.Join(t.TempDir(), "results")}
			if err := r.Store("a", []byte("3 findings")); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, r)
			content, there := r.Load("a")
			if there != test.there || there && string(content) != "3 findings" {
				t.Errorf("got %q, %v, want there: %v", content, there, test.there)
			}
			if _, err := os.Stat(r.path("a")); (err == nil) != test.there {
				t.Errorf("what does not hold is still there: %v", err)
			}
		})
	}
}

func TestResultsKeepWithinTheirSizeWhatWasUsedLast(t *testing.T) {
	r := Results{Dir: filepath.Join(t.TempDir(), "results"), Now: time.Now()}
	for age, key := range []string{"a", "b", "c", "d", "e", "f"} {
		if err := r.Store(key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		used := r.Now.Add(-time.Hour * time.Duration(10-age))
		if err := os.Chtimes(r.path(key), used, used); err != nil {
			t.Fatal(err)
		}
	}
	if _, there := r.Load("a"); !there { // now it was used last
		t.Fatal("it was not kept")
	}
	for _, key := range []string{"b", "c", "d", "e", "f"} { // as large as a fifth of all, and no disk is filled
		info, err := os.Stat(r.path(key))
		if err != nil || os.Truncate(r.path(key), maxResults/5) != nil || os.Chtimes(r.path(key), info.ModTime(), info.ModTime()) != nil {
			t.Fatal(err)
		}
	}
	if err := r.Trim(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "e": true, "f": true} {
		if _, err := os.Stat(r.path(key)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", key, err == nil, want)
		}
	}
}

func edit(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
