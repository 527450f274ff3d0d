package pipeline_test

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// rebuilt releases rebuild n of a commit to a channel, on one machine; 0 is the commit's first release.
func (w *world) rebuilt(t *testing.T, commit string, n uint, channel string, until pipeline.Stage) (pipeline.Result, error) {
	t.Helper()
	m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(commit)
	plan.Source.Rebuild = n
	p.Builder, p.Inspect, p.Signer, p.History, p.Dist = m, m, w.signer(commit), history{release.Source{Commit: commit}}, &w.rebuilds
	result, err := p.Release(t.Context(), plan, pipeline.Order{Channel: channel, Until: until, Moved: release.Moved{By: "alice"}})
	if len(m.made) != 2 && n > 0 && !result.Adopted && err == nil {
		t.Errorf("rebuild %d built %v, want everything", n, m.made)
	}
	return result, err
}

func TestARebuildIsForwardsOfTheSameCommitAndAnEarlierOneBackwards(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	for _, step := range []struct {
		n       uint
		channel string
		refused bool
	}{
		{0, "nightly", false}, {2, "nightly", false}, {3, "nightly", false}, {2, "nightly", true}, {0, "nightly", true},
		{3, "hotfix", false}, {2, "hotfix", false}, // a channel whose order is explicit
	} {
		_, err := w.rebuilt(t, first, step.n, step.channel, pipeline.UntilPromote)
		if errors.Is(err, fault.Conflict) != step.refused || err != nil && fault.HintOf(err) == "" {
			t.Errorf("rebuild %d to %s: %v, want refused: %v", step.n, step.channel, err, step.refused)
		}
	}
	head := w.book.head().Document.Channels
	if head["nightly"].Tag != "sha-"+first+"-r3" || !head["hotfix"].Moved.Explicit {
		t.Errorf("served are %s, and %+v", head["nightly"].Tag, head["hotfix"].Moved)
	}
	// What comes after it keeps it, whatever its number.
	if _, after := w.released(t, second, same(), nil); after.Record.Images["base"].Built != first {
		t.Errorf("the next commit has %+v", after.Record.Images["base"])
	}
}

func TestTheNextRebuildIsTheFirstFreeNumberOrOneOfOursThatIsNotComplete(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	here := map[string]release.Record{} // what this machine built, by tag
	var pruned []string
	next := func() uint {
		n, err := w.pipeline(t, "maker").NextRebuild(t.Context(), w.plan(first).Source, pruned, func(at release.Source) (release.Record, bool, error) {
			r, ok := here[at.Tag()]
			return r, ok, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := next(); n != 2 {
		t.Errorf("the first rebuild is %d, want 2", n)
	}
	result, err := w.rebuilt(t, first, 2, "nightly", pipeline.UntilPublish)
	if err != nil {
		t.Fatal(err)
	}
	if n := next(); n != 3 {
		t.Errorf("rebuild %d continues a record that nobody signed and this machine did not build", n)
	}
	here[result.Record.Source.Tag()] = result.Record
	if n := next(); n != 2 {
		t.Errorf("the next rebuild is %d, want 2, which this machine published", n)
	}
	if _, err := w.rebuilt(t, first, 2, "nightly", pipeline.UntilAttest); err != nil {
		t.Fatal(err)
	}
	if n := next(); n != 3 {
		t.Errorf("the next rebuild is %d, want 3: rebuild 2 is complete", n)
	}
	// A number that was given is not given again, whatever became of the release.
	if _, err := w.rebuilt(t, first, 5, "nightly", pipeline.UntilPromote); err != nil {
		t.Fatal(err)
	}
	record, _, err := w.pipeline(t, "maker").Registry.Repository("metadata").Resolve(t.Context(), "sha-"+first+"-r5")
	if err != nil {
		t.Fatal(err)
	}
	w.vanish(t, "metadata", record.Digest)
	if n := next(); n != 6 {
		t.Errorf("the next rebuild is %d, want 6: a channel served rebuild 5", n)
	}
	pruned = []string{"sha-" + second + "-r9", "sha-" + first + "-r7"}
	if n := next(); n != 8 {
		t.Errorf("the next rebuild is %d, want 8: rebuild 7 was pruned", n)
	}
}
