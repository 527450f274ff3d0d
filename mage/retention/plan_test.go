package retention_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// shelf makes small registries. Everything in them is 40 days old unless a case says otherwise.
type shelf []graph.Item

func (s *shelf) put(member, name string, l graph.Links, tags ...string) *graph.Item {
	*s = append(*s, graph.Item{At: at(member, name), MediaType: manifest, Size: 100, Tags: tags, Since: now.Add(-40 * day), Links: l})
	return &(*s)[len(*s)-1]
}

func child(name string) graph.Node { return graph.Node{MediaType: manifest, Digest: sum(name)} }
func tagOf(name, suffix string) string {
	return "sha256-" + sum(name).Encoded() + suffix
}

// served is one release of dev: a record and an app.
func served(generation uint64, name string, days int) retention.Served {
	return retention.Served{
		Channel: "dev", Generation: generation, Tag: "sha-" + name, Record: sum("record " + name),
		Members: map[string]digest.Digest{"app": sum("app " + name)}, At: now.Add(-time.Duration(days) * day),
	}
}

func (s *shelf) release(name string) {
	record := s.put("metadata", "record "+name, graph.Links{}, "sha-"+strings.Repeat("0", 39)+name)
	record.Locks = []ref.Pinned{at("app", "app "+name)}
	s.put("app", "app "+name, graph.Links{Children: []graph.Node{child("child " + name)}})
	s.put("app", "child "+name, graph.Links{})
}

func policy() *family.Family {
	return newFamily(map[string]family.Keep{"dev": {Releases: 1}}, family.Retention{Grace: day, Records: 30 * day, Versions: 10 * day, Others: true, Share: 100})
}

// Each case is one thing that public cleaners deleted, or that a generated registry was shrunk to when
// the planner was made blind to it.
func TestWhatStaysAndWhatGoes(t *testing.T) {
	for name, test := range map[string]struct {
		add  func(s *shelf, f *retention.Facts)
		want string // of what goes, in order
	}{
		"a release no channel serves any more": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			f.Served = append(f.Served, served(1, "2", 39))
		}, "record 2, app 2, child 2"},
		"a past release within the window": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			f.Served = append(f.Served, served(1, "2", 39))
			f.Family.Channels["dev"] = family.Channel{Keep: family.Keep{Releases: 2}}
		}, ""},
		"a past release within the time": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			f.Served = append(f.Served, served(1, "2", 39))
			f.Family.Channels["dev"] = family.Channel{Keep: family.Keep{Releases: 1, Within: 40 * day}}
		}, ""},
		"a release that was served until yesterday, since long": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			f.Served = []retention.Served{served(2, "1", 1), served(1, "2", 300)}
			f.Family.Channels["dev"] = family.Channel{Keep: family.Keep{Releases: 1, Within: 180 * day}}
		}, ""},
		"a release that was not served for longer than the time": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			f.Served = []retention.Served{served(3, "1", 1), served(2, "1", 181), served(1, "2", 300)}
			f.Family.Channels["dev"] = family.Channel{Keep: family.Keep{Releases: 1, Within: 180 * day}}
		}, "record 2, app 2, child 2"},
		"an older release takes the place of one that is gone": {func(s *shelf, f *retention.Facts) {
			s.release("3")
			f.Served = append(f.Served, served(2, "2", 39), served(1, "3", 40))
			f.Family.Channels["dev"] = family.Channel{Keep: family.Keep{Releases: 2}}
		}, ""},
		"an untagged child of an index": {func(s *shelf, f *retention.Facts) {}, ""},
		"a nested index":                {func(s *shelf, f *retention.Facts) { s.put("app", "child 1x", graph.Links{}); nest(s) }, ""},
		"a referrer by its subject": {func(s *shelf, f *retention.Facts) {
			s.put("app", "referrer", graph.Links{Subject: sum("child 1")})
		}, ""},
		"a referrer of a referrer": {func(s *shelf, f *retention.Facts) {
			s.put("app", "sbom", graph.Links{Subject: sum("child 1")})
			s.put("app", "signature of the sbom", graph.Links{Subject: sum("sbom")})
		}, ""},
		"a referrers tag and what it lists": {func(s *shelf, f *retention.Facts) {
			s.put("app", "list", graph.Links{Children: []graph.Node{child("referrer")}}, tagOf("app 1", ""))
			s.put("app", "referrer", graph.Links{})
		}, ""},
		"cosign's tags": {func(s *shelf, f *retention.Facts) {
			s.put("app", "sig", graph.Links{}, tagOf("child 1", ".sig"))
			s.put("app", "att", graph.Links{}, tagOf("child 1", ".att"))
		}, ""},
		"evidence of what goes, after it": {func(s *shelf, f *retention.Facts) {
			s.put("app", "old", graph.Links{}, "sha-"+strings.Repeat("9", 40))
			s.put("app", "list", graph.Links{Children: []graph.Node{child("referrer")}}, tagOf("old", ""))
			s.put("app", "referrer", graph.Links{Subject: sum("old")})
		}, "old, list, referrer"},
		"evidence of nothing": {func(s *shelf, f *retention.Facts) {
			s.put("app", "sig", graph.Links{}, tagOf("nobody", ".sig"))
		}, "sig"},
		"the base of an image that stays": {func(s *shelf, f *retention.Facts) {
			s.put("app", "on a base", graph.Links{Base: sum("ground")}, "dev")
			s.put("base", "ground", graph.Links{})
		}, ""},
		"a channel tag that does not follow the ledger": {func(s *shelf, f *retention.Facts) {
			s.put("base", "elsewhere", graph.Links{}, "dev")
		}, ""},
		"what an outdated channels document still shows": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			s.put("metadata", "document", graph.Links{}, "channels").Mentions = []ref.Pinned{at("metadata", "record 2")}
		}, ""},
		"a digest with one name that stays": {func(s *shelf, f *retention.Facts) {
			s.put("app", "aliased", graph.Links{}, "pr-7", "v0.1.0", "v1.0.0")
		}, ""},
		"an old version that is not the newest": {func(s *shelf, f *retention.Facts) {
			s.put("app", "one", graph.Links{}, "v1.0.0")
			s.put("app", "two", graph.Links{}, "v1.10.0")
			s.put("app", "three", graph.Links{}, "v1.11.0-rc.1")
		}, "one"},
		"a version that the ledger named lately": {func(s *shelf, f *retention.Facts) {
			s.put("app", "one", graph.Links{}, "v1.0.0")
			s.put("app", "two", graph.Links{}, "v2.0.0")
			late := served(3, "1", 2)
			late.Version = "v1.0.0"
			f.Served = append([]retention.Served{late}, f.Served...)
		}, ""},
		"somebody's tag": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{}, "pr-7")
			f.Family.Retention.Others = false
		}, ""},
		"somebody's tag that may go": {func(s *shelf, f *retention.Facts) { s.put("app", "x", graph.Links{}, "pr-7") }, "x"},
		"a protected tag": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{}, "pr-7")
			f.Family.Retention.Protect = []string{"pr-*"}
		}, ""},
		"what came 23 hours ago":         {func(s *shelf, f *retention.Facts) { s.put("app", "x", graph.Links{}).Since = now.Add(-23 * time.Hour) }, ""},
		"what came 24 hours ago":         {func(s *shelf, f *retention.Facts) { s.put("app", "x", graph.Links{}).Since = now.Add(-24 * time.Hour) }, "x"},
		"what comes from the future":     {func(s *shelf, f *retention.Facts) { s.put("app", "x", graph.Links{}).Since = now.Add(24 * time.Hour) }, ""},
		"what came nobody knows when":    {func(s *shelf, f *retention.Facts) { s.put("app", "x", graph.Links{}).Since = time.Time{} }, ""},
		"what an untagged young one has": {func(s *shelf, f *retention.Facts) { s.put("app", "old", graph.Links{}); young(s, "old") }, ""},
		"a signed record that waits for an approval": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			s.put("metadata", "bundle", graph.Links{Subject: sum("record 2"), ArtifactType: evidence.BundleType})
			(*s)[slices.IndexFunc(*s, func(it graph.Item) bool { return it.At == at("metadata", "record 2") })].Since = now.Add(-29 * day)
		}, ""},
		"an unsigned record": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			(*s)[slices.IndexFunc(*s, func(it graph.Item) bool { return it.At == at("metadata", "record 2") })].Since = now.Add(-29 * day)
		}, "record 2, app 2, child 2"},
		"nothing where a child is missing, nor where that may lead": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{})
			s.put("base", "y", graph.Links{})
			s.put("agent", "z", graph.Links{})
			s.put("app", "sparse", graph.Links{Children: []graph.Node{child("missing")}}, "dev")
		}, "z"},
		"nothing where a served record is missing: what it pins is not known": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{})
			s.put("metadata", "y", graph.Links{}, "sha-"+strings.Repeat("9", 40))
			*s = slices.DeleteFunc(*s, func(it graph.Item) bool { return it.At == at("metadata", "record 1") })
		}, ""},
		"nothing where a repository of a served release is not seen at all": {func(s *shelf, f *retention.Facts) {
			s.put("payload", "x", graph.Links{})
			*s = slices.DeleteFunc(*s, func(it graph.Item) bool { return it.At.Repo == repo("app") })
		}, ""},
		"what a member that the family gave up had is no hole": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{})
			f.Served[0].Members["given up"] = sum("given up 1")
		}, "x"},
		"somebody's tag that looks like a commit's": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{}, "sha-"+strings.Repeat("9", 40)+"-arm64")
			s.put("app", "y", graph.Links{}, "sha-"+strings.Repeat("9", 40)+"-dirty-01234567", "sha-"+strings.Repeat("9", 40)+"-r2")
			f.Family.Retention.Others = false
		}, "y"},
		"nothing where an unreadable one may lead": {func(s *shelf, f *retention.Facts) {
			s.put("agent", "?", graph.Links{}).Unread = "500"
			s.put("app", "x", graph.Links{})
			s.put("base", "y", graph.Links{})
			s.put("payload", "z", graph.Links{})
		}, "z"},
		"a foreign blob in an index is no hole": {func(s *shelf, f *retention.Facts) {
			s.put("app", "x", graph.Links{})
			s.put("app", "i", graph.Links{Children: []graph.Node{{MediaType: "application/vnd.other", Digest: sum("blob")}}}, "dev")
		}, "x"},
		"two indexes that name each other": {func(s *shelf, f *retention.Facts) {
			s.put("app", "a", graph.Links{Children: []graph.Node{child("b")}})
			s.put("app", "b", graph.Links{Children: []graph.Node{child("a")}})
		}, "b, a"},
	} {
		t.Run(name, func(t *testing.T) {
			var s shelf
			s.release("1")
			f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now}
			test.add(&s, &f)
			f.Items = s
			if got := names(plan(t, f), s); got != test.want {
				t.Errorf("what goes is %q, want %q", got, test.want)
			}
		})
	}
}

// Builds that change nothing give one digest the names of many commits.
func TestANameOfAReleaseGoesWithItsRecord(t *testing.T) {
	name := func(digit string) string { return "sha-" + strings.Repeat("0", 39) + digit }
	for title, test := range map[string]struct {
		add  func(s *shelf, f *retention.Facts)
		want string // place and tags of what stays with fewer names
	}{
		"of a record that stays": {func(s *shelf, f *retention.Facts) { s.put("app", "kept", graph.Links{}, "dev", name("1")) }, ""},
		"of a record that is gone": {func(s *shelf, f *retention.Facts) {
			s.put("app", "kept", graph.Links{}, "dev", name("1"), name("7"), name("8"))
		}, "kept " + name("7") + " " + name("8")},
		"of a rebuild whose record is gone": {func(s *shelf, f *retention.Facts) { s.put("app", "kept", graph.Links{}, "dev", name("1")+"-r2") }, "kept " + name("1") + "-r2"},
		"of a record that goes with this plan": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			s.put("app", "kept", graph.Links{}, "dev", name("2"))
		}, "kept " + name("2")},
		"of a record that goes on something that goes": {func(s *shelf, f *retention.Facts) {
			s.release("2")
			s.put("app", "gone", graph.Links{}, name("2"))
		}, ""},
		"that is no release's": {func(s *shelf, f *retention.Facts) {
			s.put("app", "kept", graph.Links{}, "dev", "pr-7", "v1.0.0", "latest")
		}, ""},
		"nowhere, where a record is missing that must stay": {func(s *shelf, f *retention.Facts) {
			s.put("app", "kept", graph.Links{}, "dev", name("7"))
			f.Served = append(f.Served, retention.Served{Channel: "prod", Generation: 1, Tag: "sha-2", Record: sum("record 2"), At: now})
		}, ""},
	} {
		t.Run(title, func(t *testing.T) {
			var s shelf
			s.release("1")
			f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now}
			test.add(&s, &f)
			f.Items = s
			var got []string
			for _, u := range plan(t, f).Unnames {
				got = append(got, map[digest.Digest]string{sum("kept"): "kept"}[u.Item.At.Digest]+" "+strings.Join(u.Tags, " "))
			}
			if strings.Join(got, ", ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A plan in a file holds as long as the same things go, at whatever address the registry listens.
func TestASavedPlanIsOfWhatGoes(t *testing.T) {
	leaves := func(add func(s *shelf, f *retention.Facts)) retention.Leaves {
		var s shelf
		s.release("1")
		s.put("app", "x", graph.Links{}, "sha-"+strings.Repeat("9", 40))
		s.put("app", "kept", graph.Links{}, "dev", "sha-"+strings.Repeat("8", 40))
		f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now}
		if add != nil {
			add(&s, &f)
		}
		f.Items = s
		return plan(t, f).Leaves(base.String())
	}
	saved := leaves(nil)
	if len(saved) != 2 || strings.Contains(strings.Join(saved, " "), base.Host) {
		t.Fatalf("what goes is %q", saved)
	}
	for name, test := range map[string]struct {
		add   func(s *shelf, f *retention.Facts)
		drift string
	}{
		"nothing changed":      {nil, ""},
		"something more stays": {func(s *shelf, f *retention.Facts) { s.put("app", "new", graph.Links{}, "dev") }, ""},
		"time passed":          {func(s *shelf, f *retention.Facts) { f.Now = f.Now.Add(time.Hour) }, ""},
		"something more goes":  {func(s *shelf, f *retention.Facts) { s.put("app", "y", graph.Links{}) }, "was not"},
		"one is needed now": {func(s *shelf, f *retention.Facts) {
			s.put("app", "i", graph.Links{Children: []graph.Node{child("x")}}, "dev")
		}, "not any more"},
		"one has another tag": {func(s *shelf, f *retention.Facts) { (*s)[3].Tags = append((*s)[3].Tags, "pr-7") }, "not any more"},
		"a name has a record": {func(s *shelf, f *retention.Facts) {
			s.put("metadata", "r", graph.Links{}, "sha-"+strings.Repeat("8", 40)).Since = now
		}, "not any more"},
	} {
		err := saved.Drift(leaves(test.add))
		if (err != nil) != (test.drift != "") || err != nil && (!errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), test.drift)) {
			t.Errorf("%s: Drift() = %v, want %q", name, err, test.drift)
		}
	}
}

// A prune that was killed leaves what it moved tags to: nobody waits a day for that.
func TestWasteIsNeverYoung(t *testing.T) {
	var s shelf
	s.release("1")
	s.put("app", "x", graph.Links{ArtifactType: retention.WasteType}, "sha-"+strings.Repeat("9", 40)).Since = now
	s.put("app", "y", graph.Links{}, "sha-"+strings.Repeat("9", 40)+"-r2").Since = now
	f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now, Items: s}
	if got := names(plan(t, f), s); got != "x" {
		t.Errorf("what goes is %q", got)
	}
}

func nest(s *shelf) {
	s.put("app", "inner", graph.Links{Children: []graph.Node{child("child 1x")}})
	s.put("app", "middle", graph.Links{Children: []graph.Node{child("inner")}})
	s.put("app", "outer", graph.Links{Children: []graph.Node{child("middle")}}, "dev")
}

func young(s *shelf, names string) {
	s.put("app", "young", graph.Links{Children: []graph.Node{child(names)}}).Since = now.Add(-time.Minute)
}

// names are the names that a case gave what goes.
func names(p retention.Plan, s shelf) string {
	known := map[digest.Digest]string{}
	for _, name := range []string{"record 1", "record 2", "app 1", "app 2", "child 1", "child 2", "old", "list", "referrer", "sig", "one", "x", "y", "z", "a", "b"} {
		known[sum(name)] = name
	}
	var list []string
	for _, d := range p.Deletes {
		list = append(list, known[d.Item.At.Digest])
	}
	return strings.Join(list, ", ")
}

func TestAPlanIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*retention.Facts)
		allow  retention.Allow
		want   string // part of the refusal; empty: it is not refused
	}{
		"a good one":                        {func(*retention.Facts) {}, retention.Allow{}, ""},
		"no channel says what it keeps":     {func(f *retention.Facts) { f.Family.Channels["dev"] = family.Channel{} }, retention.Allow{Share: true}, "no channel of the family file says what it keeps"},
		"that is meant":                     {func(f *retention.Facts) { f.Family.Channels["dev"] = family.Channel{} }, retention.Allow{Empty: true}, ""},
		"a pattern that protects nothing":   {func(f *retention.Facts) { f.Family.Retention.Protect = []string{"demoo-*"} }, retention.Allow{}, `"demoo-*", which no tag matches`},
		"it is meant to":                    {func(f *retention.Facts) { f.Family.Retention.Protect = []string{"demoo-*"} }, retention.Allow{Empty: true}, ""},
		"more than the share":               {func(f *retention.Facts) { f.Family.Retention.Share = 49 }, retention.Allow{}, "2 of 4 manifests of example.com/acme/app would go, more than 49%"},
		"more than the share, after a look": {func(f *retention.Facts) { f.Family.Retention.Share = 49 }, retention.Allow{Share: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var s shelf
			s.release("1")
			s.put("app", "x", graph.Links{})
			s.put("app", "y", graph.Links{})
			f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now, Items: s}
			test.change(&f)
			p, err := retention.NewPlan(f, test.allow)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.Refused, "; "); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
				t.Errorf("refused: %q, want %q", got, test.want)
			}
			if err := p.Refusal(); (test.want != "") != errors.Is(err, fault.Refused) {
				t.Errorf("Refusal() = %v", err)
			}
		})
	}
}

func TestWithoutALedgerThereIsNoPlan(t *testing.T) {
	_, err := retention.NewPlan(retention.Facts{Family: policy(), Base: base, Now: now}, retention.Allow{Empty: true, Share: true})
	if !errors.Is(err, fault.Refused) || !strings.Contains(fault.HintOf(err), "mage ops:adopt") {
		t.Errorf("NewPlan() = %v, hint %q", err, fault.HintOf(err))
	}
}

// A ledger that lost its newest commits has forgotten what can be rolled back to.
func TestALedgerThatIsBehindTheRegistryMakesNoPlan(t *testing.T) {
	var s shelf
	s.release("1")
	s.put("metadata", "document", graph.Links{}, "gen-3")
	s.put("app", "no document", graph.Links{}, "gen-9")
	for generation, behind := range map[uint64]bool{2: true, 3: false, 4: false} {
		f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Generation: generation, Now: now, Items: s}
		if _, err := retention.NewPlan(f, retention.Allow{Empty: true, Share: true}); errors.Is(err, fault.Conflict) != behind {
			t.Errorf("at generation %d: NewPlan() = %v", generation, err)
		}
	}
}

func TestASkippedRepositoryMakesThePlanIncomplete(t *testing.T) {
	var s shelf
	s.release("1")
	f := retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now, Items: s[:2]}
	p := plan(t, f)
	if err := p.Incomplete(); !errors.Is(err, fault.Unverified) || !strings.Contains(err.Error(), sum("child 1").String()) {
		t.Errorf("Incomplete() = %v", err)
	}
}

func ExampleNewPlan() {
	var s shelf
	s.release("1")
	s.put("app", "sbom", graph.Links{Subject: sum("child 1")})
	s.put("app", "x", graph.Links{}, "sha-"+strings.Repeat("9", 40))
	p, err := retention.NewPlan(retention.Facts{Family: policy(), Base: base, Served: []retention.Served{served(2, "1", 30)}, Now: now, Items: s}, retention.Allow{})
	fmt.Println(err)
	for _, k := range p.Keeps {
		fmt.Println("keep  ", strings.Join(k.Path, " → "))
	}
	for _, d := range p.Deletes {
		fmt.Println("delete", d.Why+", "+d.Age+" old,", d.Size, "bytes,", d.Tags)
	}
	// Output:
	// <nil>
	// keep   dev serves sha-1: app@91e5bd8497eb → child app@219744bdffed
	// keep   dev serves sha-1: app@91e5bd8497eb
	// keep   dev serves sha-1: app@91e5bd8497eb → child app@219744bdffed → referrer app@98f3ae1ef671
	// keep   dev serves sha-1: metadata@3dba37bb0871
	// delete no root reaches it, 40d old, 100 bytes, [sha-9999999999999999999999999999999999999999]
}
