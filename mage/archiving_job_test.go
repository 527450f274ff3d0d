package mage

import (
	"bytes"
	"os"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Bundles go to GitHub from the job that signs as GitHub's, at GitHub's registry, and from no other.
func TestWhereBundlesAreStored(t *testing.T) {
	const main = "refs/heads/main"
	signs := job{event: "push", ref: main, claims: builds()}
	for name, c := range map[string]struct {
		job    job
		until  pipeline.Stage
		change func(*testing.T, *workshop)
		want   bool
	}{
		"the builder signs":             {signs, pipeline.UntilAttest, nil, true},
		"it signs and promotes":         {signs, pipeline.UntilPromote, nil, true},
		"it publishes alone":            {signs, pipeline.UntilPublish, nil, false},
		"a mover promotes":              {job{event: "push", ref: main, claims: moves("release.yml", main)}, pipeline.UntilPromote, nil, false},
		"a builder of another commit":   {job{event: "push", ref: main, claims: with(builds(), "sha", "9")}, pipeline.UntilAttest, nil, false},
		"there is no GITHUB_TOKEN":      {signs, pipeline.UntilAttest, func(_ *testing.T, w *workshop) { w.env.token = "" }, false},
		"this is no job":                {signs, pipeline.UntilAttest, func(_ *testing.T, w *workshop) { w.env.job = actions.Variables{} }, false},
		"the registry is elsewhere":     {signs, pipeline.UntilAttest, func(_ *testing.T, w *workshop) { w.env.github = "https://api.github.com" }, false},
		"this machine signs":            {signs, pipeline.UntilAttest, func(t *testing.T, w *workshop) { t.Setenv("CONTAINAI_TRUSTED_ROOT", "") }, false},
		"a key signs":                   {signs, pipeline.UntilAttest, func(_ *testing.T, w *workshop) { setInstance(w, family.Key) }, false},
		"the repository is private":     {signs, pipeline.UntilAttest, private, false},
		"it is, and GitHub's CA signed": {signs, pipeline.UntilAttest, func(t *testing.T, w *workshop) { private(t, w); setInstance(w, family.GitHub) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w, writes := workshopOf(t, c.job)
			t.Setenv("CONTAINAI_TRUSTED_ROOT", "somebody's.json")
			if c.change != nil {
				c.change(t, w)
			}
			got, err := w.archiveOf(t.Context(), wish{channel: "prod", until: c.until}, release.Source{Commit: ourCommit})
			if err != nil || (got != nil) != c.want {
				t.Errorf("archiveOf = %v, %v; want one: %v", got, err, c.want)
			}
			if writes.Load() != 0 {
				t.Error("something was sent")
			}
		})
	}
}

func setInstance(w *workshop, i family.Instance) {
	prod := w.fam.Channels["prod"]
	prod.Trust.Instance = i
	w.fam.Channels["prod"] = prod
}

// private changes the payload of the job's event.
func private(t *testing.T, w *workshop) {
	t.Helper()
	content, err := os.ReadFile(w.env.job.Payload)
	if err == nil {
		content = bytes.Replace(content, []byte(`"repository":{`), []byte(`"repository":{"private":true,`), 1)
		err = os.WriteFile(w.env.job.Payload, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
