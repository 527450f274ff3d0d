package pipeline_test

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// Who can push and has no identity may put a record under the name of a commit. Nobody signs it for them.
func TestAnUnsignedRecordIsSignedOnlyWhereItWasBuilt(t *testing.T) {
	t.Parallel()
	another := func(r release.Record) *release.Record {
		r.Tools = map[string]string{"maker": "2"}
		return &r
	}
	for name, c := range map[string]struct {
		left  pipeline.Stage                       // how far the release came that stands there
		built func(release.Record) *release.Record // what this machine built of the commit, when that stands there
		want  error
	}{
		"nobody knows who built it":         {pipeline.UntilPublish, func(release.Record) *release.Record { return nil }, fault.Unverified},
		"this machine built something else": {pipeline.UntilPublish, another, fault.Unverified},
		"this machine built it":             {pipeline.UntilPublish, func(r release.Record) *release.Record { return &r }, nil},
		"its builder signed it":             {pipeline.UntilAttest, another, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := bareWorld(t)
			w.publish(t, second) // GHCR does not give up a package's last version
			stands, err := w.rebuilt(t, first, 0, "dev", c.left)
			if err != nil {
				t.Fatal(err)
			}
			if c.left == pipeline.UntilAttest { // and something that is to be signed anew
				w.strip(t, "base", stands.Record.Images["base"].Index)
			}
			if c.want != nil { // nor are its members given the name of the commit
				w.vanish(t, "app", stands.Record.Images["app"].Index.Digest)
			}
			writes := w.writes.Load()
			files := &shelf{record: c.built(stands.Record)}
			p, order := w.pipeline(t, "builder"), pipeline.Order{Channel: "dev", Until: pipeline.UntilAttest, Moved: release.Moved{By: "alice"}}
			p.Signer, p.History, p.Dist = w.signer(first), history{w.plan(first).Source}, files
			foreseen, planning := p.Foresee(t.Context(), w.plan(first), order)
			result, err := p.Release(t.Context(), w.plan(first), order)
			if !errors.Is(err, c.want) || c.want != nil && !errors.Is(planning, c.want) || (result.Attested > 0) != (c.want == nil) {
				t.Errorf("attested %d, %v; foreseen was %q, %v; want %v", result.Attested, err, foreseen, planning, c.want)
			}
			if n := w.writes.Load() - writes; c.want != nil && n > 0 {
				t.Errorf("it sent %d writes", n)
			}
			if c.want != nil && (fault.HintOf(err) == "" || files.record != nil && files.record.Tools["maker"] != "2") {
				t.Errorf("hint %q; what stands there counts as built here now: %v", fault.HintOf(err), files.record != nil)
			}
		})
	}
}
