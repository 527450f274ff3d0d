package retention_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
)

// registries is how many are generated; -rapid.checks asks for more.
const registries = 10_000

func TestMain(m *testing.M) {
	flag.Parse()
	if checks := flag.Lookup("rapid.checks").Value; checks.String() == "100" && !testing.Short() {
		if err := checks.Set(fmt.Sprint(registries)); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// promises are the places that must still walk completely after a prune, by a second reading of the
// policy that shares no code with the first: every channel's present release, its last releases, what
// channel tags show, the newest version, and what is young.
func promises(f retention.Facts) []ref.Pinned {
	held := places(f.Items)
	metadata := repo("metadata")
	var list []ref.Pinned
	count := map[string]map[digest.Digest]bool{}
	for _, s := range f.Served {
		record := ref.Pinned{Repo: metadata, Digest: s.Record}
		first := count[s.Channel] == nil
		if first {
			count[s.Channel] = map[digest.Digest]bool{}
		}
		keep := f.Family.Channels[s.Channel].Keep
		inWindow := held[record] && (keep.All || len(count[s.Channel]) < keep.Releases)
		if first || inWindow {
			list = append(list, record)
			for member, d := range s.Members {
				list = append(list, ref.Pinned{Repo: repo(member), Digest: d})
			}
		}
		if held[record] {
			count[s.Channel][s.Record] = true
		}
	}
	for _, it := range f.Items {
		young := f.Now.Sub(it.Since) < f.Family.Retention.Grace
		if young || slices.ContainsFunc(it.Tags, func(tag string) bool { return tag == "dev" || tag == "prod" || tag == "channels" }) {
			list = append(list, it.At)
		}
	}
	return append(list, waiting(f, held)...)
}

// waiting are the signed records that are whole and young enough to be promoted.
func waiting(f retention.Facts, held map[ref.Pinned]bool) []ref.Pinned {
	var list []ref.Pinned
	for _, it := range f.Items {
		signed := slices.ContainsFunc(f.Items, func(r graph.Item) bool { return r.Subject == it.At.Digest && r.ArtifactType == evidence.BundleType })
		if len(it.Locks) == 0 || f.Now.Sub(it.Since) >= f.Family.Retention.Records || !signed {
			continue
		}
		if whole(f.Items, held, closure(f.Items, []ref.Pinned{it.At})) {
			list = append(list, it.At)
		}
	}
	return list
}

// whole reports whether everything that is needed is there and can be read.
func whole(items []graph.Item, held, need map[ref.Pinned]bool) bool {
	for _, it := range items {
		if !need[it.At] {
			continue
		}
		missing := it.Unread != ""
		for _, p := range it.Locks {
			missing = missing || !held[p]
		}
		for _, c := range it.Children {
			missing = missing || slices.Contains(graph.ManifestTypes(), c.MediaType) && !held[ref.Pinned{Repo: it.At.Repo, Digest: c.Digest}]
		}
		if missing {
			return false
		}
	}
	return true
}

func places(items []graph.Item) map[ref.Pinned]bool {
	held := map[ref.Pinned]bool{}
	for _, it := range items {
		held[it.At] = true
	}
	return held
}

// closure is everything that places need, by brute force over the raw items until nothing is added.
func closure(items []graph.Item, from []ref.Pinned) map[ref.Pinned]bool {
	need := map[ref.Pinned]bool{}
	for _, p := range from {
		need[p] = true
	}
	held := places(items)
	there := func(p ref.Pinned) bool { return need[p] && held[p] } // evidence of what is gone is evidence of nothing
	for grown := true; grown; {
		before := len(need)
		for _, it := range items {
			sibling := func(d digest.Digest) ref.Pinned { return ref.Pinned{Repo: it.At.Repo, Digest: d} }
			for _, tag := range it.Tags {
				if hex, ok := strings.CutPrefix(tag, "sha256-"); ok && there(sibling(digest.Digest("sha256:"+strings.Split(hex, ".")[0]))) {
					need[it.At] = true
				}
			}
			if it.Subject != "" && there(sibling(it.Subject)) {
				need[it.At] = true
			}
			if !need[it.At] {
				continue
			}
			for _, c := range it.Children {
				need[sibling(c.Digest)] = true
			}
			for _, p := range it.Locks {
				need[p] = true
			}
			if it.Subject != "" {
				need[sibling(it.Subject)] = true
			}
			for _, other := range map[string][]string{"app": {"app", "base"}, "agent": {"agent", "app", "base"}}[strings.TrimPrefix(it.At.Repo.Path, "acme/")] {
				if it.Base != "" {
					need[ref.Pinned{Repo: repo(other), Digest: it.Base}] = true
				}
			}
		}
		grown = len(need) > before
	}
	return need
}

// broken returns what places need, and was there, and is there no more.
func broken(f retention.Facts, gone map[ref.Pinned]bool, from []ref.Pinned) []ref.Pinned {
	var list []ref.Pinned
	need, held := closure(f.Items, from), places(f.Items)
	for p := range need {
		if held[p] && gone[p] {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, graph.ComparePlaces)
	return list
}

func plan(t interface{ Fatal(...any) }, f retention.Facts) retention.Plan {
	p, err := retention.NewPlan(f, retention.Allow{Empty: true, Share: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func deleted(p retention.Plan) map[ref.Pinned]bool {
	gone := map[ref.Pinned]bool{}
	for _, d := range p.Deletes {
		gone[d.Item.At] = true
	}
	return gone
}

func without(items []graph.Item, gone map[ref.Pinned]bool) []graph.Item {
	return slices.DeleteFunc(slices.Clone(items), func(it graph.Item) bool { return gone[it.At] })
}

func TestAPlanKeepsWhatRootsReachAndDeletesTheRest(t *testing.T) {
	t.Parallel()
	var deletions, skips, unnamed int
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		p := plan(t, f)
		gone := deleted(p)
		deletions, skips = deletions+len(gone), skips+len(p.Skipped)
		if lost := broken(f, gone, promises(f)); len(lost) > 0 {
			t.Fatalf("a promise is broken: %v", lost)
		}
		roots, _ := retention.Roots(f, graph.NewMap(f.Items, retention.Names(f.Family, base)))
		for _, r := range roots {
			if gone[r.At] {
				t.Fatalf("a root is deleted: %v", r)
			}
		}
		checkComplement(t, f, p, roots)
		checkOrder(t, f, p)
		checkReasons(t, f, p)
		checkNames(t, f, p)
		unnamed += len(p.Unnames)
		again := f
		again.Items = unname(without(f.Items, gone), p)
		if second := plan(t, again); !second.Empty() {
			t.Fatalf("a second run deletes %v and %v more", second.Deletes, second.Unnames)
		}
	})
	if deletions == 0 || skips == 0 || unnamed == 0 {
		t.Errorf("%d deletions, %d skips, %d that lose a name: the generator does not try", deletions, skips, unnamed)
	}
	t.Logf("%d deletions, %d skipped repositories, %d that stay and lose a name", deletions, skips, unnamed)
}

// checkNames: what stays keeps every tag but those that name a release without a record, and no
// record that stays loses one of the tags of its members.
func checkNames(t *rapid.T, f retention.Facts, p retention.Plan) {
	gone, lost := deleted(p), map[string]bool{}
	for _, u := range p.Unnames {
		if gone[u.Item.At] {
			t.Fatalf("%s goes, and loses names before", u.At)
		}
		for _, tag := range u.Tags {
			if !strings.HasPrefix(tag, "sha-") || strings.HasSuffix(u.Item.At.Repo.Path, "/metadata") {
				t.Fatalf("%s loses %s", u.At, tag)
			}
			lost[tag] = true
		}
	}
	skipped := len(p.Skipped) > 0
	for _, it := range f.Items {
		for _, tag := range it.Tags {
			metadata := strings.HasSuffix(it.At.Repo.Path, "/metadata")
			if metadata && !gone[it.At] && lost[tag] {
				t.Fatalf("%s stays, and %s goes from a member", it.At, tag)
			}
			if !metadata && !gone[it.At] && !skipped && strings.HasPrefix(tag, "sha-0") && !lost[tag] && !recorded(f, gone, tag) {
				t.Fatalf("%s stays on %s, and no record has it", tag, it.At)
			}
		}
	}
}

// recorded reports whether a record that stays has a tag.
func recorded(f retention.Facts, gone map[ref.Pinned]bool, tag string) bool {
	return slices.ContainsFunc(f.Items, func(it graph.Item) bool {
		return strings.HasSuffix(it.At.Repo.Path, "/metadata") && !gone[it.At] && slices.Contains(it.Tags, tag)
	})
}

// unname takes from items the tags that a plan takes.
func unname(items []graph.Item, p retention.Plan) []graph.Item {
	for i, it := range items {
		for _, u := range p.Unnames {
			if u.Item.At == it.At {
				items[i].Tags = slices.DeleteFunc(slices.Clone(it.Tags), func(tag string) bool { return slices.Contains(u.Tags, tag) })
			}
		}
	}
	return items
}

// checkComplement: what is not reached is deleted, unless its repository is skipped or something of
// a skipped one needs it.
func checkComplement(t *rapid.T, f retention.Facts, p retention.Plan, roots []graph.Root) {
	skipped := map[string]bool{}
	for _, s := range p.Skipped {
		skipped[s.Repo] = true
	}
	var from []ref.Pinned
	for _, r := range roots {
		from = append(from, r.At)
	}
	for _, it := range f.Items {
		if skipped[it.At.Repo.String()] {
			from = append(from, it.At)
		}
	}
	gone, need := deleted(p), closure(f.Items, from)
	for _, it := range f.Items {
		if gone[it.At] == need[it.At] {
			t.Fatalf("%s: deleted %v, needed %v", it.At, gone[it.At], need[it.At])
		}
	}
}

// checkOrder: after every single deletion, and so wherever a kill strikes, whatever still names a
// child, a referrer or a pin has it, as far as it had it before.
func checkOrder(t *rapid.T, f retention.Facts, p retention.Plan) {
	position := map[ref.Pinned]int{}
	for i, d := range p.Deletes {
		position[d.Item.At] = i
	}
	for i, d := range p.Deletes {
		var named []ref.Pinned
		for _, c := range d.Item.Children {
			named = append(named, ref.Pinned{Repo: d.Item.At.Repo, Digest: c.Digest})
		}
		for _, to := range append(named, d.Item.Locks...) {
			if j, ok := position[to]; ok && j < i && !closure(f.Items, []ref.Pinned{to})[d.Item.At] {
				t.Fatalf("%s goes before %s, which names it", to, d.At)
			}
		}
		if j, ok := position[ref.Pinned{Repo: d.Item.At.Repo, Digest: d.Item.Subject}]; ok && i < j {
			t.Fatalf("referrer %s goes before its subject", d.At)
		}
	}
	var repositories []ref.Repo
	for _, d := range p.Deletes {
		if len(repositories) == 0 || repositories[len(repositories)-1] != d.Item.At.Repo {
			repositories = append(repositories, d.Item.At.Repo)
		}
	}
	entered := map[ref.Repo]bool{}
	for _, r := range repositories {
		entered[r] = true
	}
	if len(entered) != len(repositories) {
		t.Fatalf("repositories are left and entered again: %v", repositories)
	}
}

// checkReasons: everything is in the plan once, what stays with a path that ends at it.
func checkReasons(t *rapid.T, f retention.Facts, p retention.Plan) {
	if len(p.Keeps)+len(p.Deletes) != len(f.Items) {
		t.Fatalf("%d kept and %d deleted of %d", len(p.Keeps), len(p.Deletes), len(f.Items))
	}
	for _, k := range p.Keeps {
		digest := k.At[strings.LastIndex(k.At, ":")+1:]
		if len(k.Path) == 0 || !strings.HasSuffix(k.Path[len(k.Path)-1], "@"+digest[:12]) {
			t.Fatalf("%s stays because of %q", k.At, k.Path)
		}
	}
}

func TestTheSameFactsMakeTheSamePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		shuffled := f
		shuffled.Items = rapid.Permutation(f.Items).Draw(t, "order")
		one, _ := json.Marshal(plan(t, f))
		two, _ := json.Marshal(plan(t, shuffled))
		if string(one) != string(two) {
			t.Fatalf("plans differ:\n%s\n%s", one, two)
		}
	})
}

// The rule of the widely used cleaners, on the same registries: delete what has no tag, keep the
// newest ten that have one. If it did no harm here, the generator would not be worth anything.
func TestTheUsualRuleBreaksReleases(t *testing.T) {
	t.Parallel()
	var tried, harmed int
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		tried++
		if len(broken(f, usualRule(f.Items, 10), promises(f))) > 0 {
			harmed++
		}
	})
	if harmed*10 < tried*9 {
		t.Errorf("the usual rule broke %d of %d registries: the generator is too kind", harmed, tried)
	}
	t.Logf("delete untagged, keep the newest 10: broke a promise in %d of %d registries", harmed, tried)
}

func usualRule(items []graph.Item, n int) map[ref.Pinned]bool {
	gone := map[ref.Pinned]bool{}
	tagged := map[ref.Repo][]graph.Item{}
	for _, it := range items {
		if len(it.Tags) == 0 {
			gone[it.At] = true
			continue
		}
		tagged[it.At.Repo] = append(tagged[it.At.Repo], it)
	}
	for _, list := range tagged {
		slices.SortFunc(list, func(a, b graph.Item) int { return b.Since.Compare(a.Since) })
		for _, it := range list[min(n, len(list)):] {
			gone[it.At] = true
		}
	}
	return gone
}

// Every edge is needed: a planner that is blind to one kind of it breaks a promise, and the checks
// above see that.
func TestEveryKindOfEdgeIsNeeded(t *testing.T) {
	t.Parallel()
	blind := map[string]func(*graph.Item){
		"children":       func(it *graph.Item) { it.Children = nil },
		"subjects":       func(it *graph.Item) { it.Subject = "" },
		"locks":          func(it *graph.Item) { it.Locks = nil },
		"bases":          func(it *graph.Item) { it.Base = "" },
		"referrers tags": func(it *graph.Item) { it.Tags = dropTags(it.Tags, false) },
		"cosign tags":    func(it *graph.Item) { it.Tags = dropTags(it.Tags, true) },
	}
	for _, name := range slices.Sorted(maps.Keys(blind)) {
		t.Run(name, func(t *testing.T) {
			harmed := 0
			draw := rapid.Custom(drawFacts)
			for seed := range 2_000 {
				f := draw.Example(seed)
				seen := f
				seen.Items = slices.Clone(f.Items)
				for i := range seen.Items {
					blind[name](&seen.Items[i])
				}
				if len(broken(f, deleted(plan(t, seen)), promises(f))) > 0 {
					harmed++
				}
			}
			if harmed == 0 {
				t.Errorf("a planner that sees no %s breaks nothing", name)
			}
			t.Logf("a planner that sees no %s breaks a promise in %d of 2000 registries", name, harmed)
		})
	}
}

func dropTags(tags []string, legacy bool) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
		return strings.HasPrefix(tag, "sha256-") && strings.Contains(tag, ".") == legacy
	})
}
