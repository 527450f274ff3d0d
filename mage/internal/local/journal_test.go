package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

func openJournal(t *testing.T) (*local.Journal, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := local.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, err := s.Journal()
	if err != nil {
		t.Fatal(err)
	}
	return j, filepath.Join(dir, "retention")
}

func entry(at string, o retention.Outcome) retention.Entry {
	return retention.Entry{Run: "run", At: at, ID: 7, Tags: []string{"dev"}, MediaType: "a/b", Size: 1, Time: time.Unix(0, 0).UTC(), Outcome: o}
}

func TestTheJournalReadsWhatWasWrittenAlsoAfterAKill(t *testing.T) {
	j, dir := openJournal(t)
	want := []retention.Entry{entry("a", ""), entry("a", retention.Deleted), entry("b", "")}
	for _, e := range want[:2] {
		if err := j.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "journal.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"run":"run","at":"killed in the mid`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(want[2]); err != nil {
		t.Fatal(err)
	}
	got, err := j.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if folded := retention.Fold(got); len(folded) != 2 || folded[0].Outcome != retention.Deleted || folded[1].Outcome != "" {
		t.Errorf("folded %+v", folded)
	}
}

func TestTheTrashGivesBackWhatWasKeptAndNothingElse(t *testing.T) {
	j, dir := openJournal(t)
	content := []byte("manifest")
	if err := j.Keep(content); err != nil {
		t.Fatal(err)
	}
	got, found, err := j.Kept(digest.FromBytes(content))
	if err != nil || !found || string(got) != "manifest" {
		t.Errorf("Kept() = %q, %v, %v", got, found, err)
	}
	if _, found, err := j.Kept(digest.FromString("other")); found || err != nil {
		t.Errorf("Kept() of what was not = %v, %v", found, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "trash", digest.FromBytes(content).Encoded()), []byte("forged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.Kept(digest.FromBytes(content)); !errors.Is(err, fault.Forged) {
		t.Errorf("Kept() of what was changed = %v", err)
	}
}

// What has no age is as old as its first sighting, by the registry's clock; a clock that went back
// makes nothing older.
func TestSightingsAreAgesThatOnlyTheRegistrysClockTells(t *testing.T) {
	j, _ := openJournal(t)
	day := 24 * time.Hour
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	see := func(at time.Time, names ...string) map[string]time.Time {
		t.Helper()
		var items []graph.Item
		for _, n := range names {
			items = append(items, graph.Item{At: ref.Pinned{Repo: ref.Repo{Host: "h", Path: n}, Digest: digest.FromString("x")}})
		}
		items = append(items, graph.Item{At: ref.Pinned{Repo: ref.Repo{Host: "h", Path: "aged"}}, Since: now.Add(-99 * day)})
		if err := j.Sighted(items, at); err != nil {
			t.Fatal(err)
		}
		ages := map[string]time.Time{}
		for _, it := range items {
			ages[it.At.Repo.Path] = it.Since
		}
		return ages
	}
	see(now, "a")
	if got := see(now.Add(day), "a", "b"); !got["a"].Equal(now) || !got["b"].Equal(now.Add(day)) || !got["aged"].Equal(now.Add(-99*day)) {
		t.Errorf("ages %v", got)
	}
	if got := see(now.Add(-day), "a"); !got["a"].Equal(now.Add(-day)) {
		t.Errorf("after the clock went back: %v", got)
	}
	if got := see(now.Add(2*day), "a", "b"); !got["b"].Equal(now.Add(2 * day)) {
		t.Errorf("what went and came again is young: %v", got)
	}
}
