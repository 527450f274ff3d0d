package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// plant makes a commit of a tree as somebody with git can, and puts the ledger on it.
func plant(t *testing.T, l *Ledger, tree string, parents ...string) string {
	t.Helper()
	args := []string{"commit-tree", tree, "-m", "planted"}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	id := run(t, l.dir, args...)
	run(t, l.dir, "update-ref", l.ref, id)
	return id
}

// treeWith returns a tree of "mode type name" entries, each with a file's content.
func treeWith(t *testing.T, l *Ledger, entries map[string]string) string {
	t.Helper()
	var listing strings.Builder
	for entry, content := range entries {
		mode, name, _ := strings.Cut(entry, " ")
		path := filepath.Join(t.TempDir(), "content")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&listing, "%s blob %s\t%s\n", mode, run(t, l.dir, "hash-object", "-w", path), name)
	}
	tree, err := l.id(t.Context(), []byte(listing.String()), nil, "mktree")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestD7ATamperedGenerationIsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		plant func(t *testing.T, l *Ledger, head release.Head) (culprit string)
		still string // what is read before the culprit
	}{
		"a merge": {func(t *testing.T, l *Ledger, head release.Head) string {
			other := run(t, l.dir, "commit-tree", head.ID+"^{tree}", "-m", "other")
			tree := treeWith(t, l, map[string]string{"100644 channels.json": string(next(t, head))})
			return plant(t, l, tree, head.ID, other)
		}, "[]"},
		"no channels.json": {func(t *testing.T, l *Ledger, head release.Head) string {
			return plant(t, l, treeWith(t, l, map[string]string{"100644 other.json": string(next(t, head))}), head.ID)
		}, "[]"},
		"another file beside it": {func(t *testing.T, l *Ledger, head release.Head) string {
			return plant(t, l, treeWith(t, l, map[string]string{"100644 channels.json": string(next(t, head)), "100644 a": "a"}), head.ID)
		}, "[]"},
		"a symbolic link": {func(t *testing.T, l *Ledger, head release.Head) string {
			return plant(t, l, treeWith(t, l, map[string]string{"120000 channels.json": string(next(t, head))}), head.ID)
		}, "[]"},
		"no document": {func(t *testing.T, l *Ledger, head release.Head) string {
			return plant(t, l, treeWith(t, l, map[string]string{"100644 channels.json": "{}"}), head.ID)
		}, "[]"},
		"a repeated generation": {func(t *testing.T, l *Ledger, head release.Head) string {
			plant(t, l, run(t, l.dir, "rev-parse", head.ID+"^{tree}"), head.ID)
			return head.ID
		}, "[3]"},
		"a left out generation": {func(t *testing.T, l *Ledger, head release.Head) string {
			before := run(t, l.dir, "rev-parse", head.ID+"~2")
			plant(t, l, run(t, l.dir, "rev-parse", head.ID+"^{tree}"), before)
			return before
		}, "[3]"},
		"a generation that follows nothing": {func(t *testing.T, l *Ledger, head release.Head) string {
			return plant(t, l, run(t, l.dir, "rev-parse", head.ID+"^{tree}"))
		}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := openLocal(t)
			culprit := tt.plant(t, l, grow(t, l, release.Head{}, 3))
			got, err := generations(t, l)
			if got != tt.still || !errors.Is(err, fault.Forged) || !strings.Contains(fmt.Sprint(err), culprit) {
				t.Errorf("History() = %s, %v, want %s and then %s named", got, err, tt.still, culprit)
			}
			if tt.still == "[]" {
				if head, err := l.Head(t.Context()); !errors.Is(err, fault.Forged) {
					t.Errorf("Head() = %s, %v, want it refused", head.ID, err)
				}
			}
		})
	}
}

// A replacement and a graft show `git log` another history; the ledger reads what was signed.
func TestReplacementsDoNotChangeHistory(t *testing.T) {
	l := openAlone(t)
	head := grow(t, l, release.Head{}, 3)
	run(t, l.dir, "replace", head.ID, run(t, l.dir, "commit-tree", head.ID+"^{tree}", "-m", "orphan"))
	if err := os.WriteFile(filepath.Join(l.dir, "info", "grafts"), []byte(run(t, l.dir, "--no-replace-objects", "rev-parse", head.ID+"^")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := generations(t, l); got != "[3 2 1]" || err != nil {
		t.Errorf("History() = %s, %v, want [3 2 1]", got, err)
	}
}

// Git does not hash what it reads; a changed object would pass for the old one.
func TestAChangedObjectIsFound(t *testing.T) {
	l := openLocal(t)
	head := grow(t, l, release.Head{}, 3)
	object := func(name string) string {
		id := run(t, l.dir, "rev-parse", name)
		return filepath.Join(l.dir, "objects", id[:2], id[2:])
	}
	other, err := os.ReadFile(object(head.ID + "~1:" + fileName))
	if err != nil {
		t.Fatal(err)
	}
	victim := object(head.ID + ":" + fileName)
	if err := errors.Join(os.Remove(victim), os.WriteFile(victim, other, 0o444)); err != nil {
		t.Fatal(err)
	}
	if head, err := l.Head(t.Context()); !errors.Is(err, fault.Forged) {
		t.Errorf("Head() = generation %d, %v, want it refused", head.Document.Generation, err)
	}
}

func TestHistoryEndsWhenTheReaderDoes(t *testing.T) {
	l := openLocal(t)
	grow(t, l, release.Head{}, 3)
	for h, err := range l.History(t.Context()) {
		if err != nil || h.Document.Generation != 3 {
			t.Fatalf("the first of History() = %d, %v", h.Document.Generation, err)
		}
		break
	}
}

func TestHistoryIsReadInTwoProcessesABatch(t *testing.T) {
	l := openLocal(t)
	importGenerations(t, l, batchSize+20)
	log := filepath.Join(t.TempDir(), "log")
	wrap(t, `echo "$1" >>`+log)
	count := 0
	for _, err := range l.History(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != batchSize+20 {
		t.Errorf("History() has %d generations, want %d", count, batchSize+20)
	}
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := "rev-parse rev-list cat-file cat-file rev-list cat-file" // the third asks whether the older ones are here
	if got := strings.Join(strings.Fields(string(content)), " "); got != want {
		t.Errorf("git was run for %s, want %s", got, want)
	}
}

// Row D7 over a long history: whatever somebody with git does to one of 200 generations, and commits
// the rest anew on top of it, is found and the generation named. Untouched, it says who served what when.
func TestD7AGenerationOf200IsTamperedWith(t *testing.T) {
	contents := documents(t, 200)
	for name, tt := range map[string]struct {
		forge   func([][]byte) [][]byte
		culprit string // generation that the error names
	}{
		"nothing": {func(c [][]byte) [][]byte { return c }, ""},
		"one is rewritten": {func(c [][]byte) [][]byte {
			c[99] = bytes.Replace(c[99], []byte(`"by": "test"`), []byte(`"by": "mall"`), 1)
			return c
		}, "generation 101"},
		"two are reordered": {func(c [][]byte) [][]byte { c[49], c[50] = c[50], c[49]; return c }, "generation 51"},
		"one is left out":   {func(c [][]byte) [][]byte { return slices.Delete(c, 119, 120) }, "generation 120"},
		"one comes twice":   {func(c [][]byte) [][]byte { return slices.Insert(c, 150, c[149]) }, "generation 150"},
		"the first is gone": {func(c [][]byte) [][]byte { return c[1:] }, "generation 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLocal(t)
			importDocuments(t, l, tt.forge(slices.Clone(contents)))
			steps, err := release.Steps(l.History(t.Context()), "dev")
			if tt.culprit != "" {
				if !errors.Is(err, fault.Forged) || !strings.Contains(err.Error(), tt.culprit) {
					t.Errorf("it ended with %v, want %s named", err, tt.culprit)
				}
				return
			}
			if err != nil || len(steps) != 200 {
				t.Fatalf("%d steps, %v", len(steps), err)
			}
			for hour, want := range map[int]uint64{0: 1, 1: 2, 57: 58, 198: 199, 199: 200, 9999: 200} {
				at := time.Unix(1700000000, 0).Add(time.Duration(hour)*time.Hour + 30*time.Minute)
				if s, ok := release.At(steps, "dev", at); !ok || s.Generation != want {
					t.Errorf("after hour %d dev served generation %d, %v, want %d", hour, s.Generation, ok, want)
				}
			}
		})
	}
}

func BenchmarkHistoryOf200Generations(b *testing.B) {
	l := openLocal(b)
	importGenerations(b, l, 200)
	for b.Loop() {
		count := 0
		for _, err := range l.History(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			count++
		}
		if count != 200 {
			b.Fatalf("%d generations, want 200", count)
		}
	}
}

// importGenerations makes a long history at once.
func importGenerations(t testing.TB, l *Ledger, n int) {
	t.Helper()
	importDocuments(t, l, documents(t, n))
}

// documents are the documents of n generations, an hour apart.
func documents(t testing.TB, n int) [][]byte {
	t.Helper()
	var contents [][]byte
	head := release.Head{}
	for i := range n {
		content := nextAt(t, head, time.Unix(1700000000, 0).Add(time.Duration(i)*time.Hour))
		document, err := release.DecodeDocument(content)
		if err != nil {
			t.Fatal(err)
		}
		head = release.Head{ID: fmt.Sprint(i), Content: content, Document: document}
		contents = append(contents, content)
	}
	return contents
}

// importDocuments commits one document after the other: https://git-scm.com/docs/git-fast-import
func importDocuments(t testing.TB, l *Ledger, contents [][]byte) {
	t.Helper()
	var stream strings.Builder
	for i, content := range contents {
		fmt.Fprintf(&stream, "commit %s\ncommitter t <t@example.com> %d +0000\ndata 1\nm\nM 100644 inline %s\ndata %d\n%s\n", l.ref, 1700000000+i, fileName, len(content), content)
	}
	if _, err := l.git(t.Context(), []byte(stream.String()), "fast-import", "--quiet"); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseObjects(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add([]byte(id + " blob 3\nabc\n" + id + ":channels.json missing\n"))
	f.Add([]byte(id + " blob 99999999999999999999\nabc\n"))
	f.Add([]byte(id + " tree 4\nabc\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		objects, err := parseObjects(out)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, o := range objects {
			if o.id != "" {
				fmt.Fprintf(&again, "%s %s %d\n%s\n", o.id, o.kind, len(o.content), o.content)
			}
		}
		if again.Len() > len(out) {
			t.Errorf("%d bytes were read from %d", again.Len(), len(out))
		}
	})
}

func FuzzParseGeneration(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add("tree "+id+"\nauthor a\n\nm\n", string(treeOf(id)), "{}")
	f.Add("tree "+id+"\nparent "+id+"\n\n", "", "")
	f.Fuzz(func(t *testing.T, commit, tree, document string) {
		g, err := parseGeneration(id, [3]object{{id, "commit", []byte(commit)}, {id, "tree", []byte(tree)}, {id, "blob", []byte(document)}})
		if err == nil { // nobody finds content of that name
			t.Errorf("%q passes for generation %d", commit, g.head.Document.Generation)
		}
		treeID, parents, err := parseCommit([]byte(commit))
		if err == nil && (!isID(treeID) || checkIDs(parents) != nil) {
			t.Errorf("parseCommit(%q) = %q, %q", commit, treeID, parents)
		}
	})
}
