package retention

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
)

// Plan is what stays, why, and what goes. It is plain data: it prints itself, and the same facts
// make the same bytes.
type Plan struct {
	Now     time.Time  `json:"now"`     // by the registry's clock
	Keeps   []Keep     `json:"keeps"`   // by place
	Deletes []Deletion `json:"deletes"` // in the order of deletion
	Unnames []Unnaming `json:"unnames"` // what stays and loses tags, after the deletions
	Skipped []Skip     `json:"skipped"` // repositories of which nothing is deleted
	Refused []string   `json:"refused"` // why the plan may not be applied
}

// Keep is something that stays, with the shortest way from a root to it.
type Keep struct {
	At   string   `json:"at"`
	Tags []string `json:"tags,omitempty"`
	Path []string `json:"path"`
}

// Deletion is something that no root reaches.
type Deletion struct {
	Item graph.Item `json:"-"`
	At   string     `json:"at"`
	ID   int64      `json:"id,omitempty"`
	Tags []string   `json:"tags,omitempty"`
	Age  string     `json:"age"`
	Size int64      `json:"size"` // of the manifest and what it alone may free
	Why  string     `json:"why"`
}

// Skip is a repository that stays as it is.
type Skip struct {
	Repo string `json:"repo"`
	Why  string `json:"why"`
}

// NewPlan decides. Without a ledger, or with one that lost generations, there is no telling what
// channels served: it refuses.
func NewPlan(f Facts, allow Allow) (Plan, error) {
	m := graph.NewMap(f.Items, Names(f.Family, f.Base))
	if err := f.checkLedger(m); err != nil {
		return Plan{}, err
	}
	roots, unmatched := Roots(f, m)
	skipped := skips(m, m.Walk(roots))
	for _, it := range m.Items() {
		if why, skip := skipped[it.At.Repo]; skip { // and what it leads to elsewhere stays with it
			roots = append(roots, graph.Root{At: it.At, Why: "nothing of its repository is deleted, because " + why})
		}
	}
	walk := m.Walk(roots)
	p := Plan{Now: f.Now, Keeps: []Keep{}, Deletes: []Deletion{}, Skipped: []Skip{}, Refused: []string{}}
	var doomed []ref.Pinned
	for _, it := range m.Items() {
		if walk.Has(it.At) {
			p.Keeps = append(p.Keeps, Keep{At: it.At.String(), Tags: it.Tags, Path: pathOf(walk, it.At)})
		} else {
			doomed = append(doomed, it.At)
		}
	}
	for _, at := range m.Downwards(doomed) {
		it, _ := m.Item(at)
		p.Deletes = append(p.Deletes, f.deletion(it))
	}
	p.Unnames = f.unnamings(m, walk, func(it graph.Item) bool { _, skip := skipped[it.At.Repo]; return skip })
	for repo, why := range skipped {
		p.Skipped = append(p.Skipped, Skip{Repo: repo.String(), Why: why})
	}
	slices.SortFunc(p.Skipped, func(a, b Skip) int { return strings.Compare(a.Repo, b.Repo) })
	p.Refused = append(p.Refused, f.refusals(m, p, unmatched, allow)...)
	return p, nil
}

// checkLedger refuses an empty ledger, and one that is behind the registry's own documents: the
// releases that it forgot would have no root.
func (f Facts) checkLedger(m *graph.Map) error {
	if len(f.Served) == 0 {
		return fault.New(fault.Refused, "planning to prune", f.Base.String(), "the ledger is empty: what channels served is not known").
			WithHint("begin a ledger from what the channel tags show: mage ops:adopt -apply")
	}
	for it, tag := range tagged(m) {
		if n, ok := generation(tag); ok && it.At.Repo == f.metadata() && n > f.Generation {
			return fault.New(fault.Conflict, "planning to prune", f.Base.String(), "%s is a channels document of generation %d, and the ledger is at generation %d", it.At, n, f.Generation).
				WithHint("a channel moved just now: run the same command again; if it stays so, the ledger lost generations: bring its newest commit back from another clone")
		}
	}
	return nil
}

func (f Facts) deletion(it graph.Item) Deletion {
	return Deletion{
		Item: it, At: it.At.String(), ID: it.ID, Tags: it.Tags, Age: Span(f.Now.Sub(it.Since)), Size: it.Size + it.Bytes,
		Why: "no root reaches it",
	}
}

func pathOf(w graph.Walk, at ref.Pinned) []string {
	var path []string
	for _, s := range w.Path(at) {
		path = append(path, s.String())
	}
	return path
}

// skips returns the repositories in which nothing may be deleted: those where a kept graph has a
// hole, and those into which a manifest that is missing or could not be read may lead. Where nothing
// at all is seen of a repository that a root leads into, what is complete is not known anywhere.
func skips(m *graph.Map, w graph.Walk) map[ref.Repo]string {
	why := map[ref.Repo]string{}
	note := func(repo ref.Repo, text string) {
		if _, known := why[repo]; !known {
			why[repo] = text
		}
	}
	seen := repositories(m)
	for _, h := range w.Holes() {
		if !h.Missing {
			continue
		}
		leads := m.Leads(h.At.Repo)
		if !slices.Contains(seen, h.At.Repo) {
			leads = append(leads, seen...)
		}
		for _, repo := range leads {
			note(repo, fmt.Sprintf("%s must stay and is not there", h.At))
		}
	}
	for _, it := range m.Items() {
		if it.Unread == "" {
			continue
		}
		for _, repo := range m.Leads(it.At.Repo) {
			note(repo, fmt.Sprintf("%s could not be read, and what it names is not known: %s", it.At, it.Unread))
		}
	}
	return why
}

func repositories(m *graph.Map) []ref.Repo {
	var list []ref.Repo
	for _, it := range m.Items() {
		if len(list) == 0 || list[len(list)-1] != it.At.Repo {
			list = append(list, it.At.Repo)
		}
	}
	return list
}

// refusals are the reasons not to apply a plan as it stands.
func (f Facts) refusals(m *graph.Map, p Plan, unmatched []string, allow Allow) []string {
	var why []string
	stated := false
	for _, c := range f.Family.Channels {
		stated = stated || c.Keep.Stated()
	}
	if !stated && !allow.Empty {
		why = append(why, "no channel of the family file says what it keeps: add keep: {releases: 15} or keep: all (or -allow=empty)")
	}
	for _, pattern := range unmatched {
		if !allow.Empty {
			why = append(why, fmt.Sprintf("retention protects %q, which no tag matches: correct or remove it (or -allow=empty)", pattern))
		}
	}
	all, gone := map[ref.Repo]int{}, map[ref.Repo]int{}
	for _, it := range m.Items() {
		all[it.At.Repo]++
	}
	for _, d := range p.Deletes {
		gone[d.Item.At.Repo]++
	}
	for _, repo := range repositories(m) {
		if share := f.Family.Retention.Share; !allow.Share && gone[repo]*100 > share*all[repo] {
			why = append(why, fmt.Sprintf("%d of %d manifests of %s would go, more than %d%% (-allow=share after a look)", gone[repo], all[repo], repo, share))
		}
	}
	return why
}

// Refusal is the error of a plan that may not be applied, or nil.
func (p Plan) Refusal() error {
	if len(p.Refused) == 0 {
		return nil
	}
	return fault.New(fault.Refused, "pruning", "registry", "%s", strings.Join(p.Refused, "; ")).
		WithHint("read the plan; what is named in parentheses overrides the refusal")
}

// Incomplete is the error of a plan that skipped repositories, or nil.
func (p Plan) Incomplete() error {
	if len(p.Skipped) == 0 {
		return nil
	}
	var list []string
	for _, s := range p.Skipped {
		list = append(list, s.Repo+": "+s.Why)
	}
	return fault.New(fault.Unverified, "pruning", "registry", "nothing was deleted in %s", strings.Join(list, "; ")).
		WithHint("mage ops:fsck shows what is missing, mage ops:undelete brings back what a prune took")
}

// Empty reports whether nothing would be deleted.
func (p Plan) Empty() bool { return len(p.Deletes) == 0 && len(p.Unnames) == 0 }
