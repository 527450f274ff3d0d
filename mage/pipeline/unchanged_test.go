package pipeline_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// Holds is true: there is one way to look.
func (maker) Holds(context.Context, evidence.Report) (bool, error) { return true, nil }

// thrifty is a maker that asks what it need not make, and remembers what it made and inspected.
type thrifty struct {
	maker
	inputs    map[string]string // by image: what it is made from
	stale     bool              // the vulnerability database is another
	made      []string
	inspected []string
}

func (m *thrifty) Build(ctx context.Context, p release.Plan, keep pipeline.Keep) (pipeline.Images, error) {
	inputs := map[string]release.Inputs{}
	for name, made := range m.inputs {
		d := digest.FromString(made)
		inputs[name] = release.Inputs{release.InputTarget: d, release.InputContexts: d, release.InputBase: d, release.InputTests: d, release.InputTools: d}
	}
	kept, err := keep(ctx, inputs)
	if err != nil {
		return pipeline.Images{}, err
	}
	out, err := m.maker.Build(ctx, p, nil)
	if err != nil {
		return out, err
	}
	for _, name := range p.Family.ImageNames() {
		if image, ok := kept[name]; ok {
			out.Images[name] = image
			continue
		}
		m.made = append(m.made, name)
		layers := []graph.Node{graph.NewNode("", []byte(name+" of "+p.Source.Commit))}
		if parent := p.Family.Images[name].From; parent != "" {
			below, err := graph.Manifest(ctx, m.layout, out.Images[parent].Platforms["linux/amd64"])
			if err != nil {
				return out, err
			}
			layers = append(slices.Clone(below.Layers), layers...)
		}
		layers[len(layers)-1].MediaType = "application/vnd.oci.image.layer.v1.tar"
		image, err := m.image(ctx, layers)
		if err != nil {
			return out, err
		}
		image.Inputs = inputs[name]
		out.Images[name] = image
	}
	return out, nil
}

func (m *thrifty) Inspect(ctx context.Context, b release.Built) ([]evidence.Report, error) {
	m.inspected = append(m.inspected, slices.Sorted(maps.Keys(b.Record.Images))...)
	return m.maker.Inspect(ctx, b)
}

func (m *thrifty) Holds(context.Context, evidence.Report) (bool, error) { return !m.stale, nil }

// released takes a commit to dev with a thrifty maker, and returns what it did.
func (w *world) released(t *testing.T, commit string, inputs map[string]string, change func(*pipeline.Pipeline, *release.Plan, *thrifty)) (*thrifty, pipeline.Result) {
	t.Helper()
	m, p, plan := &thrifty{maker: maker{w.layout}, inputs: inputs}, w.pipeline(t, "maker"), w.plan(commit)
	p.Builder, p.Inspect, p.Signer = m, m, w.signer(commit)
	if change != nil {
		change(p, &plan, m)
	}
	p.History = history{plan.Source}
	result, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilPromote, Moved: release.Moved{By: "alice"}})
	if err != nil {
		t.Fatalf("releasing %.4s: %v", commit, err)
	}
	return m, result
}

// same is what both images are made from, in every commit of these tests.
func same() map[string]string { return map[string]string{"base": "a base", "app": "an app"} }

func TestAnImageWhoseInputsDidNotChangeIsNeitherBuiltNorScannedNorSigned(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	_, before := w.released(t, first, same(), nil)
	m, after := w.released(t, second, same(), nil)
	if len(m.made) > 0 || len(m.inspected) > 0 {
		t.Errorf("built %v and inspected %v of a family that did not change", m.made, m.inspected)
	}
	for name, image := range after.Record.Images {
		if image.Index.Digest != before.Record.Images[name].Index.Digest || image.Built != first || image.Inspected != first {
			t.Errorf("%s became %+v", name, image)
		}
	}
	const own = 3 + 2 + 1 // payload, installer, record
	if after.Attested != own || len(after.Reports) != 2 {
		t.Errorf("%d statements were signed, want %d; %d reports, want 2", after.Attested, own, len(after.Reports))
	}
	// What was kept twice is still of who built it.
	_, third := w.released(t, third, same(), nil)
	if image := third.Record.Images["app"]; image.Built != first || image.Inspected != first {
		t.Errorf("after two releases app is %+v, want it built and inspected by %s", image, first)
	}
}

func TestWhatChangedIsBuiltOnTheLayersThatWereKept(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	_, before := w.released(t, first, same(), nil)
	m, after := w.released(t, second, map[string]string{"base": "a base", "app": "another app"}, nil)
	if !slices.Equal(m.made, []string{"app"}) || !slices.Equal(m.inspected, []string{"app"}) {
		t.Errorf("built %v and inspected %v, want app", m.made, m.inspected)
	}
	if after.Record.Images["base"].Index.Digest != before.Record.Images["base"].Index.Digest || after.Record.Images["app"].Built != "" {
		t.Errorf("the record says %+v", after.Record.Images)
	}
	m, _ = w.released(t, third, map[string]string{"base": "another base", "app": "another app"}, nil)
	if !slices.Equal(m.made, []string{"base", "app"}) {
		t.Errorf("built %v when the base changed, want base and app", m.made)
	}
}

// bareWorld is a world in which nothing was released yet.
func bareWorld(t *testing.T) *world {
	t.Helper()
	github := rehearsal.New(rehearsal.Options{})
	w := newWorldBefore(t, github, pair)
	w.github = github
	return w
}

func TestNothingIsKeptThatCannotBeBelieved(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		says   string
		before func(t *testing.T, w *world, r release.Record)
		change func(*pipeline.Pipeline, *release.Plan, *thrifty)
	}{
		"it was asked for": {"asked for", nil, func(p *pipeline.Pipeline, _ *release.Plan, _ *thrifty) { p.Anew = true }},
		"the work tree has changes": {"no commit says", nil, func(_ *pipeline.Pipeline, plan *release.Plan, _ *thrifty) {
			plan.Source.Dirty = "01234567"
		}},
		"it is not known what an image is made from":                 {"can be told", nil, func(_ *pipeline.Pipeline, _ *release.Plan, m *thrifty) { m.inputs = nil }},
		"the database changed, and keys do not tell two scans apart": {"two scans apart", nil, func(_ *pipeline.Pipeline, _ *release.Plan, m *thrifty) { m.stale = true }},
		"its commit is denied": {"it leaks", nil, func(p *pipeline.Pipeline, _ *release.Plan, _ *thrifty) {
			p.Family = withDenial(p.Family, family.Denial{Commit: first, Reason: "it leaks"})
		}},
		"its digest is denied": {"it leaks", nil, func(p *pipeline.Pipeline, _ *release.Plan, _ *thrifty) {
			head, _ := p.Ledger.Head(context.Background())
			p.Family = withDenial(p.Family, family.Denial{Digest: head.Document.Channels["dev"].Members["base"], Reason: "it leaks"})
		}},
		"the image is gone": {"the registry does not have", func(t *testing.T, w *world, r release.Record) {
			w.vanish(t, "base", r.Images["base"].Platforms["linux/amd64"].Digest)
		}, nil},
		"its evidence is gone": {"missing or do not verify", func(t *testing.T, w *world, r release.Record) {
			w.strip(t, "base", r.Images["base"].Index)
		}, nil},
		"another commit made it": {"missing or do not verify", nil, func(p *pipeline.Pipeline, _ *release.Plan, _ *thrifty) {
			p.Verifier = onlyOf{p.Verifier, third}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, notes := bareWorld(t), &notebook{}
			_, before := w.released(t, first, same(), nil)
			if tt.before != nil {
				tt.before(t, w, before.Record)
				w.cache = t.TempDir() // the next release is made by another machine
			}
			m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(second)
			p.Builder, p.Inspect, p.Signer, p.Progress = m, m, w.signer(second), notes
			if tt.change != nil {
				tt.change(p, &plan, m)
			}
			p.History = history{plan.Source}
			_, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilPublish})
			if dirty := plan.Source.Dirty != ""; err != nil && !dirty { // dev takes commits only
				t.Fatal(err)
			}
			if !slices.Equal(m.made, []string{"base", "app"}) || !strings.Contains(notes.String(), tt.says) {
				t.Errorf("built %v, want base and app; it was said:\n%s", m.made, notes)
			}
		})
	}
}

// A commit that does not descend from what is served keeps nothing of it, wherever it is released to.
func TestNothingIsKeptOfACommitThatIsNoAncestor(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.released(t, second, same(), nil)
	m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(fork)
	p.Builder, p.Inspect, p.Signer, p.History = m, m, w.signer(fork), history{plan.Source}
	if _, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "hotfix", Until: pipeline.UntilPublish}); err != nil {
		t.Fatal(err)
	}
	if len(m.made) != 2 {
		t.Errorf("built %v of a commit beside, want everything", m.made)
	}
}

// What was kept and lost its evidence cannot be signed by the commit that kept it.
func TestARecordWhoseKeptEvidenceIsLostIsNotSignedAnew(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.released(t, first, same(), nil)
	_, after := w.released(t, second, same(), nil)
	w.strip(t, "app", after.Record.Images["app"].Index)
	w.cache = t.TempDir()
	p, plan := w.pipeline(t, "maker"), w.plan(second)
	p.Signer, p.History = w.signer(second), history{plan.Source}
	_, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "dev", Until: pipeline.UntilAttest})
	if !errors.Is(err, fault.Unverified) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), first) {
		t.Errorf("releasing it once more: %v, want unverified that names %s, and a hint", err, first)
	}
}

// An image goes bad with the release that somebody marked, whoever built it.
func TestABadReleaseTakesItsImagesAlong(t *testing.T) {
	t.Parallel()
	older := map[string]string{"base": "an older base", "app": "an older app"}
	rollback := func(t *testing.T, w *world) {
		p := w.pipeline(t, "maker")
		p.Signer = w.signer(third)
		w.apply(t, p, func() (pipeline.Change, error) {
			return p.PlanRollback(t.Context(), "dev", "", release.Moved{By: "alice", Reason: "it leaks"}, true)
		})
	}
	t.Run("what it built is not promoted with a later release", func(t *testing.T) {
		t.Parallel()
		w := bareWorld(t)
		w.released(t, first, older, nil)
		w.released(t, second, same(), nil)
		m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(third)
		p.Builder, p.Inspect, p.Signer, p.History = m, m, w.signer(third), history{plan.Source}
		if _, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "nightly", Until: pipeline.UntilAttest}); err != nil || len(m.made) > 0 {
			t.Fatalf("built %v, %v, want everything of %s kept", m.made, err, second)
		}
		rollback(t, w) // dev goes back to first, and second is bad
		_, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "nightly", Until: pipeline.UntilPromote, Moved: release.Moved{By: "alice"}})
		if !errors.Is(err, fault.Refused) || !strings.Contains(fault.HintOf(err), "-rebuild") {
			t.Errorf("promoting what kept its images: %v, want refused with a way out", err)
		}
	})
	t.Run("what it kept is not kept again", func(t *testing.T) {
		t.Parallel()
		w := bareWorld(t)
		w.released(t, first, same(), nil)
		w.released(t, second, same(), nil) // keeps what first built
		rollback(t, w)
		m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(third)
		p.Builder, p.Inspect, p.Signer, p.History = m, m, w.signer(third), history{plan.Source}
		if _, err := p.Release(t.Context(), plan, pipeline.Order{Channel: "nightly", Until: pipeline.UntilPublish}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.made, []string{"base", "app"}) {
			t.Errorf("built %v, want base and app: %s had the same, and is bad", m.made, second)
		}
	})
}

// A run that kept images and ended before it published is not continued blindly.
func TestWhatAnEarlierRunKeptIsAskedForAgain(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.released(t, first, same(), nil)
	m, p, plan := &thrifty{maker: maker{w.layout}, inputs: same()}, w.pipeline(t, "maker"), w.plan(second)
	files := &shelf{}
	p.Builder, p.Inspect, p.Signer, p.History, p.Dist = m, m, w.signer(second), history{plan.Source}, files
	p.History = history{w.plan(third).Source} // the work tree changes while run 1 builds
	order := pipeline.Order{Channel: "dev", Until: pipeline.UntilPublish}
	if _, err := p.Release(t.Context(), plan, order); !errors.Is(err, fault.Conflict) || files.record == nil || len(m.made) > 0 {
		t.Fatalf("run 1: %v, built %v, left %v", err, m.made, files.record)
	}
	p.History, p.Anew = history{plan.Source}, true
	if _, err := p.Release(t.Context(), plan, order); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.made, []string{"base", "app"}) {
		t.Errorf("built %v after it was asked to keep nothing, want base and app", m.made)
	}
}

// A channel that refuses old signatures would refuse what was kept one day before: it is built and signed anew.
func TestWhatSoonIsTooOldIsNotKept(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.released(t, first, same(), nil)
	m, result := w.released(t, second, same(), func(p *pipeline.Pipeline, _ *release.Plan, _ *thrifty) {
		p.Verifier = aging{p.Verifier, first}
	})
	if !slices.Equal(m.made, []string{"base", "app"}) || result.Record.Keeps() {
		t.Errorf("built %v, want base and app", m.made)
	}
}

// aging finds that soon what was signed for a commit is too old.
type aging struct {
	pipeline.Verifier
	commit string
}

func (a aging) Enduring() pipeline.Verifier { return tooOld(a) }

type tooOld aging

func (o tooOld) Verify(bundle []byte, subject digest.Digest, commit, channel string) (evidence.Statement, error) {
	if commit == o.commit {
		return evidence.Statement{}, fault.New(fault.Refused, "verifying", subject.String(), "it is too old")
	}
	return o.Verifier.Verify(bundle, subject, commit, channel)
}

// shelf is a dist directory in memory.
type shelf struct {
	nowhere
	record *release.Record
}

func (s *shelf) ReadRecord() (release.Record, bool, error) {
	if s.record == nil {
		return release.Record{}, false, nil
	}
	return *s.record, true, nil
}

func (s *shelf) WriteRecord(r release.Record) error {
	s.record = &r
	return nil
}

// onlyOf believes what one commit signed, and nothing else about images.
type onlyOf struct {
	pipeline.Verifier
	commit string
}

func (v onlyOf) Verify(bundle []byte, subject digest.Digest, commit, channel string) (evidence.Statement, error) {
	st, err := v.Verifier.Verify(bundle, subject, commit, channel)
	if err == nil && st.PredicateType == evidence.Provenance {
		return v.Verifier.Verify(bundle, subject, v.commit, channel)
	}
	return st, err
}

func withDenial(f *family.Family, d family.Denial) *family.Family {
	changed := *f
	changed.Channels = maps.Clone(f.Channels)
	dev := changed.Channels["dev"]
	dev.Trust.Deny = append(slices.Clone(dev.Trust.Deny), d)
	changed.Channels["dev"] = dev
	return &changed
}

// strip takes everything away that hangs on a manifest.
func (w *world) strip(t *testing.T, member string, n graph.Node) {
	t.Helper()
	listed, err := w.pipeline(t, "vandal").Registry.Repository(member).Referrers(t.Context(), n)
	if err != nil || len(listed) == 0 {
		t.Fatalf("%d attachments of %s, %v", len(listed), member, err)
	}
	for _, r := range listed {
		w.vanish(t, member, r.Manifest.Digest)
	}
}

// notebook keeps what is told.
type notebook struct{ strings.Builder }

func (n *notebook) Start(string, string) {}

func (n *notebook) Note(stage, subject, detail string) {
	n.WriteString(stage + " " + subject + ": " + detail + "\n")
}

func (n *notebook) Done(stage, subject, detail string) { n.Note(stage, subject, detail) }
