package mage

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// A saved plan is for one owner's repositories, and an embedded registry has another port in every run.
func TestASavedPruneIsForTheRepositoriesItSaw(t *testing.T) {
	saved := &savedPrune{Host: "ghcr.io", Base: "ghcr.io/acme"}
	for base, want := range map[string]error{"ghcr.io/acme": nil, "127.0.0.1:41000/acme": nil, "ghcr.io/other": fault.Conflict} {
		repo, err := ref.ParseRepo(base)
		if err != nil {
			t.Fatal(err)
		}
		if err := (pruning{saved: saved}).keep(&pipeline.Keeper{Host: "ghcr.io", Base: repo}, retention.Plan{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", base, err, want)
		}
	}
}

// GitHub keeps what was deleted for 30 days: after that nobody is promised that it comes back.
func TestUndeleteCountsWhatCanStillComeBack(t *testing.T) {
	deleted := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	r := restoring{Entries: []retention.Entry{
		{Run: "1", At: "ghcr.io/acme/app@sha256:1", ID: 1, Time: deleted},
		{Run: "1", At: "ghcr.io/acme/app@sha256:2", ID: 2, Time: deleted.AddDate(0, 0, 1)},
		{Run: "1", At: "registry.example.com/acme/app@sha256:3", Time: deleted},
	}}
	text := undeleteText(r, deleted.AddDate(0, 0, 30).Add(time.Hour))
	if !strings.Contains(text, "2 can come back") || strings.Count(text, "NO LONGER") != 1 {
		t.Errorf("it says\n%s", text)
	}
}
